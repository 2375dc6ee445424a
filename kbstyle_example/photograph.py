"""A photograph as the tool keeps it: its pixels, and all that its painting's file needs again."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.images import FORMATS, Picture, load_image, to_pil
from kbstyle_example.profiles import from_srgb
from kbstyle_example.reading import opened, parts
from skd.errors import ArgumentError, DataError, FileError, ShapeError, SkdError

Source: TypeAlias = Picture | Tensor | bytes
OPAQUE = ("JPEG", "BMP")  # transparency lies on white there
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"TIFF": {"compression": "tiff_deflate"}, "JPEG": {"subsampling": 0}}


@dataclass(frozen=True)
class Photograph:
    """A picture to paint.

    Parameters
    ----------
    colour : Tensor
        (1, 3, H, W), float32, sRGB in 0..1. Where it is transparent, the colours around.
    alpha : Tensor, optional
        (1, 1, H, W) in 0..1, 1 opaque.
    profile : bytes, optional
        The ICC profile of its file, if it is one of RGB.
    format : str, optional
        PIL's name of its file's format, if pictures can be written in it.

    Examples
    --------
    >>> Photograph.of(Image.new("LA", (5, 4), (0, 255))).alpha.shape
    torch.Size([1, 1, 4, 5])
    """

    colour: Tensor
    alpha: Tensor | None = None
    profile: bytes | None = None
    format: str | None = None

    @classmethod
    def of(cls, source: Source, *, max_pixels: int | None = None) -> Photograph:
        """Read a picture.

        Parameters
        ----------
        source : path, bytes, PIL.Image.Image, ndarray or Tensor
            Bytes are a file's content. PIL pictures: any mode but "F". Arrays: see `images.load_image`. Tensors:
            (3, H, W) or (1, 3, H, W), floating point in 0..1; four channels for transparency.
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
        if isinstance(source, Tensor):
            source = _array(source)
        if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] == 4:
            opaque, above = load_image(source[..., :3]), load_image(source[..., 3])[:, :1]
            return cls(filled(opaque, above), above)
        return cls(load_image(source))

    @classmethod
    def _of_image(cls, image: Image.Image) -> Photograph:
        colour, alpha, profile = parts(image)
        pixels = load_image(np.asarray(colour))
        kind = "JPEG" if image.format == "MPO" else image.format  # what phones write with a depth map or a second view
        kind = kind if kind in FORMATS.values() else None
        if alpha is None:
            return cls(pixels, None, profile, kind)
        above = load_image(np.asarray(alpha))[:, :1]
        return cls(filled(pixels, above), above, profile, kind)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.colour.shape[-1], self.colour.shape[-2]

    def picture(self, painted: Tensor) -> Image.Image:
        """A painting of it as a PIL picture in sRGB, with its transparency: RGB or RGBA."""
        image = to_pil(painted)
        if self.alpha is not None:
            image.putalpha(Image.fromarray((self.alpha[0, 0] * 255).round().to(torch.uint8).numpy()))
        return image

    def encoded(self, painted: Tensor, kind: str, *, quality: int = 95) -> bytes:
        """A painting of it as a picture file: its transparency and its profile kept, nothing else of its metadata.

        Parameters
        ----------
        painted : Tensor
            (1, 3, H, W), sRGB in 0..1.
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
        >>> photograph.encoded(photograph.colour, "PNG")[1:4]
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
        image, profile = from_srgb(image.convert("RGB"), self.profile)
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


def filled(colour: Tensor, alpha: Tensor) -> Tensor:
    """The colours, and around what is seen the nearest of them, so that no hidden colour is painted with.

    What files hold under full transparency is anything, mostly black; the network would paint its edge, and take its
    colour into the picture's statistics. Each coarser level of a pyramid knows colours further away.

    Parameters
    ----------
    colour : Tensor
        (B, 3, H, W) in 0..1.
    alpha : Tensor
        (B, 1, H, W) in 0..1; only where it is 0 are colours replaced.

    Examples
    --------
    >>> hidden = torch.tensor([0.25, 0.9]).expand(1, 3, 1, 2)
    >>> filled(hidden, torch.tensor([[[[0.1, 0.0]]]]))[0, 0]
    tensor([[0.2500, 0.2500]])
    """
    seen = alpha > 0
    if seen.all():
        return colour
    if not seen.any():
        return torch.ones_like(colour)
    weight = alpha
    total = colour * weight
    levels = []
    while max(weight.shape[-2:]) > 1:
        levels.append((total, weight))
        odd = (0, weight.shape[-1] % 2, 0, weight.shape[-2] % 2)
        total, weight = (F.avg_pool2d(F.pad(x, odd), 2) for x in (total, weight))
    tiny = torch.finfo(weight.dtype).tiny
    found = total / weight.clamp(min=tiny)
    for total, weight in reversed(levels):
        coarse = F.interpolate(found, scale_factor=2.0, mode="nearest")[..., : weight.shape[-2], : weight.shape[-1]]
        found = torch.where(weight > 0, total / weight.clamp(min=tiny), coarse)
    return torch.where(seen, colour, found.clamp(0, 1))


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
