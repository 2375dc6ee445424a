"""What a forward costs: multiply-adds and milliseconds."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WARM_UP = 2


class _Counter(TorchDispatchMode):
    """Adds up what torch's FLOP counter knows of each operation; without that counter's hooks on all modules."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        return out


@contextmanager
def _in_parts() -> Iterator[None]:
    """Attention as matrix products, and nothing compiled: what runs in one kernel isn't counted."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # Whoever compiled something has loaded dynamo; for all others that would take longer than the report.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with eager, sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def multiply_adds(forwards: Sequence[Callable[[], Any]]) -> int | None:
    """Of some forwards together, in convolutions, matrix products and attention; None where they can't be counted.

    Examples
    --------
    >>> multiply_adds([lambda: torch.ones(2, 3) @ torch.ones(3, 5)])
    30
    """
    counter = _Counter()
    try:
        with _in_parts(), counter:
            for forward in forwards:
                forward()
    except Exception:  # the same forward ran before: what fails is the counting, which a report can do without
        return None
    return counter.operations // 2


def in_turns(systems: Sequence[Callable[[], Any]], rounds: int, wait: Callable[[], None]) -> list[float]:
    """Milliseconds of each, the median over rounds in which they take turns, each round begun by another one.

    What slows the machine for a while slows all of them. `wait` returns when an accelerator has finished.
    """
    taken: list[list[float]] = [[] for _ in systems]
    for turn in range(WARM_UP + rounds):
        for place in range(len(systems)):
            index = (turn + place) % len(systems)
            wait()
            started = time.perf_counter()
            systems[index]()
            wait()
            if turn >= WARM_UP:
                taken[index].append(1000 * (time.perf_counter() - started))
    return [statistics.median(each) for each in taken]


def waiting(device: torch.device) -> Callable[[], None]:
    """A function that returns when what runs on the device is finished."""
    if device.type == "cpu" or not torch.accelerator.is_available():
        return lambda: None
    return torch.accelerator.synchronize
