"""FitNets (Romero et al. 2015): the features themselves, through a learned regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from skd.errors import ArgumentError
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, weighs
from skd.methods.transfer import Stage, Transfer
from skd.spectra import Spectra


class FitNets(LayerMethod):
    r"""FitNets: the teacher's features as hints, met through a learned 1×1 regressor A.

    .. math:: L = w \sum_l \operatorname{mean}\, (A_l s_l - t_l)^2

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    hint_steps : int, optional
        Train the features only for so many optimizer steps, then the output only, as the paper does. By default both
        together from the first step to the last, as is usual since.

    Raises
    ------
    ArgumentError
        `hint_steps` isn't positive, or leaves a stage without a term.

    Notes
    -----
    A. Romero, N. Ballas, S. E. Kahou, A. Chassang, C. Gatta, Y. Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015,
    arXiv:1412.6550, eq. 3.

    Deviations: every layer of the plan is a hint, where the paper has one in the middle; the mean of squares stands for
    half their sum; the regressor is a 1×1 convolution with the student's feature resampled where sizes differ, where
    the paper's is a larger one without padding; where the widths are equal there is none.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in FitNets(Plan(((teacher, student),))).transfers()]
    ['1/2/encoder/hint', '1/2/decoder/hint', 'output']
    """

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, hint_steps: int | None = None, **common: Unpack[Common]
    ) -> None:
        super().__init__(plan, spectra, **common)
        if hint_steps is not None and not (hint_steps > 0 and weighs(self.weight) and weighs(self.output)):
            raise ArgumentError(
                "hints come first for a number of steps, and then the output",
                got=f"hint_steps={hint_steps}, weight={self.weight}, output={self.output}",
                remedy="give a positive number of steps, and weights above 0",
            )
        self.hint_steps = hint_steps

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [self.row(layer, "hint", adapter=layer.adapter()) for layer in self.layers]

    def stages(self) -> Sequence[Stage]:
        """Hints, then the output, where `hint_steps` is given."""
        if self.hint_steps is None:
            return ()
        hints = tuple(f"{layer.name}/hint" for layer in self.layers)
        return Stage(self.hint_steps, hints), Stage(None, ("output",))
