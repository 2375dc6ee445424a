"""KBStyle's passes for painting: the network's own pictures in less time, on the CPU and without gradients.

What is saved, against the modules one after the other: the first layer reads the pixels themselves, and channels become
pixels in whole runs of memory; the style's gains and shifts are folded into the pointwise layers' weights, and the
blocks' last biases into whatever comes next; and memory is gone through as few times as can be (see `quick_layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.layers import Block
from kbstyle_example.moments import Moments, Statistics, StyleCode, moments
from kbstyle_example.networks import Encoder, KBStyle, padded
from kbstyle_example.options import SMALLEST_SIDE
from kbstyle_example.quick_layers import Blocks, Conv, Doubling, as_batch, modulating, strips, window
from kbstyle_example.strips import Pixels
from skd.errors import NonFiniteError

# Channels of 2×2 pixels of three colours, a row of pixels each, as they stand in memory: where PixelShuffle has them.
INTERLEAVED = [[4 * colour + 2 * row + column for column in (0, 1) for colour in (0, 1, 2)] for row in (0, 1)]
Keep = Callable[[int, slice, Tensor], None]  # told of a strip: level 0 or 1, rows, feature


class Inference:
    """A network, ready to paint; changes of its weights after this aren't seen.

    Parameters
    ----------
    network : KBStyle
        On the CPU, in float32.
    dtype : torch.dtype
        float32, or bfloat16 for features and weights: quicker where the processor multiplies in it, and very slow
        where it doesn't. Statistics and style codes are float32 in either.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> network, content, style = KBStyle(STUDENT).eval(), torch.rand(1, 3, 40, 52), torch.rand(1, 3, 32, 48)
    >>> with torch.inference_mode():
    ...     quick, wanted = Inference(network), network(content, style)
    ...     bool((quick.render(content, quick.encode_style(style)) - wanted).abs().max() < 1e-5)
    True
    """

    def __init__(self, network: KBStyle, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.content, self.style = _Encoder(network.content_encoder, dtype), _Encoder(network.style_encoder, dtype)
        decoder, self.corrected = network.decoder, network.corrected
        self.blocks3, self.blocks2 = Blocks.styled(decoder.level3, dtype), Blocks.styled(decoder.level2, dtype)
        self.up2 = Doubling(decoder.up2, paired=False, dtype=dtype)  # its columns may be odd
        self.up1 = Doubling(decoder.up1, paired=True, dtype=dtype)
        last = decoder.output[0]
        self.output = [
            Conv(last.weight[row], last.bias[row], paired=True, dtype=dtype)  # type: ignore[index]
            for row in INTERLEAVED
        ]

    @classmethod
    def of(
        cls, network: KBStyle, pictures: Sequence[Tensor], dtype: torch.dtype = torch.float32
    ) -> Inference | KBStyle:
        """What paints these tensors soonest: the network itself where this can't stand in for it.

        It can for one picture at a time, in float32, on the CPU and without gradients.
        """
        weights = next(network.parameters())
        plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (*pictures, weights))
        if type(network) is not KBStyle or not plain or torch.is_grad_enabled() or any(len(x) != 1 for x in pictures):
            return network
        return cls(network, dtype)

    def encode_style(self, style: Tensor) -> StyleCode:
        """As `KBStyle.encode_style`, of one painting."""
        statistics = Statistics(), Statistics()

        def keep(level: int, _: slice, found: Tensor) -> None:
            statistics[level].add(as_batch(found))

        three, constant = self.style(_squares(padded(style)[0].permute(1, 2, 0)), keep)
        mean, deviation = moments(as_batch(three))
        deepest = Moments(mean + constant.view(1, -1, 1, 1), deviation)
        return self.corrected(StyleCode(statistics[0].moments(), statistics[1].moments(), deepest))

    def render(self, content: Tensor, code: StyleCode) -> Tensor:
        """As `KBStyle.render`, of one photograph and one style."""
        image = padded(content)
        found = image.new_empty(image.shape[2] // 2, 2, image.shape[3] // 2, 6)

        def write(rows: slice, line: int, made: Tensor) -> None:
            found[rows, line] = made
            found[rows, line] += 0.5  # not before: bfloat16 has more numbers around 0

        self._paint(_squares(image[0].permute(1, 2, 0)), code, write)
        height, width = content.shape[-2:]
        return as_batch(found.view(*image.shape[2:], 3))[..., :height, :width]

    def paint(self, pixels: Pixels, code: StyleCode) -> Pixels:
        """As `render`, of 8 bits: (H, W, 3) → the same, clamped and rounded, and never numbers as a whole.

        Raises
        ------
        NonFiniteError
            The picture would hold NaN or infinite values.
        """
        height, width = pixels.shape[:2]
        missing = [(0, -(-max(side, SMALLEST_SIDE) // 8) * 8 - side) for side in (height, width)]
        grown = np.pad(pixels, (*missing, (0, 0)), mode="edge") if missing != [(0, 0), (0, 0)] else pixels
        image = torch.from_numpy(np.require(grown, requirements=["C", "W"]))
        found = image.new_empty(image.shape[0] // 2, 2, image.shape[1] // 2, 6)

        def write(rows: slice, line: int, made: Tensor) -> None:
            if not made.isfinite().all():
                raise NonFiniteError("a picture holds NaN or infinite values")
            found[rows, line] = made.float().mul_(255).add_(127.5).clamp_(0, 255).round_()

        self._paint(_squares(image), code, write)
        painted: Pixels = found.view(image.shape)[:height, :width].numpy()
        return painted

    def _paint(self, squares: Tensor, code: StyleCode, write: Callable[[slice, int, Tensor], None]) -> None:
        """`write` sees what is painted, less 0.5: a strip of squares, their upper or lower pixels, (rows, W, 6)."""
        height, width = squares.shape[:2]
        one = squares.new_empty(height, width, self.content.one.outputs, dtype=self.dtype)
        two = squares.new_empty(height // 2, width // 2, self.content.two.outputs, dtype=self.dtype)

        def keep(level: int, rows: slice, found: Tensor) -> None:
            (one, two)[level][rows] = found

        three, _ = self.content(squares, keep)
        # Means are up to a thousand deviations here: as constants they take no digits from what varies.
        mean, deviation = code.level3
        enter = modulating(moments(as_batch(three)), Moments(torch.zeros_like(mean), deviation), relu=False)
        x, _ = self.blocks3(three, mean.flatten(), code.level3, enter)
        x, known = self.up2(x, two)
        x, _ = self.blocks2(x, None, code.level2, modulating(known, code.level2, relu=True))
        x, known = self.up1(x, one)
        enter = modulating(known, code.level1, relu=True)
        for rows in strips(height, x[0].nbytes):
            seen = window(x, rows, 1)
            enter(seen.flatten(1))
            for line, layer in enumerate(self.output):  # both at once would have to be taken apart
                write(rows, line, layer(seen))


class _Encoder:
    """`Encoder` in strips: `keep` sees levels 1 and 2 as they are made."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        self.dtype = dtype
        first = encoder.level1[1]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None  # ours have one
        # On channels of 2×2 pixels a 3×3 is a 6×6 on the pixels, every second one: they needn't be put together.
        weight = F.pixel_shuffle(first.weight, 2)
        bias = first.bias - 0.5 * weight.sum((1, 2, 3))
        # Two pixels side by side are six channels.
        weight = weight.view(*weight.shape[:3], 3, 2).permute(0, 4, 1, 2, 3).flatten(1, 2)
        self.one = Conv(weight, bias, (2, 1), paired=True, dtype=dtype)
        self.one_of_bytes = Conv(weight / 255, bias, (2, 1), paired=True, dtype=dtype)
        self.two, self.three = (Conv.of(level[0], dtype) for level in (encoder.level2, encoder.level3))  # type: ignore[arg-type]
        self.blocks = Blocks([layer for layer in encoder.level3 if isinstance(layer, Block)], dtype=dtype)

    def __call__(self, squares: Tensor, keep: Keep) -> tuple[Tensor, Tensor]:
        """Pixels in 0..1, or bytes → level 3, (H / 8, W / 8, C), and what has to be added to it, (C,)."""
        height, width = squares.shape[:2]
        first = self.one_of_bytes if squares.dtype == torch.uint8 else self.one
        three = squares.new_empty(height // 4, width // 4, self.three.outputs, dtype=self.dtype)
        above: list[Tensor | None] = [None, None]
        lines: Tensor | None = None
        for rows in strips(height, width * first.outputs * three.element_size(), multiple=4):
            if lines is None:
                lines = squares.new_empty(rows.stop + 2, 2, width + 2, 6, dtype=self.dtype)
            # Squares in memory are rows of pixels; the border repeats squares.
            seen = window(squares, rows, 1, into=lines[: rows.stop - rows.start + 2].transpose(1, 2))
            feature = first(seen.transpose(1, 2).flatten(0, 1)).relu_()
            for level, layer in enumerate((self.two, self.three)):
                keep(level, slice(rows.start >> level, rows.stop >> level), feature)
                entered = _entered(feature, above[level])
                above[level], feature = feature[-1], layer(entered).relu_()
            three[rows.start // 4 : rows.stop // 4] = feature
        return self.blocks(three)


def _squares(picture: Tensor) -> Tensor:
    """(H, W, 3) → (H / 2, W / 2, 2, 6): squares of 2×2 pixels, two rows of two pixels each."""
    height, width, _ = picture.shape
    return picture.reshape(height // 2, 2, width // 2, 6).transpose(1, 2)


def _entered(feature: Tensor, above: Tensor | None) -> Tensor:
    """What a 3×3 of every second position sees: one more row above and one more column on the left."""
    height, width, channels = feature.shape
    found = feature.new_empty(height + 1, width + 1, channels)
    found[1:, 1:] = feature
    found[0, 1:] = feature[0] if above is None else above
    found[:, 0] = found[:, 1]
    return found
