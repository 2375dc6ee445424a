"""Perceptual networks: pluggable and frozen; `perceptual_files` loads the known ones.

VGG-19 and the distilled VGG-19 train; SqueezeNet 1.1 and VGG-16 only ever measure (docs: how results are measured).
Each takes (B, 3, H, W) RGB in 0..1 and returns its features by name; the normalisation of its inputs is its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skd.errors import ArgumentError, ShapeError, closest

CAFFE_MEAN = (104.0, 117.0, 123.0)  # blue, green, red in 0..255
# Convolutions of VGG before each max-pooling, and the number of their stage, up to relu5_1 and relu4_1.
VGG19_STAGES = ((2, "1"), (2, "2"), (4, "3"), (4, "4"), (1, "5"))
VGG16_STAGES = ((2, "1"), (2, "2"), (3, "3"), (1, "4"))


class Perceptual(nn.Module):
    """Base of the perceptual networks: subclass it, and losses and measures work under your own.

    Set the three attributes and write `forward`. The losses freeze the network.

    Attributes
    ----------
    name : str
        What the tables call it.
    layers : tuple of str
        Names of the features, shallow to deep.
    content_layer : str
        The one whose normalised feature stands for what the picture shows.
    smallest_side : int
        Pixels below which a picture leaves no position at the deepest layer.
    sha256 : str
        The digest of the file it came from ("" when it wasn't loaded).
    variant : str
        What tells it from another network of the same file.

    Examples
    --------
    A network of one's own, and a loss under it:

    >>> from kbstyle_example.losses import StyleTask
    >>> from kbstyle_example.networks import STUDENT, KBStyle
    >>> class Mine(Perceptual):
    ...     name, layers, content_layer, smallest_side = "mine", ("fine", "coarse"), "coarse", 4
    ...
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 4, stride=4)
    ...
    ...     def forward(self, image: Tensor) -> dict[str, Tensor]:
    ...         fine = F.relu(self.first(self.checked(image) - 0.5))
    ...         return {"fine": fine, "coarse": F.relu(self.second(fine))}
    >>> task = StyleTask(
    ...     KBStyle(STUDENT), Mine(), style_weights={"fine": 1.0, "coarse": 0.5}, covariance_weights={"coarse": 0.1}
    ... )
    >>> step = task(torch.rand(2, 3, 16, 24), torch.rand(2, 3, 16, 16))
    >>> sorted(step.losses.terms)
    ['content', 'style', 'texture']
    """

    name: str
    layers: tuple[str, ...]
    content_layer: str
    smallest_side: int = 1
    sha256: str = ""
    variant: str = ""
    frozen: bool = False

    def freeze(self) -> Self:
        """In eval mode for good, and without gradients for its own weights."""
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`, but a frozen network stays in eval mode while the module around it trains."""
        return super().train(mode and not self.frozen)

    def checked(self, image: Tensor) -> Tensor:
        """The picture, if this network can take it: (B, 3, H, W), floating point, no side too small.

        Raises
        ------
        ShapeError
            It isn't.
        """
        fits = image.dim() == 4 and image.shape[1] == 3 and min(image.shape[2:]) >= self.smallest_side
        if not fits or not image.is_floating_point():
            raise ShapeError(
                f"{self.name} can't take this picture",
                got=f"{tuple(image.shape)}, {image.dtype}",
                expected=f"(B, 3, H, W), floating point, with H and W at least {self.smallest_side}",
            )
        return image

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → features (B, C, H′, W′) by name, shallow to deep."""
        raise NotImplementedError


class VGG(Perceptual):
    """VGG's convolutions up to the last stage; the feature of a stage is its first, after ReLU.

    Parameters
    ----------
    name : str
        What the tables call it.
    widths : tuple of int
        Channels of each stage.
    stages : tuple of (int, str)
        Convolutions of each stage, and its number.
    border : {"zeros", "reflect"}
        Padding of the 3×3 convolutions.
    content_layer : str
    lifts : tuple of int
        Channels that each stage's feature is brought to by a 1×1 convolution and ReLU; none are the features as they
        are. A distilled network learned with such layers to see what its teacher sees.

    Examples
    --------
    >>> net = VGG("tiny", (4, 6), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    >>> {name: tuple(feature.shape) for name, feature in net(torch.rand(1, 3, 8, 12)).items()}
    {'relu1_1': (1, 4, 8, 12), 'relu2_1': (1, 6, 4, 6)}
    """

    def __init__(
        self,
        name: str,
        widths: tuple[int, ...],
        *,
        stages: tuple[tuple[int, str], ...] = VGG19_STAGES,
        border: Literal["zeros", "reflect"] = "zeros",
        content_layer: str = "relu4_1",
        lifts: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.name, self.content_layer, self.stages = name, content_layer, stages
        self.variant = "lifted" if lifts else ""
        self.layers = tuple(f"relu{number}_1" for _, number in stages)
        # Each pooling halves; a reflected border needs a second position to show.
        self.smallest_side = 2 ** (len(stages) - 1) * (2 if border == "reflect" else 1)
        self.input = nn.Conv2d(3, 3, 1)  # the normalisation of the input, as weights
        inputs = 3
        for width, (count, number) in zip(widths, stages, strict=True):
            for index in range(1, count + 1):
                conv = nn.Conv2d(inputs, width, 3, padding=1, padding_mode=border)
                self.add_module(f"conv{number}_{index}", conv)
                inputs = width
        for width, lift, (_, number) in zip(widths, lifts, stages, strict=True) if lifts else ():
            self.add_module(f"lift{number}", nn.Conv2d(width, lift, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → features by name, relu1_1 first, in the weights' precision."""
        x = self.input(self.checked(image).to(self.input.weight.dtype))
        features: dict[str, Tensor] = {}
        for position, (count, number) in enumerate(self.stages):
            if position:
                x = F.max_pool2d(x, 2)
            for index in range(1, count + 1):
                x = F.relu(self.get_submodule(f"conv{number}_{index}")(x))
                if index == 1:
                    lift = getattr(self, f"lift{number}", None)
                    features[f"relu{number}_1"] = x if lift is None else F.relu(lift(x))
        return features

    def normalise_inputs(
        self, scale: float, mean: tuple[float, ...], deviation: tuple[float, ...], *, bgr: bool
    ) -> None:
        """Let the first layer compute (scale·x − mean) / deviation, channels in the order the weights expect."""
        order = torch.eye(3).flip(0) if bgr else torch.eye(3)
        spread = torch.tensor(deviation)
        weight = (order * scale / spread[:, None])[:, :, None, None]
        self.input.load_state_dict({"weight": weight, "bias": -torch.tensor(mean) / spread})


class SqueezeNet(Perceptual):
    """SqueezeNet 1.1 (Iandola et al. 2016) up to fire6: only ever measures.

    Examples
    --------
    >>> {name: tuple(feature.shape[1:]) for name, feature in SqueezeNet()(torch.rand(1, 3, 32, 32)).items()}
    {'conv1': (64, 15, 15), 'fire2': (128, 7, 7), 'fire4': (256, 3, 3), 'fire6': (384, 1, 1)}
    """

    smallest_side = 17

    def __init__(self) -> None:
        super().__init__()
        self.name, self.content_layer = "squeezenet1_1", "fire6"
        self.layers = ("conv1", "fire2", "fire4", "fire6")
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        sizes = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192)]
        for number, (inputs, squeeze, expand) in enumerate(sizes, start=2):
            self.add_module(f"fire{number}", Fire(inputs, squeeze, expand))
        self.register_buffer("mean", torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → features by name, conv1 first, in the weights' precision."""
        centred = self.checked(image).flip(1) * 255 - self.get_buffer("mean")
        x = F.relu(self.conv1(centred.to(self.conv1.weight.dtype)))
        features = {"conv1": x}
        for number in range(2, 7):
            if number in (2, 4, 6):
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = self.get_submodule(f"fire{number}")(x)
            features[f"fire{number}"] = x
        return {name: features[name] for name in self.layers}


class Fire(nn.Module):
    """SqueezeNet's block: few channels, then 1×1 and 3×3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, 2 · expand, H, W)."""
        x = F.relu(self.squeeze1x1(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def identity_of(network: Perceptual) -> str:
    """What tells one run from another: the digest of the network's file, its variant, its precision unless float32.

    Examples
    --------
    >>> net = VGG("tiny", (4,), stages=((1, "1"),))
    >>> net.sha256 = "9417c34d"
    >>> identity_of(net), identity_of(net.bfloat16())
    ('9417c34d', '9417c34d bfloat16')
    """
    precision = next((value.dtype for value in network.parameters()), torch.float32)
    shown = "" if precision == torch.float32 else str(precision).removeprefix("torch.")
    return " ".join(filter(None, (network.sha256, network.variant, shown)))


def layer_weights(network: Perceptual, weights: Mapping[str, float]) -> dict[str, float]:
    """A copy of the weights, once they are known to name features of the network and to be finite, 0 and up.

    Raises
    ------
    ArgumentError
        They aren't.

    Examples
    --------
    >>> layer_weights(VGG("tiny", (4,), stages=((1, "1"),)), {"relu1_2": 1.0})
    Traceback (most recent call last):
    skd.errors.ArgumentError: tiny has no feature 'relu1_2'; expected relu1_1. Remedy: did you mean 'relu1_1'?.
    """
    for name, weight in weights.items():
        if name not in network.layers:
            expected = ", ".join(network.layers)  # the name may be one of a default's, meant for deeper networks
            raise ArgumentError(
                f"{network.name} has no feature {name!r}", expected=expected, remedy=closest(name, network.layers)
            )
        if not 0 <= weight < math.inf:
            raise ArgumentError(f"weight of {name!r}", got=weight, expected="a finite number, 0 or more")
    return dict(weights)
