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


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; where it only pretends to, that takes a hundred times as long."""
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def as_precision(name: str, device: torch.device) -> torch.dtype:
    """What a network paints in, if that can be.

    Parameters
    ----------
    name : str
        "float32" or "bfloat16".
    device : torch.device
        Where it paints.

    Raises
    ------
    ArgumentError
        Another name; bfloat16 on another device than the CPU, or on one that doesn't multiply in it.

    Examples
    --------
    >>> as_precision("float32", torch.device("cpu"))
    torch.float32
    """
    if name not in ("float32", "bfloat16"):
        raise ArgumentError("precision to paint in", got=name, expected="float32 or bfloat16")
    if name == "bfloat16":
        remedy = "leave the precision at float32"
        if device.type != "cpu":
            raise ArgumentError("painting in bfloat16", got=f"device {device}", expected="cpu", remedy=remedy)
        if not has_bfloat16():
            expected = "one with AVX512-BF16, AMX or the like: others take a hundred times as long"
            raise ArgumentError("this processor can't multiply in bfloat16", expected=expected, remedy=remedy)
    return torch.bfloat16 if name == "bfloat16" else torch.float32


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """The same picture each time, and on a GPU as on the CPU: no search for the fastest convolution, no TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
