"""Relational knowledge distillation (Park et al. 2019): distances and angles between samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack, get_args

import torch
from torch import Tensor

from skd.distances import huber
from skd.knowledge import Knowledge
from skd.knowledge._common import full_precision
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, require_choice
from skd.methods._samples import Samples, adapter_for, rows_of
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout


class RKD(LayerMethod):
    r"""Relational knowledge distillation: distances of pairs and angles of triplets of samples.

    .. math:: L = w \sum_l \big[ 25 \operatorname{mean}_{ij} h(d^s_{ij} - d^t_{ij})
              + 50 \operatorname{mean}_{ijk} h(\cos^s_{ijk} - \cos^t_{ijk}) \big], \qquad
              d_{ij} = \frac{\|f_i - f_j\|}{\operatorname{mean}_{i \neq j} \|f_i - f_j\|}

    with h the Huber loss, and cos the cosine of the angle at j.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    distances, angles : float
        Their factors.
    samples : {"batch", "positions"}
        What is related: the samples of the batch, or positions of the maps (at most `count`, spread evenly), which
        works with a single sample.
    count : int
        The most positions; the angles are count³ numbers.

    Raises
    ------
    ArgumentError
        There are no such samples.

    Notes
    -----
    W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068; the
    factors are those of its code.

    Fewer than three samples, where the angles are constant, are a ShapeError. Deviations: one pair of rows a layer of
    flattened features, where the paper embeds in vectors; angles come from the samples' products, so that memory is n³
    and not n² times a feature.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in RKD(Plan(((teacher, student),)), sides="encoder").transfers()]
    ['1/2/encoder/distances', '1/2/encoder/angles', 'output']
    """

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        distances: float = 25.0,
        angles: float = 50.0,
        samples: Samples = "batch",
        count: int = 64,
        **common: Unpack[Common],
    ) -> None:
        require_choice("samples", samples, get_args(Samples))
        super().__init__(plan, spectra, **common)
        self.distances, self.angles, self.samples, self.count = distances, angles, samples, count

    def rows(self) -> Sequence[Transfer]:
        """Two a layer."""
        terms = [
            ("distances", Knowledge(pair_distances, samples=self.samples, count=self.count), self.distances),
            ("angles", Knowledge(triplet_angles, samples=self.samples, count=self.count), self.angles),
        ]
        rows = []
        for layer in self.layers:
            adapter = adapter_for(layer, self.samples)
            rows += [
                self.row(layer, term, knowledge, huber, factor=factor, adapter=adapter)
                for term, knowledge, factor in terms
                if factor != 0
            ]
        return rows


def _products(rows: Tensor) -> Tensor:
    """Products of the samples about their mean, which differences don't depend on and rounding does."""
    rows = rows - rows.mean(0)
    rows = rows / rows.detach().abs().amax().clamp_min(1e-12)
    return rows @ rows.mT


def _lengths(products: Tensor) -> Tensor:
    """‖x_i − x_j‖, with gradient zero and not NaN where it is zero."""
    squares = products.diagonal()[:, None] + products.diagonal()[None, :] - 2 * products
    apart = squares > 1e-6 * products.diagonal().mean()
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


@full_precision
def pair_distances(feature: Tensor, *, layout: Layout = "BCHW", samples: Samples = "batch", count: int = 64) -> Tensor:
    """Distances of all pairs of samples over their mean, (n, n).

    Examples
    --------
    >>> pair_distances(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), layout="BC")
    tensor([[0.0000, 0.7500, 1.0000],
            [0.7500, 0.0000, 1.2500],
            [1.0000, 1.2500, 0.0000]])
    """
    lengths = _lengths(_products(rows_of(feature, layout, samples, count, least=3)))
    n = len(lengths)
    return lengths / (lengths.sum() / (n * (n - 1))).clamp_min(1e-12)


@full_precision
def triplet_angles(feature: Tensor, *, layout: Layout = "BCHW", samples: Samples = "batch", count: int = 64) -> Tensor:
    """Cosines of the angles at j between i and k, (n, n, n) in the order j, i, k; 0 where two of them are the same.

    Examples
    --------
    >>> triplet_angles(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), layout="BC")[1]
    tensor([[1.0000, 0.0000, 0.6000],
            [0.0000, 0.0000, 0.0000],
            [0.6000, 0.0000, 1.0000]])
    """
    products = _products(rows_of(feature, layout, samples, count, least=3))
    lengths = _lengths(products)
    # ⟨x_i − x_j, x_k − x_j⟩, from the products alone
    inner = products[None] - products[:, :, None] - products[:, None, :] + products.diagonal()[:, None, None]
    sizes = lengths[:, :, None] * lengths[:, None, :]
    apart = sizes > 0
    return torch.where(apart, inner / torch.where(apart, sizes, 1.0), 0.0)
