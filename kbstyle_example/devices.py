"""Where a network runs, and that it gives the same there each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from skd.errors import ArgumentError


def as_device(name: str | torch.device) -> torch.device:
    """The device of a name, if it is there.

    Parameters
    ----------
    name : str or torch.device
        "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    ArgumentError
        There is no such device, or not on this machine.

    Examples
    --------
    >>> as_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ArgumentError("no such device", got=name, expected="cpu, cuda (cuda:1, …) or mps")
    there = {
        "cpu": ["cpu"],
        "cuda": [f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)],
        "mps": ["mps"] if torch.backends.mps.is_available() else [],
    }
    wanted = device.type if device.index is None else str(device)
    if device.type != "cuda":
        wanted = device.type
    if not any(known == wanted or known.partition(":")[0] == wanted for known in there[device.type]):
        here = ", ".join(known for kind in there.values() for known in kind)
        raise ArgumentError("this device isn't on this machine", got=str(name), expected=f"one of {here}")
    return device


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """The same picture each time, and on a GPU as on the CPU: no search for the fastest convolution, no TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
