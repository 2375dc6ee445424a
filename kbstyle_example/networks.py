"""KBStyle: a content encoder, a style encoder and one mirrored decoder.

Every level of the content encoder has a mirror in the decoder and a companion in the style encoder, all three of
the same width: that is what symmetric knowledge distillation compresses together. Teacher and student differ in
their widths alone.

====== ========== ============================== ===========================================
level  resolution encoders                       decoder
====== ========== ============================== ===========================================
1      1/2        space-to-depth, 3×3            up, 3×3, + content level 1, style moments
2      1/4        3×3 stride 2                   up, 3×3, + content level 2, style moments
3      1/8        3×3 stride 2, 7×7 blocks       style moments, 7×7 blocks
====== ========== ============================== ===========================================

The paper (KBStyle, IEEE TIP 33, 2024) publishes no layers; this shape is ours (docs say what was tried).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skd.errors import ArgumentError, ShapeError

EPSILON = 1e-5  # of a channel's variance; features are of order one
SMALLEST_SIDE = 16  # pixels: two positions a side are left at level 3


@dataclass(frozen=True)
class KBStyleConfig:
    """What fixes a KBStyle network: `KBStyle(config)` and its weights are the whole of it."""

    widths: tuple[int, int, int]
    content_blocks: int = 4
    style_blocks: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(w) for w in self.widths))
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ArgumentError("widths of a KBStyle network", got=self.widths, expected="three positive integers")

    def as_dict(self) -> dict[str, object]:
        """Plain values, for a weights file's metadata."""
        return asdict(self)


TEACHER = KBStyleConfig(widths=(32, 64, 128))
STUDENT = KBStyleConfig(widths=(8, 16, 28))


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution whose border repeats the edge: zeros would show as a dark frame."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="replicate")


class Block(nn.Module):
    """Residual block with a long reach: 7×7 depthwise (48 pixels at 1/8), then two pointwise layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reach = nn.Conv2d(width, width, 7, padding=3, padding_mode="replicate", groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.act = nn.ReLU()
        self.out = nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.3)  # a stack of blocks begins near the identity

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) → the same shape."""
        out: Tensor = x + self.out(self.act(self.mix(self.reach(x))))
        return out


class Encoder(nn.Module):
    """Three levels, at 1/2, 1/4 and 1/8 of the picture's size."""

    def __init__(self, widths: tuple[int, int, int], blocks: int) -> None:
        super().__init__()
        first, second, third = widths
        self.level1 = nn.Sequential(nn.PixelUnshuffle(2), conv3(12, first), nn.ReLU())
        self.level2 = nn.Sequential(conv3(first, second, stride=2), nn.ReLU())
        self.level3 = nn.Sequential(
            conv3(second, third, stride=2), nn.ReLU(), *(Block(third) for _ in range(blocks))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) in 0..1, H and W multiples of 8 → the features of levels 1, 2 and 3."""
        one = self.level1(image - 0.5)
        two = self.level2(one)
        return one, two, self.level3(two)


class Moments(NamedTuple):
    """Channel statistics of a feature: mean and standard deviation, (B, C, 1, 1) each."""

    mean: Tensor
    deviation: Tensor


class StyleCode(NamedTuple):
    """All that the decoder knows of a painting; its size doesn't depend on the painting's."""

    level1: Moments
    level2: Moments
    level3: Moments


def moments(feature: Tensor) -> Moments:
    """Mean and standard deviation of each channel over the positions, in float32."""
    variance, mean = torch.var_mean(feature.float(), dim=(2, 3), keepdim=True, correction=0)
    return Moments(mean, (variance + EPSILON).sqrt())


def normalised(feature: Tensor) -> Tensor:
    """Each channel with mean 0 and deviation 1."""
    mean, deviation = moments(feature)
    return (feature - mean) / deviation


class Decoder(nn.Module):
    """Mirrors the encoder, deepest level first, and takes on the style at each level."""

    def __init__(self, widths: tuple[int, int, int], blocks: int) -> None:
        super().__init__()
        first, second, third = widths
        self.level3 = nn.Sequential(*(Block(third) for _ in range(blocks)))
        self.up2 = conv3(third, second)
        self.level2 = nn.ReLU()
        self.up1 = conv3(second, first)
        self.level1 = nn.ReLU()
        self.output = nn.Sequential(conv3(first, 12), nn.PixelShuffle(2))

    def forward(self, content: tuple[Tensor, Tensor, Tensor], style: StyleCode) -> Tensor:
        """Features of the content's three levels and a style code → (B, 3, H, W), not clamped."""
        one, two, three = content
        x = self.level3(modulated(three, style.level3))
        x = self.level2(modulated(self.up2(doubled(x)) + two, style.level2))
        x = self.level1(modulated(self.up1(doubled(x)) + one, style.level1))
        out: Tensor = self.output(x) + 0.5
        return out


def doubled(feature: Tensor) -> Tensor:
    """Twice the height and width, nearest neighbour."""
    return F.interpolate(feature, scale_factor=2.0, mode="nearest")


def modulated(feature: Tensor, style: Moments) -> Tensor:
    """Adaptive instance normalisation (Huang & Belongie 2017, eq. 8)."""
    return normalised(feature) * style.deviation + style.mean


class KBStyle(nn.Module):
    """Arbitrary style transfer: a photograph and a painting in, the photograph painted out.

    Parameters
    ----------
    config : KBStyleConfig
        Widths and depths.

    Examples
    --------
    >>> import torch
    >>> net = KBStyle(STUDENT).eval()
    >>> net(torch.rand(1, 3, 48, 64), torch.rand(1, 3, 40, 32)).shape
    torch.Size([1, 3, 48, 64])
    >>> 4 * sum(p.numel() for p in net.parameters()) < 200 * 1024
    True
    """

    def __init__(self, config: KBStyleConfig) -> None:
        super().__init__()
        self.config = config
        self.content_encoder = Encoder(config.widths, config.content_blocks)
        self.style_encoder = Encoder(config.widths, config.style_blocks)
        self.decoder = Decoder(config.widths, config.content_blocks)

    def encode_style(self, style: Tensor) -> StyleCode:
        """(B, 3, H, W) in 0..1, any size from 16 pixels → the style code."""
        one, two, three = self.style_encoder(padded(style))
        return StyleCode(moments(one), moments(two), moments(three))

    def render(self, content: Tensor, code: StyleCode) -> Tensor:
        """(B, 3, H, W) in 0..1 and a style code (of B or of one) → (B, 3, H, W), not clamped."""
        height, width = content.shape[-2:]
        out: Tensor = self.decoder(self.content_encoder(padded(content)), code)
        return out[..., :height, :width]

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, 3, H, W) and (B or 1, 3, H′, W′) in 0..1 → (B, 3, H, W), not clamped."""
        return self.render(content, self.encode_style(style))


def padded(image: Tensor) -> Tensor:
    """The picture grown at the right and the bottom to multiples of 8, by repeating its edge."""
    if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < SMALLEST_SIDE:
        raise ShapeError(
            "a picture has the wrong shape",
            got=tuple(image.shape),
            expected=f"(B, 3, H, W) with H and W at least {SMALLEST_SIDE}",
        )
    height, width = image.shape[-2:]
    if height % 8 == 0 and width % 8 == 0:
        return image
    return F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")
