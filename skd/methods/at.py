"""Attention transfer (Zagoruyko & Komodakis 2017): where the features are strong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from skd.distances import frobenius, mse
from skd.knowledge import attention
from skd.matching import Plan
from skd.methods._layers import ONE_POSITION, POSITIONS, Common, LayerMethod, require_choice
from skd.methods.transfer import Transfer
from skd.spectra import Spectra

Variant = Literal["code", "paper"]


class AT(LayerMethod):
    r"""Attention transfer: the sum of squares over the channels as a map of where a layer looks.

    .. math:: L = w \sum_l \operatorname{mean}_{b, n} (a(s)_{bn} - a(t)_{bn})^2 \quad \text{or} \quad
              w \sum_l \operatorname{mean}_b \|a(s)_b - a(t)_b\|_2, \qquad
              a(f) = \frac{\sum_c f_c^2}{\|\sum_c f_c^2\|_2}

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is the code's 1000 for "code", and 1 for "paper".
    variant : {"code", "paper"}
        The mean of squares, as the authors' code has it, or the norm of their eq. 2, not squared.

    Raises
    ------
    ArgumentError
        There is no such variant, or the features are vectors.

    Notes
    -----
    S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
    Networks via Attention Transfer", ICLR 2017, arXiv:1612.03928.

    Behind a LayerNorm over the channels every position has the same sum of squares: the map is flat and the loss zero.

    Deviations: the student's map is resampled where sizes differ; the paper's factor ½ is part of the weight. Tokens
    have an attention over the sequence.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(AT(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/attention: down → small, attention, mse, weight 1000.0
    """

    default_weight = 1000.0
    layouts = POSITIONS
    why = ONE_POSITION

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, variant: Variant = "code", **common: Unpack[Common]
    ) -> None:
        require_choice("variant", variant, get_args(Variant))
        if variant == "paper" and common.get("weight") is None:
            common["weight"] = 1.0
        super().__init__(plan, spectra, **common)
        self.variant = variant

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        distance = mse if self.variant == "code" else frobenius
        return [self.row(layer, "attention", attention, distance, adapter=layer.space()) for layer in self.layers]
