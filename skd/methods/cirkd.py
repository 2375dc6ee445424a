"""Cross-image relations (CIRKD, Yang et al. 2022), without the memory: positions of all samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from skd.distances import kl
from skd.knowledge import Knowledge
from skd.knowledge._common import full_precision, require_positive, unit
from skd.knowledge.relations import cells
from skd.matching import Plan
from skd.methods._layers import SPATIAL, Common, LayerMethod
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout


class CIRKD(LayerMethod):
    r"""CIRKD's mini-batch term: from each position of each image, where in each other image something like it is.

    .. math:: L = w \sum_l \frac{1}{B^2 P} \sum_{i, j, p} KL\Big(\operatorname{softmax}_q
              \frac{\cos(\bar t_{ip}, \bar t_{jq})}{\tau} \,\Big\|\, \operatorname{softmax}_q
              \frac{\cos(\bar s_{ip}, \bar s_{jq})}{\tau}\Big)

    i and j are images, p and q the P cells of a grid that the features are averaged over.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    temperature : float
        τ; the code's 0.1.
    count : int
        The most cells P an image: memory is (B·P)² however large the map.

    Raises
    ------
    ArgumentError
        The temperature isn't positive, or the features aren't maps.

    Notes
    -----
    C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang, "Cross-Image Relational Knowledge Distillation for Semantic
    Segmentation", CVPR 2022, arXiv:2204.06986.

    With a single sample the relations are those inside the image. Deviations: the terms with a memory of pixels and
    regions are left out, as these are chosen by class; a grid's averages stand for all pixels (the code averages over
    2×2). The student's feature is resampled where sizes differ. Widths need not agree.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(CIRKD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/relations: down → small, image_relations(count=64, temperature=0.1), kl, weight 1.0
    """

    layouts = SPATIAL
    why = "it looks for the same thing elsewhere in other images, and positions of sequences aren't that"

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        temperature: float = 0.1,
        count: int = 64,
        **common: Unpack[Common],
    ) -> None:
        require_positive("temperature", temperature)
        super().__init__(plan, spectra, **common)
        self.temperature, self.count = temperature, count

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        knowledge = Knowledge(image_relations, temperature=self.temperature, count=self.count)
        return [self.row(layer, "relations", knowledge, kl, adapter=layer.space()) for layer in self.layers]


@full_precision
def image_relations(feature: Tensor, *, layout: Layout = "BCHW", temperature: float = 0.1, count: int = 64) -> Tensor:
    """log softmax over q of the cosines between cell p of image i and cell q of image j: (B, P, B, P), as i, p, j, q.

    Examples
    --------
    >>> import torch
    >>> image_relations(torch.ones(2, 3, 4, 6), count=6).exp().shape
    torch.Size([2, 6, 2, 6])
    """
    directions = unit(cells(feature, layout, count), 1)
    batch, _, places = directions.shape
    rows = directions.transpose(1, 2).flatten(0, 1)
    return (rows @ rows.mT / temperature).view(batch, places, batch, places).log_softmax(-1)
