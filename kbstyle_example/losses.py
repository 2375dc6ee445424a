"""The content loss and the weighted style loss, under any perceptual network.

Style, at each layer l of the perceptual network, with o the result and s the painting:

    L_l = [ mean_c (μ_o − μ_s)² + mean_c (σ_o − σ_s)² ] / mean_c (μ_s² + σ_s²)        moments
    K_l = ‖Cov(o) − Cov(s)‖²_F / ‖Cov(s)‖²_F                                          covariance

    style = Σ_l w_l L_l + Σ_l k_l K_l

Dividing by the painting's own energy makes the layers comparable (raw VGG features differ by orders of magnitude
between layers), so that the weights alone say what a layer counts. The abstract of the KBStyle paper speaks of a
weighted style loss and gives no formula: this one is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from kbstyle_example.networks import KBStyle, moments, normalised
from kbstyle_example.perceptual import Perceptual, layer_weights
from skd.errors import ShapeError
from skd.steps import Losses, Step

# Deep layers see strokes and shapes of strokes, shallow ones colour, which a small network gets right first.
STYLE_WEIGHTS = {"relu1_1": 0.5, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 0.5}
# Means and deviations alone are matched by recolouring; which channels fire together is the texture.
COVARIANCE_WEIGHTS = {"relu2_1": 0.1, "relu3_1": 0.1, "relu4_1": 0.1}
CONTENT_WEIGHT = 1.0
STYLE_WEIGHT = 5.0


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
    """L_l above: squared differences of channel means and deviations over the painting's own energy, a scalar.

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
    """K_l above: the relative error of the channel covariance, a scalar.

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


class StyleTask(nn.Module):
    """Trains a style-transfer network: its loss for photographs and paintings.

    Parameters
    ----------
    network : KBStyle
    perceptual : Perceptual
        Its features define content and style. It is frozen here.
    content_weight, style_weight : float
    style_weights, covariance_weights : mapping of str to float
        w_l and k_l of the module's formula; layers left out have weight 0.

    Raises
    ------
    ArgumentError
        A layer that the perceptual network doesn't have, or a weight that is negative or not finite.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> from kbstyle_example.perceptual import VGG
    >>> perceptual = VGG("tiny", (4, 4), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    >>> task = StyleTask(KBStyle(STUDENT), perceptual, style_weights={"relu1_1": 1.0}, covariance_weights={})
    >>> step = task(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16))
    >>> step.output.shape, sorted(step.losses.terms)
    (torch.Size([2, 3, 16, 16]), ['content', 'style', 'texture'])
    """

    perceptual: Perceptual

    def __init__(
        self,
        network: KBStyle,
        perceptual: Perceptual,
        *,
        content_weight: float = CONTENT_WEIGHT,
        style_weight: float = STYLE_WEIGHT,
        style_weights: Mapping[str, float] = STYLE_WEIGHTS,
        covariance_weights: Mapping[str, float] = COVARIANCE_WEIGHTS,
    ) -> None:
        super().__init__()
        self.style_weights = layer_weights(perceptual, style_weights)
        self.covariance_weights = layer_weights(perceptual, covariance_weights)
        for weight in (content_weight, style_weight):
            layer_weights(perceptual, {perceptual.content_layer: weight})
        self.network = network
        # No submodule: what only measures is neither trained nor kept in checkpoints. `to` moves it, see `_apply`.
        self.__dict__["perceptual"] = perceptual.freeze()
        self.content_weight, self.style_weight = content_weight, style_weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            self.perceptual._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, content: Tensor, style: Tensor) -> Step:
        """Stylise photographs after paintings, (B, 3, H, W) in 0..1 each, and weigh the result."""
        output = self.network(content, style)
        return Step(output, self.losses(output, content, style))

    def losses(self, output: Tensor, content: Tensor, style: Tensor) -> Losses:
        """The weighted terms for pictures (B, 3, H, W) already stylised."""
        with torch.no_grad():
            wanted = self.perceptual(content)[self.perceptual.content_layer]
            targets = self.perceptual(style)
        features = self.perceptual(output)

        def weighted(distance: Callable[[Tensor, Tensor], Tensor], weights: Mapping[str, float]) -> Tensor:
            terms = [w * distance(features[layer], targets[layer]) for layer, w in weights.items() if w]
            return sum(terms, output.new_zeros(()))

        content_term = content_distance(features[self.perceptual.content_layer], wanted)
        return Losses(
            {
                "content": self.content_weight * content_term,
                "style": self.style_weight * weighted(moment_distance, self.style_weights),
                "texture": self.style_weight * weighted(covariance_distance, self.covariance_weights),
            }
        )
