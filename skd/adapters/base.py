"""What every adapter is, the one that does nothing, and chains of them."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from skd.errors import ArgumentError, ShapeError
from skd.taps import Layout, channels


class Adapter(nn.Module):
    """Base of all adapters.

    Parameters
    ----------
    layout : str
        The layout of the features it takes.
    output_layout : str, optional
        The layout of those it returns, the same by default.
    """

    def __init__(self, *, layout: Layout, output_layout: Layout | None = None) -> None:
        super().__init__()
        self.layout: Layout = layout
        self.output_layout: Layout = output_layout or layout

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The adapted feature."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return self.layout if self.layout == self.output_layout else f"{self.layout} to {self.output_layout}"

    def _require_channels(self, feature: Tensor, expected: int) -> None:
        if channels(feature, self.layout) != expected:
            raise ShapeError(
                f"{type(self).__name__} was made for another number of channels",
                got=f"{channels(feature, self.layout)} in {tuple(feature.shape)} as {self.layout}",
                expected=expected,
                remedy="make the adapter for this tap's width, and check the tap's layout",
            )


class Identity(Adapter):
    """Returns the feature as it is.

    Examples
    --------
    >>> import torch
    >>> Identity()(torch.ones(1, 2, 1, 1)).shape
    torch.Size([1, 2, 1, 1])
    """

    def __init__(self, *, layout: Layout = "BCHW") -> None:
        super().__init__(layout=layout)

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """`feature`, checked against the layout only."""
        channels(feature, self.layout)
        return feature


class Chain(Adapter):
    """Several adapters, one after the other; each is given the same reference.

    Parameters
    ----------
    *adapters : Adapter
        At least one; each takes the layout that the one before returns.

    Raises
    ------
    ArgumentError
        If there are none, or one is not an adapter.
    ShapeError
        If the layouts don't follow each other.

    Examples
    --------
    >>> import torch
    >>> from skd.adapters import Chain, ChannelAdapter, SpaceAdapter
    >>> chain = Chain(ChannelAdapter(2, 3), SpaceAdapter())
    >>> chain(torch.ones(1, 2, 4, 6), torch.ones(1, 9, 2, 3)).shape
    torch.Size([1, 3, 2, 3])
    """

    def __init__(self, *adapters: Adapter) -> None:
        for adapter in adapters:
            if not isinstance(adapter, Adapter):
                raise ArgumentError("a chain is made of adapters", got=type(adapter).__name__)
        if not adapters:
            raise ArgumentError("a chain needs at least one adapter", remedy="use Identity()")
        for first, second in itertools.pairwise(adapters):
            if first.output_layout != second.layout:
                raise ShapeError(
                    f"{type(second).__name__} can't follow {type(first).__name__}",
                    got=f"a feature in layout {first.output_layout}",
                    expected=second.layout,
                    remedy="state the layout of the second, or put a TokenAdapter or MapToTokens between them",
                )
        super().__init__(layout=adapters[0].layout, output_layout=adapters[-1].output_layout)
        self.adapters = nn.ModuleList(adapters)

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature through all adapters."""
        for adapter in self.adapters:
            feature = adapter(feature, reference)
        return feature
