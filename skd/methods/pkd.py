"""PKD (Cao et al. 2022): features at mean 0 and deviation 1, that is, their Pearson correlation."""

from __future__ import annotations

from collections.abc import Sequence

from skd.knowledge import standardised
from skd.methods._layers import ONE_POSITION, POSITIONS, LayerMethod
from skd.methods.transfer import Transfer


class PKD(LayerMethod):
    r"""PKD: squared error of features whose channels are standardised over batch and positions.

    .. math:: L = w \sum_l \tfrac12 \operatorname{mean}\, (\widehat{A_l s} - \hat t)^2 =
              w \sum_l \operatorname{mean}_c \big(1 - r_c(A_l s, t)\big)

    with r the Pearson correlation of a channel.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is 6, as the authors' code has it for most detectors.

    Raises
    ------
    ArgumentError
        The features are vectors.

    Notes
    -----
    W. Cao, Y. Zhang, J. Gao, A. Cheng, K. Cheng, J. Cheng, "PKD: General Distillation Framework for Object Detectors
    via Pearson Correlation Coefficient", NeurIPS 2022, arXiv:2207.02039.

    Deviations: the paper's layers have equal widths; where they differ there is a learned 1×1 map A. The deviation is
    the population's.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(PKD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/pearson: down → small, standardised, mse, weight 3.0
    """

    default_weight = 6.0
    layouts = POSITIONS
    why = ONE_POSITION

    def rows(self) -> Sequence[Transfer]:
        """One a layer, with the formula's ½ in its weight."""
        return [self.row(layer, "pearson", standardised, factor=0.5, adapter=layer.adapter()) for layer in self.layers]
