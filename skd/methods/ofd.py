"""Overhaul of feature distillation (Heo et al. 2019): a margin ReLU and a partial distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skd.adapters import Adapter
from skd.distances import distance
from skd.methods._layers import Layer, LayerMethod, moments_of
from skd.methods.transfer import Transfer
from skd.taps import Layout


class OFD(LayerMethod):
    r"""Overhaul of feature distillation: what the teacher's ReLU lets pass, and that the rest be negative.

    .. math:: L = w \sum_l \frac{2^{-(P - p_l)}}{B} \sum (A_l s - t^+)^2 \, [A_l s > t^+ \text{ or } t > 0], \qquad
              t^+ = \max(t, \mu^-_c)

    μ⁻ is a channel's mean where it is negative, P the number of pairs and p the layer's, from the outside: the
    innermost counts full, each next half of it.

    Parameters
    ----------
    plan, sides, weight, output
        As in `LayerMethod`; the default weight is the code's 10⁻³.
    spectra : Spectra, optional
        μ⁻ is that of a normal distribution of the channel's measured mean and variance; without them, the mean of what
        is negative in each batch.

    Raises
    ------
    ShapeError
        The spectra are of other layers than the plan.

    Notes
    -----
    B. Heo, J. Kim, S. Yun, H. Park, N. Kwak, J. Y. Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
    arXiv:1904.01866.

    Meant for features before their ReLU: after it nothing is negative, μ⁻ is 0 and this is the error of the regressor.
    The loss is a sum over channels and positions: the weight belongs to a size of features.

    Deviations: the code takes mean and variance from the batch normalisation before the ReLU, of which there need not
    be one; A is linear, without the code's batch normalisation, and only where widths differ.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(OFD(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    1/2/encoder/margin: down → small, raw, partial_squares, weight 0.001
    """

    default_weight = 1e-3

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        names = [teacher.name for teacher, _ in self.plan]
        return [
            self.row(
                layer,
                "margin",
                distance=partial_squares,
                factor=0.5 ** (len(names) - 1 - names.index(layer.pair)),
                adapter=layer.adapter(bias=False),
                teacher_adapter=MarginReLU(self._margin(layer), layout=layer.layout),
            )
            for layer in self.layers
        ]

    def _margin(self, layer: Layer) -> Tensor | None:
        if self.spectra is None:
            return None
        moments = moments_of(layer, self.spectra)
        return negative_mean(moments.mean, moments.cov.diagonal().sqrt())


def negative_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[x | x < 0] of normal distributions; −3 deviations where hardly anything is negative, as in the code.

    Examples
    --------
    >>> negative_mean(torch.tensor([0.0, 9.0]), torch.tensor([1.0, 1.0]))
    tensor([-0.7979, -3.0000])
    """
    ratio = mean / deviation.clamp_min(1e-12)
    below = torch.special.ndtr(-ratio)
    density = (-(ratio**2) / 2).exp() / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, mean - deviation * density / below.clamp_min(1e-3), -3 * deviation)


class MarginReLU(Adapter):
    """max(t, μ⁻), with μ⁻ given or each batch's own."""

    margin: Tensor | None

    def __init__(self, margin: Tensor | None, *, layout: Layout) -> None:
        super().__init__(layout=layout)
        self.register_buffer("margin", None if margin is None else margin.to(torch.get_default_dtype()))

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The same shape."""
        channel = 2 if self.layout == "BNC" else 1
        if self.margin is not None:
            shape = [1] * feature.ndim
            shape[channel] = -1
            return feature.maximum(self.margin.reshape(shape).to(feature.dtype))
        negative = feature < 0
        others = [axis for axis in range(feature.ndim) if axis != channel]
        sums = feature.clamp_max(0).sum(others, keepdim=True)
        return feature.maximum(sums / negative.sum(others, keepdim=True).clamp_min(1))


@distance(divergence=True)
def partial_squares(student: Tensor, teacher: Tensor) -> Tensor:
    """(s − t)² summed where s > t or t > 0, mean over the batch only.

    Examples
    --------
    >>> partial_squares(torch.tensor([[-2.0, 1.0, 0.0]]), torch.tensor([[-1.0, -1.0, 3.0]]))  # 0 + 4 + 9
    tensor(13.)
    """
    counts = (student > teacher) | (teacher > 0)
    return ((student - teacher).square() * counts).sum() / student.shape[0]
