"""Probabilistic knowledge transfer (Passalis & Tefas 2018): similarities of samples as probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from torch import Tensor

from skd.distances import distance, kl
from skd.knowledge import Knowledge
from skd.knowledge._common import full_precision, unit
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, require_choice
from skd.methods._samples import Samples, adapter_for, rows_of
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout

Variant = Literal["code", "paper"]


class PKT(LayerMethod):
    r"""Probabilistic knowledge transfer: which samples are near which, as conditional probabilities.

    .. math:: L = w \sum_l \frac{1}{n^2} \sum_{i, j} p^t_{ij} \log \frac{p^t_{ij}}{p^s_{ij}}, \qquad
              p_{ij} = \frac{k_{ij}}{\sum_j k_{ij}}, \qquad k_{ij} = \tfrac12 (1 + \cos(f_i, f_j))

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is 30000 for "code", as is usual (Tian et al., "Contrastive
        Representation Distillation", ICLR 2020), and 1 for "paper".
    variant : {"code", "paper"}
        "code": the mean over all i and j, as above. "paper": the sum, without i = j.
    samples : {"batch", "positions"}
        What is related: the samples of the batch, or positions of the maps (at most `count`, spread evenly), which
        works with a single sample.
    count : int
        The most positions; the relation has count² numbers.

    Raises
    ------
    ArgumentError
        There is no such variant, or there are no such samples.

    Notes
    -----
    N. Passalis, A. Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
    arXiv:1803.10837, with the cosine kernel.

    A batch of one sample is a ShapeError, unless samples are positions. Deviation: one row a layer, where the paper
    compares the last.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in PKT(Plan(((teacher, student),))).transfers()]
    ['1/2/encoder/neighbours', '1/2/decoder/neighbours', 'output']
    """

    default_weight = 30000.0

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        variant: Variant = "code",
        samples: Samples = "batch",
        count: int = 256,
        **common: Unpack[Common],
    ) -> None:
        require_choice("variant", variant, get_args(Variant))
        require_choice("samples", samples, get_args(Samples))
        if variant == "paper" and common.get("weight") is None:
            common["weight"] = 1.0
        super().__init__(plan, spectra, **common)
        self.variant, self.samples, self.count = variant, samples, count

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        paper = self.variant == "paper"
        knowledge = Knowledge(neighbours, samples=self.samples, count=self.count, with_itself=not paper)
        divergence = summed_kl if paper else mean_kl
        return [
            self.row(layer, "neighbours", knowledge, divergence, adapter=adapter_for(layer, self.samples))
            for layer in self.layers
        ]


@full_precision
def neighbours(
    feature: Tensor,
    *,
    layout: Layout = "BCHW",
    samples: Samples = "batch",
    count: int = 256,
    with_itself: bool = True,
) -> Tensor:
    """log p_ij, (n, n), or (n, n − 1) without the samples themselves.

    Examples
    --------
    >>> import torch
    >>> neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), layout="BC").exp()[0].round(decimals=4)
    tensor([0.6667, 0.3333, 0.0000])
    """
    rows = unit(rows_of(feature, layout, samples, count, least=2 if with_itself else 3), 1)
    kernel = (1 + rows @ rows.mT) / 2
    if not with_itself:
        n = len(kernel)
        kernel = kernel.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)  # all but the diagonal
    # Opposite directions have no probability; this is the code's way to keep its logarithm finite.
    return (kernel / kernel.sum(1, keepdim=True) + 1e-7).log()


@distance(divergence=True)
def mean_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(t ‖ s) of log-probabilities, mean over all elements."""
    return kl(student, teacher) / student.shape[-1]


@distance(divergence=True)
def summed_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(t ‖ s) of log-probabilities, summed over all elements."""
    return kl(student, teacher) * student.shape[0]
