"""Knowledge of how positions or samples relate to each other, and the samples that `alignment` compares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skd.errors import ArgumentError, ShapeError
from skd.knowledge._common import full_precision, positions, unit
from skd.taps import Layout, to_bcn

_POOLS: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def _grid(size: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The largest grid of at most `most` cells that fits in `size` and has about its proportions."""
    if math.prod(size) <= most:
        return size
    grid = list(size)
    room, rest = most, math.prod(size)
    # Shortest side first: where rounding up to one cell costs room, the longer sides pay for it.
    for done, axis in enumerate(sorted(range(len(size)), key=lambda axis: size[axis])):
        shrink = min(1.0, (room / rest) ** (1 / (len(size) - done)))
        grid[axis] = max(1, math.floor(size[axis] * shrink + 1e-9))
        room, rest = room // grid[axis], rest // size[axis]
    return tuple(grid)


def cells(feature: Tensor, layout: Layout, count: int, grid: tuple[int, ...] | None = None) -> Tensor:
    """The feature averaged over the cells of a grid, (B, C, P) with P ≤ count; for relations between positions."""
    if count < 2:
        raise ArgumentError("an affinity needs at least two cells", got=f"count={count}")
    positions(feature, layout, purpose="an affinity between positions")
    spatial = feature.transpose(1, 2) if layout == "BNC" else feature
    size = tuple(spatial.shape[2:])
    wanted = _grid(size, count) if grid is None else tuple(grid)
    if len(wanted) != len(size) or any(not 1 <= cell <= side for cell, side in zip(wanted, size, strict=True)):
        raise ArgumentError("the grid doesn't fit in the feature", got=f"grid={wanted}", expected=f"at most {size}")
    if wanted != size:
        spatial = _POOLS[len(size)](spatial, wanted)
    return spatial.flatten(2)


@full_precision
def position_affinity(
    feature: Tensor,
    *,
    layout: Layout = "BCHW",
    count: int = 256,
    grid: tuple[int, ...] | None = None,
) -> Tensor:
    """Cosine similarity between all pairs of positions (Structured KD, Liu et al. 2019, pair-wise term).

    The feature is averaged over the cells of a grid first (average pooling as in the paper; its code takes the
    maximum), so that memory is at most B·count² however large the map. The mean squared error of two of these is
    the paper's Σ (a_s − a_t)² / (B·P²).

    Parameters
    ----------
    feature : Tensor
        Any layout with two positions or more. The number of channels doesn't matter. Tokens are taken as a line.
    layout : str
        The feature's layout.
    count : int
        The most cells of the grid, which otherwise keeps the map's proportions.
    grid : tuple of int, optional
        The grid itself, where student and teacher have different proportions.

    Returns
    -------
    Tensor
        (B, P, P) with P cells, values in [−1, 1].

    Raises
    ------
    ArgumentError
        If `count` is below 2, or `grid` doesn't fit in the feature.
    ShapeError
        If there is one position only.

    Examples
    --------
    >>> import torch
    >>> position_affinity(torch.tensor([[[1.0, 3.0, 0.0], [0.0, 4.0, 2.0]]]), layout="BCL")
    tensor([[[1.0000, 0.6000, 0.0000],
             [0.6000, 1.0000, 0.8000],
             [0.0000, 0.8000, 1.0000]]])
    """
    averaged = cells(feature, layout, count, grid)
    directions = unit(averaged, 1)
    return directions.mT @ directions


@full_precision
def sample_similarity(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """How alike the samples of a batch are: the rows of A Aᵀ, each divided by its norm (SP, Tung & Mori 2019, eq. 2).

    A (B, C·N) is the flattened feature. The mean squared error of two of these is the paper's loss ‖·‖²_F / B².

    Parameters
    ----------
    feature : Tensor
        Any layout, two samples or more. Neither channels nor positions need to agree.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        (B, B).

    Raises
    ------
    ShapeError
        If the batch has one sample: the loss would be zero for every feature.

    Examples
    --------
    >>> import torch
    >>> sample_similarity(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), layout="BC")
    tensor([[0.3162, 0.9487],
            [0.1191, 0.9929]])
    """
    rows = batch_samples(feature, layout=layout)
    rows = rows / rows.detach().abs().amax().clamp_min(1e-6)
    return unit(rows @ rows.mT, 1)


@full_precision
def batch_samples(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """One row a sample of the batch: (B, C·N), for `kernel_alignment` as CAT uses it.

    Parameters
    ----------
    feature : Tensor
        Any layout, two samples or more.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        (B, C·N).

    Raises
    ------
    ShapeError
        If the batch has one sample: every relation in it is constant.

    Examples
    --------
    >>> import torch
    >>> batch_samples(torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 60])
    """
    flat = to_bcn(feature, layout)
    if flat.shape[0] < 2:
        raise ShapeError(
            "relations between samples need at least two samples, with one they are constant and teach nothing",
            got=f"a batch of {flat.shape[0]}",
            remedy="use a larger batch, or positions as samples (position_samples, position_affinity)",
        )
    return flat.flatten(1)


@full_precision
def position_samples(feature: Tensor, *, layout: Layout = "BCHW", count: int = 512) -> Tensor:
    """One row a position, (n, C), n ≤ count, spread evenly over batch and map, the same ones on every call.

    Position i·s mod B·N is taken for i < count, where s is near the golden ratio of B·N and has no common divisor
    with it: none is taken twice, and the stride can't fall in step with the map's width and see one column only.
    The choice depends on B·N alone, so student and teacher features of equal size are sampled alike.

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.
    count : int
        The most rows.

    Returns
    -------
    Tensor
        (min(B·N, count), C); in the feature's order where nothing is left out.

    Raises
    ------
    ArgumentError
        If `count` isn't positive.

    Examples
    --------
    >>> import torch
    >>> position_samples(torch.arange(8.0).reshape(1, 1, 2, 4), count=3).flatten()
    tensor([0., 5., 2.])
    """
    if count < 1:
        raise ArgumentError("the number of samples must be positive", got=f"count={count}")
    rows = to_bcn(feature, layout).transpose(1, 2).flatten(0, 1)
    total = rows.shape[0]
    if total <= count:
        return rows
    stride = round(total * 0.618034)
    while math.gcd(stride, total) > 1:
        stride += 1
    return rows[torch.arange(count, device=rows.device) * stride % total]
