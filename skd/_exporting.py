"""What export() is given, looked at before any work is done; and how its files come to lie there, all or none."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from skd._files import write_atomically
from skd._formats import Call, short, tensors
from skd._measuring import arguments
from skd.errors import ArgumentError, DataError, ExportError, FileError

CALLED_WITH = "what the network is called with: a tensor, a tuple of positional or a dict of keyword arguments"


def file_of(path: str | os.PathLike[str], endings: Mapping[str, Any]) -> Path:
    """The file, of an ending that is known, in a folder that is there."""
    try:
        target = Path(path)
    except TypeError:
        got = type(path).__name__
        raise ArgumentError("where to export to is a path", got=got, expected="a str or a Path") from None
    if target.suffix not in endings:
        raise ArgumentError("no format to export has this ending", got=str(target), expected=" or ".join(endings))
    folder = target.parent
    if not folder.is_dir():
        raise FileError(
            f"{str(target)!r} can't be written",
            got=f"no folder {str(folder)!r}",
            remedy="make the folder first, or name another",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(
            f"{str(target)!r} can't be written", got="a folder that nothing can be written into", remedy="name another"
        )
    return target


def calls_of(model: Any, example: Any, checks: Any) -> dict[str, Call]:
    """The example and the checks as arguments, under the names that errors give them."""
    if not isinstance(model, nn.Module):
        raise ArgumentError("what is exported is a network", got=type(model).__name__, expected="an nn.Module")
    if any(each.is_meta for each in itertools.chain(model.parameters(), model.buffers())):
        raise ExportError(
            "the network's weights have no values", got="weights on the device meta", remedy="load them before"
        )
    if not isinstance(checks, Sequence) or isinstance(checks, str):
        raise ArgumentError(
            "checks are a list of examples", got=type(checks).__name__, expected="a list", remedy="checks=[another]"
        )
    calls = {}
    for number, each in enumerate([example, *checks]):
        which = f"check {number}" if number else "the example"
        try:
            calls[which] = arguments(model, each, number)
        except DataError as error:
            raise DataError(f"{which} doesn't fit the model's arguments", got=error.got, expected=CALLED_WITH) from None
    return calls


def answer_of(model: nn.Module, which: str, call: Call) -> list[Tensor]:
    """What the network itself says; raises where a file couldn't be compared with that."""
    args, kwargs = call
    try:
        found = tensors(model(*args, **kwargs))
    except Exception as error:  # whatever the network's code does
        raise DataError(f"the network doesn't run on {which}", got=short(error), expected=CALLED_WITH) from error
    if not found:
        raise ExportError(f"the network answers {which} without a tensor", remedy="return the tensors that count")
    if any(bool(each.isnan().any()) for each in found):
        raise ExportError(
            f"the network itself answers {which} with NaN, so that no file can be compared with it",
            remedy="look at its weights, and at what it is given",
        )
    return found


def write(target: Path, files: Mapping[str, bytes]) -> None:
    """What the file needs comes before the file: who finds that, finds all. An error leaves nothing new."""
    new: list[Path] = []
    try:
        if not target.exists():
            new.append(target)
        for name, content in sorted(files.items(), key=lambda item: item[0] == ""):
            path = target.with_suffix(name) if name.startswith(".") else target / name if name else target
            if target in path.parents:
                target.mkdir(exist_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
            if path != target and not path.exists():
                new.append(path)
            write_atomically(path, content)
    except (OSError, ValueError) as error:  # the latter of a name that can't be
        for path in new:
            with contextlib.suppress(OSError, ValueError):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error, FileError):
            raise
        raise FileError(f"{str(target)!r} can't be written", got=getattr(error, "strerror", None) or error) from error
