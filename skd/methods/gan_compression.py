"""GAN compression (Li et al. 2020), without its search: features through 1×1 convolutions, and reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

from skd.methods._layers import LayerMethod
from skd.methods.transfer import Transfer


class GANCompression(LayerMethod):
    r"""GAN compression's distillation: intermediate features through learned maps, together with reconstruction.

    .. math:: L = w \sum_l \operatorname{mean}\, (A_l s_l - t_l)^2 + w_o \frac{\|y_S - y_T\|^2}{\|y_T\|^2}

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.

    Notes
    -----
    M. Li, J. Lin, Y. Ding, Z. Liu, J.-Y. Zhu, S. Han, "GAN Compression: Efficient Architectures for Interactive
    Conditional GANs", CVPR 2020, arXiv:2003.08936.

    A is there even where widths are equal (it starts as the identity then), and all terms count from the first step:
    that is what sets it apart from `FitNets`.

    Deviations: no discriminator and no search for the student's widths, which are no distillation; the reconstruction
    is the output's term that all methods have, where the paper has the mean absolute error.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in GANCompression(Plan(((teacher, student),))).transfers()]
    ['1/2/encoder/feature', '1/2/decoder/feature', 'output']
    """

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [self.row(layer, "feature", adapter=layer.adapter(always=True)) for layer in self.layers]
