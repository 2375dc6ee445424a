"""Knowledge distillation as it began (Hinton et al. 2015): the softened probabilities of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from skd.distances import Distance, kl
from skd.errors import ArgumentError
from skd.knowledge import Knowledge, class_distribution
from skd.knowledge._common import require_positive
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout, Tap


class Hinton(LayerMethod):
    r"""Hinton's distillation: the outputs as softened class probabilities, compared by their divergence.

    .. math:: L = w \, \frac{T^2}{B N} \sum_{b, n} KL\Big(\operatorname{softmax}_c \frac{z^t_{bnc}}{T}
              \,\Big\|\, \operatorname{softmax}_c \frac{z^s_{bnc}}{T}\Big)

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; no feature is looked at.
    temperature : float
        T.
    logits : Tap or str
        Where the class scores are read, in both networks; by default their outputs.
    layout : str, optional
        The scores'. By default BNC where the plan's features are tokens, and BC where they are vectors. Of maps it has
        to be said, as their outputs mostly are pictures and not scores (``"BCHW"`` for segmentation).

    Raises
    ------
    ArgumentError
        The temperature isn't positive, or the features are maps and the layout isn't given.

    Notes
    -----
    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, eq. 1.

    Deviations: the labels' cross-entropy is a task's own loss, and not here.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair
    >>> teacher = SymmetricPair("block 1", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 32, 32)
    >>> student = SymmetricPair("block 1", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 8, 8)
    >>> print(Hinton(Plan(((teacher, student),))).transfers()[0])
    logits: output → output, class_distribution(temperature=4.0), kl(temperature=4.0), weight 1.0
    """

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        temperature: float = 4.0,
        logits: Tap | str = "",
        layout: Layout | None = None,
        **common: Unpack[Common],
    ) -> None:
        require_positive("temperature", temperature)
        super().__init__(plan, spectra, **common)
        tap = Tap.of(logits)
        known = layout or tap.layout or (self.layers[0].layout if self.layers[0].layout in ("BNC", "BC") else None)
        if known is None:
            raise ArgumentError(
                "Hinton has no meaning here: it compares class scores, and networks of maps mostly return pictures",
                remedy="if theirs are scores, as in segmentation, say so: layout='BCHW'",
            )
        self.temperature, self.logits = temperature, replace(tap, layout=known)

    def rows(self) -> Sequence[Transfer]:
        """The one of the scores."""
        return [
            Transfer(
                "logits",
                self.logits,
                self.logits,
                Knowledge(class_distribution, temperature=self.temperature),
                Distance(kl, temperature=self.temperature),
                self.weight,
            )
        ]
