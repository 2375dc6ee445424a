"""Masked generative distillation (Yang et al. 2022): the teacher's features, generated from what a mask leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from skd.adapters import Adapter
from skd.distances import distance
from skd.errors import ArgumentError
from skd.matching import Plan
from skd.methods._convolution import Convolution
from skd.methods._layers import ONE_POSITION, POSITIONS, Common, LayerMethod, chain
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout


class MGD(LayerMethod):
    r"""Masked generative distillation: random positions of the student's feature are hidden and made up for.

    .. math:: L = w \sum_l \frac1B \|G_l(M \odot A_l s) - t\|^2

    M is 0 at a share of the positions, drawn anew each step, and G two convolutions of 3×3 with a ReLU between them.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is the code's α for detectors and segmentation, 2·10⁻⁵.
    masked : float
        The share of the positions that is hidden; the code's 0.65 (0.75 for segmentation).

    Raises
    ------
    ArgumentError
        `masked` isn't a share, or the features are vectors.

    Notes
    -----
    Z. Yang, Z. Li, M. Shao, D. Shi, Z. Yuan, C. Yuan, "Masked Generative Distillation", ECCV 2022, arXiv:2205.01529.

    Not a divergence of the features: G is learned, so that a student equal to its teacher has a loss. The loss is a sum
    over channels and positions: the weight belongs to a size of features. Masks come from PyTorch's generator of the
    device; in eval mode nothing is hidden.

    Deviations: the student's feature is resampled where sizes differ; tokens are a line, with convolutions of 3.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(MGD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/generated: down → small, raw, summed_squares, weight 2e-05
    """

    default_weight = 2e-5
    layouts = POSITIONS
    why = ONE_POSITION

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, masked: float = 0.65, **common: Unpack[Common]
    ) -> None:
        super().__init__(plan, spectra, **common)
        if not 0 <= masked < 1:
            raise ArgumentError("a share of the positions is masked", got=masked, expected="from 0 to below 1")
        self.masked = masked

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [
            self.row(
                layer,
                "generated",
                distance=summed_squares,
                adapter=chain(layer.adapter(), Generated(layer.width, masked=self.masked, layout=layer.layout)),
            )
            for layer in self.layers
        ]


class Generated(Adapter):
    """The feature with positions hidden, through two convolutions."""

    def __init__(self, channels: int, *, masked: float, layout: Layout) -> None:
        super().__init__(layout=layout)
        self.masked = masked
        self.first = Convolution(channels, channels, layout=layout)
        self.second = Convolution(channels, channels, layout=layout)

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The same shape."""
        if self.training:
            axis = 2 if self.layout == "BNC" else 1
            noise = torch.rand_like(feature.narrow(axis, 0, 1), dtype=torch.float32)
            feature = feature * (noise <= 1 - self.masked)
        generated: Tensor = self.second(F.relu(self.first(feature)))
        return generated

    def extra_repr(self) -> str:
        return f"masked={self.masked}, {super().extra_repr()}"


@distance(divergence=True)
def summed_squares(student: Tensor, teacher: Tensor) -> Tensor:
    """‖s − t‖², mean over the batch only.

    Examples
    --------
    >>> summed_squares(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(3.)
    """
    return (student - teacher).square().sum() / student.shape[0]
