"""What the tests of the benchmark of methods share: its modules, and pictures."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def parts() -> dict[str, ModuleType]:
    names = ("arms", "task", "tasks", "training", "denoising", "cells", "table", "draw", "running")
    names = (*names, "definitions", "together", "__main__")
    return {name: importlib.import_module(f"benchmarks.methods.{name}") for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of every split, with something in them to learn."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for kind in ("content", "style"):
        (root / kind).mkdir()
        for k in range(80):  # about four of each split that holds one in twenty
            rough = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            rough.resize((64, 48), Image.Resampling.BICUBIC).save(root / kind / f"{k}.png")
    return root
