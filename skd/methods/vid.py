"""Variational information distillation (Ahn et al. 2019): the teacher's features, predicted with a variance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd.adapters import Adapter, ChannelAdapter
from skd.distances import distance
from skd.errors import ArgumentError
from skd.knowledge._common import full_precision
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, chain
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout, to_bcn

_LEAST = 1e-5  # of the variance, the code's


class VID(LayerMethod):
    r"""Variational information distillation: how much of the teacher's features the student's tell, as a bound.

    .. math:: L = w \sum_l \operatorname{mean}\, \tfrac12 \Big[ \frac{(\mu_l(s) - t)^2}{\sigma_c^2}
              + \log \sigma_c^2 \Big]

    μ is learned, 1×1 layers with ReLU between them; σ² is one learned number a channel, softplus(ρ) + 10⁻⁵, and starts
    at 5.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    depth : int
        Layers of μ; 1 makes it linear. Those inside are as wide as the teacher's feature.

    Raises
    ------
    ArgumentError
        `depth` isn't positive.

    Notes
    -----
    S. Ahn, S. X. Hu, A. Damianou, N. D. Lawrence, Z. Dai, "Variational Information Distillation for Knowledge
    Transfer", CVPR 2019, arXiv:1904.05835, without the constants.

    Not a divergence: the term may be negative, and μ is learned, so that a student equal to its teacher has a loss.

    Deviations: none known; the authors' code has the three layers too. The student's feature is resampled where sizes
    differ.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(VID(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/information: down → small, flattened, gaussian, weight 1.0
    """

    def __init__(self, plan: Plan, spectra: Spectra | None = None, *, depth: int = 3, **common: Unpack[Common]) -> None:
        super().__init__(plan, spectra, **common)
        if depth < 1:
            raise ArgumentError("the mean needs at least one layer", got=f"depth={depth}")
        self.depth = depth

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [
            self.row(
                layer,
                "information",
                flattened,
                gaussian,
                adapter=chain(
                    layer.space(), Predicted(layer.student_width, layer.width, depth=self.depth, layout=layer.layout)
                ),
            )
            for layer in self.layers
        ]


class Predicted(Adapter):
    """What the student's feature says of the teacher's: its mean and log variance, 2C channels."""

    def __init__(self, in_channels: int, out_channels: int, *, depth: int, layout: Layout) -> None:
        super().__init__(layout=layout)
        widths = [in_channels, *[out_channels] * depth]
        self.layers = nn.ModuleList(
            ChannelAdapter(one, other, layout=layout, bias=False) for one, other in itertools.pairwise(widths)
        )
        self.spread = nn.Parameter(torch.full((out_channels,), math.log(math.expm1(5.0 - _LEAST))))

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature with the channels' means, then their log variances, the same at every position."""
        for index, layer in enumerate(self.layers):
            feature = layer(feature if index == 0 else F.relu(feature))
        shape = (1, 1, -1) if self.layout == "BNC" else (1, -1, *(1,) * (feature.ndim - 2))
        log_variance = (F.softplus(self.spread) + _LEAST).log().reshape(shape).to(feature.dtype)
        return torch.cat([feature, log_variance.expand_as(feature)], 2 if self.layout == "BNC" else 1)


@full_precision
def flattened(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """The feature as (B, C, N)."""
    return to_bcn(feature, layout)


@distance(divergence=False, same_shape=False)
def gaussian(student: Tensor, teacher: Tensor) -> Tensor:
    """−log of the normal density, mean over all elements, without its constant: (B, 2C, N) against (B, C, N)."""
    mean, log_variance = student.chunk(2, 1)
    return ((mean - teacher).square() * (-log_variance).exp() + log_variance).mean() / 2
