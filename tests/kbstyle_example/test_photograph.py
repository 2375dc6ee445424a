"""Photographs: every kind of source, transparency that isn't painted with, and files that hold the painting whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbstyle_example.photograph import ENDINGS, Photograph, filled
from skd.errors import ArgumentError, DataError, FileError, ShapeError

RGB = np.random.default_rng(0).integers(0, 256, (17, 20, 3), dtype=np.uint8)
ALPHA = np.linspace(0, 255, 340).reshape(17, 20).astype(np.uint8)
LOSSLESS = ("PNG", "TIFF", "BMP")


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def reopened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


# --- reading ---------------------------------------------------------------------------------------------------------


def test_every_source_gives_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.png")
    tensor = torch.from_numpy(RGB).permute(2, 0, 1) / 255
    sources = (tmp_path / "a.png", str(tmp_path / "a.png"), file(image), image, RGB, RGB / 255, tensor, tensor[None])
    for source in sources:
        found = Photograph.of(source)
        assert found.size == (20, 17)
        assert found.alpha is None
        np.testing.assert_array_equal(found.pixels, RGB)
    assert [Photograph.of(source).format for source in sources] == ["PNG"] * 3 + [None] * 5


def test_every_source_with_transparency() -> None:
    rgba = np.dstack([RGB, ALPHA])
    tensor = torch.from_numpy(rgba).permute(2, 0, 1) / 255
    seen = np.dstack([ALPHA] * 3) > 0
    for source in (file(Image.fromarray(rgba)), Image.fromarray(rgba), rgba, rgba / 255, tensor, tensor[None]):
        found = Photograph.of(source)
        assert found.alpha is not None
        np.testing.assert_array_equal(found.alpha, ALPHA)
        np.testing.assert_array_equal(found.pixels[seen], RGB[seen])


@pytest.mark.parametrize(("kind", "format"), [("GIF", None), ("PPM", None), ("JPEG", "JPEG"), ("WEBP", "WEBP")])
def test_formats_that_can_be_written_are_known(kind: str, format: str | None) -> None:
    assert Photograph.of(file(Image.fromarray(RGB), kind)).format == format


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    found = Photograph.of(file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(found.pixels[0, 0], (255, 0, 0))


def test_what_isnt_a_photograph() -> None:
    with pytest.raises(FileError, match="the picture's file is empty; got stdin"):
        Photograph.of(b"")
    with pytest.raises(FileError, match=r"too large; got stdin with 340 pixels; expected at most 339"):
        Photograph.of(file(Image.fromarray(RGB)), max_pixels=339)
    with pytest.raises(ShapeError, match=r"a tensor of the wrong shape for a picture; got \(2, 3, 4, 4\)"):
        Photograph.of(torch.zeros(2, 3, 4, 4))
    with pytest.raises(DataError, match=r"a tensor of the wrong type for a picture; got torch\.uint8"):
        Photograph.of(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(DataError, match="out of range; got 0 to 2"):
        Photograph.of(torch.linspace(0, 2, 48).view(3, 4, 4))
    with pytest.raises(DataError, match="out of range"):
        Photograph.of(np.full((4, 4, 4), 1.5))
    with pytest.raises(ArgumentError, match="unknown kind; got int"):
        Photograph.of(3)  # type: ignore[arg-type]
    broken = Image.open(io.BytesIO(file(Image.fromarray(RGB.repeat(9, 0)), "JPEG")[:900]))
    with pytest.raises(FileError, match=r"the picture can't be read; got .*truncated"):
        Photograph.of(broken)
    with pytest.raises(DataError, match="no known range"):
        Photograph.of(Image.new("F", (3, 3)))


# --- transparency ----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 2**31))
def test_what_is_seen_stays_and_what_is_hidden_has_colours_from_it(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    colour = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    alpha = random.integers(-255, 256, (height, width)).clip(0, 255).astype(np.uint8)
    found, seen = filled(colour, alpha), alpha > 0
    np.testing.assert_array_equal(found[seen], colour[seen])
    for k in range(3 if bool(seen.any()) else 0):
        shown = colour[..., k][seen]
        assert shown.min() <= found[..., k].min() <= found[..., k].max() <= shown.max()


def test_hidden_colours_come_from_nearby() -> None:
    colour = np.zeros((32, 32, 3), np.uint8)
    colour[:, :8], colour[:, -8:] = 51, 204
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:, 8:-8] = 0
    found = filled(colour, alpha)[16, :, 0].astype(int)
    assert np.abs(found[8:12] - 51).max() < 13
    assert np.abs(found[-12:-8] - 204).max() < 13
    assert not colour[:, 8:-8].any()  # the caller's stays as it is
    assert filled(RGB, np.ones_like(ALPHA)) is RGB
    assert (filled(RGB, np.zeros_like(ALPHA)) == 255).all()  # nothing is known of it


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENDINGS)
def test_files_hold_the_painting(kind: str) -> None:
    photograph = Photograph.of(RGB)
    smooth = Image.fromarray(RGB).resize((5, 4)).resize((20, 17), Image.Resampling.BICUBIC)
    painted = Photograph.of(smooth).pixels
    found = reopened(photograph.encoded(painted, kind))
    assert (found.format, found.mode, found.size) == (kind, "RGB", (20, 17))
    np.testing.assert_allclose(np.asarray(found, dtype=int), painted.astype(int), atol=0 if kind in LOSSLESS else 12)
    assert photograph.encoded(painted, kind) == photograph.encoded(painted, kind)


@pytest.mark.parametrize("kind", ENDINGS)
def test_transparency_is_kept_where_it_can_be(kind: str) -> None:
    photograph = Photograph.of(np.dstack([RGB, ALPHA]))
    found = reopened(photograph.encoded(photograph.pixels, kind, quality=100))
    if kind in ("JPEG", "BMP"):
        assert found.mode == "RGB"
        white = 255 - ALPHA[:2, :, None] * (1 - photograph.pixels[:2] / 255)
        np.testing.assert_allclose(np.asarray(found)[:2], white, atol=8 if kind == "JPEG" else 1.5)
    else:
        assert found.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(found)[..., 3], ALPHA)


def test_metadata_that_isnt_of_the_painting_is_left_out() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    photograph = Photograph.of(file(Image.fromarray(RGB), "JPEG", exif=exif))
    assert photograph.size == (17, 20)  # upright
    found = reopened(photograph.encoded(photograph.pixels, "JPEG"))
    assert found.size == (17, 20)
    assert not found.getexif()


def test_other_qualities_and_mistakes() -> None:
    photograph = Photograph.of(RGB)
    assert len(photograph.encoded(photograph.pixels, "JPEG", quality=20)) < len(
        photograph.encoded(photograph.pixels, "JPEG", quality=90)
    )
    for quality in (0, 101, 95.0, True):
        with pytest.raises(ArgumentError, match=f"quality of a picture; got {quality}; expected an integer from 1"):
            photograph.encoded(photograph.pixels, "JPEG", quality=quality)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no format for pictures; got GIF; expected one of JPEG, PNG"):
        photograph.encoded(photograph.pixels, "GIF")


@pytest.mark.parametrize(("kind", "width"), [("WEBP", 16384), ("JPEG", 65536)])
def test_sizes_that_a_format_cant_hold(kind: str, width: int) -> None:
    photograph = Photograph(np.zeros((1, width, 3), np.uint8))
    with pytest.raises(FileError, match=f"can't be written as {kind}; got {width}×1 .*Remedy: choose another format"):
        photograph.encoded(photograph.pixels, kind)
