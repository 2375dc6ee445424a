"""How a stylised picture is judged: style and luminance style distance, content distance, SSIM, finest detail.

All take (B, 3, H, W) RGB in 0..1 and give a scalar, the mean over the batch. The distances are taken under a
perceptual network, at its layers up to the one that stands for content (relu1_1 … relu4_1 of VGG, conv1 … fire6 of
SqueezeNet 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kbstyle_example import losses
from kbstyle_example.detail import detail_distance
from kbstyle_example.luminance import matched_luminance
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.similarity import ssim

# What is better: a smaller distance, a greater similarity.
HIGHER_IS_BETTER = {"style": False, "luminance_style": False, "content": False, "ssim": True, "detail": False}


def measuring_layers(perceptual: Perceptual) -> tuple[str, ...]:
    """The layers that count for style: from the first to the content layer.

    Examples
    --------
    >>> from kbstyle_example.perceptual import VGG
    >>> measuring_layers(VGG("tiny", (2, 2, 2), stages=((1, "1"), (1, "2"), (1, "3")), content_layer="relu2_1"))
    ('relu1_1', 'relu2_1')
    """
    return perceptual.layers[: perceptual.layers.index(perceptual.content_layer) + 1]


def _style_distance(perceptual: Perceptual, result: dict[str, Tensor], style: dict[str, Tensor]) -> Tensor:
    layers = measuring_layers(perceptual)
    return torch.stack([losses.moment_distance(result[layer], style[layer]) for layer in layers]).mean()


def style_distance(perceptual: Perceptual, result: Tensor, style: Tensor) -> Tensor:
    """Mean over the layers of the squared differences of channel means and deviations.

    At each layer the difference stands over the painting's own energy (`losses.moment_distance`), so all layers count
    alike, and 0 is a perfect match, 1 as far off as a feature of zeros.

    Parameters
    ----------
    perceptual : Perceptual
    result : Tensor
        (B, 3, H, W) in 0..1.
    style : Tensor
        (B or 1, 3, H′, W′) in 0..1.

    Raises
    ------
    ShapeError
        See `Perceptual.checked`.

    Examples
    --------
    >>> from kbstyle_example.perceptual import SqueezeNet
    >>> net, picture = SqueezeNet(), torch.rand(1, 3, 32, 32)
    >>> style_distance(net, picture, picture).item()
    0.0
    """
    return _style_distance(perceptual, perceptual(result), perceptual(style))


def luminance_style_distance(perceptual: Perceptual, result: Tensor, style: Tensor) -> Tensor:
    """The style distance of the luminance, once its mean and deviation are the painting's.

    Neither colour nor contrast can lower it: what is left are strokes and texture.

    Parameters
    ----------
    perceptual : Perceptual
    result, style : Tensor
        As in `style_distance`.

    Examples
    --------
    >>> from kbstyle_example.perceptual import SqueezeNet
    >>> net, picture = SqueezeNet(), torch.rand(1, 3, 32, 32)
    >>> darker_and_flatter = 0.1 + 0.3 * picture
    >>> distances = [f(net, darker_and_flatter, picture).item() for f in (style_distance, luminance_style_distance)]
    >>> distances[1] < 0.01 * distances[0]
    True
    """
    return style_distance(perceptual, matched_luminance(result, style), matched_luminance(style, style))


def content_distance(perceptual: Perceptual, result: Tensor, content: Tensor) -> Tensor:
    """MSE of the content layer's features, each channel first brought to mean 0 and deviation 1.

    Parameters
    ----------
    perceptual : Perceptual
    result, content : Tensor
        (B, 3, H, W) in 0..1, the same shape.

    Raises
    ------
    ShapeError
        They differ in shape, or the network can't take them.

    Examples
    --------
    >>> from kbstyle_example.perceptual import SqueezeNet
    >>> picture = torch.rand(1, 3, 48, 48)
    >>> content_distance(SqueezeNet(), picture, picture).item()
    0.0
    """
    layer = perceptual.content_layer
    return losses.content_distance(perceptual(result)[layer], perceptual(content)[layer])


class Judge:
    """All measures of results for one content and one style; what depends on these two alone is computed once.

    Parameters
    ----------
    content, style : Tensor
        (1, 3, H, W) and (1, 3, H′, W′) in 0..1.
    perceptuals : sequence of Perceptual
        Of different names.

    Examples
    --------
    >>> from kbstyle_example.perceptual import SqueezeNet
    >>> picture = torch.rand(1, 3, 48, 48)
    >>> judge = Judge(picture, picture, [SqueezeNet()])
    >>> {name: round(value, 1) for name, value in judge(picture).items()}  # doctest: +NORMALIZE_WHITESPACE
    {'ssim': 1.0, 'detail': 0.0, 'squeezenet1_1/style': 0.0, 'squeezenet1_1/luminance_style': 0.0,
     'squeezenet1_1/content': 0.0}
    """

    @torch.inference_mode()
    def __init__(self, content: Tensor, style: Tensor, perceptuals: Sequence[Perceptual]) -> None:
        self.content, self.style, self.perceptuals = content, style, list(perceptuals)
        grey = matched_luminance(style, style)
        self.wanted = [
            (self._features(net, style), self._features(net, grey), self._features(net, content)[net.content_layer])
            for net in self.perceptuals
        ]

    @staticmethod
    def _features(perceptual: Perceptual, image: Tensor) -> dict[str, Tensor]:
        device = next(perceptual.parameters()).device
        return perceptual(image.to(device))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def __call__(self, result: Tensor) -> dict[str, float]:
        """(1, 3, H, W) in 0..1 → each measure's value: "ssim", "detail", and "network/measure" for the distances."""
        values = {"ssim": ssim(result, self.content).item(), "detail": detail_distance(result, self.style).item()}
        grey = matched_luminance(result, self.style)
        for net, (style, grey_style, content) in zip(self.perceptuals, self.wanted, strict=True):
            features = self._features(net, result)
            values[f"{net.name}/style"] = _style_distance(net, features, style).item()
            values[f"{net.name}/luminance_style"] = _style_distance(net, self._features(net, grey), grey_style).item()
            values[f"{net.name}/content"] = losses.content_distance(features[net.content_layer], content).item()
        return values
