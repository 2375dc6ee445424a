"""The pages on compress and on the zoo: their code runs, and the zoo's tables are drawn from what was measured."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import drawn
import pytest

from benchmarks.zoo.entries import ENTRIES

ROOT = Path(__file__).resolve().parents[2]


def run(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in found:
        exec(compile(textwrap.dedent(block), f"docs/{page}", "exec"), names)


def test_the_page_on_compress_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("compress.rst")
    printed = capsys.readouterr().out
    assert "of 30,720 bytes" in printed
    assert (tmp_path / "student.safetensors").stat().st_size <= 30 * 1024
    assert {path.name for path in tmp_path.iterdir()} >= {"student.pt2", "widths.json", "student.pt"}


def test_the_page_on_the_zoo_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run("zoo.rst")
    assert "neither a scale nor a decoder" in capsys.readouterr().out


def test_the_tables_are_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = [(ROOT / "docs" / "zoo.rst").read_text(encoding="utf-8")]
    drawn.draw(None, "zoo", source)
    assert not re.search(r"^@|@$", source[0], re.MULTILINE)
    report = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text(encoding="utf-8"))
    for entry in ENTRIES:
        assert source[0].count(f"   * - {entry.name}\n") == 2  # measured, and its pairs
        made = report["networks"][entry.name]["compress"]
        assert (made["refused"] if "refused" in made else f"{made['bytes']:,}") in source[0]
    (tmp_path / "results").mkdir()  # another measurement, another table
    report["networks"]["unet3d"]["compress"] |= {"bytes": 98765}
    (tmp_path / "results" / "zoo.json").write_text(json.dumps(report))
    (tmp_path / "zoo").symlink_to(ROOT / "benchmarks" / "zoo")
    monkeypatch.setattr(drawn, "BENCHMARKS", tmp_path)
    assert "98,765" in drawn.zoo_tables()["measured"]
    assert "98,765" not in source[0]


def test_other_pages_stay_as_they_are() -> None:
    source = ["@measured@"]
    drawn.draw(None, "index", source)
    assert source == ["@measured@"]
