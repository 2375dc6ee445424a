"""Which pictures are for what, which can be used, and crops that depend on the seed and the index alone."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from kbstyle_example.data import LARGEST_UPSCALE, Pictures, StylePairs, list_pictures
from kbstyle_example.splits import Split, digest_of_names, half, of_split, split
from skd.errors import ArgumentError, DataError

# --- the split -------------------------------------------------------------------------------------------------------


# python -c "import hashlib; print(int(hashlib.sha256('tower.jpg'.encode()).hexdigest(), 16) % 20)" → 0, 1, 2, 7
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("tower.jpg", "validation"), ("picture5.jpg", "test"), ("wave.jpg", "train"), ("Ölgemälde.jpg", "train")],
)
def test_the_split_is_fixed(name: str, wanted: str) -> None:
    remainder = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 20
    assert {0: "validation", 1: "test"}.get(remainder, "train") == wanted
    for path in (name, Path(name), Path("photos", name), f"/elsewhere/test/{name}", Path("..", name)):
        assert split(path) == wanted


def test_shares_of_the_split() -> None:
    paths = [Path(f"folder{i % 7}", f"picture-{i}.jpg") for i in range(4000)]
    parts = {name: of_split(paths, name) for name in get_args(Split)}
    for name, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        # four standard deviations of a binomial
        assert abs(len(parts[name]) - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5
    assert sorted(path for part in parts.values() for path in part) == sorted(paths)  # each in one of them


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1), st.text("ab/.", max_size=6))
def test_the_folder_does_not_matter(name: str, folder: str) -> None:
    if name != ".":
        assert split(f"{folder}/{name}") == split(name)


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda n: n not in (".", "..")
    )
)
def test_the_halves_agree_with_the_split(name: str) -> None:
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    assert half(f"folder/{name}") == ("validation", "test")[number % 2]
    assert split(name) in ("train", half(name))


def test_names_that_are_not_utf_8_are_split_by_their_bytes() -> None:
    for index in range(40):
        raw = b"\xff%d.jpg" % index
        remainder = int(hashlib.sha256(raw).hexdigest(), 16) % 20
        name = raw.decode("utf-8", "surrogateescape")
        assert split(name) == {0: "validation", 1: "test"}.get(remainder, "train")


def test_of_split_keeps_the_order_and_may_be_empty() -> None:
    paths = [Path("b/wave.jpg"), Path("tower.jpg"), Path("a/wave.jpg")]
    assert of_split(iter(paths), "train") == [paths[0], paths[2]]
    assert of_split(paths, "validation") == [paths[1]]
    assert of_split(paths, "test") == []


def test_mistakes_with_the_split() -> None:
    with pytest.raises(ArgumentError, match=r"no such split; got 'Test'; expected one of train, validation, test"):
        of_split([Path("wave.jpg")], "Test")  # type: ignore[arg-type]
    for path in ("", "/", "."):
        with pytest.raises(ArgumentError, match=r"a path without a file name"):
            split(path)


# --- folders and files -----------------------------------------------------------------------------------------------


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def good(tmp_path: Path) -> list[Path]:
    """Four pictures of different shapes."""
    folder = tmp_path / "good"
    folder.mkdir()
    for index, (width, height) in enumerate([(40, 30), (24, 50), (64, 64), (90, 33)]):
        picture(width, height, index).save(folder / f"{index}.png")
    return list_pictures(folder)


def truncated() -> bytes:
    file = io.BytesIO()
    picture(64, 64).save(file, "JPEG")
    return file.getvalue()[:900]


def test_list_pictures_looks_into_folders(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for name in ("b/deep/z.PNG", "b/a.webp", "c.jpeg", "notes.txt", "jpg", "a.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list_pictures(str(tmp_path)) == [
        tmp_path / name for name in ("a.tiff", "b/a.webp", "b/deep/z.PNG", "c.jpeg")
    ]


def test_no_folder_and_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder of pictures; got .*missing"):
        list_pictures(tmp_path / "missing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no folder of pictures; got .*notes\.txt"):
        list_pictures(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"no pictures in the folder; got .*; expected files ending in .*\.jpg"):
        list_pictures(tmp_path)
    with pytest.raises(DataError, match=r"no pictures; got an empty list"):
        Pictures([])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (truncated(), "the picture can't be read"),
        (b"not a picture at all", "the file isn't a picture"),
        (b"", "the picture's file is empty"),
        (None, "there is no such picture"),
    ],
    ids=["truncated", "text", "empty", "missing"],
)
def test_what_can_not_be_read_is_skipped_and_counted(
    tmp_path: Path, good: list[Path], content: bytes | None, reason: str
) -> None:
    bad = tmp_path / "bad.jpg"
    if content is not None:
        bad.write_bytes(content)
    pictures = Pictures([good[0], bad, good[1]])
    assert pictures.open(0).size == (40, 30)
    assert pictures.skipped == {}
    for _ in range(2):
        assert pictures.open(1).size == (24, 50)  # the next one
        assert list(pictures.skipped) == [bad]
    assert pictures.skipped[bad].startswith(reason)
    assert len(pictures) == 3

    pictures = Pictures([good[0], bad])
    assert pictures.open(1).size == (40, 30)  # after the last comes the first


def test_a_skipped_picture_is_not_opened_again(
    good: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = Image.open

    def note(path: Any, *args: Any) -> Any:
        opened.append(path)
        return original(path, *args)

    monkeypatch.setattr(Image, "open", note)
    (tmp_path / "bad.png").write_text("no")
    pictures = Pictures([tmp_path / "bad.png", good[0]])
    for _ in range(3):
        pictures.open(0)
    assert opened == [tmp_path / "bad.png", *[good[0]] * 3]


def test_too_small_is_skipped(tmp_path: Path) -> None:
    for short in (41, 42):  # 56 / 1.35 = 41.5
        picture(80, short).save(tmp_path / f"{short}.png")
    pairs = StylePairs(list_pictures(tmp_path), list_pictures(tmp_path), crop=56, length=8)
    for index in range(8):
        pairs[index]
    assert pairs.contents.skipped == {tmp_path / "41.png": "80×41 is too small for this crop"}
    assert pairs.styles.skipped == pairs.contents.skipped
    assert Pictures([tmp_path / "41.png"], smallest=41).open(0).size == (80, 41)


def test_none_can_be_used(tmp_path: Path, good: list[Path]) -> None:
    (tmp_path / "a.png").write_text("no")
    picture(10, 10).save(tmp_path / "b.png")
    pairs = StylePairs(good, [tmp_path / "a.png", tmp_path / "b.png"], crop=16, length=1)
    for _ in range(2):  # the second time all are known to be unusable
        with pytest.raises(DataError, match=r"none of the pictures can be used; got 2 skipped; [ab]\.png: "):
            pairs[0]


# --- samples ---------------------------------------------------------------------------------------------------------


def equal(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_sample_depends_on_seed_and_index_alone(good: list[Path]) -> None:
    first = StylePairs(good, good[::-1], crop=16, length=12, seed=5)
    wanted = [first[index] for index in range(12)]
    torch.manual_seed(99)
    again = StylePairs(good, good[::-1], crop=16, length=40, seed=5)  # the length doesn't matter either
    for index in (7, 3, 3, 11, 0, 7):
        np.random.default_rng().random()
        torch.rand(3)
        assert equal(again[index], wanted[index])
    assert not any(equal(wanted[i], wanted[j]) for i in range(12) for j in range(i))


def test_skipped_files_do_not_make_samples_depend_on_the_order(good: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    paths = [good[0], bad, *good[1:]]
    forwards, backwards = (StylePairs(paths, paths, crop=16, length=20) for _ in range(2))
    there = [forwards[index] for index in range(20)]
    back = [backwards[index] for index in reversed(range(20))][::-1]
    assert all(equal(a, b) for a, b in zip(there, back, strict=True))
    assert list(forwards.contents.skipped) == [bad]


def test_other_seeds_give_other_samples(good: list[Path]) -> None:
    one, other = (StylePairs(good, good, crop=16, length=6, seed=seed) for seed in (0, 1))
    assert not any(equal(one[index], other[index]) for index in range(6))


def test_the_asked_share_of_paintings_is_recoloured(good: list[Path]) -> None:
    plain, varied = (StylePairs(good, good, crop=16, length=200, vary_colours=share) for share in (0.0, 0.25))
    changed = 0
    for index in range(200):
        (content, style), (same, other) = plain[index], varied[index]
        assert torch.equal(content, same)
        changed += not torch.equal(style, other)
        assert 0 <= other.min() <= other.max() <= 1
    assert abs(changed - 50) < 3 * (200 * 0.25 * 0.75) ** 0.5


def test_the_asked_share_of_paintings_has_finer_strokes(good: list[Path]) -> None:
    never, always = (StylePairs(good, good, crop=16, length=200, vary_strokes=share) for share in (0.0, 1.0))
    mirrored = 0
    for index in range(200):
        (content, style), (same, other) = never[index], always[index]
        assert torch.equal(content, same)
        assert style.shape == other.shape
        assert 0 <= other.min() <= other.max() <= 1
        mirrored += torch.equal(other, other.flip(1)) and torch.equal(other, other.flip(2))
    assert abs(mirrored - 100) < 3 * (200 * 0.25) ** 0.5


def test_a_digest_of_names() -> None:
    names = ["b.png", "ä.jpg", os.fsdecode(b"\xff.png")]
    wanted = hashlib.sha256(b"b.png\n\xc3\xa4.jpg\n\xff.png").hexdigest()[:16]
    assert digest_of_names([Path("folder", name) for name in names]) == f"3 files {wanted}"
    assert digest_of_names([Path(name) for name in names]) == f"3 files {wanted}"  # wherever they lie
    assert digest_of_names([Path(name) for name in reversed(names)]) != f"3 files {wanted}"  # samples follow the order
    assert digest_of_names([]).startswith("0 files ")


def test_what_samples_depend_on(good: list[Path]) -> None:
    usual: dict[str, Any] = {"contents": good, "styles": good, "crop": 16, "length": 4, "seed": 1, "smallest_zoom": 0.5}
    about = StylePairs(**usual).about()
    assert StylePairs(**usual | {"length": 9}).about() == about  # more of the same
    changes = {
        "contents": good[:1], "styles": good[::-1], "crop": 24, "seed": 2, "smallest_zoom": 0.25,
    }  # fmt: skip
    assert StylePairs(**usual, vary_colours=0.5).about() == {**about, "vary_colours": 0.5}
    assert StylePairs(**usual, vary_strokes=0.5).about() == {**about, "vary_strokes": 0.5}
    for name, value in changes.items():
        other = StylePairs(**usual | {name: value}).about()
        assert {key for key in about if about[key] != other[key]} == {"pairs_seed" if name == "seed" else name}


def test_indices_end(good: list[Path]) -> None:
    pairs = StylePairs(good, good, crop=16, length=2)
    assert len(pairs) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError, match=str(index)):
            pairs[index]


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, int], tuple[float, ...]]]:
    """(size of the picture, box cut out of it) of every resize from now on."""
    seen: list[tuple[tuple[int, int], tuple[float, ...]]] = []
    original = Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Image.Image:
        seen.append((self.size, options["box"]))
        return original(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    return seen


@pytest.mark.parametrize("zoom", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("crop", [16, 24, 40])
def test_crops_are_square_inside_and_not_blown_up(
    good: list[Path], boxes: list[tuple[tuple[int, int], tuple[float, ...]]], crop: int, zoom: float
) -> None:
    pairs = StylePairs(good, good, crop=crop, length=40, smallest_zoom=zoom)
    for index in range(40):
        for image in pairs[index]:
            assert image.shape == (3, crop, crop)
            assert image.dtype == torch.float32
            assert 0 <= image.min() < image.max() <= 1
    assert len(boxes) == 80
    sides = set()
    for (width, height), (left, top, right, bottom) in boxes:
        side = right - left
        assert side == bottom - top
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert crop / side <= LARGEST_UPSCALE
        assert side >= round(zoom * min(width, height))
        sides.add(side / min(width, height))
    assert (len(sides) == 1) == (zoom == 1)  # 1: the whole short side, always


def test_the_largest_upscale_of_every_crop(
    tmp_path: Path, boxes: list[tuple[tuple[int, int], tuple[float, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(600, 600).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"]

    class Closest(np.random.Generator):
        def random(self, *args: Any, **options: Any) -> Any:
            return 0.0  # the smallest crop there is

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Closest(np.random.PCG64(seed)))
    for crop in range(16, 264, 8):
        StylePairs(paths, paths, crop=crop, length=1, smallest_zoom=0.01)[0]
        left, _, right, _ = boxes[-1][1]
        assert crop / (right - left) <= LARGEST_UPSCALE
        assert crop / (right - left - 1) > LARGEST_UPSCALE  # one pixel less would be too much


def test_pixels_are_those_of_the_picture(tmp_path: Path) -> None:
    ramp = np.arange(16, dtype=np.uint8)[None, :].repeat(16, axis=0) * 16
    Image.fromarray(np.dstack([ramp, ramp.T, ramp * 0])).save(tmp_path / "a.png")
    paths, mirrored = [tmp_path / "a.png"], set()
    pairs = StylePairs(paths, paths, crop=16, length=10, smallest_zoom=1.0)
    wanted = torch.from_numpy(np.stack([ramp, ramp.T, ramp * 0])).float() / 255
    for index in range(10):
        for image in pairs[index]:
            same = torch.equal(image, wanted)
            assert same or torch.equal(image, wanted.flip(2))
            mirrored.add(not same)
    assert mirrored == {False, True}


def test_one_worker_gives_the_same_samples(good: list[Path]) -> None:
    pairs = StylePairs(good, good, crop=16, length=5, seed=2)
    batches = list(DataLoader(pairs, batch_size=2, num_workers=1))
    for position in (0, 1):
        loaded = torch.cat([batch[position] for batch in batches])
        assert torch.equal(loaded, torch.stack([pairs[index][position] for index in range(5)]))


@pytest.mark.parametrize("crop", [0, -8, 8, 15, 17, 20, 100])
def test_crops_that_do_not_fit_the_networks(good: list[Path], crop: int) -> None:
    with pytest.raises(ArgumentError, match=rf"side of the crops; got {crop}; expected a multiple of 8 from 16 up"):
        StylePairs(good, good, crop=crop, length=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, r"number of samples; got 0; expected 1 or more"),
        ({"seed": -1}, r"seed of the samples; got -1; expected 0 or more"),
        ({"smallest_zoom": 0.0}, r"smallest zoom; got 0\.0"),
        ({"smallest_zoom": 1.01}, r"smallest zoom; got 1\.01"),
        ({"smallest_zoom": float("nan")}, r"smallest zoom; got nan"),
        ({"vary_colours": -0.1}, r"share of paintings in other colours; got -0\.1; expected 0 to 1"),
        ({"vary_colours": float("nan")}, r"share of paintings in other colours; got nan"),
        ({"vary_strokes": 1.5}, r"share of paintings with finer strokes; got 1\.5; expected 0 to 1"),
    ],
)
def test_other_numbers_that_can_not_be(good: list[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        StylePairs(good, good, **{"crop": 16, "length": 1, **options})


def test_no_files(good: list[Path]) -> None:
    for contents, styles in (([], good), (good, [])):
        with pytest.raises(DataError, match=r"no pictures; got an empty list of files"):
            StylePairs(contents, styles, crop=16, length=1)
