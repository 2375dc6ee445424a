"""OMGD (Ren et al. 2021), with a teacher that stands still: structure of the picture, channel averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from skd.distances import Distance, distance, mse
from skd.errors import ShapeError
from skd.knowledge import raw
from skd.knowledge._common import full_precision, require_positive
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, scaled
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout, to_bcn


class OMGD(LayerMethod):
    r"""OMGD's distillation: structural similarity and smoothness of the picture, and the channels' averages.

    .. math:: L = w \Big[ 50 \sum_l \operatorname{mean}_{bc} \big(\overline{A_l s} - \bar t\big)^2
              + 10 \, (1 - \operatorname{SSIM}(y_S, y_T)) + 10^{-5} \, \|\nabla y_S\|_1 \Big]

    A bar is the mean over the positions, ∇ the differences of neighbouring pixels.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    channels, similarity, variation : float
        The factors of the three terms, by default the code's; 0 leaves a term out.
    data_range : float
        The range of the pixels, which SSIM's constants belong to.

    Raises
    ------
    ArgumentError
        The features aren't maps of pictures, or the range isn't positive.

    Notes
    -----
    Y. Ren, J. Wu, X. Xiao, J. Yang, "Online Multi-Granularity Distillation for GAN Compression", ICCV 2021,
    arXiv:2108.06908.

    The term of smoothness doesn't look at the teacher, so it isn't a divergence; that of SSIM is.

    Deviations: one teacher, which doesn't learn meanwhile, and no discriminator: what is left is the method's offline
    form. The perceptual terms (features and Gram matrices of a VGG network) are left out, since a distiller runs no
    third network. A is linear, without the code's batch normalisation and ReLU.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in OMGD(Plan(((teacher, student),))).transfers()]
    ['1/2/encoder/averages', '1/2/decoder/averages', 'similarity', 'variation', 'output']
    """

    layouts = ("BCHW",)
    why = "its terms are of pictures: structural similarity and total variation"

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        channels: float = 50.0,
        similarity: float = 10.0,
        variation: float = 1e-5,
        data_range: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        require_positive("data_range", data_range)
        super().__init__(plan, spectra, **common)
        self.channels, self.similarity, self.variation, self.data_range = channels, similarity, variation, data_range

    def rows(self) -> Sequence[Transfer]:
        """One a layer, and two of the outputs."""
        rows = [
            self.row(layer, "averages", averages, mse, factor=self.channels, adapter=layer.channels(bias=False))
            for layer in self.layers
            if self.channels != 0
        ]
        dissimilarity = Distance(dissimilar, data_range=self.data_range)
        for name, divergence, factor in (
            ("similarity", dissimilarity, self.similarity),
            ("variation", total_variation, self.variation),
        ):
            if factor != 0:
                rows.append(Transfer(name, "", "", raw, divergence, scaled(self.weight, factor)))
        return rows


@full_precision
def averages(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Each channel's mean over the positions, (B, C)."""
    return to_bcn(feature, layout).mean(2)


@distance(divergence=True)
def dissimilar(student: Tensor, teacher: Tensor, *, data_range: float = 1.0) -> Tensor:
    """1 − SSIM (Wang et al. 2004) of pictures, mean over batch, channels and positions.

    A window of 11×11 with a deviation of 1.5 (smaller where the picture is), zeros around the picture.

    Examples
    --------
    >>> picture = torch.eye(16).expand(1, 3, 16, 16)
    >>> dissimilar(picture, picture)
    tensor(0.)
    """
    if student.ndim != 4:
        raise ShapeError("structural similarity is of pictures", got=tuple(student.shape), expected="(B, C, H, W)")
    channels = student.shape[1]
    size = (min(11, *student.shape[2:]) - 1) // 2 * 2 + 1
    steps = torch.arange(size, dtype=student.dtype, device=student.device) - (size - 1) / 2
    line = (-(steps**2) / (2 * 1.5**2)).softmax(0).expand(channels, 1, 1, size)

    def blurred(values: Tensor) -> Tensor:
        along = F.conv2d(values, line, padding=(0, size // 2), groups=channels)
        return F.conv2d(along, line.mT, padding=(size // 2, 0), groups=channels)

    one, other = blurred(student), blurred(teacher)
    variances = [blurred(student**2) - one**2, blurred(teacher**2) - other**2]
    covariance = blurred(student * teacher) - one * other
    small, less = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    alike = (2 * one * other + small) / (one**2 + other**2 + small)
    alike = alike * (2 * covariance + less) / (variances[0] + variances[1] + less)
    return (1 - alike.mean()).clamp_min(0)  # only rounding is below 0


@distance(divergence=False)
def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ |differences of neighbouring pixels| of the student's pictures, over the whole batch.

    Examples
    --------
    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]]), torch.zeros(1, 1, 2, 2))
    tensor(6.)
    """
    if student.ndim != 4:
        raise ShapeError("total variation is of pictures", got=tuple(student.shape), expected="(B, C, H, W)")
    return student.diff(dim=2).abs().sum() + student.diff(dim=3).abs().sum()
