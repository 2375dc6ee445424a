"""KBStyle's passes for painting: the network's own pictures in less time, on the CPU and without gradients.

What is saved, against the modules one after the other: 0.5 is taken off the picture, and put back, by the biases; the
first layer reads the pixels themselves, and channels become pixels in whole runs of memory, padded at once; the style's
gains and shifts are folded into the pointwise layers' weights, and the blocks' last biases into whatever comes next;
and what can be overwritten is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.layers import Block, StyledBlocks, doubled
from kbstyle_example.moments import Moments, moments
from kbstyle_example.networks import Encoder, KBStyle, StyleCode, padded

# Where a channel of 2×2 pixels of three colours stands in memory, and where PixelShuffle has it.
INTERLEAVED = [4 * colour + 2 * row + column for row in (0, 1) for column in (0, 1) for colour in (0, 1, 2)]
STRIP = 2**15  # positions of level 1: what lies between picture and feature stays in the cache
LAST = torch.channels_last


class Inference:
    """A network, ready to paint; changes of its weights after this aren't seen.

    Parameters
    ----------
    network : KBStyle
        On the CPU, in float32.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> network, content, style = KBStyle(STUDENT).eval(), torch.rand(1, 3, 40, 52), torch.rand(1, 3, 32, 48)
    >>> with torch.inference_mode():
    ...     quick, wanted = Inference(network), network(content, style)
    ...     bool((quick.render(content, quick.encode_style(style)) - wanted).abs().max() < 1e-5)
    True
    """

    def __init__(self, network: KBStyle) -> None:
        self.content, self.style = _Encoder(network.content_encoder), _Encoder(network.style_encoder)
        decoder = network.decoder
        self.blocks3, self.blocks2 = _Blocks.styled(decoder.level3), _Blocks.styled(decoder.level2)
        self.up2, self.up1 = _Conv(decoder.up2), _Conv(decoder.up1)
        last = decoder.output[0]
        self.output = _Conv(last, last.weight[INTERLEAVED], last.bias[INTERLEAVED] + 0.5)  # type: ignore[arg-type, index]

    @classmethod
    def of(cls, network: KBStyle, pictures: Sequence[Tensor]) -> Inference | KBStyle:
        """What paints these tensors soonest: the network itself where this can't stand in for it.

        It can for one picture at a time, in float32, on the CPU and without gradients.
        """
        weights = next(network.parameters())
        plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (*pictures, weights))
        if type(network) is not KBStyle or not plain or torch.is_grad_enabled() or any(len(x) != 1 for x in pictures):
            return network
        return cls(network)

    def encode_style(self, style: Tensor) -> StyleCode:
        """As `KBStyle.encode_style`, of one painting."""
        one, two, three, constant = self.style(padded(style))
        deepest = moments(three)
        return StyleCode(moments(one), moments(two), Moments(deepest.mean + constant, deepest.deviation))

    def render(self, content: Tensor, code: StyleCode) -> Tensor:
        """As `KBStyle.render`, of one photograph and one style."""
        height, width = content.shape[-2:]
        one, two, three, _ = self.content(padded(content))
        x, constant = self.blocks3(_modulate(three, code.level3), code.level3)
        x = _modulate(doubled(self.up2(x, constant)).add_(two), code.level2).relu_()
        x, constant = self.blocks2(x, code.level2)
        return self._pixels(doubled(self.up1(x, constant)).add_(one), code.level1)[..., :height, :width]

    def _pixels(self, x: Tensor, style: Moments) -> Tensor:
        """Level 1 of the decoder, and its channels as pixels."""
        height, width = x.shape[-2:]
        gain, shift = (each.flatten() for each in _modulation(x, style))
        rows = x[0].permute(1, 2, 0)
        found = x.new_empty(height, 2, width, 6)

        def fill(inner: Tensor, seen: slice) -> None:
            torch.addcmul(shift, rows[seen], gain, out=inner).relu_()

        for strip, part in _strips(x.new_empty(_rows(width) + 2, width + 2, x.shape[1]), height, fill):
            feature = part[None].permute(0, 3, 1, 2)
            squares = self.output(feature, is_padded=True).permute(0, 2, 3, 1).view(-1, width, 2, 6)
            found[strip, 0], found[strip, 1] = squares[:, :, 0], squares[:, :, 1]
        return found.view(1, 2 * height, 2 * width, 3).permute(0, 3, 1, 2)


class _Conv:
    """A 3×3 convolution whose border repeats the edge."""

    def __init__(
        self, layer: nn.Conv2d, weight: Tensor | None = None, bias: Tensor | None = None, *, stride: int | None = None
    ) -> None:
        weight = layer.weight if weight is None else weight
        self.weight = weight.detach().contiguous(memory_format=LAST)
        self.bias = (layer.bias if bias is None else bias).detach()  # type: ignore[union-attr]
        self.sums = self.weight.sum((2, 3))
        self.stride = layer.stride[0] if stride is None else stride

    def __call__(self, x: Tensor, constant: Tensor | None = None, *, is_padded: bool = False) -> Tensor:
        """Of x, or of x plus a constant (C,)."""
        bias = self.bias if constant is None else self.bias + self.sums @ constant
        x = x if is_padded else F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(x, self.weight, bias, self.stride)


class _Encoder:
    """`Encoder`; the deepest feature has to be taken with a constant (1, C, 1, 1) added."""

    def __init__(self, encoder: Encoder) -> None:
        first = encoder.level1[1]
        # On channels of 2×2 pixels a 3×3 is a 6×6 on the pixels, every second one: they needn't be put together.
        weight = F.pixel_shuffle(first.weight, 2)  # type: ignore[arg-type]
        self.one = _Conv(first, weight, first.bias - 0.5 * weight.sum((1, 2, 3)), stride=2)  # type: ignore[arg-type, operator]
        self.two, self.three = _Conv(encoder.level2[0]), _Conv(encoder.level3[0])  # type: ignore[arg-type]
        self.blocks = _Blocks([layer for layer in encoder.level3 if isinstance(layer, Block)])

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        one = self._one(image)
        two = self.two(one, is_padded=True).relu_()
        three, constant = self.blocks(self.three(two).relu_())
        return one[..., 1:-1, 1:-1], two, three, constant[:, None, None]

    def _one(self, image: Tensor) -> Tensor:
        """Level 1, its border repeated."""
        height, width = (side // 2 for side in image.shape[-2:])
        rows = image.permute(0, 2, 3, 1).reshape(height, 2, width, 6).transpose(1, 2)
        found = image.new_empty(height + 2, width + 2, len(self.one.weight))

        def fill(inner: Tensor, seen: slice) -> None:
            inner.copy_(rows[seen])

        # In memory rows of pixels; seen as squares of 2×2, whose border is squares, too.
        squares = image.new_empty(_rows(width) + 2, 2, width + 2, 6).transpose(1, 2)
        for strip, part in _strips(squares, height, fill):
            pixels = part.transpose(1, 2).view(1, -1, 2 * width + 4, 3).permute(0, 3, 1, 2)
            made = self.one(pixels, is_padded=True).relu_()
            found[strip.start + 1 : strip.stop + 1, 1:-1] = made[0].permute(1, 2, 0)
        return _bordered(found)[None].permute(0, 3, 1, 2)


class _Blocks:
    """A stack of `Block`: positions are rows of matrices, and what the blocks add is added in place."""

    def __init__(self, blocks: list[Block], film: nn.Module | None = None) -> None:
        self.film = film
        self.reach = [block.reach.weight.detach() for block in blocks]
        self.offsets = [block.reach.bias.detach() for block in blocks]  # type: ignore[union-attr]
        self.mix = [(block.mix.weight.detach().flatten(1), block.mix.bias.detach()) for block in blocks]  # type: ignore[union-attr]
        self.out = [(block.out.weight.detach().flatten(1).T, block.out.bias.detach()) for block in blocks]  # type: ignore[union-attr]

    @classmethod
    def styled(cls, layer: StyledBlocks) -> _Blocks:
        blocks = [block for block in layer.blocks if isinstance(block, Block)]
        return cls(blocks, layer.film if blocks else None)

    def __call__(self, x: Tensor, style: Moments | None = None) -> tuple[Tensor, Tensor]:
        """A feature (1, C, H, W), overwritten, and the constant (C,) that is to be added to it."""
        constant = x.new_zeros(x.shape[1])
        films = self._films(style)
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        for k, reach in enumerate(self.reach):
            far = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), reach, groups=len(reach))
            weight, bias = self.mix[k]
            bias = bias + weight @ (reach.sum((1, 2, 3)) * constant + self.offsets[k])
            if films is not None:
                gain, shift = films[2 * k : 2 * k + 2]
                weight, bias = weight * (1 + gain)[:, None], torch.addcmul(shift, bias, 1 + gain)
            middle = torch.addmm(bias, far.permute(0, 2, 3, 1).flatten(0, 2), weight.T).relu_()
            out, offset = self.out[k]
            rows.addmm_(middle, out)
            constant = constant + offset
        return x, constant

    def _films(self, style: Moments | None) -> Tensor | None:
        if self.film is None or style is None:
            return None
        found: Tensor = self.film(torch.cat((style.mean, style.deviation), 1).flatten(1))
        return found.view(2 * len(self.reach), -1)


def _modulate(feature: Tensor, style: Moments) -> Tensor:
    """`moments.modulated`, in place."""
    gain, shift = _modulation(feature, style)
    return torch.addcmul(shift, feature, gain, out=feature)


def _modulation(feature: Tensor, style: Moments) -> tuple[Tensor, Tensor]:
    mean, deviation = moments(feature)
    gain = style.deviation / deviation
    return gain, style.mean - mean * gain


def _strips(buffer: Tensor, height: int, fill: Callable[[Tensor, slice], None]) -> Iterator[tuple[slice, Tensor]]:
    """Strips of rows, and of each the feature (rows + 2, W + 2, …) that `fill` writes, with its border."""
    size = len(buffer) - 2
    for top in range(0, height, size):
        bottom = min(top + size, height)
        above, below = max(top - 1, 0), min(bottom + 1, height)
        part = buffer[: bottom - top + 2]
        fill(part[above - top + 1 : below - top + 1, 1:-1], slice(above, below))
        yield slice(top, bottom), _bordered(part, top=top == 0, bottom=bottom == height)


def _rows(width: int) -> int:
    return max(1, STRIP // width)


def _bordered(rows: Tensor, *, top: bool = True, bottom: bool = True) -> Tensor:
    """(H + 2, W + 2, …): the border repeats what is inside it; at top and bottom only where that is the picture's."""
    rows[:, 0], rows[:, -1] = rows[:, 1], rows[:, -2]
    if top:
        rows[0] = rows[1]
    if bottom:
        rows[-1] = rows[-2]
    return rows
