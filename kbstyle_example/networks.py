"""KBStyle: a content encoder, a style encoder and one mirrored decoder.

Every level of the content encoder has a mirror in the decoder and a companion in the style encoder, all three of
the same width: that is what symmetric knowledge distillation compresses together. Teacher and student differ in
their widths and in the number of blocks, and the student's style code is put right by two small layers (`Correction`):
its narrow style encoder doesn't say all of it.

====== ========== ============================== ===========================================
level  resolution encoders                       decoder
====== ========== ============================== ===========================================
1      1/2        space-to-depth, 3×3            3×3, up, + content level 1, style moments
2      1/4        3×3 stride 2                   3×3, up, + content level 2, style moments, 7×7 blocks ²
3      1/8        3×3 stride 2, 7×7 blocks ¹     style moments, 7×7 blocks ²
====== ========== ============================== ===========================================

¹ of the style encoder alone. In the content encoder they would stand before an instance normalisation, which blows up
what they ring with in smooth regions: skies get a weave, objects a smear around them.

² The style scales and shifts the middle of each (see `StyledBlocks`): it says which strokes to draw, not only how
strong and in which colours.

On the way up the 3×3 stands before the doubling: it costs a quarter of what it does after it, and what is doubled has
fewer channels. What it draws between its own positions was blurred away before, too.

The paper (KBStyle, IEEE TIP 33, 2024) publishes no layers; this shape is ours (docs say what was tried).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.correction import Correction
from kbstyle_example.layers import Block, StyledBlocks, conv3, doubled
from kbstyle_example.moments import Moments, StyleCode, modulated, moments
from kbstyle_example.options import SMALLEST_SIDE
from skd.errors import ArgumentError, ShapeError


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
    correction : int
        Channels between the two layers that put the style code right (`Correction`); 0 leaves it as it is.

    Raises
    ------
    ArgumentError
        Not three positive widths; a negative number of blocks or of the correction's channels.

    Examples
    --------
    >>> KBStyleConfig(widths=(8, 16, 28)).as_dict()
    {'widths': (8, 16, 28), 'fine_blocks': 2, 'deep_blocks': 3, 'style_blocks': 2, 'correction': 0}
    """

    widths: tuple[int, int, int]
    fine_blocks: int = 2
    deep_blocks: int = 3
    style_blocks: int = 2
    correction: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) != 3 or any(type(w) is not int or w < 1 for w in self.widths):
            raise ArgumentError("widths of a KBStyle network", got=self.widths, expected="three positive integers")
        blocks = (self.fine_blocks, self.deep_blocks, self.style_blocks)
        if any(type(count) is not int or count < 0 for count in blocks):
            raise ArgumentError("blocks of a KBStyle network", got=blocks, expected="0 or more")
        if type(self.correction) is not int or self.correction < 0:
            raise ArgumentError("channels of a style code's correction", got=self.correction, expected="0 or more")

    def as_dict(self) -> dict[str, object]:
        """Plain values, for a weights file's metadata."""
        return asdict(self)


TEACHER = KBStyleConfig(widths=(32, 64, 128), deep_blocks=5)
STUDENT = KBStyleConfig(widths=(8, 20, 32), fine_blocks=3, deep_blocks=0, correction=46)


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
        x = self._level2(doubled(self.up2(x)) + content[1], style, all_known[1])
        x = self.level1(self._modulated(doubled(self.up1(x)) + content[0], style.level1, all_known[2]))
        out: Tensor = self.output(x) + 0.5
        return out

    def entering(self, content: tuple[Tensor, Tensor, Tensor], style: StyleCode, known: Sequence[Moments]) -> Tensor:
        """The next feature whose statistics aren't known yet: that of level 3, 2 or 1, before normalisation."""
        x = content[2]
        if len(known) > 0:
            x = doubled(self.up2(self._level3(x, style, known[0]))) + content[1]
        if len(known) > 1:
            x = doubled(self.up1(self._level2(x, style, known[1]))) + content[0]
        return x

    def _level3(self, x: Tensor, style: StyleCode, known: Moments | None) -> Tensor:
        out: Tensor = self.level3(self._modulated(x, style.level3, known), style.level3)
        return out

    def _level2(self, x: Tensor, style: StyleCode, known: Moments | None) -> Tensor:
        out: Tensor = self.level2(F.relu(self._modulated(x, style.level2, known)), style.level2)
        return out

    def _modulated(self, x: Tensor, style: Moments, known: Moments | None) -> Tensor:
        """Statistics are in float32, and so is what they modulate; layers in half take it as they are."""
        return modulated(x, style, known).to(self.up1.weight.dtype)


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
        self.correction = Correction(config.widths, config.correction) if config.correction else None

    @property
    def reach(self) -> int:
        """How far away, in pixels, a pixel of the photograph can matter for one of the result, statistics aside."""
        fine, deep = self.config.fine_blocks, self.config.deep_blocks
        encoder = 2 + 2 + 4  # 3×3 at 1/2, 1/2 and 1/4
        decoder = 24 * deep + (8 + 8 + 8) + 12 * fine + (4 + 4 + 4) + 2  # 3×3, blur and bilinear on the way up
        return encoder + decoder + 8  # the grid of the deepest level

    def encode_style(self, style: Tensor) -> StyleCode:
        """(B, 3, H, W) in 0..1, any size from 16 pixels → the style code."""
        one, two, three = self.style_encoder(padded(style))
        return self.corrected(StyleCode(moments(one), moments(two), moments(three)))

    def corrected(self, code: StyleCode) -> StyleCode:
        """The style encoder's statistics → the style code."""
        return code if self.correction is None else self.correction(code)

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
    # A program that is exported pads by nothing: it is one program for all sizes.
    if not torch.compiler.is_exporting() and height % 8 == 0 and width % 8 == 0:
        return image
    return F.pad(image, (0, (width + 7) // 8 * 8 - width, 0, (height + 7) // 8 * 8 - height), mode="replicate")
