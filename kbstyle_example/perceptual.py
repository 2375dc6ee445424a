"""Perceptual networks: pluggable, frozen, loaded from a file whose checksum stands beside every figure.

VGG-19 and the distilled VGG-19 train; SqueezeNet 1.1 and VGG-16 only ever measure (docs: how results are measured).
Each takes (B, 3, H, W) RGB in 0..1 and returns its features by name; the normalisation of its inputs is its own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skd.errors import ArgumentError, FileError, closest

CAFFE_MEAN = (104.0, 117.0, 123.0)  # blue, green, red in 0..255
HED_MEAN = (104.007, 116.669, 122.679)
# Convolutions of VGG before each max-pooling, up to relu5_1; the last of a list of four exists in VGG-19 alone.
VGG19_STAGES = ((2, "1"), (2, "2"), (4, "3"), (4, "4"), (1, "5"))
VGG16_STAGES = ((2, "1"), (2, "2"), (3, "3"), (1, "4"))


class Perceptual(nn.Module):
    """Base of the perceptual networks.

    Attributes
    ----------
    layers : tuple of str
        Names of the features, shallow to deep.
    content_layer : str
        The one whose normalised feature stands for what the picture shows.
    name, sha256 : str
        Which network, and the digest of the file it came from ("" when it wasn't loaded).
    """

    layers: tuple[str, ...]
    content_layer: str
    name: str
    sha256: str = ""

    def freeze(self) -> Perceptual:
        """In eval mode, without gradients for its own weights."""
        self.requires_grad_(False)
        self.eval()
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → features by name."""
        raise NotImplementedError


class VGG(Perceptual):
    """VGG's convolutions up to the last stage asked for; every feature is taken after its ReLU.

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
    """

    def __init__(
        self,
        name: str,
        widths: tuple[int, ...],
        *,
        stages: tuple[tuple[int, str], ...] = VGG19_STAGES,
        border: str = "zeros",
        content_layer: str = "relu4_1",
    ) -> None:
        super().__init__()
        self.name, self.content_layer = name, content_layer
        self.layers = tuple(f"relu{number}_1" for _, number in stages)
        self.stages = stages
        self.input = nn.Conv2d(3, 3, 1)  # the normalisation of the input, as weights
        inputs = 3
        for width, (count, number) in zip(widths, stages, strict=True):
            for index in range(1, count + 1):
                conv = nn.Conv2d(inputs, width, 3, padding=1, padding_mode=border)
                self.add_module(f"conv{number}_{index}", conv)
                inputs = width

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → features by name, relu1_1 first."""
        x = self.input(image)
        features: dict[str, Tensor] = {}
        for count, number in self.stages:
            if number != "1":
                x = F.max_pool2d(x, 2)
            for index in range(1, count + 1):
                x = F.relu(self.get_submodule(f"conv{number}_{index}")(x))
                if index == 1:
                    features[f"relu{number}_1"] = x
                if f"relu{number}_{index}" == self.layers[-1]:
                    break
        return features

    def normalise_inputs(self, scale: float, mean: tuple[float, ...], deviation: tuple[float, ...], *, bgr: bool) -> None:
        """Let the first layer compute (scale·x − mean) / deviation, channels in the order the weights expect."""
        with torch.no_grad():
            order = torch.eye(3).flip(0) if bgr else torch.eye(3)
            spread = torch.tensor(deviation)
            self.input.weight.copy_((order * scale / spread[:, None])[:, :, None, None])
            self.input.bias.copy_(-torch.tensor(mean) / spread)  # type: ignore[union-attr]


class SqueezeNet(Perceptual):
    """SqueezeNet 1.1 up to fire6: only ever measures."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.content_layer = "squeezenet1_1", "fire6"
        self.layers = ("conv1", "fire2", "fire4", "fire6")
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        sizes = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192)]
        for number, (inputs, squeeze, expand) in enumerate(sizes, start=2):
            fire = nn.ModuleDict(
                {
                    "squeeze1x1": nn.Conv2d(inputs, squeeze, 1),
                    "expand1x1": nn.Conv2d(squeeze, expand, 1),
                    "expand3x3": nn.Conv2d(squeeze, expand, 3, padding=1),
                }
            )
            self.add_module(f"fire{number}", fire)
        self.register_buffer("mean", torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → features by name."""
        x = F.relu(self.conv1(image.flip(1) * 255 - self.get_buffer("mean")))
        features = {"conv1": x}
        for number in range(2, 7):
            if number in (2, 4, 6):
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            fire = self.get_submodule(f"fire{number}")
            assert_dict = dict(fire.named_children())
            x = F.relu(assert_dict["squeeze1x1"](x))
            x = F.relu(torch.cat([assert_dict["expand1x1"](x), assert_dict["expand3x3"](x)], dim=1))
            features[f"fire{number}"] = x
        return {name: features[name] for name in self.layers}


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _distilled_vgg19(state: dict[str, Tensor]) -> VGG:
    net = VGG("vgg19_distilled_16x", (16, 32, 64, 128, 128), border="reflect")
    state = {k.removesuffix("_aux"): v for k, v in state.items() if "_aux" not in k}
    renamed = {(f"conv{k[4]}_{k[5:]}" if k[4] != "0" else "input" + k[5:]): v for k, v in state.items()}
    net.load_state_dict(renamed)
    return net


def _torchvision_vgg19(state: dict[str, Tensor]) -> VGG:
    net = VGG("vgg19", (64, 128, 256, 512, 512))
    numbers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)  # of torchvision's `features`, conv1_1 to conv5_1
    names = [f"conv{stage}_{index}" for count, stage in VGG19_STAGES for index in range(1, count + 1)]
    renamed = {
        f"{name}.{kind}": state[f"features.{number}.{kind}"]
        for name, number in zip(names, numbers, strict=True)
        for kind in ("weight", "bias")
    }
    net.normalise_inputs(1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False)
    net.load_state_dict(renamed | {f"input.{k}": v for k, v in net.input.state_dict().items()})
    return net


def _hed_vgg16(state: dict[str, Tensor]) -> VGG:
    net = VGG("vgg16_hed", (64, 128, 256, 512), stages=VGG16_STAGES)
    net.normalise_inputs(255.0, HED_MEAN, (1.0, 1.0, 1.0), bgr=True)
    net.load_state_dict({k: v.float() for k, v in state.items()} | {f"input.{k}": v for k, v in net.input.state_dict().items()})
    return net


def _squeezenet(state: dict[str, Tensor]) -> SqueezeNet:
    net = SqueezeNet()
    net.load_state_dict({k: v for k, v in state.items() if k in net.state_dict()})
    return net


# The first weight that a file must have tells which network it holds.
_KINDS = {
    "distilled_vgg19": ("conv11.weight", _distilled_vgg19),
    "vgg19": ("features.28.weight", _torchvision_vgg19),
    "vgg16": ("conv4_1.weight", _hed_vgg16),
    "squeezenet": ("fire2.squeeze1x1.weight", _squeezenet),
}


def load_perceptual(path: str | Path, *, sha256: str | None = None) -> Perceptual:
    """Load a perceptual network from a weights file, whichever of the four it holds.

    Parameters
    ----------
    path : str or Path
        `vgg19-dcbb9e9d.pth` of torchvision, `5SE.pth` of Collaborative Distillation, SqueezeNet 1.1 or VGG-16 (edges).
    sha256 : str, optional
        Digest (or its beginning, 8 characters and up) that the file must have.

    Raises
    ------
    FileError
        The file is missing, isn't a weights file, has another digest, or holds none of the four networks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError("no perceptual network there", got=str(path), remedy="docs: training says where to get one")
    found = digest(path)
    if sha256 is not None and (len(sha256) < 8 or not found.startswith(sha256.lower())):
        raise FileError("another perceptual network than the one asked for", got=found, expected=sha256)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FileError("not a file of weights", got=f"{path} ({type(error).__name__})") from None
    state = state.get("model", state) if isinstance(state, dict) else {}
    for key, build in _KINDS.values():
        if key in state:
            try:
                net = build(state)
            except (RuntimeError, KeyError, IndexError) as error:
                raise FileError("weights that don't fit their network", got=f"{path}: {error}") from None
            net.sha256 = found
            return net.freeze()
    raise FileError(
        "none of the known perceptual networks", got=f"{path} with {sorted(map(str, state))[:3]}", expected=f"one of {list(_KINDS)}"
    )


def layer_weights(network: Perceptual, weights: dict[str, float]) -> dict[str, float]:
    """Check that weights name features of the network; returns them."""
    for name in weights:
        if name not in network.layers:
            raise ArgumentError(f"{network.name} has no feature {name!r}", remedy=closest(name, network.layers))
    return weights
