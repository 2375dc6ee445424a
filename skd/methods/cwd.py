"""Channel-wise distillation (Shu et al. 2021): each channel as a distribution over the positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from skd.distances import Distance, kl
from skd.knowledge import Knowledge, channel_distribution
from skd.knowledge._common import require_positive
from skd.matching import Plan
from skd.methods._layers import ONE_POSITION, POSITIONS, Common, LayerMethod
from skd.methods.transfer import Transfer
from skd.spectra import Spectra


class CWD(LayerMethod):
    r"""Channel-wise distillation: each channel's softmax over the positions, compared by its divergence.

    .. math:: L = w \sum_l \frac{\tau^2}{B C} \sum_{b, c} KL\Big(\operatorname{softmax}_n \frac{t_{bcn}}{\tau}
              \,\Big\|\, \operatorname{softmax}_n \frac{(A_l s)_{bcn}}{\tau}\Big)

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is the paper's for feature maps, 50.
    temperature : float
        τ.

    Raises
    ------
    ArgumentError
        The temperature isn't positive, or the features are vectors.

    Notes
    -----
    C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
    arXiv:2011.13256.

    Deviations: the student's feature is resampled where sizes differ; tokens are positions of a line.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(CWD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/channels: down → small, channel_distribution(temperature=4.0), kl(temperature=4.0), weight 50.0
    """

    default_weight = 50.0
    layouts = POSITIONS
    why = ONE_POSITION

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, temperature: float = 4.0, **common: Unpack[Common]
    ) -> None:
        super().__init__(plan, spectra, **common)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        knowledge = Knowledge(channel_distribution, temperature=self.temperature)
        distance = Distance(kl, temperature=self.temperature)
        return [self.row(layer, "channels", knowledge, distance, adapter=layer.adapter()) for layer in self.layers]
