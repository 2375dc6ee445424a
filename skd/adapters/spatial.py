"""Adapters of the positions: another size, and tokens to tokens or to a map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from skd.adapters.base import Adapter
from skd.errors import ArgumentError, ShapeError
from skd.taps import Layout, channels

_POOLS: tuple[Callable[[Tensor, Any], Tensor], ...] = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)
_LINEAR_MODES = ("linear", "bilinear", "trilinear")


def _resample(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *space) at another size: area average along axes that shrink, linear interpolation where they grow."""
    present = tuple(feature.shape[2:])
    shrunk = tuple(min(old, new) for old, new in zip(present, size, strict=True))
    if shrunk != present:
        feature = _POOLS[len(size) - 1](feature, shrunk)
    if shrunk != size:
        feature = F.interpolate(feature, size, mode=_LINEAR_MODES[len(size) - 1], align_corners=False)
    return feature


class SpaceAdapter(Adapter):
    """Any height and width (or length, or depth, height and width) to any other.

    Area average along axes that shrink (each cell counts once, so the mean is kept where sizes divide), linear
    interpolation along those that grow; one axis may do the one and its neighbour the other.

    Parameters
    ----------
    size : tuple of int, optional
        The target; the reference's by default.
    layout : {"BCHW", "BCDHW", "BCL"}
        The feature's; also the reference's.

    Raises
    ------
    ArgumentError
        If the layout has no space, the size isn't valid for it, or there is neither a size nor a reference.
    ShapeError
        If feature or reference don't have the layout.

    Examples
    --------
    >>> import torch
    >>> SpaceAdapter()(torch.tensor([[[[1.0, 3.0, 5.0, 7.0]]]]), torch.ones(1, 9, 1, 2))
    tensor([[[[2., 6.]]]])
    """

    def __init__(self, *, size: tuple[int, ...] | None = None, layout: Layout = "BCHW") -> None:
        super().__init__(layout=layout)
        if layout not in ("BCL", "BCHW", "BCDHW"):
            remedy = "use a TokenAdapter" if layout == "BNC" else None
            raise ArgumentError("a SpaceAdapter needs a layout with space", got=repr(layout), remedy=remedy)
        if size is not None and (len(size) != len(layout) - 2 or min(size) < 1):
            raise ArgumentError(f"the size doesn't suit the layout {layout}", got=size)
        self.size = None if size is None else tuple(size)

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature at the target's size."""
        channels(feature, self.layout)
        size = self.size
        if size is None:
            if reference is None:
                raise ArgumentError(
                    "a SpaceAdapter without a size needs a reference feature",
                    remedy="call adapter(feature, reference), or give size=",
                )
            channels(reference, self.layout)
            size = tuple(reference.shape[2:])
        return _resample(feature, size)

    def extra_repr(self) -> str:
        return f"to {self.size or 'the reference'}, {super().extra_repr()}"


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens in rows of a grid (B, h·w, C) as a map (B, C, h, w).

    Raises
    ------
    ShapeError
        If the number of tokens isn't h·w.

    Examples
    --------
    >>> import torch
    >>> tokens_to_map(torch.arange(6.0).reshape(1, 6, 1), (2, 3))
    tensor([[[[0., 1., 2.],
              [3., 4., 5.]]]])
    """
    channels(tokens, "BNC")
    if tokens.shape[1] != math.prod(grid):
        raise ShapeError(
            "the tokens don't fill the grid",
            got=f"{tokens.shape[1]} tokens",
            expected=f"{grid[0]} × {grid[1]}",
            remedy="drop class and register tokens with prefix=, and check the grid's (height, width)",
        )
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def map_to_tokens(feature: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (B, H·W, C), row by row.

    Examples
    --------
    >>> import torch
    >>> map_to_tokens(torch.ones(2, 8, 3, 5)).shape
    torch.Size([2, 15, 8])
    """
    channels(feature, "BCHW")
    return feature.flatten(2).transpose(1, 2)


class MapToTokens(Adapter):
    """A map (B, C, H, W) as tokens (B, H·W, C); the way back is ``TokenAdapter(grid=(H, W), output_layout="BCHW")``."""

    def __init__(self) -> None:
        super().__init__(layout="BCHW", output_layout="BNC")

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The tokens, row by row."""
        return map_to_tokens(feature)


class TokenAdapter(Adapter):
    """Tokens to other tokens or to a map: drops the first ones, resamples the rest.

    With a grid they are resampled in two dimensions, without one along a line; average where there get fewer, linear
    interpolation where there get more. The target is `size`, else the reference's (a map's height and width, or the
    number of tokens), else all stay.

    Parameters
    ----------
    prefix : int
        How many first tokens to drop: class and register tokens have no place in the grid.
    grid : (int, int), optional
        Height and width of the other tokens.
    size : int or (int, int), optional
        The target: a number of tokens, or with a grid its new height and width.
    output_layout : {"BNC", "BCHW"}
        Tokens, or a map, which needs a grid.

    Raises
    ------
    ArgumentError
        If the options don't suit each other, or the grid can't be resampled to a number of tokens.
    ShapeError
        If the tokens are too few for the prefix or don't fill the grid.

    Examples
    --------
    >>> import torch
    >>> TokenAdapter(prefix=1, grid=(2, 3), output_layout="BCHW")(torch.ones(1, 7, 8)).shape
    torch.Size([1, 8, 2, 3])
    """

    def __init__(
        self,
        *,
        prefix: int = 0,
        grid: tuple[int, int] | None = None,
        size: int | tuple[int, int] | None = None,
        output_layout: Literal["BNC", "BCHW"] = "BNC",
    ) -> None:
        super().__init__(layout="BNC", output_layout=output_layout)
        if prefix < 0:
            raise ArgumentError("the number of tokens to drop can't be negative", got=f"prefix={prefix}")
        if output_layout == "BCHW" and grid is None:
            raise ArgumentError("tokens become a map only with a grid", remedy="give grid=(height, width)")
        sides = (size,) if isinstance(size, int) else size
        if sides is not None and (len(sides) != (1 if grid is None else 2) or min(sides) < 1):
            raise ArgumentError(
                "the size doesn't suit the tokens",
                got=f"size={size}, grid={grid}",
                expected="(height, width) with a grid, a number of tokens without",
            )
        self.prefix, self.grid, self.size = prefix, grid, size

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The tokens (B, N', C), or the map (B, C, h, w)."""
        channels(feature, "BNC")
        if feature.shape[1] <= self.prefix:
            raise ShapeError("no token is left", got=f"{feature.shape[1]} tokens, {self.prefix} to be dropped")
        tokens = feature[:, self.prefix :]
        if self.grid is None:
            return _resample(tokens.transpose(1, 2), self._line(tokens.shape[1], reference)).transpose(1, 2)
        resampled = _resample(tokens_to_map(tokens, self.grid), self._grid(self.grid, reference))
        return resampled if self.output_layout == "BCHW" else map_to_tokens(resampled)

    def _line(self, present: int, reference: Tensor | None) -> tuple[int]:
        if isinstance(self.size, int):
            return (self.size,)
        return (present if reference is None else self._count(reference),)

    def _grid(self, grid: tuple[int, int], reference: Tensor | None) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        if reference is None or (reference.ndim == 3 and reference.shape[1] == math.prod(grid)):
            return grid
        if reference.ndim == 4:
            return (reference.shape[2], reference.shape[3])
        raise ArgumentError(
            "a grid of tokens can't be resampled to a number of tokens",
            got=f"grid={grid}, reference {tuple(reference.shape)}",
            remedy="give size=(height, width)",
        )

    @staticmethod
    def _count(reference: Tensor) -> int:
        if reference.ndim != 3:
            raise ArgumentError(
                "tokens without a grid can't be resampled to a map",
                got=f"reference {tuple(reference.shape)}",
                remedy="give grid=(height, width)",
            )
        return reference.shape[1]

    def extra_repr(self) -> str:
        return f"prefix={self.prefix}, grid={self.grid}, size={self.size}, {super().extra_repr()}"
