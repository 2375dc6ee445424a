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

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kbstyle_example.networks import KBStyle, moments
from kbstyle_example.perceptual import Perceptual, layer_weights
from skd.steps import Losses, Step

# Deep layers see strokes and shapes of strokes, shallow ones colour, which a small network gets right first.
STYLE_WEIGHTS = {"relu1_1": 0.5, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 0.5}
# Means and deviations alone are matched by recolouring; which channels fire together is the texture.
COVARIANCE_WEIGHTS = {"relu2_1": 0.1, "relu3_1": 0.1, "relu4_1": 0.1}
CONTENT_WEIGHT = 1.0
STYLE_WEIGHT = 2.5


def content_distance(result: Tensor, content: Tensor) -> Tensor:
    """Mean squared difference of two features, each channel brought to mean 0 and deviation 1 (AdaIN's eq. 12, normalised)."""
    return (_standardised(result) - _standardised(content)).square().mean()


def moment_distance(result: Tensor, style: Tensor) -> Tensor:
    """L_l above: squared differences of channel means and deviations over the painting's own energy, a scalar."""
    mean, deviation = moments(result)
    target_mean, target_deviation = moments(style)
    difference = (mean - target_mean).square() + (deviation - target_deviation).square()
    energy = (target_mean.square() + target_deviation.square()).mean(dim=1).flatten()
    return (difference.mean(dim=1).flatten() / energy).mean()


def covariance_distance(result: Tensor, style: Tensor) -> Tensor:
    """K_l above: the relative error of the channel covariance, a scalar."""
    target = _covariance(style)
    difference = (_covariance(result) - target).square().sum(dim=(1, 2))
    return (difference / target.square().sum(dim=(1, 2)).clamp_min(1e-12)).mean()


def _standardised(feature: Tensor) -> Tensor:
    mean, deviation = moments(feature)
    return (feature - mean) / deviation


def _covariance(feature: Tensor) -> Tensor:
    flat = feature.float().flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return flat @ flat.mT / flat.shape[2]


class StyleTask(nn.Module):
    """Trains a style-transfer network: its loss for a batch of (contents, styles).

    Parameters
    ----------
    network : KBStyle
    perceptual : Perceptual
        Frozen; its features define content and style.
    content_weight, style_weight : float
    style_weights, covariance_weights : mapping of str to float
        w_l and k_l of the module's formula; layers left out have weight 0.
    """

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
        self.network, self.perceptual = network, perceptual
        self.content_weight, self.style_weight = content_weight, style_weight
        self.style_weights = layer_weights(perceptual, dict(style_weights))
        self.covariance_weights = layer_weights(perceptual, dict(covariance_weights))

    def forward(self, batch: tuple[Tensor, Tensor]) -> Step:
        """Stylise a batch and weigh the result."""
        content, style = batch
        output = self.network(content, style)
        return Step(output, self.losses(output, content, style))

    def losses(self, output: Tensor, content: Tensor, style: Tensor) -> Losses:
        """The weighted terms for pictures (B, 3, H, W) already stylised."""
        with torch.no_grad():
            wanted = self.perceptual(content)[self.perceptual.content_layer]
            targets = self.perceptual(style)
        features = self.perceptual(output)
        moment_terms = [w * moment_distance(features[l], targets[l]) for l, w in self.style_weights.items() if w]
        covariance_terms = [w * covariance_distance(features[l], targets[l]) for l, w in self.covariance_weights.items() if w]
        content_term = content_distance(features[self.perceptual.content_layer], wanted)
        return Losses(
            {
                "content": self.content_weight * content_term,
                "style": self.style_weight * sum(moment_terms, output.new_zeros(())),
                "texture": self.style_weight * sum(covariance_terms, output.new_zeros(())),
            }
        )
