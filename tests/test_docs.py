"""The code of the docs runs. (docs/engines.rst has tests of its own, in tests/skd/test_engine_*.py.)"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_the_page_on_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"__name__": "docs"}
    monkeypatch.chdir(tmp_path)
    for code in blocks("training.rst"):
        exec(compile(code, "docs/training.rst", "exec"), names)
    shown = capsys.readouterr().out
    assert "Report on 8 batches: student" in shown
    assert re.search(r"TeacherCache\('runs/teacher', .* [1-9]\d* hits", shown)
    made = {path.name for path in (tmp_path / "runs" / "small").iterdir()}
    assert {"best.pt", "last.pt", "log.jsonl", "checkpoints"} <= made


def test_the_page_on_training_tells_the_recipe_s_names() -> None:
    """Every `Recipe(name=…)` of the docs is a field."""
    from dataclasses import fields

    from skd import Recipe

    named = set()
    for page in (ROOT / "docs").glob("*.rst"):
        for call in re.findall(r"Recipe\(([^)]*)\)", page.read_text(encoding="utf-8")):
            named |= set(re.findall(r"(\w+)=", call))
    assert named
    assert named <= {field.name for field in fields(Recipe)}
