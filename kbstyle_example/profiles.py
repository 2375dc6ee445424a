"""Colour profiles: from whatever a file holds to sRGB, which the networks take, and back."""

from __future__ import annotations

import functools
import io
import itertools
from typing import Any

import numpy as np
from PIL import Image, ImageCms

INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
NEAR = 2  # of 255: profiles that differ less from sRGB say the same by other words


def to_srgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """A picture without transparency as RGB in sRGB, and the profile to write its painting with.

    Parameters
    ----------
    image : PIL.Image.Image
        Of 8 bits a channel or fewer, in any mode. Its profile is ``image.info["icc_profile"]``; one that is damaged or
        of other channels than the picture's is left aside, as if there were none.

    Returns
    -------
    Image, bytes or None
        The profile if it is one of RGB: a painting has colours, so a grey or CMYK photograph's profile can't be kept.

    Examples
    --------
    >>> to_srgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))[0].getpixel((0, 0))
    (255, 0, 0)
    """
    if image.mode == "LAB":  # its numbers mean the same in every file
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), _srgb()), None
    profile = image.info.get("icc_profile")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "CMYK"):
        image = _rgb(image)
    source = _usable(profile)
    if source is None:
        return _rgb(image), None
    channels = source.profile.xcolor_space.strip()
    if channels == "RGB" and image.mode == "L":  # a grey file tagged by a tool that thinks in RGB
        image = _rgb(image)
    if channels != {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[image.mode]:
        return _rgb(image), None
    if channels == "RGB" and _is_srgb(profile):
        return image, profile
    try:
        return _transformed(image, source, _srgb()), profile if channels == "RGB" else None
    except (ImageCms.PyCMSError, ValueError):
        return _rgb(image), None


def from_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """An RGB picture in sRGB, in the colours of a profile, and that profile; untagged sRGB where it can't be had.

    Examples
    --------
    >>> from_srgb(Image.new("RGB", (1, 1), (10, 20, 30)), None)[0].getpixel((0, 0))
    (10, 20, 30)
    """
    target = _usable(profile)
    if profile is None or target is None:
        return image, None
    if _is_srgb(profile):
        return image, profile
    try:
        return _transformed(image, _srgb(), target), profile
    except (ImageCms.PyCMSError, ValueError):  # a scanner's profile leads one way only
        return image, None


def _rgb(image: Image.Image) -> Image.Image:
    """PIL copies a picture even where there is nothing to convert."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _usable(profile: Any) -> ImageCms.ImageCmsProfile | None:
    if not isinstance(profile, bytes) or not profile:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, ImageCms.PyCMSError):
        return None


def _transformed(image: Image.Image, source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile) -> Image.Image:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    out = ImageCms.profileToProfile(image, source, target, renderingIntent=INTENT, outputMode="RGB", flags=flags)
    if out is None:
        raise ValueError("no picture came of the transform")
    out.info.pop("icc_profile", None)
    return out


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.lru_cache(maxsize=8)
def _is_srgb(profile: bytes) -> bool:
    """Whether 125 colours stay as they are: sRGB comes in many files, and converting it would only round."""
    levels = list(itertools.product(range(0, 256, 51), repeat=3))
    cube = Image.fromarray(np.array([levels], dtype=np.uint8))
    source = _usable(profile)
    try:
        found = None if source is None else _transformed(cube, source, _srgb())
    except (ImageCms.PyCMSError, ValueError):
        return False
    return found is not None and int(np.abs(np.asarray(found, dtype=int) - np.asarray(cube)).max()) <= NEAR
