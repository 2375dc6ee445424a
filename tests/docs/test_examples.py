"""Every example of the docs runs, at the small sizes that it has for this, and draws something."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("plot_*.py"))
NEEDS = {"plot_4_t5.py": "transformers"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small sizes, no windows, and the random numbers as they were."""
    import matplotlib.pyplot as plt

    monkeypatch.setenv("SKD_DOCS_SMALL", "1")
    plt.switch_backend("agg")
    with torch.random.fork_rng(devices=[]):
        yield
    plt.close("all")


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_an_example_runs_and_draws(script: Path) -> None:
    import matplotlib.pyplot as plt

    pytest.importorskip("torch_pruning")
    pytest.importorskip(NEEDS.get(script.name, "torch"))
    runpy.run_path(str(script))
    drawn = [axes for number in plt.get_fignums() for axes in plt.figure(number).axes]
    assert any(axes.lines or axes.images for axes in drawn)


def test_there_are_six_examples_and_each_has_small_sizes() -> None:
    assert len(SCRIPTS) >= 6
    assert [script.name for script in SCRIPTS if "SKD_DOCS_SMALL" not in script.read_text(encoding="utf-8")] == []
    assert "SKD_DOCS_SMALL" in os.environ
