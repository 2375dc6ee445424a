"""The three tasks with their sizes, which are the same for all methods."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from benchmarks.methods.task import Setting, Task

MODULES = {"style": "styling", "denoising": "denoising", "pronunciation": "pronunciation"}
SETTINGS = {
    "style": Setting(
        batch=4,
        learning_rate=2e-3,
        calibration=288,
        held_out=24,
        long_held_out=128,
        size=200 * 1024,
        screen=200,
        final=2000,
        crop=64,
    ),
    "denoising": Setting(
        batch=4,
        learning_rate=2e-3,
        calibration=288,
        held_out=96,
        long_held_out=384,
        size=200 * 1024,
        screen=400,
        final=4000,
        widths=(48, 96, 192),
        teacher_steps=24_000,
        teacher_batch=8,
        begins_as="denoiser-32-64-128-32000-8-64",
        crop=64,
        long_precision="bfloat16",
    ),
    "pronunciation": Setting(
        batch=32,
        learning_rate=2e-3,
        calibration=1024,
        held_out=500,
        long_held_out=3000,
        size=400 * 1024,
        screen=600,
        final=6000,
        widths=(128, 32, 512),
        teacher_steps=24_000,
        teacher_batch=64,
        teacher_rounds=2,
    ),
}
SMOKE = {
    "style": Setting(
        batch=2,
        learning_rate=2e-3,
        calibration=160,
        held_out=2,
        long_held_out=2,
        size=400 * 1024,
        screen=2,
        final=2,
        crop=32,
    ),
    "denoising": Setting(
        batch=2,
        learning_rate=2e-3,
        calibration=160,
        held_out=4,
        long_held_out=4,
        size=10 * 1024,
        screen=2,
        final=2,
        widths=(8, 10, 12),
        teacher_steps=2,
        teacher_batch=2,
        teacher_rounds=2,
        crop=32,
    ),
    "pronunciation": Setting(
        batch=4,
        learning_rate=2e-3,
        calibration=64,
        held_out=8,
        long_held_out=8,
        size=60 * 1024,
        screen=2,
        final=2,
        widths=(16, 8, 32),
        teacher_steps=2,
        teacher_batch=4,
    ),
}


def task_of(name: str, data: Path, cache: Path, *, smoke: bool = False) -> Task:
    """A task, its teacher trained; what only one task needs is imported for it alone."""
    module = importlib.import_module(f"benchmarks.methods.{MODULES[name]}")
    make = cast(Callable[[Setting, Path, Path], Task], getattr(module, name))
    return make((SMOKE if smoke else SETTINGS)[name], data, cache)
