"""Correlation congruence (Peng et al. 2019): a Gaussian kernel of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack, get_args

import torch
from torch import Tensor

from skd.errors import ArgumentError
from skd.knowledge import Knowledge
from skd.knowledge._common import full_precision, unit
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, require_choice
from skd.methods._samples import Samples, adapter_for, rows_of
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout


class CC(LayerMethod):
    r"""Correlation congruence: a Gaussian kernel between samples, as its Taylor series.

    .. math:: L = w \sum_l \frac{1}{n^2} \|K(s) - K(t)\|_F^2, \qquad
              K(f)_{ij} = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} \cos(f_i, f_j)^p

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight, 100, is ours: the kernels of two networks differ by little.
    gamma : float
        γ; the paper's 0.4.
    order : int
        P, the series' last power; the paper's 2.
    samples : {"batch", "positions"}
        What is related: the samples of the batch, or positions of the maps (at most `count`, spread evenly), which
        works with a single sample.
    count : int
        The most positions; the kernel has count² numbers.

    Raises
    ------
    ArgumentError
        There are no such samples, γ isn't positive, or the order isn't.

    Notes
    -----
    B. Peng, X. Jin, J. Liu, D. Li, Y. Wu, Y. Liu, S. Zhou, Z. Zhang, "Correlation Congruence for Knowledge
    Distillation", ICCV 2019, arXiv:1904.01802.

    A batch of one sample is a ShapeError, unless samples are positions. Deviation: one row a layer of flattened
    features, where the paper has an embedding; neither widths nor sizes need to agree, so it isn't learned.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in CC(Plan(((teacher, student),))).transfers()]
    ['1/2/encoder/kernel', '1/2/decoder/kernel', 'output']
    """

    default_weight = 100.0

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        gamma: float = 0.4,
        order: int = 2,
        samples: Samples = "batch",
        count: int = 256,
        **common: Unpack[Common],
    ) -> None:
        require_choice("samples", samples, get_args(Samples))
        if not gamma > 0 or order < 1:
            raise ArgumentError("the kernel needs γ and order above 0", got=f"gamma={gamma}, order={order}")
        super().__init__(plan, spectra, **common)
        self.gamma, self.order, self.samples, self.count = gamma, order, samples, count

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        options = {"gamma": self.gamma, "order": self.order, "samples": self.samples, "count": self.count}
        knowledge = Knowledge(gaussian_kernel, **options)
        return [self.row(layer, "kernel", knowledge, adapter=adapter_for(layer, self.samples)) for layer in self.layers]


@full_precision
def gaussian_kernel(
    feature: Tensor,
    *,
    layout: Layout = "BCHW",
    gamma: float = 0.4,
    order: int = 2,
    samples: Samples = "batch",
    count: int = 256,
) -> Tensor:
    """The kernel of the samples' directions, (n, n).

    Examples
    --------
    >>> gaussian_kernel(torch.eye(2), layout="BC")
    tensor([[0.9526, 0.4493],
            [0.4493, 0.9526]])
    """
    rows = unit(rows_of(feature, layout, samples, count), 1)
    cosines = rows @ rows.mT
    kernel = torch.zeros_like(cosines)
    for power in range(order + 1):
        kernel = kernel + (2 * gamma) ** power / math.factorial(power) * cosines**power
    return math.exp(-2 * gamma) * kernel
