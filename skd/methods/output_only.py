"""Output-only distillation: the control that every method of features is measured against."""

from __future__ import annotations

from collections.abc import Sequence

from skd.methods._layers import LayerMethod
from skd.methods.transfer import Transfer


class OutputOnly(LayerMethod):
    r"""The student's output made like the teacher's, and no feature.

    .. math:: L = w_o \frac{\|y_S - y_T\|^2}{\|y_T\|^2}

    The row is the one that every method has, so the difference to this control is what the features bring.

    Parameters
    ----------
    plan : Plan
        Not looked at.
    spectra, sides, weight
        Not looked at: there are no features.
    output : float or schedule
        w_o.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [str(row) for row in OutputOnly(Plan(((teacher, student),))).transfers()]
    ['output: output → output, raw, normalised_mse, weight 1.0']
    """

    def rows(self) -> Sequence[Transfer]:
        """None."""
        return ()
