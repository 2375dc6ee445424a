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
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError, ShapeError

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


def numbers(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor[0].permute(1, 2, 0).double().numpy() * 255


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
        np.testing.assert_allclose(numbers(found.colour), RGB, atol=1e-4)
    assert [Photograph.of(source).format for source in sources] == ["PNG"] * 3 + [None] * 5


def test_every_source_with_transparency() -> None:
    rgba = np.dstack([RGB, ALPHA])
    tensor = torch.from_numpy(rgba).permute(2, 0, 1) / 255
    seen = np.dstack([ALPHA] * 3) > 0
    for source in (file(Image.fromarray(rgba)), Image.fromarray(rgba), rgba, rgba / 255, tensor, tensor[None]):
        found = Photograph.of(source)
        assert found.alpha is not None
        np.testing.assert_allclose(numbers(found.alpha)[..., 0], ALPHA, atol=1e-4)
        np.testing.assert_allclose(numbers(found.colour)[seen], RGB[seen], atol=1e-4)


@pytest.mark.parametrize(("kind", "format"), [("GIF", None), ("PPM", None), ("JPEG", "JPEG"), ("WEBP", "WEBP")])
def test_formats_that_can_be_written_are_known(kind: str, format: str | None) -> None:
    assert Photograph.of(file(Image.fromarray(RGB), kind)).format == format


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    found = Photograph.of(file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(numbers(found.colour)[0, 0], (255, 0, 0))


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
    random = torch.Generator().manual_seed(seed)
    colour = torch.rand(1, 3, height, width, generator=random)
    alpha = (torch.rand(1, 1, height, width, generator=random) - 0.5).clamp(min=0)
    found = filled(colour, alpha)
    seen = (alpha > 0).expand_as(colour)
    assert torch.equal(found[seen], colour[seen])
    for k in range(3 if bool(seen.any()) else 0):
        shown = colour[0, k][alpha[0, 0] > 0]
        assert shown.min() - 1e-5 <= found[0, k].min() <= found[0, k].max() <= shown.max() + 1e-5


def test_hidden_colours_come_from_nearby() -> None:
    colour = torch.zeros(1, 3, 32, 32)
    colour[..., :8], colour[..., -8:] = 0.2, 0.8
    alpha = torch.ones(1, 1, 32, 32)
    alpha[..., 8:-8] = 0
    found = filled(colour, alpha)[0, 0, 16]
    assert float((found[8:12] - 0.2).abs().max()) < 0.05
    assert float((found[-12:-8] - 0.8).abs().max()) < 0.05
    opaque = torch.rand(1, 3, 4, 4)
    assert filled(opaque, torch.ones(1, 1, 4, 4)) is opaque
    assert filled(opaque, torch.zeros(1, 1, 4, 4)).eq(1).all()  # nothing is known of it


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENDINGS)
def test_files_hold_the_painting(kind: str) -> None:
    photograph = Photograph.of(RGB)
    smooth = Image.fromarray(RGB).resize((5, 4)).resize((20, 17), Image.Resampling.BICUBIC)
    painted = Photograph.of(smooth).colour
    found = reopened(photograph.encoded(painted, kind))
    assert (found.format, found.mode, found.size) == (kind, "RGB", (20, 17))
    np.testing.assert_allclose(np.asarray(found, dtype=int), numbers(painted), atol=0.5 if kind in LOSSLESS else 12)
    assert photograph.encoded(painted, kind) == photograph.encoded(painted, kind)


@pytest.mark.parametrize("kind", ENDINGS)
def test_transparency_is_kept_where_it_can_be(kind: str) -> None:
    photograph = Photograph.of(np.dstack([RGB, ALPHA]))
    found = reopened(photograph.encoded(photograph.colour, kind, quality=100))
    if kind in ("JPEG", "BMP"):
        assert found.mode == "RGB"
        white = 255 - ALPHA[:2, :, None] * (1 - numbers(photograph.colour)[:2] / 255)
        np.testing.assert_allclose(np.asarray(found)[:2], white, atol=8 if kind == "JPEG" else 1.5)
    else:
        assert found.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(found)[..., 3], ALPHA)


def test_metadata_that_isnt_of_the_painting_is_left_out() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    photograph = Photograph.of(file(Image.fromarray(RGB), "JPEG", exif=exif))
    assert photograph.size == (17, 20)  # upright
    found = reopened(photograph.encoded(photograph.colour, "JPEG"))
    assert found.size == (17, 20)
    assert not found.getexif()


def test_other_qualities_and_mistakes() -> None:
    photograph = Photograph.of(RGB)
    assert len(photograph.encoded(photograph.colour, "JPEG", quality=20)) < len(
        photograph.encoded(photograph.colour, "JPEG", quality=90)
    )
    for quality in (0, 101, 95.0, True):
        with pytest.raises(ArgumentError, match=f"quality of a picture; got {quality}; expected an integer from 1"):
            photograph.encoded(photograph.colour, "JPEG", quality=quality)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no format for pictures; got GIF; expected one of JPEG, PNG"):
        photograph.encoded(photograph.colour, "GIF")
    with pytest.raises(NonFiniteError, match="NaN"):
        photograph.encoded(photograph.colour * torch.nan, "PNG")


@pytest.mark.parametrize(("kind", "width"), [("WEBP", 16384), ("JPEG", 65536)])
def test_sizes_that_a_format_cant_hold(kind: str, width: int) -> None:
    photograph = Photograph(torch.zeros(1, 3, 1, width))
    with pytest.raises(FileError, match=f"can't be written as {kind}; got {width}×1 .*Remedy: choose another format"):
        photograph.encoded(photograph.colour, kind)
