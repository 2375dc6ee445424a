"""Kernel alignment (CAT, Jin et al. 2021): the same geometry of samples, up to rotation and scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from skd.distances import alignment_distance, negative_alignment
from skd.knowledge import Knowledge, batch_samples, position_samples
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod, require_choice
from skd.methods.transfer import Transfer
from skd.spectra import Spectra

Variant = Literal["paper", "debiased"]


class KernelAlignment(LayerMethod):
    r"""Kernel alignment: the angle between the two sides' matrices of products of samples.

    .. math:: L = -w \sum_l \frac{\langle K_s, K_t \rangle}{\|K_s\| \|K_t\|}, \qquad K = X X^T

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    variant : {"paper", "debiased"}
        "paper": as above, the rows of X the flattened samples of the batch. "debiased": 1 − alignment with the unbiased
        estimator (Song et al. 2012), the rows positions of the maps.
    count : int
        The most positions of "debiased"; the kernel has count² numbers.

    Raises
    ------
    ArgumentError
        There is no such variant.

    Notes
    -----
    Q. Jin, J. Ren, O. J. Woodford, J. Wang, G. Yuan, Y. Wang, S. Tulyakov, "Teachers Do More Than Teach: Compressing
    Image-to-Image Models", CVPR 2021, arXiv:2103.03467.

    "paper" is no divergence: its least value is −w. A batch of one sample, where it is constant, is a ShapeError; and
    independent features after a ReLU score −0.997 in batches of 8, so there is hardly anything left to learn.
    "debiased" is about 1 for those, works with a single sample, and is a divergence. Neither needs equal widths.

    Deviations of "paper": none.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(KernelAlignment(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/alignment: down → small, batch_samples, negative_alignment, weight 1.0
    """

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        variant: Variant = "paper",
        count: int = 512,
        **common: Unpack[Common],
    ) -> None:
        require_choice("variant", variant, get_args(Variant))
        super().__init__(plan, spectra, **common)
        self.variant, self.count = variant, count

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        if self.variant == "paper":
            return [self.row(layer, "alignment", batch_samples, negative_alignment) for layer in self.layers]
        knowledge = Knowledge(position_samples, count=self.count)
        return [
            self.row(layer, "alignment", knowledge, alignment_distance, adapter=layer.space()) for layer in self.layers
        ]
