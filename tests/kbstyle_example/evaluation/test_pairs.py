"""Which pictures and pairs are measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbstyle_example.data import split
from kbstyle_example.evaluation.pairs import choose_pairs, pictures_to_measure, square
from skd.errors import ArgumentError, DataError, FileError


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 160), st.integers(0, 5))
def test_pairs_differ_and_pictures_appear_equally_often(contents: int, styles: int, count: int, seed: int) -> None:
    pairs = choose_pairs(contents, styles, count, seed=seed)
    assert len(pairs) == len(set(pairs)) == min(count, contents * styles)
    assert pairs == choose_pairs(contents, styles, count, seed=seed) == sorted(pairs)
    for side, pictures in enumerate((contents, styles)):
        times = Counter(pair[side] for pair in pairs)
        assert set(times) <= set(range(pictures))
        often = [times[picture] for picture in range(pictures)]
        assert max(often) - min(often) <= 1


def test_all_pairs() -> None:
    assert choose_pairs(2, 3, None) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_another_seed_gives_other_pairs() -> None:
    assert choose_pairs(20, 20, 10, seed=1) != choose_pairs(20, 20, 10, seed=2)


def test_pairs_that_make_no_sense() -> None:
    with pytest.raises(ArgumentError, match="number of pairs; got 0"):
        choose_pairs(2, 2, 0)
    with pytest.raises(ArgumentError, match="seed of the pairs; got -1"):
        choose_pairs(2, 2, 1, seed=-1)


def test_a_square_is_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, 30:70] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    torch.testing.assert_close(square(tmp_path / "wide.png", 40), torch.ones(1, 3, 40, 40))
    assert square(tmp_path / "wide.png", 20).shape == (1, 3, 20, 20)
    assert square(tmp_path / "wide.png", 54).shape == (1, 3, 54, 54)  # 54 / 40 is 1.35


def test_a_picture_too_small(tmp_path: Path) -> None:
    Image.new("RGB", (100, 40)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"too small to measure on; got small.png, 100×40; expected a short side .* 41"):
        square(tmp_path / "small.png", 55)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        Image.new("RGB", (32, 32)).save(tmp_path / f"p{number}.png")
    return tmp_path


def test_pictures_to_measure_are_those_of_the_split(folder: Path) -> None:
    for part in ("validation", "test"):
        found, skipped = pictures_to_measure(folder, part=part, size=32)  # type: ignore[arg-type]
        assert found
        assert {split(path) for path in found} == {part}
        assert skipped == {}
    by_default, _ = pictures_to_measure(folder, size=32)
    assert {split(path) for path in by_default} == {"validation"}


def test_a_folder_never_trained_on_is_measured_whole_or_by_halves(folder: Path) -> None:
    everything, _ = pictures_to_measure(folder, never_trained_on=True, size=32)
    assert len(everything) == 40
    halves = {
        part: set(pictures_to_measure(folder, part=part, never_trained_on=True, size=32)[0])  # type: ignore[arg-type]
        for part in ("validation", "test")
    }
    assert all(len(found) > 5 for found in halves.values())
    assert not halves["validation"] & halves["test"]
    assert halves["validation"] | halves["test"] == set(everything)
    for part, found in halves.items():  # nobody tunes on what another folder's split calls a test picture
        assert {split(path) for path in found} <= {part, "train"}


def test_pictures_that_cant_be_used_are_named(folder: Path) -> None:
    (folder / "p3.png").write_bytes(b"broken")
    Image.new("RGB", (16, 32)).save(folder / "p4.png")
    found, skipped = pictures_to_measure(folder, never_trained_on=True, size=32)
    assert len(found) == 38
    assert {path.name: reason.partition(";")[0] for path, reason in skipped.items()} == {
        "p3.png": "the file isn't a picture",
        "p4.png": "a picture too small to measure on",
    }


def test_folders_with_nothing_to_measure(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="pictures for training measure nothing"):
        pictures_to_measure(folder, part="train")
    with pytest.raises(ArgumentError, match="pictures for training measure nothing"):
        pictures_to_measure(folder, part="train", never_trained_on=True)
    with pytest.raises(DataError, match=r"no pictures to measure on .* 40 pictures, 40 for any use, 40 of them not"):
        pictures_to_measure(folder, never_trained_on=True, size=64)
    with pytest.raises(DataError, match="no folder of pictures"):
        pictures_to_measure(tmp_path / "missing")
    with pytest.raises(FileError, match="there is no such picture"):
        square(tmp_path / "missing.png", 32)
