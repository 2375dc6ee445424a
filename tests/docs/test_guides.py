"""Every Python block of the guides and of the first page runs, a page's blocks in order and in one namespace."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "start.rst", *sorted((DOCS / "guides").glob("*.rst"))]
NEEDS = {"start": "accelerate", "precision": "accelerate", "processes": "accelerate", "transformers": "transformers"}


def blocks(text: str) -> list[str]:
    found = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    pytest.importorskip(NEEDS.get(page.stem, "torch"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8")), start=1):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    torch.compiler.reset()


def test_every_guide_but_the_list_has_code() -> None:
    assert [page.stem for page in PAGES if not blocks(page.read_text(encoding="utf-8"))] == ["index"]


def test_no_block_is_overlooked() -> None:
    """A block that is indented or named isn't found by the test above."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(blocks(text)) == len(re.findall(r"code-block:: *python", text)), page.name
