"""Reports: whole or not at all, and never figures of two plans in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reports

EMPTY: dict[str, Any] = {"what": "nothing yet", "tasks": {}}


def test_a_report_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    begun = reports.resumed(path, {"steps": 3}, EMPTY)
    assert begun == {"what": "nothing yet", "plan": {"steps": 3}, "runs": [], "tasks": {}}
    begun["tasks"]["σ"] = 1.5
    reports.write_report(begun, path)
    assert "σ" in path.read_text(encoding="utf-8")
    assert reports.resumed(path, {"steps": 3}, EMPTY) == begun


def test_figures_of_another_plan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    reports.write_report(reports.resumed(path, {"steps": 3, "crop": 8}, EMPTY), path)
    with pytest.raises(
        SystemExit, match=r"report\.json holds figures of another plan \(other steps\); name another file"
    ):
        reports.resumed(path, {"steps": 4, "crop": 8}, EMPTY)


def test_what_stood_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    reports.write_report({"time": 1.0}, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        reports.write_report({"time": float("nan")}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"time": 1.0}
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]
