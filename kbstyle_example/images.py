"""Pictures in and out: files, PIL pictures and arrays to tensors in 0..1, tensors to files, and sheets of many."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from kbstyle_example.files import write_atomically
from kbstyle_example.reading import opened, parts
from kbstyle_example.strips import as_pixels
from skd.errors import ArgumentError, DataError, FileError, ShapeError

if TYPE_CHECKING:  # see `strips`
    from torch import Tensor

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
Picture: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
CAPTION = 14  # pixels, the height of a caption's letters


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture upright, in sRGB, 8 bits a channel; what is transparent lies on white.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode but "F", see `reading.parts`.

    Raises
    ------
    DataError
        Its values are floating point numbers, whose range a file doesn't tell.

    Examples
    --------
    >>> half_red = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    >>> as_rgb(half_red).getpixel((0, 0))
    (255, 127, 127)
    """
    colour, alpha, _ = parts(image)
    if alpha is None:
        return colour.copy() if colour is image else colour
    above = colour.copy()
    above.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file, as `as_rgb` gives it.

    Raises
    ------
    FileError
        The file is missing, empty, not a picture, too large or damaged.
    DataError
        See `as_rgb`.

    Examples
    --------
    >>> open_picture("no-such-picture.png")
    Traceback (most recent call last):
    skd.errors.FileError: there is no such picture; got no-such-picture.png.
    """
    with opened(path) as image:
        return as_rgb(image)


def load_image(picture: Picture) -> Tensor:
    """A picture as the networks take it.

    Parameters
    ----------
    picture : path, PIL.Image.Image or ndarray
        Files and PIL pictures: see `as_rgb`. Arrays: (H, W), or (H, W, C) with 1 (grey), 3 (RGB) or 4 (RGBA)
        channels; uint8, uint16, bool, or floating point in 0..1.

    Returns
    -------
    Tensor
        (1, 3, H, W), float32, RGB in 0..1.

    Raises
    ------
    FileError
        The file is missing, empty, not a picture, or damaged.
    ShapeError, DataError
        The array has another shape, type or range.
    ArgumentError
        Neither a path nor a picture nor an array.

    Examples
    --------
    >>> load_image(np.full((2, 3), 51, dtype=np.uint8)).shape
    torch.Size([1, 3, 2, 3])
    """
    import torch

    if isinstance(picture, str | os.PathLike):
        pixels = _pixels(np.asarray(open_picture(picture)))
    elif isinstance(picture, Image.Image):
        try:
            pixels = _pixels(np.asarray(as_rgb(picture)))
        except OSError as error:  # PIL reads a file's pixels only now
            raise FileError("the picture can't be read", got=error) from None
    elif isinstance(picture, np.ndarray):
        pixels = _pixels(picture)
    else:
        raise ArgumentError(
            "a picture of an unknown kind", got=type(picture).__name__, expected="a path, a PIL picture or an array"
        )
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def _pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(H, W) or (H, W, C) → (H, W, 3) in 0..1."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ShapeError(
            "an array of the wrong shape for a picture",
            got=array.shape,
            expected="(H, W), or (H, W, C) with 1, 3 or 4 channels last",
        )
    if array.dtype in (np.uint8, np.uint16):
        pixels = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    elif array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        pixels = array.astype(np.float32)
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN fails it, too
            raise DataError(
                "an array of floating point numbers out of range",
                got=f"{pixels.min():g} to {pixels.max():g}",
                expected="0 to 1",
                remedy="divide by 255, or give uint8",
            )
    else:
        raise DataError("an array of the wrong type for a picture", got=array.dtype, expected="uint8 or float32")
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:]
        pixels = pixels[:, :, :3] * alpha + (1 - alpha)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def to_pil(image: Tensor) -> Image.Image:
    """A tensor as an 8-bit picture: clamped to 0..1 and rounded.

    Parameters
    ----------
    image : Tensor
        (3, H, W) or (1, 3, H, W), floating point, RGB in 0..1.

    Raises
    ------
    ShapeError, NonFiniteError
        Not one RGB picture; NaN or infinite.

    Examples
    --------
    >>> import torch
    >>> to_pil(torch.tensor([-1.0, 0.499, 2.0]).view(3, 1, 1)).getpixel((0, 0))
    (0, 127, 255)
    """
    single = image[0] if image.dim() == 4 and len(image) == 1 else image
    if single.dim() != 3 or single.shape[0] != 3 or not single.is_floating_point() or not single.numel():
        raise ShapeError(
            "not a picture", got=f"{tuple(image.shape)}, {image.dtype}", expected="(3, H, W) or (1, 3, H, W), float"
        )
    return Image.fromarray(as_pixels(single[None]))


def save_image(image: Tensor, path: str | os.PathLike[str], *, quality: int = 95) -> None:
    """Write a picture; what stood there before is replaced whole or not at all.

    Parameters
    ----------
    image : Tensor
        (3, H, W) or (1, 3, H, W) in 0..1; clamped and rounded.
    path : path
        Its ending chooses the format, see `FORMATS`.
    quality : int
        Of JPEG and WebP, 1 to 100.

    Raises
    ------
    ArgumentError
        The path's ending names none of the formats.
    ShapeError, NonFiniteError
        See `to_pil`.
    FileError
        It can't be written there.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_image(torch.zeros(3, 4, 5), Path(folder, "black.png"))
    ...     load_image(Path(folder, "black.png")).shape
    torch.Size([1, 3, 4, 5])
    """
    target = Path(path)
    kind = FORMATS.get(target.suffix.lower())
    if kind is None:
        raise ArgumentError("no format for this file", got=str(path), expected=f"an ending of {', '.join(FORMATS)}")
    encoded = io.BytesIO()
    to_pil(image).save(encoded, kind, quality=quality)
    write_atomically(encoded.getvalue(), target, what="the picture")


def grid(
    images: Sequence[Sequence[Tensor | None]],
    *,
    columns: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    margin: int = 4,
) -> Tensor:
    """Pictures side by side on white, for looking at.

    Parameters
    ----------
    images : rows of Tensor or None
        (3, H, W) or (1, 3, H, W) in 0..1 each, of any sizes: each stands in the middle of its cell. None stays empty.
    columns, rows : sequence of str, optional
        Captions above the columns, and (turned) left of the rows; shortened where they don't fit.
    margin : int
        Pixels around every cell.

    Returns
    -------
    Tensor
        (1, 3, H, W) in 0..1, on the CPU.

    Raises
    ------
    DataError
        No picture at all, rows of different lengths, or another number of captions.
    ShapeError, NonFiniteError
        See `to_pil`.

    Examples
    --------
    >>> import torch
    >>> photo, painting = torch.zeros(3, 20, 30), torch.ones(3, 10, 10)
    >>> grid([[None, photo], [painting, photo]], margin=1).shape
    torch.Size([1, 3, 43, 43])
    """
    cells = [[None if image is None else to_pil(image) for image in row] for row in images]
    if len({len(row) for row in cells}) != 1 or not any(cell for row in cells for cell in row):
        raise DataError("not a grid of pictures", got=f"rows of {[len(row) for row in cells]}", expected="equal rows")
    if margin < 0:
        raise ArgumentError("margin of a grid", got=margin, expected="0 or more pixels")
    for name, captions, count in (("columns", columns, len(cells[0])), ("rows", rows, len(cells))):
        if captions is not None and len(captions) != count:
            raise DataError(f"captions of the {name}", got=len(captions), expected=count)
    heights = [max((cell.height for cell in row if cell), default=0) for row in cells]
    widths = [max((cell.width for cell in column if cell), default=0) for column in zip(*cells, strict=True)]
    strip = CAPTION * 3 // 2
    lefts = _starts(widths, margin, margin + (strip if rows else 0))
    tops = _starts(heights, margin, margin + (strip if columns else 0))
    sheet = Image.new("RGB", (lefts[-1], tops[-1]), "white")
    for row, top, height in zip(cells, tops, heights, strict=False):
        for cell, left, width in zip(row, lefts, widths, strict=False):
            if cell:
                sheet.paste(cell, (left + (width - cell.width) // 2, top + (height - cell.height) // 2))
    for text, left, width in zip(columns or (), lefts, widths, strict=False):
        sheet.paste(_caption(text, width, strip), (left, margin))
    for text, top, height in zip(rows or (), tops, heights, strict=False):
        sheet.paste(_caption(text, height, strip).transpose(Image.Transpose.ROTATE_90), (margin, top))
    return load_image(sheet)


def _starts(sizes: Sequence[int], margin: int, first: int) -> list[int]:
    """Where each cell begins, and where one more would."""
    starts = [first]
    for size in sizes:
        starts.append(starts[-1] + size + margin)
    return starts


def _caption(text: str, width: int, height: int) -> Image.Image:
    """Black letters in the middle of white."""
    font = ImageFont.load_default(CAPTION)
    shown = text
    while shown and font.getlength(shown) > width:
        text = text[:-1]
        shown = text and text + "…"
    strip = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(strip).text((width / 2, height / 2), shown, fill="black", font=font, anchor="mm")
    return strip
