"""Reports of the benchmarks: JSON that is there whole or not at all, and that a run of the same plan goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kbstyle_example.files import write_atomically


def write_report(report: Mapping[str, Any], path: Path, *, indent: int | None = 1) -> None:
    """Write it; NaN and infinities, which JSON hasn't, are refused.

    Raises
    ------
    ValueError
        A number in it isn't finite.
    FileError
        It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps(report, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", path)


def resumed(path: Path, plan: Mapping[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the file already, if it is of this plan; `empty` with the plan, if there is no file.

    Raises
    ------
    SystemExit
        Its figures are of another plan: they can't stand in one table.
    """
    if not path.exists():
        return {"plan": plan, "runs": [], **empty}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if report["plan"] != plan:
        differing = ", ".join(sorted(key for key in plan if report["plan"].get(key) != plan[key]))
        raise SystemExit(f"error: {path} holds figures of another plan (other {differing}); name another file")
    return report
