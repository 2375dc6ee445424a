"""Pairs drawn in proportion to how far off a network is: frequencies, what is measured, what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.beginning import scratch
from kbstyle_example.data import StylePairs
from kbstyle_example.hard_pairs import FILE, HardPairs, drawn, measured
from kbstyle_example.perceptual import VGG
from skd.errors import ArgumentError, FileError, ShapeError

TINY = KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, deep_blocks=1, style_blocks=0)
WEIGHTS = {"relu1_1": 0.5, "relu2_1": 2.0}


def judge() -> VGG:
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        return VGG("judge", (4, 6), stages=((1, "1"), (1, "2")), content_layer="relu2_1").freeze()


@pytest.fixture
def pairs(pictures: list[Path]) -> StylePairs:
    return StylePairs(pictures[:2], pictures[1:], crop=24, length=5, seed=4)


def of_length(length: int) -> StylePairs:
    return StylePairs([Path("a.png")], [Path("b.png")], crop=16, length=length)


# --- drawing ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=6).filter(any), st.integers(0, 2**31))
def test_each_comes_as_often_as_it_is_far_off(distances: list[float], seed: int) -> None:
    count = 4000
    found = HardPairs(of_length(len(distances)), distances, length=count, seed=seed)
    mean = sum(distances) / len(distances)
    clipped = [min(max(each, 0.2 * mean), 4 * mean) for each in distances]
    for index, each in enumerate(clipped):
        share = each / sum(clipped)
        deviation = np.sqrt(count * share * (1 - share))
        assert abs((found.order == index).sum() - count * share) <= 6 * deviation + 1e-6


def test_a_sample_is_one_of_the_pairs(pairs: StylePairs) -> None:
    found = HardPairs(pairs, [1.0, 2.0, 3.0, 4.0, 5.0], length=20, seed=3)
    assert len(found) == 20
    assert len(set(found.order)) > 2
    for index in (0, 7, 19):
        for part, wanted in zip(found[index], pairs[int(found.order[index])], strict=True):
            assert torch.equal(part, wanted)
    again, other = (HardPairs(pairs, [1.0, 2.0, 3.0, 4.0, 5.0], length=20, seed=seed) for seed in (3, 4))
    assert (found.order == again.order).all()
    assert (found.order != other.order).any()


def test_what_tells_samples_apart(pairs: StylePairs) -> None:
    one, two = (HardPairs(pairs, [1.0, 1.0, 1.0, 1.0, last], length=9).about() for last in (1.0, 2.0))
    assert {name: one[name] for name in pairs.about()} == pairs.about()
    assert one["hard_pairs"] == 5
    assert one["hard_pairs_distances"] != two["hard_pairs_distances"]


@pytest.mark.parametrize(
    "distances", [[1.0, 2.0], [1.0, 2.0, float("nan")], [1.0, 2.0, float("inf")], [1.0, 2.0, -1.0], [0.0, 0.0, 0.0]]
)
def test_distances_that_cant_be(distances: list[float]) -> None:
    with pytest.raises(ArgumentError, match=r"distances of pairs; got .*; expected 3 finite numbers from 0, one above"):
        HardPairs(of_length(3), distances, length=9)


# --- measuring -------------------------------------------------------------------------------------------------------


def by_hand(network: KBStyle, pairs: StylePairs, index: int) -> float:
    content, style = (part[None] for part in pairs[index])
    with torch.no_grad():
        ours, theirs = (
            {name: value.numpy() for name, value in judge()(x).items()} for x in (network(content, style), style)
        )
    total = 0.0
    for layer, weight in WEIGHTS.items():
        (m, d), (wanted_m, wanted_d) = (
            (x[layer].mean((2, 3)), np.sqrt(x[layer].var((2, 3)) + 1e-5)) for x in (ours, theirs)
        )
        apart = ((m - wanted_m) ** 2 + (d - wanted_d) ** 2).mean()
        total += weight * apart / (wanted_m**2 + wanted_d**2).mean()
    return float(total)


def test_distances_by_hand_and_kept(pairs: StylePairs, tmp_path: Path) -> None:
    network, perceptual, looks = scratch(TINY, 1), judge(), list[int]()
    perceptual.register_forward_hook(lambda *_: looks.append(1))
    found = measured(network, "random", pairs, perceptual, WEIGHTS, tmp_path / "run")
    assert found == pytest.approx([by_hand(network, pairs, index) for index in range(5)], rel=1e-4)
    assert len(looks) == 2 * 5
    assert measured(network, "random", pairs, perceptual, WEIGHTS, tmp_path / "run") == found
    assert len(looks) == 2 * 5  # they were read


@pytest.mark.parametrize("what", ["network", "weights", "perceptual", "pairs"])
def test_distances_of_something_else_arent_taken(what: str, pairs: StylePairs, tmp_path: Path) -> None:
    network, perceptual = scratch(TINY, 1), judge()
    given: dict[str, Any] = {"network": "random", "weights": WEIGHTS, "perceptual": perceptual, "pairs": pairs}
    measured(network, given["network"], given["pairs"], given["perceptual"], given["weights"], tmp_path)
    before = (tmp_path / FILE).read_bytes()
    another = judge()
    another.sha256 = "ab"
    paths = pairs.contents.paths
    more = StylePairs(paths, paths, crop=24, length=5, seed=5)
    given[what] = {"network": "abc", "weights": {"relu1_1": 1.0}, "perceptual": another, "pairs": more}[what]
    with pytest.raises(FileError, match="the distances there are of other pairs, or of another network"):
        measured(network, given["network"], given["pairs"], given["perceptual"], given["weights"], tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", '{"of": "x"}', '{"of": "x", "distances": [null]}'])
def test_distances_that_cant_be_read(content: str, pairs: StylePairs, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(FileError, match=r"the distances of pairs can't be read; got .*hard_pairs\.json"):
        measured(scratch(TINY, 1), "random", pairs, judge(), WEIGHTS, tmp_path)


def test_nothing_is_kept_when_measuring_fails(pairs: StylePairs, tmp_path: Path) -> None:
    perceptual = judge()
    perceptual.smallest_side = 1000
    with pytest.raises(ShapeError, match="can't take this picture"):
        measured(scratch(TINY, 1), "random", pairs, perceptual, WEIGHTS, tmp_path)
    assert not (tmp_path / FILE).exists()


def test_as_many_are_drawn_as_there_were_samples(pairs: StylePairs, tmp_path: Path) -> None:
    pairs.length = 40
    found = drawn(pairs, 3, scratch(TINY, 1), "random", judge(), WEIGHTS, tmp_path)
    assert (len(found), len(found.pairs), len(pairs)) == (40, 3, 40)
    assert len(json.loads((tmp_path / FILE).read_text())["distances"]) == 3
    with pytest.raises(ArgumentError, match="pairs to draw from; got -1; expected 1 or more"):
        drawn(pairs, -1, scratch(TINY, 1), "random", judge(), WEIGHTS, tmp_path)
