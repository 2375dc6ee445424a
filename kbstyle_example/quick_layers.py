"""Layers for painting on the CPU, of one picture: features are (H, W, C), each position's channels side by side.

Two rules. What goes over a whole feature goes over rows of W·C numbers: in runs of a few channels it takes ten times as
long. And it goes strip by strip through as many layers as can be, since memory is slower than any of them: what lies
between stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.layers import Block, StyledBlocks
from kbstyle_example.moments import Moments, Statistics

STRIP = 2**21  # bytes of a strip: some of them are to fit into the cache
LANES = 16  # numbers that a processor's widest registers hold
Enter = Callable[[Tensor], None]  # what is done in place to rows (H, W·C) before they are used


class Conv:
    """A convolution without padding, (H, W, C) → (H′, W′, C′).

    One of few channels makes two positions at once, whose channels then stand in memory as they should: its kernel is
    the two side by side, with zeros, and the registers are filled.

    Parameters
    ----------
    weight : Tensor
        (C′, C, kernel height, kernel width), in float32.
    bias : Tensor
        (C′,), in float32.
    stride : tuple of int
        Down and to the right.
    paired : bool
        Two positions at once, where that is worth it; W′ has to be even then.
    dtype : torch.dtype
        In which it computes.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, stride: tuple[int, int] = (1, 1), *, paired: bool, dtype: torch.dtype
    ) -> None:
        self.outputs, self.stride = len(weight), stride
        if paired and 2 * len(weight) <= LANES:
            weight = torch.cat((F.pad(weight, (0, stride[1])), F.pad(weight, (stride[1], 0))))
            self.stride, bias = (stride[0], 2 * stride[1]), bias.repeat(2)
        self.bias = bias.detach().to(dtype)
        self.weight = weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)

    @classmethod
    def of(cls, layer: nn.Conv2d, dtype: torch.dtype) -> Conv:
        """A layer's; its border is left to the caller."""
        assert layer.bias is not None  # ours have one
        stride = layer.stride[0], layer.stride[1]
        return cls(layer.weight, layer.bias, stride, paired=False, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        made = convolved(x, self.weight, self.bias, self.stride)
        return made.view(len(made), -1, self.outputs)


class Doubling:
    """A 3×3 convolution, `layers.doubled`, and a feature of the doubled size added; all but for a constant.

    It is normalised afterwards, so that neither a bias nor a constant that the input lacks makes a difference. Blur and
    doubling along rows are one convolution, which makes both positions at once; along columns they are sums of whole
    rows.
    """

    def __init__(self, layer: nn.Conv2d, *, paired: bool, dtype: torch.dtype) -> None:
        self.conv = Conv(layer.weight, layer.weight.new_zeros(layer.out_channels), paired=paired, dtype=dtype)
        # [1 2 1] / 4 and then bilinear, for the left and the right one of the two; / 4 of the columns' blur, too.
        phases = layer.weight.new_tensor([[1.0, 5.0, 7.0, 3.0, 0.0], [0.0, 3.0, 7.0, 5.0, 1.0]]) / 64
        size = layer.out_channels
        weight = phases.new_zeros(2, size, size, 1, 5)
        weight[:, range(size), range(size), 0] = phases[:, None]
        self.rows = Conv(weight.flatten(0, 1), phases.new_zeros(2 * size), paired=False, dtype=dtype)

    def __call__(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Moments]:
        """(H, W, C) and (2H, 2W, C′), overwritten → that and its statistics."""
        height, statistics = len(x), Statistics()
        for rows in strips(height, 2 * skip[0].nbytes):
            # Of the blurred rows one more on each side, of what is blurred two; beyond the edge, that is repeated.
            blurred = slice(max(rows.start - 1, 0), min(rows.stop + 1, height))
            seen = slice(max(blurred.start - 1, 0), min(blurred.stop + 1, height))
            lines = self._twice(window(x, seen, 1))
            lines = _ended(lines, blurred.start == 0, blurred.stop == height)
            lines = lines[1:] + lines[:-1]
            lines = _ended(lines[1:] + lines[:-1], rows.start == 0, rows.stop == height)
            found = skip[2 * rows.start : 2 * rows.stop]
            pairs = found.view(len(found) // 2, 2, -1)
            pairs[:, 0] += torch.lerp(lines[:-2], lines[1:-1], 0.75)
            pairs[:, 1] += torch.lerp(lines[1:-1], lines[2:], 0.25)
            statistics.add(as_batch(found))
        return skip, statistics.moments()

    def _twice(self, x: Tensor) -> Tensor:
        """(H + 2, W + 2, C) → (H, 2·W·C′): along rows."""
        made = self.conv(x)
        height, width, channels = made.shape
        wide = made.new_empty(height, width + 4, channels)
        wide[:, 2:-2] = made
        wide[:, :2], wide[:, -2:] = made[:, :1], made[:, -1:]
        twice = self.rows(wide).view(height, 2 * width, channels)
        for end, next_one in ((0, 1), (-1, -2)):  # what bilinear interpolation repeats here is what is blurred
            twice[:, end] = 0.1875 * made[:, end] + 0.0625 * made[:, next_one]
        return twice.flatten(1)


class Blocks:
    """A stack of `Block`; their last biases are left to whatever comes next."""

    def __init__(self, blocks: list[Block], film: nn.Module | None = None, *, dtype: torch.dtype) -> None:
        self.film = film
        self.reach = [block.reach.weight.detach().to(dtype) for block in blocks]
        self.sums = [block.reach.weight.detach().sum((1, 2, 3)) for block in blocks]
        self.offsets = [block.reach.bias.detach() for block in blocks]  # type: ignore[union-attr]
        self.mix = [(block.mix.weight.detach(), block.mix.bias.detach()) for block in blocks]  # type: ignore[union-attr]
        self.out = [(block.out.weight.detach().to(dtype), block.out.bias.detach()) for block in blocks]  # type: ignore[union-attr]

    @classmethod
    def styled(cls, layer: StyledBlocks, dtype: torch.dtype) -> Blocks:
        blocks = [block for block in layer.blocks if isinstance(block, Block)]
        return cls(blocks, layer.film if blocks else None, dtype=dtype)

    def __call__(
        self, x: Tensor, constant: Tensor | None = None, style: Moments | None = None, enter: Enter | None = None
    ) -> tuple[Tensor, Tensor]:
        """A feature (H, W, C), overwritten, and a constant (C,) that is to be added to it → both after the blocks."""
        made = torch.empty_like(x)
        constant = x.new_zeros(x.shape[2], dtype=torch.float32) if constant is None else constant
        films = self._films(style)
        if not self.reach and enter is not None:
            enter(x.flatten(1))
        for k, reach in enumerate(self.reach):
            weight, bias = self.mix[k]
            bias = bias + weight.flatten(1) @ (self.sums[k] * constant + self.offsets[k])
            if films is not None:
                gain, shift = films[2 * k : 2 * k + 2]
                weight, bias = weight * (1 + gain)[:, None, None, None], torch.addcmul(shift, bias, 1 + gain)
            # relu(y + b) is max(y, -b) + b: a large b, and it can be hundreds of deviations, is left to the constant.
            beyond = bias.clamp_min(0)
            least = (-beyond).to(x.dtype).repeat(x.shape[1])
            weight, bias, (out, offset) = weight.to(x.dtype), bias.clamp_max(0).to(x.dtype), self.out[k]
            for rows in strips(len(x), x[0].nbytes):
                seen = window(x, rows, 3)
                if k == 0 and enter is not None:
                    enter(seen.flatten(1))
                middle = convolved(convolved(seen, reach, None, groups=len(reach)), weight, bias)
                lines = middle.flatten(1)
                torch.maximum(lines, least, out=lines)
                torch.add(seen[3:-3, 3:-3], convolved(middle, out, None), out=made[rows])
            x, made, constant = made, x, constant + offset + out.flatten(1).float() @ beyond
        return x, constant

    def _films(self, style: Moments | None) -> Tensor | None:
        if self.film is None or style is None:
            return None
        found: Tensor = self.film(torch.cat((style.mean, style.deviation), 1).flatten(1))
        return found.view(2 * len(self.reach), -1)


def modulating(known: Moments, style: Moments, *, relu: bool) -> Enter:
    """`moments.modulated` in place, of a feature's rows; then perhaps what is negative becomes 0."""
    gain = style.deviation / known.deviation
    factors = gain.flatten(), (style.mean - known.mean * gain).flatten()

    def enter(lines: Tensor) -> None:
        times, plus = (each.to(lines.dtype).repeat(lines.shape[1] // len(each)) for each in factors)
        torch.addcmul(plus, lines, times, out=lines)
        if relu:
            lines.relu_()

    return enter


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int] = (1, 1), *, groups: int = 1
) -> Tensor:
    """`torch.nn.functional.conv2d` of (H, W, C)."""
    return F.conv2d(as_batch(x), weight, bias, stride, groups=groups)[0].permute(1, 2, 0).contiguous()


def as_batch(feature: Tensor) -> Tensor:
    """(H, W, C) → (1, C, H, W), without a copy."""
    return feature[None].permute(0, 3, 1, 2)


def strips(height: int, row_bytes: int, *, multiple: int = 1) -> Iterator[slice]:
    """Strips of about `STRIP` bytes, of a multiple of so many rows."""
    rows = max(1, STRIP // (row_bytes * multiple)) * multiple
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def window(feature: Tensor, rows: slice, halo: int, *, into: Tensor | None = None) -> Tensor:
    """Rows of a feature (H, W, …) with so many more on every side, columns too; beyond the edge, that is repeated."""
    height, width = feature.shape[:2]
    size = rows.stop - rows.start
    if into is None:
        into = feature.new_empty(size + 2 * halo, width + 2 * halo, *feature.shape[2:])
    above, below = max(halo - rows.start, 0), max(rows.stop + halo - height, 0)
    inner = into[above : size + 2 * halo - below]
    inner[:, halo:-halo] = feature[rows.start - halo + above : rows.stop + halo - below]
    inner[:, :halo], inner[:, -halo:] = inner[:, halo, None], inner[:, -halo - 1, None]
    into[:above], into[len(into) - below :] = inner[:1], inner[-1:]
    return into


def _ended(lines: Tensor, top: bool, bottom: bool) -> Tensor:
    """The first row and the last one twice, where that is wanted."""
    return torch.cat((lines[: int(top)], lines, lines[len(lines) - int(bottom) :])) if top or bottom else lines
