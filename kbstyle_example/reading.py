"""Opening pictures: what can go wrong is said in one typed error, and what a file holds is taken apart."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from kbstyle_example.profiles import to_srgb
from skd.errors import DataError, FileError, SkdError

# What is taken for a picture in a folder, and named in errors; a name given outright may have any ending.
READABLE = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


class Parts(NamedTuple):
    """A picture taken apart, all of one size."""

    colour: Image.Image  # RGB, in sRGB
    alpha: Image.Image | None  # L; 255 is opaque
    profile: bytes | None  # to write an RGB picture with, see `profiles.to_srgb`


def parts(image: Image.Image) -> Parts:
    """The picture upright, in sRGB, its transparency beside it.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode but "F". Its EXIF orientation is applied. 16-bit grey is scaled (PIL's own conversion would clip it).
        Of several frames, the one that it stands at.

    Raises
    ------
    DataError
        Its values are floating point numbers, whose range a file doesn't tell.

    Examples
    --------
    >>> half_red = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    >>> found = parts(half_red)
    >>> found.colour.getpixel((0, 0)), found.alpha.getpixel((0, 0))
    ((255, 0, 0), 128)
    """
    image.load()  # some formats tell how the picture stands only behind it
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # which would copy it in any case
    if upright.mode == "F":
        raise DataError("a picture of floating point numbers has no known range", remedy="save it with 8 or 16 bits")
    alpha = None
    if upright.mode.startswith("I"):
        # A transparent grey value, as 16-bit PNG may have, is let go: the whole picture is kept.
        grey = Image.fromarray(((np.asarray(upright).clip(0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8))
        grey.info.update({key: value for key, value in upright.info.items() if key == "icc_profile"})
        upright = grey
    elif upright.has_transparency_data:
        profile = upright.info.get("icc_profile")
        above = upright.convert("LA") if upright.mode == "La" else upright
        above = above if above.mode == "RGBA" else above.convert("RGBA")
        alpha = above.getchannel("A")
        upright = above.convert("RGB")
        upright.info.clear()
        if profile:
            upright.info["icc_profile"] = profile
    colour, kept = to_srgb(upright)
    return Parts(colour, alpha, kept)


@contextlib.contextmanager
def opened(source: str | os.PathLike[str] | bytes, *, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """A picture's file, open; whatever is raised in reading it becomes a typed error that names the file.

    Parameters
    ----------
    source : path or bytes
        Bytes are a file's content, as stdin gives it.
    max_pixels : int, optional
        Larger pictures are refused before they are unpacked: a small file can hold so many pixels that no memory takes
        them. Twice ``PIL.Image.MAX_IMAGE_PIXELS`` where not given, which is PIL's own limit.

    Raises
    ------
    FileError
        It is missing, empty, not a picture, too large or damaged.

    Examples
    --------
    >>> with opened(b""):
    ...     pass
    Traceback (most recent call last):
    skd.errors.FileError: the picture's file is empty; got stdin.
    """
    name = "stdin" if isinstance(source, bytes) else os.fspath(source)
    try:
        with _lifted() as limit:
            most = limit if max_pixels is None else max_pixels
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if most is not None and image.width * image.height > most:
                    got = f"{name} with {image.width * image.height:,} pixels"
                    raise FileError(
                        "the picture is too large",
                        got=got,
                        expected=f"at most {most:,}",
                        remedy="scale it down, or allow more with max_pixels (--max-pixels)",
                    )
                yield image
    except DataError as error:  # of a picture that doesn't know its file's name
        raise DataError(error.what, got=error.got or name, expected=error.expected, remedy=error.remedy) from None
    except (SkdError, MemoryError):
        raise
    except FileNotFoundError:
        raise FileError("there is no such picture", got=name) from None
    except UnidentifiedImageError:
        if not (len(source) if isinstance(source, bytes) else os.path.getsize(source)):
            raise FileError("the picture's file is empty", got=name) from None
        raise FileError("the file isn't a picture", got=name, expected=f"one of {', '.join(READABLE)}") from None
    except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, IndexError …
        reason = getattr(error, "strerror", None) or error
        raise FileError("the picture can't be read", got=f"{name} ({type(error).__name__}: {reason})") from None


@contextlib.contextmanager
def _lifted() -> Iterator[int | None]:
    """PIL's limit set aside, and what it was; also what PIL says of metadata that it can't make sense of."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield None if before is None else 2 * before
    finally:
        Image.MAX_IMAGE_PIXELS = before
