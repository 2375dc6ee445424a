"""Colour profiles: conversions by hand, what is kept, and profiles that are damaged or of other channels."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from kbstyle_example.photograph import Photograph
from kbstyle_example.profiles import from_srgb, to_srgb
from kbstyle_example.reading import parts

# --- profiles built by hand from the ICC's specification (ICC.1:2001-04), and what they mean --------------------------

GAMMA = 563 / 256  # 2.19921875, as Adobe RGB (1998) has it
# Columns: red, green and blue in XYZ, adapted to D50.
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def profile(space: str) -> bytes:
    """A display profile of space "RGB " (Adobe's primaries) or "GRAY"."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(GAMMA * 256))
    name = b"Wide\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
    }
    if space == "GRAY":
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip((b"r", b"g", b"b"), ADOBE.T, strict=True):
            tags[letter + b"XYZ"] = xyz(*column)
            tags[letter + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x02400000, b"mntr", space.encode(), b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body


def adobe_to_srgb(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(…, 3) in 0..255 → sRGB in 0..255, unrounded; beyond sRGB's colours it is cut off."""
    linear = np.linalg.solve(SRGB, ADOBE @ ((pixels.reshape(-1, 3) / 255.0) ** GAMMA).T).T.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(encoded.reshape(pixels.shape) * 255)


WIDE, GREY = profile("RGB "), profile("GRAY")


RGB = np.random.default_rng(0).integers(100, 160, (6, 7, 3), dtype=np.uint8)  # of both gamuts


def tagged(image: Image.Image, profile: object) -> Image.Image:
    image.info["icc_profile"] = profile
    return image


def numbers(image: Image.Image) -> np.ndarray[Any, Any]:
    assert image.mode == "RGB"
    return np.asarray(image, dtype=float)


def test_a_wide_profile_by_hand() -> None:
    found, kept = to_srgb(tagged(Image.fromarray(RGB), WIDE))
    np.testing.assert_allclose(numbers(found), adobe_to_srgb(RGB), atol=1.5)
    assert np.abs(numbers(found) - RGB).max() > 10  # it isn't nothing
    assert kept == WIDE
    assert "icc_profile" not in found.info
    back, profile = from_srgb(found, WIDE)
    np.testing.assert_allclose(numbers(back), RGB, atol=2)
    assert profile == WIDE


def test_srgb_isnt_converted() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found, kept = to_srgb(tagged(Image.fromarray(RGB), profile))
    np.testing.assert_array_equal(numbers(found), RGB)
    assert kept == profile
    assert from_srgb(Image.fromarray(RGB), profile)[1] == profile
    np.testing.assert_array_equal(numbers(from_srgb(Image.fromarray(RGB), profile)[0]), RGB)


def test_a_grey_profile() -> None:
    grey = Image.fromarray(RGB[..., 0])
    found, kept = to_srgb(tagged(grey.copy(), GREY))
    linear = (RGB[..., 0] / 255.0) ** (563 / 256)
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(numbers(found), np.dstack([wanted] * 3), atol=1.5)
    assert kept is None  # a painting isn't grey


def test_a_grey_picture_tagged_in_rgb() -> None:
    found, kept = to_srgb(tagged(Image.fromarray(RGB[..., 0]), WIDE))
    np.testing.assert_allclose(numbers(found), adobe_to_srgb(np.dstack([RGB[..., 0]] * 3)), atol=1.5)
    assert kept == WIDE


@pytest.mark.parametrize("profile", [b"", b"not a profile", None, "text", "wide, cut", "grey"])
def test_profiles_that_cant_be_used_are_left_aside(profile: Any) -> None:
    given = {"wide, cut": WIDE[:150], "grey": GREY}.get(profile, profile)
    found, kept = to_srgb(tagged(Image.fromarray(RGB), given))
    np.testing.assert_array_equal(numbers(found), RGB)
    assert kept is None


@pytest.mark.parametrize("profile", [None, b"", b"not a profile", "grey"])
def test_none_to_write(profile: Any) -> None:
    image, kept = from_srgb(Image.fromarray(RGB), GREY if profile == "grey" else profile)
    np.testing.assert_array_equal(numbers(image), RGB)
    assert kept is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_modes_without_a_profile(mode: str) -> None:
    image = Image.fromarray(RGB).convert("RGB").convert(mode)
    np.testing.assert_array_equal(numbers(to_srgb(image)[0]), numbers(image.convert("RGB")))


def test_lab() -> None:
    # L 53.24, a 80.09, b 67.20 (D65) is sRGB's red; D50-adapted: 54.29, 80.81, 69.89.
    lab = Image.new("LAB", (2, 2), (round(54.29 * 2.55), 128 + 81, 128 + 70))
    np.testing.assert_allclose(numbers(to_srgb(lab)[0]), np.broadcast_to((255.0, 0.0, 0.0), (2, 2, 3)), atol=6)


def test_the_same_bytes_each_time() -> None:
    first, second = (io.BytesIO(), io.BytesIO())
    for file in (first, second):
        image, profile = from_srgb(Image.fromarray(RGB), WIDE)
        image.save(file, "PNG", icc_profile=profile)
    assert first.getvalue() == second.getvalue()


def test_transparency_keeps_the_profile() -> None:
    opaque = np.full(RGB.shape[:2], 255, dtype=np.uint8)
    image = Image.fromarray(np.dstack([RGB // 2 + 64, opaque]))
    image.info["icc_profile"] = WIDE
    found = parts(image)
    assert found.profile == WIDE
    np.testing.assert_allclose(np.asarray(found.colour), adobe_to_srgb(RGB // 2 + 64), atol=1.5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_files_keep_their_profile_and_their_colours(kind: str) -> None:
    file = io.BytesIO()
    smooth = Image.fromarray(RGB).resize((40, 30), Image.Resampling.BICUBIC)
    options = {} if kind == "TIFF" else {"quality": 100}
    smooth.save(file, kind, icc_profile=WIDE, **options)
    photograph = Photograph.of(file.getvalue())
    painted = photograph.picture(photograph.pixels)
    assert np.abs(numbers(painted) - adobe_to_srgb(np.asarray(smooth))).mean() < 2
    assert np.abs(numbers(painted) - np.asarray(smooth)).mean() > 2.5  # it was converted
    assert "icc_profile" not in painted.info  # it is sRGB now
    with Image.open(io.BytesIO(photograph.encoded(photograph.pixels, kind, quality=100))) as found:
        assert found.info["icc_profile"] == WIDE
        assert np.abs(numbers(found) - np.asarray(smooth)).mean() < 2.5


def test_a_cmyk_photograph_is_written_in_srgb() -> None:
    file = io.BytesIO()
    Image.new("CMYK", (20, 16), (0, 255, 255, 0)).save(file, "JPEG", icc_profile=GREY)  # not even of its channels
    photograph = Photograph.of(file.getvalue())
    with Image.open(io.BytesIO(photograph.encoded(photograph.pixels, "JPEG"))) as found:
        assert found.mode == "RGB"
        assert "icc_profile" not in found.info or found.info["icc_profile"] is None
        np.testing.assert_allclose(numbers(found), np.broadcast_to((255.0, 0.0, 0.0), (16, 20, 3)), atol=6)
