"""Looking at a distiller without leaving a trace: what checks and reports share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from skd.distiller import Distiller
from skd.errors import ArgumentError


def unwrapped(module: nn.Module) -> Distiller:
    """The distiller inside ``torch.compile`` and DDP; ArgumentError where there is none."""
    inner: object = module
    while not isinstance(inner, Distiller):
        around = inner
        inner = getattr(around, "_orig_mod", None) or getattr(around, "module", None)
        if not isinstance(inner, nn.Module):
            got = type(module).__name__
            raise ArgumentError(
                "this isn't a distiller", got=got, expected="skd.Distiller, or what is wrapped around it"
            )
    return inner


def modules(distiller: Distiller) -> list[nn.Module]:
    """Every module of student, adapters and teachers once."""
    found: Iterable[nn.Module] = (
        module for root in (distiller, *distiller.teachers.values()) for module in root.modules()
    )
    return list(dict.fromkeys(found))


@contextmanager
def undisturbed(distiller: Distiller) -> Iterator[None]:
    """Put train flags, buffers and random states back, also after an error; `.grad` isn't touched by anyone inside."""
    everything = modules(distiller)
    flags = [module.training for module in everything]
    # Held one by one, as a forward may change a buffer's values or put another tensor in its place.
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = [
        (module, name, buffer, buffer.detach().clone())
        for module in everything
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = sorted(
        {p.device.index or 0 for module in everything for p in module.parameters(recurse=False) if p.is_cuda}
    )
    numbers, numpy_numbers = random.getstate(), np.random.get_state()  # noqa: NPY002  the model's own may be global
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(numpy_numbers)  # noqa: NPY002
            for module, flag in zip(everything, flags, strict=True):
                module.training = flag
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def evaluate(distiller: Distiller) -> None:
    """Eval mode for all networks, flag by flag: `eval()` may be overridden, and do more than that."""
    for module in modules(distiller):
        module.training = False
