"""Neuron selectivity transfer (Huang & Wang 2017): the channels' maps as samples of one distribution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from skd.distances import distance
from skd.knowledge._common import full_precision, positions, unit
from skd.methods._layers import ONE_POSITION, POSITIONS, LayerMethod
from skd.methods.transfer import Transfer
from skd.taps import Layout


class NST(LayerMethod):
    r"""Neuron selectivity transfer: the maximum mean discrepancy of the two sides' channels, as maps of norm 1.

    .. math:: L = w \sum_l \operatorname{mean}_b \Big[ \operatorname{mean}_{ij} (\hat t_i^T \hat t_j)^2
              + \operatorname{mean}_{ij} (\hat s_i^T \hat s_j)^2 - 2 \operatorname{mean}_{ij} (\hat s_i^T \hat t_j)^2
              \Big]

    The kernel is the paper's polynomial one, d = 2, c = 0; i and j are channels, so widths need not agree.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`; the default weight is 50, as is usual (Tian et al., "Contrastive
        Representation Distillation", ICLR 2020).

    Raises
    ------
    ArgumentError
        The features are vectors.

    Notes
    -----
    Z. Huang, N. Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, arXiv:1707.01219.

    Memory is that of C×C numbers a sample. Deviations: the student's map is resampled where sizes differ; the paper's ½
    is part of the weight.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(NST(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/selectivity: down → small, channel_maps, discrepancy, weight 50.0
    """

    default_weight = 50.0
    layouts = POSITIONS
    why = ONE_POSITION

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [
            self.row(layer, "selectivity", channel_maps, discrepancy, adapter=layer.space()) for layer in self.layers
        ]


@full_precision
def channel_maps(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Each channel's map divided by its norm, (B, C, N)."""
    return unit(positions(feature, layout, purpose="a channel's map"), 2)


@distance(divergence=True, same_shape=False)
def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD² under (xᵀy)² of the channels of two (B, C, N), whose C may differ; mean over the batch.

    Examples
    --------
    >>> import torch
    >>> maps = torch.eye(2).unsqueeze(0)
    >>> discrepancy(maps, maps), discrepancy(maps[:, :1], maps)
    (tensor(0.), tensor(0.5000))
    """
    kernels = [(one @ other.mT).square().mean((1, 2)) for one, other in _sides(student, teacher)]
    return (kernels[0] + kernels[1] - 2 * kernels[2]).clamp_min(0).mean()  # only rounding is below 0


def _sides(student: Tensor, teacher: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (teacher, teacher), (student, student), (student, teacher)
