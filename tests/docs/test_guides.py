"""Every Python block of the guides and of the first page runs, a page's blocks in order and in one namespace."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "start.rst", *sorted((DOCS / "guides").glob("*.rst"))]
COMMANDS = ("pip ", "python ")
NEEDS = {"start": "accelerate", "precision": "accelerate", "processes": "accelerate", "transformers": "transformers"}


def blocks(text: str, language: str = "python") -> list[str]:
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And prints what the page says that it prints, but for where lines end."""
    pytest.importorskip("torch_pruning")
    pytest.importorskip(NEEDS.get(page.stem, "torch"))
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "docs"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, block in enumerate(blocks(text), start=1):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    torch.compiler.reset()
    printed = " ".join(capsys.readouterr().out.split())
    shown = [" ".join(block.split()) for block in blocks(text, "text")]
    assert [block for block in shown if not block.startswith(COMMANDS) and block not in printed] == []


def test_every_guide_but_the_list_has_code() -> None:
    assert [page.stem for page in PAGES if not blocks(page.read_text(encoding="utf-8"))] == ["index"]


def test_no_block_is_overlooked() -> None:
    """A block that is indented or named isn't found by the test above."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(blocks(text)) == len(re.findall(r"code-block:: *python", text)), page.name
