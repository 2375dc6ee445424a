"""MicroAST (Wang et al., AAAI 2023), for its published weights: our own code after the paper and its public network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.peers.files import state_of

PARTS = ("content_encoder", "style_encoder", "modulator", "decoder")
EPSILON = 1e-5


def conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution whose border is reflected, as everywhere in MicroAST."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, padding_mode="reflect")


class Residual(nn.Module):
    """x + conv(relu(conv(x))); in the decoder both convolutions are modulated by the style: w·conv(x) + b·x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width, 3), conv(width, width, 3)

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """(B, width, H, W), and the style's (B, width, 1, 1) twice → (B, width, H, W)."""
        if weight is None or bias is None:
            out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
            return out
        inner = F.relu(weight * self.conv1(x) + bias * x)
        modulated: Tensor = x + weight * self.conv2(inner) + bias * inner
        return modulated


class Encoder(nn.Module):
    """Two levels, both at 1/4 of the picture's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(
            conv(3, width, 9),
            nn.ReLU(),
            conv(width, 2 * width, 3, stride=2, groups=width),
            nn.ReLU(),
            conv(2 * width, 2 * width, 1),
            nn.ReLU(),
            conv(2 * width, 4 * width, 3, stride=2, groups=2 * width),
            nn.ReLU(),
            conv(4 * width, 4 * width, 1),
            nn.ReLU(),
            Residual(4 * width),
        )
        self.enc2 = nn.Sequential(Residual(4 * width))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in 0..1 → features at 1/4."""
        one = self.enc1(image)
        return one, self.enc2(one)


class Modulator(nn.Module):
    """From the style's features to a weight and a bias for each channel of the decoder's two blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight1", "bias1", "weight2", "bias2"):
            layers = nn.Sequential(conv(4 * width, 4 * width, 3, groups=4 * width), nn.AdaptiveAvgPool2d(1))
            self.add_module(name, layers)

    def forward(self, style: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both levels of the style → (weight, bias) of each."""
        one, two = style
        get = self.get_submodule
        return (get("weight1")(one), get("bias1")(one)), (get("weight2")(two), get("bias2")(two))


class Decoder(nn.Module):
    """Two modulated blocks, each after AdaIN, then up by 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dec1, self.dec2 = Residual(4 * width), Residual(4 * width)
        self.dec3 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv(4 * width, 2 * width, 3, groups=2 * width),
            nn.ReLU(),
            conv(2 * width, 2 * width, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv(2 * width, width, 3, groups=width),
            nn.ReLU(),
            conv(width, width, 1),
            nn.ReLU(),
            conv(width, 3, 9),
        )

    def forward(
        self, content: Tensor, style: tuple[Tensor, Tensor], signals: tuple[tuple[Tensor, Tensor], ...]
    ) -> Tensor:
        """The content's second level, the style's two, and the modulator's signals → (B, 3, H, W)."""
        x = self.dec1(restyled(content, style[1]), *signals[1])
        out: Tensor = self.dec3(self.dec2(restyled(x, style[0]), *signals[0]))
        return out


def restyled(content: Tensor, style: Tensor) -> Tensor:
    """AdaIN as the published network has it: the variance divided by N − 1.

    Examples
    --------
    >>> content, style = torch.tensor([[1.0, 5.0], [2.0, 4.0]]).view(2, 1, 1, 1, 2)
    >>> restyled(content, style).flatten().round(decimals=4)
    tensor([2., 4.])
    """

    def statistics(feature: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(feature, dim=(2, 3), keepdim=True)
        return mean, (variance + EPSILON).sqrt()

    (mean, deviation), (wanted_mean, wanted_deviation) = statistics(content), statistics(style)
    return (content - mean) / deviation * wanted_deviation + wanted_mean


class MicroAST(nn.Module):
    """Content and style in, the stylised picture out.

    Sides that aren't multiples of 4 are padded by repeating the edge, and cut again: the published network would give
    a larger picture.

    Parameters
    ----------
    width : int
        16 in the published network.

    Examples
    --------
    >>> MicroAST(2)(torch.rand(1, 3, 17, 22), torch.rand(1, 3, 16, 16)).shape
    torch.Size([1, 3, 17, 22])
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.content_encoder, self.style_encoder = Encoder(width), Encoder(width)
        self.modulator, self.decoder = Modulator(width), Decoder(width)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, 3, H, W) and (B or 1, 3, H′, W′) in 0..1 → (B, 3, H, W), not clamped."""
        height, width = content.shape[-2:]
        padded = F.pad(content, (0, -width % 4, 0, -height % 4), mode="replicate")
        features = self.style_encoder(style)
        out: Tensor = self.decoder(self.content_encoder(padded)[1], features, self.modulator(features))
        return out[..., :height, :width]


def build(files: Mapping[str, Path]) -> MicroAST:
    """The published network, from its four files."""
    net = MicroAST()
    for part in PARTS:
        state = state_of(files[f"{part}_iter_160000.pth.tar"])
        # Each of its convolutions is a module around a padding and the convolution itself.
        names = {key.replace(".conv_layer.", "."): value for key, value in state.items()}
        net.get_submodule(part).load_state_dict(names)
    return net.eval()
