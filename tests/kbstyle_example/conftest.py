"""Less calibration and no collections of garbage: the runs here are tiny and many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module", autouse=True)
def quick_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kbstyle_example.distill.CALIBRATION_BATCHES", 2)
        patch.setattr("skd.distilling.CALIBRATION_BATCHES", 2)
        patch.setattr("skd.distilling.REPORT_BATCHES", 1)
        # Each run ends with a full collection, which takes longer than the run.
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., list[Path]]:
    """Draws so many pictures of 48×36 pixels, or a multiple: something coarse, different in each."""

    def drawn(count: int, scale: int = 1) -> list[Path]:
        random, paths = np.random.default_rng(0), []
        for index in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (6 * scale, 8 * scale, 3), dtype=np.uint8))
            paths.append(tmp_path / f"{index}.png")
            coarse.resize((48 * scale, 36 * scale), Image.Resampling.BICUBIC).save(paths[-1])
        return paths

    return drawn


@pytest.fixture
def pictures(draw: Callable[..., list[Path]]) -> list[Path]:
    """Three of them."""
    return draw(3)
