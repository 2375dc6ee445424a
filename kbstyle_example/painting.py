"""Stylise a picture: files, PIL pictures, arrays or tensors in, a PIL picture out."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.colours import with_colours_of
from kbstyle_example.devices import as_device, as_precision, exact
from kbstyle_example.inference import Inference
from kbstyle_example.moments import StyleCode
from kbstyle_example.networks import KBStyle
from kbstyle_example.options import (
    DEFAULT,
    LONGEST_STYLE_SIDE,
    SMALLEST_SIDE,
    PainterOptions,
    check_painting,
    checked_weights,
    with_options_of,
)
from kbstyle_example.photograph import Photograph, Source
from kbstyle_example.strips import Pixels, as_numbers, as_pixels, blended, resized
from kbstyle_example.styles import layers, mask_pixels, mixed
from kbstyle_example.tiles import render_tiles
from kbstyle_example.weights_file import load_weights
from skd.errors import ArgumentError, DataError, ShapeError

TILED_FROM = 2**28  # numbers in level 1: 134 megapixels of KBStyle's. Whole, they take 25 bytes a pixel


class Painter:
    """Paintings read and encoded once, for as many photographs as there are.

    Parameters
    ----------
    styles : one picture, or a list or tuple of them
        See `Photograph.of`.
    network : KBStyle, str or path
        A network, a weights file, or the name of bundled weights.
    strength : float
        From 0, the photograph as it is, to 1, the painting. Between them pixels are mixed. (Mixing the style code with
        the photograph's own looks the same where the network gives the photograph back from its own code, and worse
        where it doesn't: smooth skies show stripes. The bundled teacher gives it back at 13 to 19 dB.)
    keep_colour : bool
        The photograph's colours on the painting's strokes, see `colours.with_colours_of`.
    style_weights : sequence of float, optional
        One for each style, equal where not given; only their ratios count. Styles without masks are mixed into one by
        them; where masks overlap, the pictures are.
    masks : sequence of pictures or None, optional
        One for each style: it paints where its mask is white, half where it is grey, not where it is black or
        transparent. Of any size; stretched to the photograph's. Styles without a mask (None) paint all that the masks
        leave; where every style has one, the photograph stays there.
    style_size : int
        Longest side in pixels at which the network sees a painting, larger or smaller as its file may be: so a scan of
        more pixels gives no other picture. Less makes its strokes smaller to the network's eyes.
    paint_size : int, optional
        Longest side in pixels at which the network paints; the painting is then brought to the photograph's size. The
        network's strokes have one size in pixels (a painting scaled up with the photograph doesn't widen them), so that
        only this keeps their share of the picture, whatever the photograph's resolution; the price is that a large one
        loses its finest detail. Painted in full size where not given.
    precision : {"float32", "bfloat16"}
        What a photograph is painted in. In bfloat16 it takes three quarters of the time on processors that multiply in
        it, and differs by 0.9 of 255 on average (8 pairs). On the CPU only; what is painted in tiles is painted in
        float32.
    device : str or torch.device, optional
        "cpu", "cuda", "cuda:1" or "mps"; the network's own where not given.
    max_pixels : int, optional
        Of the files of paintings and masks; larger ones are refused, see `reading.opened`.

    Raises
    ------
    ArgumentError
        No style; not one weight or mask for each; a strength, size, precision or device that can't be.
    FileError, DataError, ShapeError
        See `stylize`.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> painter = Painter(torch.rand(3, 32, 32), network=KBStyle(STUDENT), strength=0.0)
    >>> photograph = np.zeros((20, 30, 3), np.uint8)
    >>> np.array_equal(painter(photograph), photograph)
    True
    """

    def __init__(
        self,
        styles: Source | Sequence[Source],
        *,
        network: KBStyle | str | os.PathLike[str] = DEFAULT,
        strength: float = 1.0,
        keep_colour: bool = False,
        style_weights: Sequence[float] | None = None,
        masks: Sequence[Source | None] | None = None,
        style_size: int = LONGEST_STYLE_SIDE,
        paint_size: int | None = None,
        precision: str = "float32",
        device: str | torch.device | None = None,
        max_pixels: int | None = None,
    ) -> None:
        given: list[Source] = list(styles) if isinstance(styles, list | tuple) else [styles]  # type: ignore[list-item]
        where: list[Source | None] = [None] * len(given) if masks is None else list(masks)
        check_painting(given, strength, paint_size, len(where))
        weights = checked_weights(style_weights, len(given))
        self.strength, self.keep_colour, self.paint_size = strength, keep_colour, paint_size
        self.network = _placed(network, device)
        dtype = as_precision(precision, next(self.network.parameters()).device)
        found = [None if mask is None else mask_pixels(mask, max_pixels=max_pixels) for mask in where]
        paintings = [style_tensor(style, style_size, max_pixels=max_pixels) for style in given]
        with torch.inference_mode(), exact():
            codes = [encoded(self.network, painting) for painting in paintings]
            self.quick = Inference.of(self.network, (codes[0].level3.mean,), dtype)  # once, for many photographs
        free = [k for k, mask in enumerate(found) if mask is None and weights[k] > 0]
        self.masked = [(codes[k], mask, weights[k]) for k, mask in enumerate(found) if mask is not None]
        self.free = mixed([codes[k] for k in free], [weights[k] for k in free]) if free else None

    @torch.inference_mode()
    def __call__(self, photograph: Pixels) -> Pixels:
        """The photograph painted: (H, W, 3) of 8 bits → the same, see `Photograph`.

        Raises
        ------
        ArgumentError
            It isn't such an array.
        DataError
            There isn't enough memory for it.
        """
        if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3 or not photograph.size:
            got = f"{photograph.dtype} of {photograph.shape}"
            raise ArgumentError("no photograph to paint", got=got, expected="(H, W, 3) of uint8")
        if self.strength == 0:
            return photograph
        try:
            painted = self._painted(photograph)
            return painted if self.strength == 1 else blended(photograph, painted, lambda _: self.strength)
        except (MemoryError, RuntimeError) as error:  # torch's is a RuntimeError, on the CPU without a type of its own
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            raise DataError(
                "the picture needs more memory than there is",
                got=f"{photograph.shape[1]}×{photograph.shape[0]}",
                remedy="scale it down, or paint it smaller with paint_size (--paint-size)",
            ) from None

    def _painted(self, photograph: Pixels) -> Pixels:
        size = photograph.shape[:2]
        canvas = photograph if self.paint_size is None else resized(photograph, _fitted(size, self.paint_size))

        def paint(code: StyleCode) -> Pixels:
            painted = resized(_rendered(self.quick, self.network, canvas, code), size)
            return with_colours_of(photograph, painted) if self.keep_colour else painted

        out = photograph if self.free is None else paint(self.free)
        if not self.masked:
            return out
        codes, given, weights = zip(*self.masked, strict=True)
        masks = [resized(mask, size, mode="bilinear") for mask in given]
        for k, code in enumerate(codes):

            def share(rows: slice, k: int = k) -> Tensor:
                return layers([as_numbers(mask[rows]) for mask in masks], weights)[k]

            if masks[k].any():
                out = blended(out, paint(code), share)
        return out


@with_options_of(Painter)
def stylize(content: Source, style: Source | Sequence[Source], **options: Unpack[PainterOptions]) -> Image.Image:
    """The photograph painted like the painting, in the photograph's size.

    Parameters
    ----------
    content : path, bytes, PIL picture, array or tensor
        See `Photograph.of`; of any size.
    style : the same, or a list or tuple of them
        At least 16 pixels a side.
    network, strength, keep_colour, style_weights, masks, style_size, paint_size, precision, device, max_pixels
        See `Painter`.

    Returns
    -------
    PIL.Image.Image
        RGB, or RGBA where the photograph has transparency; in sRGB, whatever profile the photograph has. (Files keep
        their profile: `folders.stylize_files`.)

    Raises
    ------
    FileError, DataError
        A picture or the weights can't be read.
    ShapeError
        A painting is too small, perhaps once it is scaled.
    ArgumentError
        See `Painter`.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> noise = np.random.default_rng(0).random((48, 65, 3)).astype("float32")
    >>> stylize(noise, noise[:32, :32], network=KBStyle(STUDENT), strength=0.5).size
    (65, 48)
    """
    painter = Painter(style, **options)
    photograph = Photograph.of(content, max_pixels=options.get("max_pixels"))
    return photograph.picture(painter(photograph.pixels))


def style_tensor(style: Source, longest: int = LONGEST_STYLE_SIDE, *, max_pixels: int | None = None) -> Tensor:
    """A painting as (1, 3, H, W) in 0..1, its longest side `longest`; what is transparent lies on white.

    Raises
    ------
    FileError, DataError, ShapeError, ArgumentError
        See `stylize`.

    Examples
    --------
    >>> style_tensor(Image.new("RGB", (300, 100)), longest=64).shape
    torch.Size([1, 3, 21, 64])
    """
    if longest < SMALLEST_SIDE:
        raise ArgumentError("style size", got=longest, expected=f"{SMALLEST_SIDE} pixels or more")
    found = Photograph.of(style, max_pixels=max_pixels)
    painting, alpha = found.pixels, found.alpha
    if alpha is not None:
        painting = blended(np.full_like(painting, 255), painting, lambda rows: as_numbers(alpha[rows]))
    _large_enough(painting, "painting")
    scaled = resized(painting, _fitted(painting.shape[:2], longest))
    return as_numbers(_large_enough(scaled, f"painting, scaled to {longest} pixels,"))


def render(network: KBStyle, content: Tensor, style: Tensor | StyleCode) -> Tensor:
    """Stylise tensors; the network's mode doesn't matter.

    Parameters
    ----------
    network : KBStyle
    content : Tensor
        (1, 3, H, W) in 0..1; sides below 16 pixels are grown by repeating the edge, and cut again.
    style : Tensor or StyleCode
        (1, 3, H′, W′) in 0..1, or its code, where one painting serves many photographs.

    Returns
    -------
    Tensor
        (1, 3, H, W), clamped to 0..1, where the content lies. Large pictures are painted in tiles, in steps of 1/255,
        and are the same but for that (see `tiles`).

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> net, photograph, painting = KBStyle(STUDENT), torch.rand(1, 3, 24, 40), torch.rand(1, 3, 32, 32)
    >>> torch.equal(render(net, photograph, painting), render(net, photograph, encoded(net, painting)))
    True
    """
    with torch.inference_mode():
        code = encoded(network, style) if isinstance(style, Tensor) else style
        return _render(Inference.of(network, (content, code.level3.mean)), network, content, code)


def _render(quick: Inference | KBStyle, network: KBStyle, content: Tensor, code: StyleCode) -> Tensor:
    at = next(network.parameters()).device
    height, width = content.shape[-2:]
    missing = (0, max(0, SMALLEST_SIDE - width), 0, max(0, SMALLEST_SIDE - height))
    grown = F.pad(content, missing, mode="replicate") if any(missing) else content
    with torch.inference_mode(), exact():
        if _is_large(network, height, width) and content.shape[0] == 1 == code.level3.mean.shape[0]:
            painted = render_tiles(network, as_pixels(grown), code)
            return as_numbers(painted[:height, :width]).to(content.device, content.dtype)
        return quick.render(grown.to(at), code)[..., :height, :width].clamp(0, 1).to(content.device)


def encoded(network: KBStyle, style: Tensor) -> StyleCode:
    """The code of a painting (1, 3, H, W) in 0..1, wherever it lies.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> encoded(KBStyle(STUDENT), torch.rand(1, 3, 24, 32)).level1.mean.shape
    torch.Size([1, 8, 1, 1])
    """
    style = style.to(next(network.parameters()).device)
    with torch.inference_mode(), exact():
        return Inference.of(network, (style,)).encode_style(style)


def _rendered(quick: Inference | KBStyle, network: KBStyle, pixels: Pixels, code: StyleCode) -> Pixels:
    """As `render`, of 8 bits."""
    height, width = pixels.shape[:2]
    if not _is_large(network, height, width):
        if isinstance(quick, Inference):
            with exact():
                return quick.paint(pixels, code)
        return as_pixels(_render(quick, network, as_numbers(pixels), code))
    missing = [(0, max(0, SMALLEST_SIDE - side)) for side in (height, width)]
    grown = np.pad(pixels, (*missing, (0, 0)), mode="edge") if min(height, width) < SMALLEST_SIDE else pixels
    with exact():
        return render_tiles(network, grown, code)[:height, :width]


def _is_large(network: KBStyle, height: int, width: int) -> bool:
    return network.config.widths[0] * height * width // 4 > TILED_FROM


def _placed(network: KBStyle | str | os.PathLike[str], device: str | torch.device | None) -> KBStyle:
    place = None if device is None else as_device(device)
    if not isinstance(network, KBStyle):
        return load_weights(network).to(place or "cpu")
    if place is None or next(network.parameters()).device == place:
        return network
    return copy.deepcopy(network).to(place)  # the caller's stays where it is


def _fitted(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Height and width in the same proportion, the longer one `longest`."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _large_enough(picture: Pixels, what: str) -> Pixels:
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ShapeError(
            f"the {what} is too small", got=f"{width}×{height}", expected=f"{SMALLEST_SIDE} pixels a side or more"
        )
    return picture
