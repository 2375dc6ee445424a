"""Flow of solution procedure (Yim et al. 2017): how the channels of one layer go with those of the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch.nn.functional as F
from torch import Tensor

from skd.adapters import Adapter
from skd.distances import mse
from skd.errors import ArgumentError
from skd.knowledge._common import full_precision
from skd.matching import Plan
from skd.methods._layers import ONE_POSITION, POSITIONS, Common, Layer, LayerMethod
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout

_POOLS: dict[int, Callable[[Tensor, Any], Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}


class FSP(LayerMethod):
    r"""Flow of solution procedure: products between the channels of consecutive layers.

    .. math:: L = w \sum_{(k, m)} \operatorname{mean}\, \big(G(A_k s_k, A_m s_m) - G(t_k, t_m)\big)^2, \qquad
              G(f, g) = \frac1N F G^T

    (k, m) are consecutive layers of one side, in the order in which they run; the larger feature is max-pooled to the
    smaller one's size.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is 50, as is usual (Tian et al., "Contrastive Representation
        Distillation", ICLR 2020).

    Raises
    ------
    ArgumentError
        No side has two layers, or the features are vectors.

    Notes
    -----
    J. Yim, D. Joo, J. Bae, J. Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
    Transfer Learning", CVPR 2017, doi 10.1109/CVPR.2017.754.

    A row bears the name of the layer that the flow starts from. Deviations: the paper's layers have equal widths; where
    they differ there is a learned 1×1 map A, one for each layer. The mean of squares stands for their sum, and all
    terms count from the first step, where the paper trains in two stages.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> def pairs(width):
    ...     return (SymmetricPair("1/2", Tap("down1"), Tap("up1"), width, width),
    ...             SymmetricPair("1/4", Tap("down2"), Tap("up2"), 2 * width, 2 * width))
    >>> for row in FSP(Plan(tuple(zip(pairs(16), pairs(4)))), output=0).transfers():
    ...     print(row)
    1/2/encoder/flow: down1, down2 → down1, down2, flow, mse, weight 50.0
    1/4/decoder/flow: up2, up1 → up2, up1, flow, mse, weight 50.0
    """

    default_weight = 50.0
    layouts = POSITIONS
    why = ONE_POSITION

    def __init__(self, plan: Plan, spectra: Spectra | None = None, **common: Unpack[Common]) -> None:
        super().__init__(plan, spectra, **common)
        if max(len(run) for run in self.runs()) < 2:
            raise ArgumentError(
                "a flow goes from one layer to the next, and no side has two", got=f"{len(plan)} pair in the plan"
            )

    def rows(self) -> Sequence[Transfer]:
        """One for each two consecutive layers of a side."""
        # The adapter of a layer serves both rows that the layer is in.
        adapters: dict[Layer, Adapter | None] = {layer: layer.channels() for layer in self.layers}
        return [
            Transfer(
                f"{one.name}/flow",
                (one.student, other.student),
                (one.teacher, other.teacher),
                flow,
                mse,
                self.weight,
                student_adapters=(adapters[one], adapters[other]),
            )
            for run in self.runs()
            for one, other in itertools.pairwise(run)
        ]


@full_precision
def flow(first: Tensor, second: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Products of the channels over the positions, (B, C, C').

    Examples
    --------
    >>> import torch
    >>> flow(torch.ones(1, 2, 4, 6), 3 * torch.ones(1, 3, 2, 3)).shape
    torch.Size([1, 2, 3])
    """
    maps = [feature.transpose(1, 2) if layout == "BNC" else feature for feature in (first, second)]
    size = tuple(min(sides) for sides in zip(*(one.shape[2:] for one in maps), strict=True))
    pooled = [one if tuple(one.shape[2:]) == size else _POOLS[len(size)](one, size) for one in maps]
    one, other = (each.flatten(2) for each in pooled)
    return one @ other.mT / one.shape[2]
