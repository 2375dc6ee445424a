"""What holds for every test: one thread, a fixed seed, derandomized properties in CI, and no leaked global state."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile(
    "skd", deadline=None, database=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("skd")

# The benchmarks and what the documentation is drawn with; behind everything on the path, so that an installed skd stays
# the one that is tested.
ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "docs")]

# The tensors here are tiny: more threads make them slower, and let sums differ from machine to machine.
torch.set_num_threads(1)

_HOOKS = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
)


def _restore_hooks(name: str, value: dict[Any, Any]) -> None:
    hooks = getattr(torch.nn.modules.module, name)
    hooks.clear()
    hooks.update(value)


def _restore_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


# name → (read it, put it back)
_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "deterministic flag": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _restore_deterministic,
    ),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "autocast on cpu": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **{
        f"module{name}": (
            lambda name=name: dict(getattr(torch.nn.modules.module, name)),
            lambda value, name=name: _restore_hooks(name, value),
        )
        for name in _HOOKS
    },
}


@pytest.fixture(autouse=True)
def no_leaked_state() -> Iterator[None]:
    """Seed the generators, and fail the test that leaves torch's global state other than it found it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the global generator, for code that still uses it
    torch.manual_seed(0)
    before = {name: read() for name, (read, _) in _STATE.items()}
    yield
    leaked = []
    for name, (read, restore) in _STATE.items():
        after = read()
        if after != before[name]:
            leaked.append(f"{name}: {before[name]} before, {after} after")
            restore(before[name])  # the next test isn't to blame
    if leaked:
        pytest.fail("the test leaked global state; " + "; ".join(leaked), pytrace=False)
