"""Less calibration and no collections of garbage: the runs here are tiny and many."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kbstyle_example.distill.CALIBRATION_BATCHES", 2)
        patch.setattr("skd.distilling.CALIBRATION_BATCHES", 2)
        patch.setattr("skd.distilling.REPORT_BATCHES", 1)
        # Each run ends with a full collection, which takes longer than the run.
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        yield
