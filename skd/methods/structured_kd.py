"""Structured knowledge distillation (Liu et al. 2019), pair-wise term: how alike the positions of a map are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from skd.knowledge import Knowledge, position_affinity
from skd.matching import Plan
from skd.methods._layers import ONE_POSITION, POSITIONS, Common, LayerMethod
from skd.methods.transfer import Transfer
from skd.spectra import Spectra


class StructuredKD(LayerMethod):
    r"""Structured distillation's pair-wise term: cosines between all pairs of cells of a feature.

    .. math:: L = w \sum_l \frac{1}{B P^2} \sum_{b, i, j} (a^s_{bij} - a^t_{bij})^2, \qquad
              a_{bij} = \cos(\bar f_{bi}, \bar f_{bj})

    with f̄ the feature, averaged over the P cells of a grid.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is the paper's 10.
    count : int
        The most cells P of the grid: memory is B·P² however large the map.

    Raises
    ------
    ArgumentError
        The features are vectors.

    Notes
    -----
    Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang, "Structured Knowledge Distillation for Semantic Segmentation",
    CVPR 2019, arXiv:1903.04197.

    Works with a single sample. Deviations: the pixel-wise term needs class scores (`Hinton` is it) and the holistic one
    a discriminator; the cells are averages of a grid that keeps the map's proportions, where the code takes the maxima
    of four. The student's feature is resampled where sizes differ. Tokens are a line.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(StructuredKD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/affinity: down → small, position_affinity(count=256), mse, weight 10.0
    """

    default_weight = 10.0
    layouts = POSITIONS
    why = ONE_POSITION

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, count: int = 256, **common: Unpack[Common]
    ) -> None:
        super().__init__(plan, spectra, **common)
        self.count = count

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        knowledge = Knowledge(position_affinity, count=self.count)
        return [self.row(layer, "affinity", knowledge, adapter=layer.space()) for layer in self.layers]
