"""Which stages of a long work are done, kept in a file beside what they made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kbstyle_example.files import write_atomically
from skd.errors import FileError


class Record:
    """Which stages are done, and of what: a folder holds one reproduction.

    A plan is bound to the folder by `keep`, or by the first stage that is done: until then it may change.

    Parameters
    ----------
    path : Path
    plan : mapping
        What everything depends on.

    Raises
    ------
    FileError
        Another plan's record stands there, or it is damaged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "record.json")
    ...     Record(path, {"seed": 0}).note("train", path)
    ...     Record(path, {"seed": 0}).has("train", path), Record(path, {"seed": 0}).has("evaluate", path)
    (True, False)
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.path, self.plan, self.done = path, json.loads(json.dumps(plan)), dict[str, float]()
        if not path.exists():
            return
        remedy = f"name another output folder, or remove {path} and what lies beside it"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            theirs, self.done = dict(found["plan"]), dict(found["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            got = f"{path} ({type(error).__name__})"
            raise FileError("the record of the reproduction can't be read", got=got, remedy=remedy) from None
        other = list(_differences(theirs, self.plan))
        if other:
            more = f" and {len(other) - 3} more" if len(other) > 3 else ""
            got = "; ".join(other[:3]) + more
            raise FileError("the folder holds another reproduction", got=got, remedy=remedy)

    def has(self, stage: str, file: Path) -> bool:
        """Whether the stage is done, and what it made still there."""
        return stage in self.done and file.exists()

    def note(self, stage: str, file: Path) -> None:
        """The stage is done."""
        self.done[stage] = round(time.time())
        self.keep()

    def keep(self) -> None:
        """Write it down.

        Raises
        ------
        FileError
            See `write_atomically`.
        """
        write_atomically(json.dumps({"plan": self.plan, "done": self.done}, indent=1) + "\n", self.path)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key in {**theirs, **ours}:
        there, here = theirs.get(key), ours.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{place}{key}, ")
        elif there != here:
            yield f"{place}{key}: {there} there, {here} here"
