"""Similarity-preserving distillation (Tung & Mori 2019): how alike the samples of a batch are."""

from __future__ import annotations

from collections.abc import Sequence

from skd.knowledge import sample_similarity
from skd.methods._layers import LayerMethod
from skd.methods.transfer import Transfer


class SP(LayerMethod):
    r"""Similarity-preserving distillation: samples that are alike for the teacher are to be alike for the student.

    .. math:: L = w \sum_l \frac{1}{B^2} \|G(s) - G(t)\|_F^2, \qquad
              G(f)_{i \cdot} = \frac{(F F^T)_{i \cdot}}{\|(F F^T)_{i \cdot}\|_2}

    with F (B, C·N) the flattened feature.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is the paper's 3000.

    Notes
    -----
    F. Tung, G. Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682.

    Neither widths nor sizes need to agree, so there is no adapter. A batch of one sample, where the loss is zero for
    every student, is a ShapeError; the same between positions is `StructuredKD`. Deviations: none.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(SP(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/similarity: down → small, sample_similarity, mse, weight 3000.0
    """

    default_weight = 3000.0

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [self.row(layer, "similarity", sample_similarity) for layer in self.layers]
