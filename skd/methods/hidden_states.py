"""Hidden states of sequence models (TinyBERT, Jiao et al. 2020; DistilBERT, Sanh et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from skd.distances import Distance, cosine, mse
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, require_choice
from skd.methods.transfer import Transfer
from skd.spectra import Spectra

Variant = Literal["mse", "cosine"]


class HiddenStates(LayerMethod):
    r"""Hidden states: each token's vector, met through a learned linear map.

    .. math:: L = w \sum_l \operatorname{mean}\, (s_l W_l - t_l)^2 \quad \text{or} \quad
              w \sum_l \operatorname{mean}_{b n} \big(1 - \cos(s_{lbn} W_l, t_{lbn})\big)

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    variant : {"mse", "cosine"}
        TinyBERT's mean of squares, or DistilBERT's cosine.

    Raises
    ------
    ArgumentError
        There is no such variant, or the features aren't tokens.

    Notes
    -----
    X. Jiao, Y. Yin, L. Shang, X. Jiang, X. Chen, L. Li, F. Wang, Q. Liu, "TinyBERT: Distilling BERT for Natural
    Language Understanding", Findings of EMNLP 2020, arXiv:1909.10351. V. Sanh, L. Debut, J. Chaumond, T. Wolf,
    "DistilBERT, a distilled version of BERT", 2019, arXiv:1910.01108.

    Deviations: W is only there where widths differ; padding counts as tokens do.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("block 1", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 32, 32)
    >>> student = SymmetricPair("block 1", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 8, 8)
    >>> print(HiddenStates(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    block 1/encoder/hidden: enc → enc, raw, mse, weight 1.0
    """

    layouts = ("BNC",)
    why = "it is about the hidden states of tokens; of maps it is FitNets"

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, variant: Variant = "mse", **common: Unpack[Common]
    ) -> None:
        require_choice("variant", variant, get_args(Variant))
        super().__init__(plan, spectra, **common)
        self.variant = variant

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        distance = mse if self.variant == "mse" else Distance(cosine, dim=-1)
        return [
            self.row(layer, "hidden", distance=distance, adapter=layer.channels(bias=False)) for layer in self.layers
        ]
