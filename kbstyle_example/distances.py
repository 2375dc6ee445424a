"""How far apart two features of a perceptual network are: pure functions, scalar out, gradients on both sides.

`kbstyle_example.losses` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from kbstyle_example.networks import moments, normalised
from skd.errors import ShapeError

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def content_distance(result: Tensor, content: Tensor) -> Tensor:
    """Mean squared difference of two features, each channel first brought to mean 0 and deviation 1.

    This is the content loss of AdaIN (Huang & Belongie 2017, eq. 12) on normalised features: recolouring costs nothing.

    Parameters
    ----------
    result, content : Tensor
        (B, C, H, W), the same shape.

    Raises
    ------
    ShapeError
        They differ in shape.

    Examples
    --------
    >>> feature = torch.rand(1, 2, 4, 4)
    >>> round(content_distance(3 * feature + 1, feature).item(), 3)
    0.0
    """
    if result.shape != content.shape:
        raise ShapeError("features of two contents", got=tuple(result.shape), expected=tuple(content.shape))
    return (normalised(result) - normalised(content)).square().mean()


def moment_distance(result: Tensor, style: Tensor) -> Tensor:
    """L_l of `losses`: squared differences of channel means and deviations over the painting's own energy, a scalar.

    Parameters
    ----------
    result, style : Tensor
        (B, C, H, W) and (B or 1, C, H′, W′).

    Examples
    --------
    >>> painting = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)  # mean 2, deviation 1
    >>> round(moment_distance(torch.full((1, 1, 1, 2), 2.0), painting).item(), 2)
    0.2
    """
    mean, deviation = moments(result)
    target_mean, target_deviation = moments(style)
    difference = (mean - target_mean).square() + (deviation - target_deviation).square()
    energy = (target_mean.square() + target_deviation.square()).mean(dim=1).flatten()
    return (difference.mean(dim=1).flatten() / energy).mean()


def covariance_distance(result: Tensor, style: Tensor) -> Tensor:
    """K_l of `losses`: the relative error of the channel covariance, a scalar.

    Parameters
    ----------
    result, style : Tensor
        (B, C, H, W) and (B or 1, C, H′, W′). A style whose channels are all constant has no covariance to be relative
        to: the distance is then huge.

    Examples
    --------
    >>> painting = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    >>> round(covariance_distance(torch.full((1, 1, 1, 2), 2.0), painting).item(), 2)
    1.0
    """
    target = _covariance(style)
    difference = (_covariance(result) - target).square().sum(dim=(1, 2))
    return (difference / target.square().sum(dim=(1, 2)).clamp_min(1e-12)).mean()


def _covariance(feature: Tensor) -> Tensor:
    with torch.autocast(feature.device.type, enabled=False):  # which would take the product back to half
        flat = feature.float().flatten(2)
        flat = flat - flat.mean(2, keepdim=True)
        return flat @ flat.mT / flat.shape[2]


def feature_distance(result: Tensor, wanted: Tensor) -> Tensor:
    """‖F(o) − F(t)‖² / ‖F(t)‖² of `losses`, the mean over the samples: place by place, unlike the two before, a scalar.

    Parameters
    ----------
    result, wanted : Tensor
        (B, C, H, W), the same shape.

    Raises
    ------
    ShapeError
        They differ in shape.

    Examples
    --------
    >>> wanted = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    >>> round(feature_distance(torch.zeros(1, 1, 1, 2), wanted).item(), 3)
    1.0
    """
    if result.shape != wanted.shape:
        raise ShapeError("features of two pictures", got=tuple(result.shape), expected=tuple(wanted.shape))
    difference = (result.float() - wanted.float()).square().flatten(1).sum(1)
    return (difference / wanted.float().square().flatten(1).sum(1).clamp_min(1e-12)).mean()


def weighted(
    distance: Distance, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    """Σ_l w_l · distance(found_l, wanted_l) over the layers whose weight isn't 0; zero where there are none.

    Examples
    --------
    >>> one, two = {"relu1_1": torch.zeros(1, 1, 1, 2)}, {"relu1_1": torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)}
    >>> round(weighted(feature_distance, one, two, {"relu1_1": 0.5, "relu2_1": 0.0}).item(), 3)
    0.5
    """
    terms = [weight * distance(found[layer], wanted[layer]) for layer, weight in weights.items() if weight]
    return sum(terms, next(iter(found.values())).new_zeros(()))
