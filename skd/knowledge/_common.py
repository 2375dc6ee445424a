"""What all knowledge and distance functions share: the precision they compute in, and safe normalisation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec

import torch
from torch import Tensor

from skd.errors import ArgumentError, ShapeError
from skd.taps import Layout, to_bcn

P = ParamSpec("P")


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast on `device` is off; it would turn matrix products back to half."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where any of `tensors` has it, otherwise float32.

    Raises
    ------
    ArgumentError
        If one of them doesn't hold floating-point numbers.
    """
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise ArgumentError(
                "knowledge is computed from floating-point tensors only",
                got=tensor.dtype,
                remedy="convert it first, for example with .float()",
            )
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make `function` compute in float32, or float64 where an argument has it; never in half, not even under autocast.

    Examples
    --------
    >>> @full_precision
    ... def energy(feature):
    ...     return feature.square().sum()
    >>> energy(torch.full((2,), 300.0, dtype=torch.float16))  # 300² is beyond float16
    tensor(180000.)
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        dtype = working_dtype(*tensors)
        # The common case pays for nothing more: it is called dozens of times a step.
        if all(t.dtype == dtype for t in tensors) and not (
            tensors and torch.is_autocast_enabled(tensors[0].device.type)
        ):
            return function(*args, **kwargs)

        def convert(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) else value

        with no_autocast(tensors[0].device) if tensors else nullcontext():
            return function(*map(convert, args), **{name: convert(value) for name, value in kwargs.items()})

    return wrapped


def unit(values: Tensor, dim: int | tuple[int, ...], *, eps: float = 1e-6) -> Tensor:
    """`values` divided by their L2 norm over `dim`; same shape.

    Exact, without overflow or underflow, wherever the largest magnitude is at least `eps`. Below that the result
    shrinks to zero, so that the gradient stays at most 1 / `eps`: dividing by the bare norm gives NaN at zero.

    Examples
    --------
    >>> unit(torch.tensor([[3e30, 4e30], [0.0, 0.0]]), 1)
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    # The norm is independent of a constant factor, so the factor needs no gradient of its own.
    scaled = values / values.detach().abs().amax(dim, keepdim=True).clamp_min(eps)
    norm: Tensor = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / norm.clamp_min(1.0)


def positions(feature: Tensor, layout: Layout, *, purpose: str) -> Tensor:
    """The feature as (B, C, N) with N ≥ 2; with one position all that `purpose` yields is constant."""
    flat = to_bcn(feature, layout)
    if flat.shape[2] < 2:
        raise ShapeError(
            f"{purpose} needs at least two positions, with one it is constant and teaches nothing",
            got=f"{tuple(feature.shape)} in layout {layout}",
            remedy="tap a layer with more positions, use knowledge that keeps the values, or leave such samples out",
        )
    return flat


def require_positive(name: str, value: float) -> None:
    """Raise ArgumentError unless `value` is above zero and finite."""
    if not 0 < value < float("inf"):
        raise ArgumentError(f"{name} must be positive and finite", got=value)
