"""Opening pictures: every mode taken apart, limits on pixels, and one typed error for each kind of damage."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbstyle_example.reading import opened, parts
from skd.errors import DataError, FileError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
MODES = (
    *("1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK"),
    *("YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "I;16L"),
)
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


@settings(max_examples=60)
@given(st.sampled_from(MODES), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_every_mode_size_and_orientation(mode: str, width: int, height: int, orientation: int) -> None:
    image = Image.new(mode, (width, height))
    image.getexif()[0x0112] = orientation
    colour, alpha, profile = parts(image)
    expected = (height, width) if orientation >= 5 else (width, height)
    assert (colour.mode, colour.size, profile) == ("RGB", expected, None)
    assert (alpha is not None) == (mode in WITH_ALPHA)
    if alpha is not None:
        assert (alpha.mode, alpha.size) == ("L", expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_comes_apart(mode: str) -> None:
    alpha = np.linspace(0, 255, 35).reshape(5, 7).astype(np.uint8)
    grey = RGB[..., 0]
    image = {
        "RGBA": lambda: Image.fromarray(np.dstack([RGB, alpha])),
        "LA": lambda: Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]),
    }[mode]()
    found = parts(image)
    assert found.alpha is not None
    np.testing.assert_array_equal(np.asarray(found.alpha), alpha)
    np.testing.assert_array_equal(np.asarray(found.colour), RGB if mode == "RGBA" else np.dstack([grey] * 3))


def test_transparent_palette_and_key(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=1)
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(tmp_path / "k.png", transparency=(4, 5, 6))
    for name in ("p.png", "k.png"):
        with opened(tmp_path / name) as image:
            alpha = parts(image).alpha
        assert alpha is not None
        assert list(alpha.tobytes()) == [255, 0]


def test_16_bit_grey_is_scaled() -> None:
    grey = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    wanted = np.rint(grey / 257).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(parts(Image.fromarray(grey)).colour), np.dstack([wanted] * 3))


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour(channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (4, 5, channels)).astype(">u2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 5, 4, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with opened(content) as image:
        found = parts(image)
    np.testing.assert_allclose(np.asarray(found.colour), values[..., :3] / 257, atol=1)
    assert (found.alpha is None) == (channels == 3)
    if found.alpha is not None:
        np.testing.assert_allclose(np.asarray(found.alpha), values[..., 3] / 257, atol=1)


def test_floating_point(tmp_path: Path) -> None:
    Image.new("F", (2, 2)).save(tmp_path / "a.tif")
    with (
        pytest.raises(DataError, match=r"no known range; got .*a\.tif\. Remedy: save"),
        opened(tmp_path / "a.tif") as image,
    ):
        parts(image)
    with pytest.raises(DataError, match="no known range"):
        parts(Image.new("F", (2, 2)))


# --- damage ----------------------------------------------------------------------------------------------------------


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the picture's file is empty"),
        (b"not a picture at all", r"the file isn't a picture; got .*; expected one of \.avif"),
        (png()[:5000], r"the picture can't be read; got .* \(OSError: .*truncated"),
        (png()[:40] + b"\0" * 60, "the picture can't be read|isn't a picture"),
    ],
    ids=["empty", "text", "truncated", "damaged"],
)
def test_files_and_bytes_that_arent_pictures(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for source, name in ((tmp_path / "a.png", str(tmp_path / "a.png")), (content, "stdin")):
        with pytest.raises(FileError, match=message) as error, opened(source) as image:
            parts(image)
        assert name in str(error.value)


def test_missing_folder_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"no such picture; got .*missing\.png"), opened(tmp_path / "missing.png"):
        pass
    with pytest.raises(FileError, match=r"can't be read; got .*\(IsADirectoryError|PermissionError"), opened(tmp_path):
        pass

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # for root, nothing is unreadable
    with pytest.raises(FileError, match=r"got a\.png \(PermissionError: Permission denied\)"), opened("a.png"):
        pass


@settings(max_examples=40)
@given(st.data())
def test_no_damage_escapes_untyped(data: st.DataObject) -> None:
    content = bytearray(png())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FileError), opened(bytes(content[: data.draw(st.integers(1, len(content)))])) as image:
        parts(image)


# --- bombs -----------------------------------------------------------------------------------------------------------


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(
        FileError, match=r"too large; got .*a\.png with 600 pixels; expected at most 599. Remedy: scale"
    ):
        read(tmp_path / "a.png", 599)
    assert read(tmp_path / "a.png", 600) == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)  # PIL warns from there, and refuses at twice as many
    with pytest.raises(FileError, match="expected at most 598"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "a.png") == (30, 20)
    assert Image.MAX_IMAGE_PIXELS == 300
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read(tmp_path / "a.png", 600) == (30, 20)  # lifted
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(tmp_path / "a.png") == (30, 20)


def test_a_bomb_isnt_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("1", (20000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 50_000

    def unpack(*_: object) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", unpack)
    with pytest.raises(FileError, match="the picture is too large; got stdin with 180,000,000 pixels"):
        read(file.getvalue())


def test_the_limit_is_put_back_after_an_error() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(FileError):
        read(b"no picture")
    assert before == Image.MAX_IMAGE_PIXELS


def read(source: Path | bytes, max_pixels: int | None = None) -> tuple[int, int]:
    with opened(source, max_pixels=max_pixels) as image:
        image.load()
        return image.size
