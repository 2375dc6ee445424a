"""Inter-channel correlation (Liu et al. 2021): how alike the channels of a sample are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from skd.knowledge import channel_correlation
from skd.matching import Plan
from skd.methods._layers import ONE_POSITION, POSITIONS, Common, LayerMethod, require_choice
from skd.methods.transfer import Transfer
from skd.spectra import Spectra

Variant = Literal["code", "paper"]


class ICKD(LayerMethod):
    r"""Inter-channel correlation: products of all pairs of channels, row by row at norm 1.

    .. math:: L = w \sum_l \frac{1}{B C} \sum_b \|G(A_l s)_b - G(t)_b\|_F^2, \qquad
              G(f)_{i \cdot} = \frac{(F F^T)_{i \cdot}}{\|(F F^T)_{i \cdot}\|_2}

    with F (C, N) a sample's feature. The paper divides by C² instead of C.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is the code's for CIFAR-100, 2.5.
    variant : {"code", "paper"}
        Divided by B·C or by B·C².

    Raises
    ------
    ArgumentError
        There is no such variant, or the features are vectors, whose channels all correlate.

    Notes
    -----
    L. Liu, Q. Huang, S. Lin, H. Xie, B. Wang, X. Chang, X. Liang, "Exploring Inter-Channel Correlation for
    Diversity-preserved Knowledge Distillation", ICCV 2021, arXiv:2202.03680.

    Deviations: A is linear, without the code's batch normalisation, and only where widths differ; the variant for
    segmentation, which works on patches of a grid, isn't here.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(ICKD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/correlation: down → small, channel_correlation, mse, weight 80.0
    """

    default_weight = 2.5
    layouts = POSITIONS
    why = ONE_POSITION

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, variant: Variant = "code", **common: Unpack[Common]
    ) -> None:
        require_choice("variant", variant, get_args(Variant))
        super().__init__(plan, spectra, **common)
        self.variant = variant

    def rows(self) -> Sequence[Transfer]:
        """One a layer; the mean of squares is the paper's, and C times it the code's."""
        return [
            self.row(
                layer,
                "correlation",
                channel_correlation,
                factor=layer.width if self.variant == "code" else 1.0,
                adapter=layer.channels(bias=False),
            )
            for layer in self.layers
        ]
