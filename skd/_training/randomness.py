"""The three random number generators that training code draws from: keep them, put them back, seed them for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def state() -> State:
    """Python's, numpy's and torch's state (with the GPUs'), as what `torch.load(weights_only=True)` can read."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what user code draws from
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def put_back(kept: State) -> None:
    """Bring all generators to a state kept earlier, perhaps in another process."""
    version, numbers, gauss = kept["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, numpy_gauss = kept["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, numpy_gauss))  # noqa: NPY002
    torch.set_rng_state(kept["torch"])
    if kept["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(kept["cuda"][: torch.cuda.device_count()])


def seed_all(*numbers: int) -> None:
    """Seed the generators of the CPU from some numbers; each mix of them gives another stream."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - what user code draws from
    torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace."""
    kept = state()
    try:
        yield
    finally:
        put_back(kept)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, the CPU's generators depend on the numbers alone; afterwards they are as before."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed_all(*numbers)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
