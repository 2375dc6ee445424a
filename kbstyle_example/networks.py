"""KBStyle: a content encoder, a style encoder and one mirrored decoder.

Every level of the content encoder has a mirror in the decoder and a companion in the style encoder, all three of
the same width: that is what symmetric knowledge distillation compresses together. Teacher and student differ in
their widths and in the number of blocks.

====== ========== ============================== ===========================================
level  resolution encoders                       decoder
====== ========== ============================== ===========================================
1      1/2        space-to-depth, 3×3            up, 3×3, + content level 1, style moments
2      1/4        3×3 stride 2                   up, 3×3, + content level 2, style moments, 7×7 blocks ²
3      1/8        3×3 stride 2, 7×7 blocks ¹     style moments, 7×7 blocks ²
====== ========== ============================== ===========================================

¹ of the style encoder alone. In the content encoder they would stand before an instance normalisation, which blows up
what they ring with in smooth regions: skies get a weave, objects a smear around them.

² The style scales and shifts the middle of each (see `StyledBlocks`): it says which strokes to draw, not only how
strong and in which colours.

The paper (KBStyle, IEEE TIP 33, 2024) publishes no layers; this shape is ours (docs say what was tried).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """What fixes a KBStyle network: `KBStyle(config)` and its weights are the whole of it.

    Parameters
    ----------
    widths : tuple of int
        Channels of levels 1, 2 and 3.
    fine_blocks, deep_blocks : int
        Blocks of the decoder at levels 2 and 3.
    style_blocks : int
        Blocks of the style encoder, at level 3.

    Raises
    ------
    ArgumentError
        Not three positive widths; a negative number of blocks.

    Examples
    --------
    >>> KBStyleConfig(widths=(8, 16, 28)).as_dict()
    {'widths': (8, 16, 28), 'fine_blocks': 2, 'deep_blocks': 3, 'style_blocks': 2}
    """

    widths: tuple[int, int, int]
    fine_blocks: int = 2
    deep_blocks: int = 3
    style_blocks: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) != 3 or any(type(w) is not int or w < 1 for w in self.widths):
            raise ArgumentError("widths of a KBStyle network", got=self.widths, expected="three positive integers")
        blocks = (self.fine_blocks, self.deep_blocks, self.style_blocks)
        if any(type(count) is not int or count < 0 for count in blocks):
            raise ArgumentError("blocks of a KBStyle network", got=blocks, expected="0 or more")

    def as_dict(self) -> dict[str, object]:
        """Plain values, for a weights file's metadata."""
        return asdict(self)


TEACHER = KBStyleConfig(widths=(32, 64, 128), deep_blocks=5)
STUDENT = KBStyleConfig(widths=(8, 20, 32))


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution whose border repeats the edge: zeros would show as a dark frame.

    Examples
    --------
    >>> conv3(3, 8, stride=2)(torch.zeros(1, 3, 6, 8)).shape
    torch.Size([1, 8, 3, 4])
    """
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="replicate")


class Block(nn.Module):
    """Residual block with a long reach: 7×7 depthwise (24 pixels at 1/4, 48 at 1/8), then two pointwise layers.

    Examples
    --------
    >>> Block(4)(torch.zeros(1, 4, 2, 3)).shape
    torch.Size([1, 4, 2, 3])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reach = nn.Conv2d(width, width, 7, padding=3, padding_mode="replicate", groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.act = nn.ReLU()
        self.out = nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.3)  # a stack of blocks begins near the identity

    def forward(self, x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """(B, width, H, W) → the same shape. The middle times 1 + gain, plus shift, (B or 1, width, 1, 1) each."""
        middle = self.mix(self.reach(x))
        if gain is not None and shift is not None:
            middle = torch.addcmul(shift, middle, 1 + gain)
        out: Tensor = x + self.out(self.act(middle))
        return out


class Encoder(nn.Module):
    """Three levels, at 1/2, 1/4 and 1/8 of the picture's size; the blocks end the deepest.

    Examples
    --------
    >>> [tuple(level.shape) for level in Encoder((2, 4, 6), blocks=1)(torch.rand(1, 3, 16, 24))]
    [(1, 2, 8, 12), (1, 4, 4, 6), (1, 6, 2, 3)]
    """

    def __init__(self, widths: tuple[int, int, int], *, blocks: int) -> None:
        super().__init__()
        first, second, third = widths
        self.level1 = nn.Sequential(nn.PixelUnshuffle(2), conv3(12, first), nn.ReLU())
        self.level2 = nn.Sequential(conv3(first, second, stride=2), nn.ReLU())
        self.level3 = nn.Sequential(conv3(second, third, stride=2), nn.ReLU(), *(Block(third) for _ in range(blocks)))

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
    """Mean and standard deviation of each channel over the positions (population; EPSILON under the root).

    Features of half precision are taken in float32, and so are their moments.

    Examples
    --------
    >>> found = moments(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2))
    >>> round(found.mean.item(), 3), round(found.deviation.item(), 3)
    (3.0, 2.0)
    """
    variance, mean = var_mean(feature)
    return Moments(mean, (variance + EPSILON).sqrt())


def var_mean(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Population variance and mean of each channel, (B, C, 1, 1) each, in float32 or, of float64, in float64.

    Examples
    --------
    >>> [found.item() for found in var_mean(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2))]
    [4.0, 3.0]
    """
    feature = feature if feature.dtype == torch.float64 else feature.float()
    by_columns = (
        feature.device.type == "cpu"
        and feature.stride(1) == 1  # channels_last, or a part of it
        and not (torch.is_grad_enabled() and feature.requires_grad)
        and not torch.compiler.is_compiling()
    )
    if not by_columns:
        return torch.var_mean(feature, dim=(2, 3), keepdim=True, correction=0)
    samples = [_var_mean_by_columns(sample) for sample in feature.permute(0, 2, 3, 1)]
    variance, mean = (torch.stack(found).view(*feature.shape[:2], 1, 1) for found in zip(*samples, strict=True))
    return variance, mean


def _var_mean_by_columns(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Variances and means of (H, W, C), (C,) each: as `torch.var_mean` in a sixth of the time, without gradients.

    The kernel is batch normalisation's. It adds up one value after another in float32, which loses 1e-3 of a variance
    over half a million positions; so each column has channels of its own, and the columns are put together afterwards.
    """
    height, width, channels = sample.shape
    columns = sample.reshape(1, height, 1, width * channels).permute(0, 3, 1, 2)
    mean, variance = torch.batch_norm_update_stats(columns, None, None, 0.0)
    between, mean = torch.var_mean(mean.view(width, channels), dim=0, correction=0)
    return variance.view(width, channels).mean(0) + between, mean


def normalised(feature: Tensor) -> Tensor:
    """Each channel with mean 0 and deviation 1.

    Examples
    --------
    >>> normalised(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2)).flatten().round(decimals=3)
    tensor([-1.,  1.])
    """
    mean, deviation = moments(feature)
    return (feature - mean) / deviation


class StyledBlocks(nn.Module):
    """Blocks whose middles the style scales and shifts, each channel of each block (FiLM, Perez et al. 2018).

    Gains and shifts come from the style's statistics at this level, by two layers with a quarter of the width between.
    They begin at zero, when the blocks are the same for any style. The last layer has no bias: the weights of `mix` and
    its bias can say the same.

    Examples
    --------
    >>> blocks, feature = StyledBlocks(4, 2), torch.rand(1, 4, 5, 6)
    >>> blocks(feature, moments(feature)).shape
    torch.Size([1, 4, 5, 6])
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(count))
        if count > 0:
            hidden = max(1, width // 4)
            last = nn.Linear(hidden, 2 * width * count, bias=False)
            nn.init.zeros_(last.weight)
            self.film = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor, style: Moments) -> Tensor:
        """(B or 1, width, H, W) and the statistics of one style or of B → (B, width, H, W)."""
        if len(self.blocks) > 0:
            code = torch.cat((style.mean, style.deviation), 1).flatten(1).to(x.dtype)
            films = self.film(code)[..., None, None].chunk(2 * len(self.blocks), 1)
            for block, gain, shift in zip(self.blocks, films[::2], films[1::2], strict=True):
                x = block(x, gain, shift)
        return x


class Decoder(nn.Module):
    """Mirrors the encoder, deepest level first, and takes on the style at each level.

    Examples
    --------
    >>> levels = Encoder((2, 4, 6), blocks=1)(torch.rand(1, 3, 16, 24))
    >>> Decoder((2, 4, 6), fine_blocks=1, deep_blocks=1)(levels, StyleCode(*(moments(level) for level in levels))).shape
    torch.Size([1, 3, 16, 24])
    """

    def __init__(self, widths: tuple[int, int, int], *, fine_blocks: int, deep_blocks: int) -> None:
        super().__init__()
        first, second, third = widths
        self.level3 = StyledBlocks(third, deep_blocks)
        self.up2 = conv3(third, second)
        # Without blocks here strokes are drawn at 1/8 alone, and show its lattice in smooth skies.
        self.level2 = StyledBlocks(second, fine_blocks)
        self.up1 = conv3(second, first)
        self.level1 = nn.ReLU()
        self.output = nn.Sequential(conv3(first, 12), nn.PixelShuffle(2))

    def forward(
        self, content: tuple[Tensor, Tensor, Tensor], style: StyleCode, known: Sequence[Moments] = ()
    ) -> Tensor:
        """Features of the content's three levels and a style code → (B, 3, H, W), not clamped.

        `known` are the statistics to normalise with at levels 3, 2 and 1, in place of the feature's own: a part of a
        picture is painted with those of the whole (see `tiles`).
        """
        all_known = (*known, None, None, None)
        x = self._level3(content[2], style, all_known[0])
        x = self._level2(self.up2(doubled(x)) + content[1], style, all_known[1])
        x = self.level1(modulated(self.up1(doubled(x)) + content[0], style.level1, all_known[2]))
        out: Tensor = self.output(x) + 0.5
        return out

    def entering(self, content: tuple[Tensor, Tensor, Tensor], style: StyleCode, known: Sequence[Moments]) -> Tensor:
        """The next feature whose statistics aren't known yet: that of level 3, 2 or 1, before normalisation."""
        x = content[2]
        if len(known) > 0:
            x = self.up2(doubled(self._level3(x, style, known[0]))) + content[1]
        if len(known) > 1:
            x = self.up1(doubled(self._level2(x, style, known[1]))) + content[0]
        return x

    def _level3(self, x: Tensor, style: StyleCode, known: Moments | None) -> Tensor:
        out: Tensor = self.level3(modulated(x, style.level3, known), style.level3)
        return out

    def _level2(self, x: Tensor, style: StyleCode, known: Moments | None) -> Tensor:
        out: Tensor = self.level2(F.relu(modulated(x, style.level2, known)), style.level2)
        return out


def doubled(feature: Tensor) -> Tensor:
    """Twice the height and width: blurred by [1 2 1] along both axes, then bilinear.

    The blur takes away what alternates from one position to the next. Without it the network paints smooth skies with
    that alternation, and they show a lattice of 8 pixels (seen with nearest neighbours).

    Examples
    --------
    >>> checkerboard = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]).repeat(1, 1, 3, 3)
    >>> float(doubled(checkerboard)[:, :, 3:-3, 3:-3].abs().max())
    0.0
    """
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(feature, (1, 1, 1, 1), mode="replicate"), 2, 1), 2, 1)
    return F.interpolate(blurred, scale_factor=2.0, mode="bilinear", align_corners=False)


def modulated(feature: Tensor, style: Moments, known: Moments | None = None) -> Tensor:
    """Adaptive instance normalisation (Huang & Belongie 2017, eq. 8), with the feature's own statistics or known ones.

    Raises
    ------
    ShapeError
        The style has another number of channels, or neither one sample nor as many as the feature.

    Examples
    --------
    >>> wanted = Moments(torch.full((1, 1, 1, 1), 10.0), torch.full((1, 1, 1, 1), 3.0))
    >>> modulated(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2), wanted).flatten().round(decimals=3)
    tensor([ 7., 13.])
    """
    batch, styles = feature.shape[0], style.mean.shape[0]
    if style.mean.shape[1] != feature.shape[1] or (batch != styles and 1 not in (batch, styles)):
        raise ShapeError(
            "a style code doesn't fit the network or the batch",
            got=f"{styles} styles of {style.mean.shape[1]} channels",
            expected=f"1 or {batch} of {feature.shape[1]}",
        )
    mean, deviation = moments(feature) if known is None else known
    gain = style.deviation / deviation
    return torch.addcmul(style.mean - mean * gain, feature, gain)  # one pass over the feature


@torch.no_grad()
def even_phases(decoder: Decoder) -> None:
    """Give the four phases of the last layer one response to constant features, in place.

    Depth-to-space draws each pixel of a 2×2 block with weights of its own; where their sums differ, even surfaces show
    a pattern of 2 pixels. The mean of the four is kept, and so is every difference that follows an edge.

    Examples
    --------
    >>> decoder = Decoder((2, 4, 6), fine_blocks=0, deep_blocks=0)
    >>> even_phases(decoder)
    >>> even = decoder.output(torch.ones(1, 2, 4, 4))
    >>> bool((even - even[..., :1, :1]).abs().max() < 1e-6)
    True
    """
    kernel, offset = decoder.output[0].parameters()
    weight, bias = kernel.view(3, 4, *kernel.shape[1:]), offset.view(3, 4)
    response = weight.sum((-2, -1))
    excess = (response - response.mean(1, keepdim=True)) / weight[0, 0, 0].numel()
    weight -= excess[..., None, None]
    bias.copy_(bias.mean(1, keepdim=True).expand_as(bias))


class KBStyle(nn.Module):
    """Arbitrary style transfer: a photograph and a painting in, the photograph painted out.

    Parameters
    ----------
    config : KBStyleConfig
        Widths and depths.

    Raises
    ------
    ShapeError, ArgumentError
        `forward`, `encode_style`, `render`: not pictures that the network can take, see `padded`; a code that doesn't
        fit, see `modulated`.

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
        self.content_encoder = Encoder(config.widths, blocks=0)
        self.style_encoder = Encoder(config.widths, blocks=config.style_blocks)
        self.decoder = Decoder(config.widths, fine_blocks=config.fine_blocks, deep_blocks=config.deep_blocks)

    @property
    def reach(self) -> int:
        """How far away, in pixels, a pixel of the photograph can matter for one of the result, statistics aside."""
        fine, deep = self.config.fine_blocks, self.config.deep_blocks
        encoder = 2 + 2 + 4  # 3×3 at 1/2, 1/2 and 1/4
        decoder = 24 * deep + (8 + 8 + 4) + 12 * fine + (4 + 4 + 2) + 2  # blur, bilinear and 3×3 on the way up
        return encoder + decoder + 8  # the grid of the deepest level

    def encode_style(self, style: Tensor) -> StyleCode:
        """(B, 3, H, W) in 0..1, any size from 16 pixels → the style code."""
        one, two, three = self.style_encoder(padded(style))
        return StyleCode(moments(one), moments(two), moments(three))

    def render(self, content: Tensor, code: StyleCode) -> Tensor:
        """(B, 3, H, W) in 0..1 and a style code (of B or of one; or of any with B = 1) → (B, 3, H, W), not clamped."""
        height, width = content.shape[-2:]
        out: Tensor = self.decoder(self.content_encoder(padded(content)), code)
        return out[..., :height, :width]

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, 3, H, W) and (B or 1, 3, H′, W′) in 0..1 → (B, 3, H, W), not clamped."""
        return self.render(content, self.encode_style(style))


def padded(image: Tensor) -> Tensor:
    """The picture grown at the right and the bottom to multiples of 8, by repeating its edge.

    Raises
    ------
    ArgumentError
        Not a tensor of floating point numbers.
    ShapeError
        Not (B, 3, H, W) with both sides from 16 up.

    Examples
    --------
    >>> padded(torch.zeros(1, 3, 17, 24)).shape
    torch.Size([1, 3, 24, 24])
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise ArgumentError("a picture of the wrong type", got=got, expected="a tensor of floats in 0..1")
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
