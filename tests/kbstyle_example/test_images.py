"""Pictures in and out: every mode and orientation against numpy, typed errors, atomic writes, sheets."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from kbstyle_example import images
from kbstyle_example.images import as_rgb, grid, load_image, open_picture, save_image, to_pil
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError, ShapeError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
# EXIF orientation → what has to be done to the stored pixels (EXIF 2.32, table 4).
UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


def pixels(image: torch.Tensor) -> np.ndarray[Any, Any]:
    """(1, 3, H, W) in 0..1 → (H, W, 3) in 0..255, unrounded."""
    return image[0].permute(1, 2, 0).double().numpy() * 255


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_files_keep_every_value(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path)
    for given_path in (path, str(path)):
        image = load_image(given_path)
        assert image.dtype == torch.float32
        assert image.is_contiguous()
        np.testing.assert_allclose(pixels(image), RGB, atol=1e-4)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(pixels(load_image(tmp_path / "a.png")), UPRIGHT[orientation](RGB), atol=1e-4)
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_allclose(pixels(load_image(opened)), UPRIGHT[orientation](RGB), atol=1e-4)


def test_orientations_differ() -> None:
    assert len({UPRIGHT[o](RGB).tobytes() + bytes(UPRIGHT[o](RGB).shape) for o in UPRIGHT}) == 8


def test_transparent_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.linspace(0, 255, 35).reshape(5, 7).astype(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(pixels(load_image(tmp_path / "a.png")), RGB * alpha + 255 * (1 - alpha), atol=1)
    np.testing.assert_allclose(pixels(load_image(rgba)), RGB * alpha + 255 * (1 - alpha), atol=1e-3)


def test_transparent_grey_lies_on_white(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 51)]).save(tmp_path / "a.png")
    np.testing.assert_allclose(pixels(load_image(tmp_path / "a.png")), 204, atol=1)


@pytest.mark.parametrize("transparency", [None, 1, b"\xff\x00"])
def test_palette(tmp_path: Path, transparency: int | bytes | None) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    palette.save(tmp_path / "a.png", **options)
    second = (200, 100, 50) if transparency is None else (255, 255, 255)
    np.testing.assert_allclose(pixels(load_image(tmp_path / "a.png")), [[(10, 20, 30), second]], atol=1e-4)


def test_grey_bilevel_and_cmyk(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_allclose(pixels(load_image(tmp_path / "grey.png")), np.dstack([RGB[..., 0]] * 3), atol=1e-4)
    Image.new("1", (2, 3), 1).save(tmp_path / "bilevel.png")
    np.testing.assert_allclose(pixels(load_image(tmp_path / "bilevel.png")), 255)
    Image.new("CMYK", (2, 3), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    np.testing.assert_allclose(pixels(load_image(tmp_path / "cmyk.tif")), np.broadcast_to((255, 0, 0), (3, 2, 3)))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    wanted = np.rint(grey / 257)[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(pixels(load_image(tmp_path / "a.png")), wanted, atol=1e-4)
    np.testing.assert_allclose(pixels(load_image(Image.fromarray(grey.astype(np.int32)))), wanted, atol=1e-4)
    np.testing.assert_allclose(pixels(load_image(grey)), grey[..., None].repeat(3, axis=2) / 257, atol=1e-3)


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.float32, np.float64, np.bool_]),
        st.one_of(
            hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
            st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])),
        ),
        elements={"min_value": 0, "max_value": 1},
    )
)
def test_arrays_are_scaled_by_their_type(array: np.ndarray[Any, Any]) -> None:
    largest = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    colour = array[..., None] if array.ndim == 2 else array
    wanted = np.broadcast_to(colour / largest, (*array.shape[:2], 3)).transpose(2, 0, 1)[None]
    torch.testing.assert_close(load_image(array), torch.tensor(wanted, dtype=torch.float32))


def test_the_picture_given_stays_as_it_was() -> None:
    picture, array = Image.fromarray(RGB), RGB.copy()
    load_image(picture).zero_()
    load_image(array).zero_()
    np.testing.assert_array_equal(np.asarray(picture), RGB)
    np.testing.assert_array_equal(array, RGB)


# --- what isn't a picture --------------------------------------------------------------------------------------------


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such picture"),
        (b"", "the picture's file is empty"),
        (b"not a picture at all", "the file isn't a picture"),
        (jpeg()[:900], "the picture can't be read.*truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "the file isn't a picture|the picture can't be read"),
    ],
    ids=["missing", "empty", "text", "truncated", "damaged"],
)
def test_file_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=message) as error:
        load_image(path)
    assert str(path) in str(error.value)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"can't be read.*IsADirectoryError"):
        open_picture(tmp_path)


def test_a_truncated_picture_opened_by_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg()[:900])
    with Image.open(tmp_path / "a.jpg") as picture, pytest.raises(FileError, match=r"can't be read.*truncated"):
        load_image(picture)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FileError, match=r"too large.*Remedy: scale it down"):
        load_image(tmp_path / "a.png")


def test_floating_point_pictures_have_no_range(tmp_path: Path) -> None:
    Image.new("F", (2, 2)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="no known range"):
        load_image(tmp_path / "a.tif")
    with pytest.raises(DataError, match="no known range"):
        as_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (3, 5, 5), (2, 2, 3, 1), (0, 3), (0, 2, 3)])
def test_arrays_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=rf"got {re.escape(str(shape))[:4]}.*channels last"):
        load_image(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf])
def test_arrays_out_of_range(value: float) -> None:
    with pytest.raises(DataError, match=r"out of range.*divide by 255"):
        load_image(np.full((2, 2), value))


def test_other_types() -> None:
    with pytest.raises(DataError, match=r"wrong type.*int64"):
        load_image(np.zeros((2, 2), dtype=np.int64))
    with pytest.raises(ArgumentError, match="unknown kind; got list"):
        load_image([[0, 0]])  # type: ignore[arg-type]


# --- writing ---------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-2, 3, width=32)))
def test_pixels_are_clamped_and_rounded(values: np.ndarray[Any, Any]) -> None:
    wanted = np.rint(np.clip(values.transpose(1, 2, 0), 0, 1) * np.float32(255))
    for image in (torch.from_numpy(values), torch.from_numpy(values)[None]):
        np.testing.assert_array_equal(np.asarray(to_pil(image)), wanted)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_saved_and_loaded(tmp_path: Path, suffix: str) -> None:
    image = load_image(RGB)
    save_image(image, tmp_path / f"a{suffix}")
    torch.testing.assert_close(load_image(tmp_path / f"a{suffix}"), image, rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_saved_with_loss(tmp_path: Path, suffix: str) -> None:
    image = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    for quality in (30, 95):
        save_image(image, tmp_path / f"{quality}{suffix}", quality=quality)
    torch.testing.assert_close(load_image(tmp_path / f"95{suffix}"), image, rtol=0, atol=0.04)
    assert (tmp_path / f"30{suffix}").stat().st_size < (tmp_path / f"95{suffix}").stat().st_size


def test_saving_takes_tensors_that_need_a_gradient_or_are_half(tmp_path: Path) -> None:
    save_image(torch.full((3, 2, 2), 0.5, requires_grad=True), tmp_path / "a.png")
    save_image(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_failing_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "a.png"
    save_image(torch.zeros(3, 2, 2), path)
    before = path.read_bytes()
    write = Path.write_bytes

    def fail(self: Path, *args: Any) -> None:
        write(self, b"half a fi")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, fail)
        with pytest.raises(FileError, match=r"can't be written.*No space left on device"):
            save_image(torch.ones(3, 2, 2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    save_image(torch.ones(3, 2, 2), path)
    assert path.read_bytes() != before


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"can't be written.*No such file or directory"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "missing" / "a.png")


def test_cleaning_up_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match=r"the picture can't be written.*Not a directory"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "file" / "a.png")


@pytest.mark.parametrize("name", ["a", "a.gif", "a.pdf"])
def test_unknown_formats(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"no format for this file.*\.png"):
        save_image(torch.zeros(3, 2, 2), tmp_path / name)


@pytest.mark.parametrize(
    "image",
    [torch.zeros(2, 3, 4, 4), torch.zeros(4, 4, 3), torch.zeros(4, 4), torch.zeros(3, 0, 4)],
    ids=lambda image: str(tuple(image.shape)),
)
def test_not_one_picture(image: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match=rf"not a picture; got {re.escape(str(tuple(image.shape)))}"):
        to_pil(image)


def test_bytes_are_no_picture_in_0_to_1() -> None:
    with pytest.raises(ShapeError, match=r"torch\.uint8"):
        to_pil(torch.zeros(3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        to_pil(torch.full((3, 2, 2), value))


# --- sheets ----------------------------------------------------------------------------------------------------------


def flat(value: float, height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), float(value))


def test_cells_stand_where_they_should() -> None:
    sheet = grid([[None, flat(0.0, 4, 6)], [flat(0.2, 2, 2)[None], flat(0.4, 8, 4)]], margin=3)
    wanted = torch.ones(1, 3, 3 + 4 + 3 + 8 + 3, 3 + 2 + 3 + 6 + 3)
    wanted[..., 3:7, 8:14] = 0.0
    wanted[..., 10 + 3 : 10 + 5, 3:5] = 0.2  # in the middle of a cell 8 high and 2 wide
    wanted[..., 10:18, 9:13] = 0.4
    torch.testing.assert_close(sheet, wanted)


def test_captions_are_drawn_in_their_strips_alone() -> None:
    cells = [[flat(0.5, 60, 80), flat(0.5, 60, 80)], [flat(0.5, 60, 80), flat(0.5, 60, 80)]]
    plain = grid(cells)
    both = grid(cells, columns=["photo", ""], rows=["Harvest", "a name much too long for this row"])
    strip = both.shape[2] - plain.shape[2]
    assert strip == both.shape[3] - plain.shape[3] > 0
    begin = strip + 4  # of the first cell; the strips lie between it and the margin
    torch.testing.assert_close(both[..., begin:, begin:], plain[..., 4:, 4:])
    ink = both < 0.45
    top, left = ink[..., :begin, begin:], ink[..., begin:, :begin]
    assert top[..., :80].any()
    assert not top[..., 80:].any()  # the second caption is empty
    assert left[..., :60, :].any()
    assert left[..., 64:124, :].any()
    assert not left[..., [*range(60, 64), *range(124, 128)], :].any()  # none leaves its row
    assert not ink[..., :4, :].any()
    assert not ink[..., :begin, :begin].any()


def test_captions_of_columns_alone() -> None:
    assert grid([[flat(0.5, 9, 9)]], columns=["a"]).shape[2:] == (9 + 8 + 21, 9 + 8)
    assert grid([[flat(0.5, 9, 9)]], rows=["a"]).shape[2:] == (9 + 8, 9 + 8 + 21)


@given(st.text(max_size=40), st.integers(0, 60))
def test_any_caption_fits(text: str, width: int) -> None:
    assert images._caption(text, width, 21).size == (width, 21)


@pytest.mark.parametrize("rows", [[], [[]], [[None], [None]], [[flat(0, 2, 2)], [flat(0, 2, 2), flat(0, 2, 2)]]])
def test_no_grid(rows: list[list[torch.Tensor | None]]) -> None:
    with pytest.raises(DataError, match="not a grid of pictures"):
        grid(rows)


def test_wrong_number_of_captions_and_margin() -> None:
    with pytest.raises(DataError, match="captions of the columns; got 2; expected 1"):
        grid([[flat(0, 2, 2)]], columns=["a", "b"])
    with pytest.raises(DataError, match="captions of the rows; got 0; expected 1"):
        grid([[flat(0, 2, 2)]], rows=[])
    with pytest.raises(ArgumentError, match="margin of a grid; got -1"):
        grid([[flat(0, 2, 2)]], margin=-1)
