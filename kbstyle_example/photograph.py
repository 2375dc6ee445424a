"""A photograph as the tool keeps it: its pixels, and all that its painting's file needs again."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from kbstyle_example.images import FORMATS, Picture, load_image
from kbstyle_example.profiles import from_srgb
from kbstyle_example.reading import opened, parts
from kbstyle_example.strips import Pixels, as_pixels, strips
from skd.errors import ArgumentError, DataError, FileError, ShapeError, SkdError

if TYPE_CHECKING:  # see `strips`
    from torch import Tensor

    Source: TypeAlias = Picture | Tensor | bytes
else:
    Source = Any
Numbers: TypeAlias = npt.NDArray[np.float32]
OPAQUE = ("JPEG", "BMP")  # transparency lies on white there
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"TIFF": {"compression": "tiff_deflate"}, "JPEG": {"subsampling": 0}}


@dataclass(frozen=True)
class Photograph:
    """A picture to paint, in 8 bits a channel.

    Parameters
    ----------
    pixels : array of uint8
        (H, W, 3), sRGB. Where it is transparent, the colours around.
    alpha : array of uint8, optional
        (H, W), 255 opaque.
    profile : bytes, optional
        The ICC profile of its file, if it is one of RGB.
    format : str, optional
        PIL's name of its file's format, if pictures can be written in it.

    Examples
    --------
    >>> Photograph.of(Image.new("LA", (5, 4), (0, 255))).alpha.shape
    (4, 5)
    """

    pixels: Pixels
    alpha: Pixels | None = None
    profile: bytes | None = None
    format: str | None = None

    @classmethod
    def of(cls, source: Source, *, max_pixels: int | None = None) -> Photograph:
        """Read a picture.

        Parameters
        ----------
        source : path, bytes, PIL.Image.Image, ndarray or Tensor
            Bytes are a file's content. PIL pictures: any mode but "F". Arrays: see `images.load_image`. Tensors:
            (3, H, W) or (1, 3, H, W), floating point in 0..1; four channels for transparency. All is rounded to 8 bits.
        max_pixels : int, optional
            See `reading.opened`.

        Raises
        ------
        FileError
            It is missing, empty, not a picture, too large or damaged.
        ShapeError, DataError, ArgumentError
            An array or tensor of another shape, type or range; an object of another kind.
        """
        if isinstance(source, str | os.PathLike | bytes):
            with opened(source, max_pixels=max_pixels) as image:
                return cls._of_image(image)
        if isinstance(source, Image.Image):
            try:
                return cls._of_image(source)
            except SkdError:
                raise
            except (OSError, SyntaxError, ValueError) as error:  # PIL reads a file's pixels only now
                raise FileError("the picture can't be read", got=error) from None
        torch: Any = sys.modules.get("torch")  # without it, it is no tensor
        if torch is not None and isinstance(source, torch.Tensor):
            source = _array(source)
        source = cast("Picture", source)
        if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] == 4:
            colour, alpha = (as_pixels(load_image(part)) for part in (source[..., :3], source[..., 3]))
            return cls(filled(colour, alpha[..., 0]), np.ascontiguousarray(alpha[..., 0]))
        if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3:
            return cls(source)
        return cls(as_pixels(load_image(source)))

    @classmethod
    def _of_image(cls, image: Image.Image) -> Photograph:
        colour, alpha, profile = parts(image)
        kind = "JPEG" if image.format == "MPO" else image.format  # what phones write with a depth map or a second view
        kind = kind if kind in FORMATS.values() else None
        pixels = _pixels(colour)
        if alpha is None:
            return cls(pixels, None, profile, kind)
        above = _pixels(alpha)
        return cls(filled(pixels, above), above, profile, kind)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def picture(self, painted: Pixels) -> Image.Image:
        """A painting of it, (H, W, 3), as a PIL picture in sRGB, with its transparency: RGB or RGBA."""
        image = Image.fromarray(painted)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        return image

    def encoded(self, painted: Pixels, kind: str, *, quality: int = 95) -> bytes:
        """A painting of it as a picture file: its transparency and its profile kept, nothing else of its metadata.

        Parameters
        ----------
        painted : array of uint8
            (H, W, 3), sRGB.
        kind : str
            PIL's name of the format: "JPEG", "PNG", "WEBP", "BMP" or "TIFF". JPEG and BMP have no transparency here:
            what is transparent lies on white.
        quality : int
            Of JPEG and WebP, 1 to 100.

        Raises
        ------
        ArgumentError
            A quality or a format that isn't one.
        FileError
            The format can't hold it (WebP ends at 16,383 pixels a side, JPEG at 65,535).

        Examples
        --------
        >>> photograph = Photograph.of(Image.new("RGB", (20, 16), "red"))
        >>> photograph.encoded(photograph.pixels, "PNG")[1:4]
        b'PNG'
        """
        if kind not in ENDINGS:
            raise ArgumentError("no format for pictures", got=kind, expected=f"one of {', '.join(ENDINGS)}")
        if type(quality) is not int or not 1 <= quality <= 100:
            raise ArgumentError("quality of a picture", got=quality, expected="an integer from 1 to 100")
        image = self.picture(painted)
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        if alpha is not None and kind in OPAQUE:
            image, alpha = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image), None
        image, profile = from_srgb(image if image.mode == "RGB" else image.convert("RGB"), self.profile)
        if alpha is not None:
            image.putalpha(alpha)
        options = {**OPTIONS.get(kind, {}), **({} if profile is None else {"icc_profile": profile})}
        if kind in ("JPEG", "WEBP"):
            options["quality"] = quality
        file = io.BytesIO()
        try:
            image.save(file, kind, **options)
        except (OSError, ValueError, SystemError) as error:
            size = f"{self.size[0]}×{self.size[1]}"
            raise FileError(
                f"the picture can't be written as {kind}", got=f"{size} ({error})", remedy="choose another format"
            ) from None
        return file.getvalue()


def filled(colour: Pixels, alpha: Pixels) -> Pixels:
    """The colours, and around what is seen the nearest of them, so that no hidden colour is painted with.

    What files hold under full transparency is anything, mostly black; the network would paint its edge, and take its
    colour into the picture's statistics. Each coarser level of a pyramid knows colours further away.

    Parameters
    ----------
    colour : array of uint8
        (H, W, 3).
    alpha : array of uint8
        (H, W); only where it is 0 are colours replaced.

    Examples
    --------
    >>> hidden = np.array([[[64, 64, 64], [230, 230, 230]]], np.uint8)
    >>> filled(hidden, np.array([[26, 0]], np.uint8))[0, :, 0]
    array([64, 64], dtype=uint8)
    """
    if alpha.all():
        return colour
    if not alpha.any():
        return np.full_like(colour, 255)
    rows = list(strips(*alpha.shape))
    total, weight = (np.concatenate(sums) for sums in zip(*(_halves(colour[r], alpha[r]) for r in rows), strict=True))
    levels = []
    while max(weight.shape[:2]) > 1:
        levels.append((total, weight))
        total, weight = _halved(total), _halved(weight)
    tiny = np.finfo(np.float32).tiny
    found = total / np.maximum(weight, tiny)
    for total, weight in reversed(levels):
        coarse = found.repeat(2, axis=0).repeat(2, axis=1)[: weight.shape[0], : weight.shape[1]]
        found = np.where(weight > 0, total / np.maximum(weight, tiny), coarse)
    around, out = (found * 255).clip(0, 255).round().astype(np.uint8), colour.copy()
    for part in rows:
        near = around[part.start // 2 : -(-part.stop // 2)].repeat(2, axis=0).repeat(2, axis=1)
        hidden = alpha[part] == 0
        out[part][hidden] = near[: hidden.shape[0], : hidden.shape[1]][hidden]
    return out


def _halves(colour: Pixels, alpha: Pixels) -> tuple[Numbers, Numbers]:
    """Means over squares of 2 pixels: of the colour times its alpha, and of the alpha, (H, W, 3) and (H, W, 1)."""
    weight = alpha[..., None].astype(np.float32) / np.float32(255)
    return _halved(colour.astype(np.float32) / np.float32(255) * weight), _halved(weight)


def _halved(image: Numbers) -> Numbers:
    """Half the height and width, rounded up; beyond the edge is nothing."""
    height, width, channels = image.shape
    whole = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)))
    means: Numbers = whole.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).mean((1, 3), dtype=np.float32)
    return means


def _pixels(image: Image.Image) -> Pixels:
    """An RGB or L picture's, copied strip by strip: PIL would make two copies of the whole on the way."""
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    pixels = np.empty(shape, np.uint8)
    for rows in strips(*shape[:2]):
        pixels[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
    return pixels


def _array(image: Tensor) -> np.ndarray[Any, Any]:
    single = image[0] if image.dim() == 4 and len(image) == 1 else image
    if single.dim() != 3 or single.shape[0] not in (1, 3, 4) or not single.numel():
        raise ShapeError(
            "a tensor of the wrong shape for a picture", got=tuple(image.shape), expected="(3, H, W) or (1, 3, H, W)"
        )
    if not single.is_floating_point():
        raise DataError("a tensor of the wrong type for a picture", got=image.dtype, expected="floats in 0..1")
    array: np.ndarray[Any, Any] = single.detach().float().cpu().permute(1, 2, 0).numpy()
    return array
