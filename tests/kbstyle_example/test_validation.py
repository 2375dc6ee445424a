"""Looking at validation pictures while training: the figures against plain sums, the same crops each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kbstyle_example import validation
from kbstyle_example.beginning import scratch
from kbstyle_example.data import StylePairs
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.perceived import Perceived
from kbstyle_example.perceptual import VGG
from kbstyle_example.splits import split
from kbstyle_example.validation import Folders, differences, pairs_to_validate, style_losses
from skd.errors import ArgumentError, DataError

TINY = KBStyleConfig(widths=(4, 5, 6), fine_blocks=0, deep_blocks=1, style_blocks=0)


@pytest.fixture
def pictures(draw: Callable[..., list[Path]]) -> Folders:
    paths = draw(4)
    return paths[:2], paths[2:]


def task() -> StyleTask:
    net = VGG("tiny", (4, 4), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    weights = {"style_weights": {"relu1_1": 1.0, "relu2_1": 0.5}, "covariance_weights": {"relu2_1": 0.1}}
    return StyleTask(scratch(TINY, 1), net, **weights)


def samples(pictures: Folders, seed: int) -> list[tuple[Tensor, Tensor]]:
    data = StylePairs(*pictures, crop=24, length=16, seed=seed)
    return [(content[None], style[None]) for content, style in (data[index] for index in range(16))]


def test_which_pictures() -> None:
    names = {part: Path(f"{n}.png") for part, n in (("train", 0), ("validation", 7), ("test", 8))}
    assert {part: split(path) for part, path in names.items()} == {part: part for part in names}
    every, kept = list(names.values()), [names["validation"]]
    assert pairs_to_validate(every, every) == (kept, kept)
    assert pairs_to_validate(every, [names["train"], names["test"]]) is None
    assert pairs_to_validate([names["train"]], every) is None
    assert pairs_to_validate([], []) is None


def test_style_losses_by_hand(pictures: Folders) -> None:
    """A loss of the mean over a batch: one by one, their mean is the same."""
    trained = task()
    found = style_losses(trained, pictures, crop=24, seed=3)(trained.network)
    each = [
        {name: float(term.detach()) for name, term in trained(content, style).losses.terms.items()}
        for content, style in samples(pictures, 3)
    ]
    wanted = {name: float(np.mean([terms[name] for terms in each])) for name in ("content", "style", "texture")}
    assert list(found) == ["total", *wanted]
    assert found == pytest.approx({"total": sum(wanted.values()), **wanted}, rel=1e-4)


def test_differences_by_hand(pictures: Folders) -> None:
    teacher, student = scratch(TINY, 4), scratch(TINY, 5)
    squares = []
    for content, style in samples(pictures, 2):
        with torch.no_grad():
            apart = (255 * (student(content, style) - teacher(content, style))).double().numpy()
        squares.append((apart**2).mean())
    found = differences(teacher, pictures, crop=24, seed=2)(student)
    assert found == pytest.approx({"difference": float(np.mean(squares) ** 0.5)}, rel=1e-4)
    assert differences(teacher, pictures, crop=24, seed=2)(teacher) == {"difference": 0.0}


def test_the_students_style_stands_over_the_teachers(pictures: Folders) -> None:
    teacher, student = scratch(TINY, 4), scratch(TINY, 5)
    trained = task()
    weights = {"style_weights": trained.style_weights, "covariance_weights": trained.covariance_weights}
    perceived = Perceived(trained.perceptual, feature_weights={}, **weights)
    sums = []
    for network in (teacher, student):
        each = []
        for content, style in samples(pictures, 2):
            with torch.no_grad():
                terms = trained.losses(network(content, style), content, style).terms
            each.append(float(terms["style"] + terms["texture"]))
        sums.append(sum(each))
    found = differences(teacher, pictures, crop=24, seed=2, perceived=perceived)
    assert found(student)["style"] == pytest.approx(sums[1] / sums[0], rel=1e-4)
    assert found(teacher) == {"difference": 0.0, "style": 1.0}


def test_it_is_the_network_that_is_given_and_the_crops_stay(pictures: Folders) -> None:
    trained = task()
    look = style_losses(trained, pictures, crop=24, seed=3)
    first = look(trained.network)
    torch.rand(7)
    assert look(trained.network) == first
    with torch.no_grad():
        trained.network.decoder.up1.weight.mul_(3)
    assert look(trained.network)["total"] != first["total"]
    assert style_losses(trained, pictures, crop=24, seed=4)(trained.network) != look(trained.network)


def test_no_gradient_is_kept(pictures: Folders) -> None:
    trained = task()
    style_losses(trained, pictures, crop=24, seed=3)(trained.network)
    differences(scratch(TINY, 4), pictures, crop=24, seed=2)(trained.network)
    assert all(p.grad is None for p in trained.parameters())
    assert torch.is_grad_enabled()


def test_batches_hold_all_pairs_once(pictures: Folders) -> None:
    pairs = validation._pairs(pictures, 24, 6)
    batches = list(validation._batches(pairs, KBStyle(TINY)))
    assert [tuple(content.shape) for content, _ in batches] == [(4, 3, 24, 24)] * 4
    for side in (0, 1):
        wanted = torch.cat([pair[side] for pair in samples(pictures, 6)])
        assert torch.equal(torch.cat([batch[side] for batch in batches]), wanted)
        assert all(batch[side].is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_what_cant_be_looked_at_shows_at_once(pictures: Folders, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    broken = pictures[0], [tmp_path / "broken.png"]
    with pytest.raises(DataError, match=r"none of the pictures can be used; got 1 skipped; broken\.png"):
        style_losses(task(), broken, crop=24, seed=0)
    with pytest.raises(DataError, match=r"none of the pictures can be used.*too small for this crop"):
        differences(scratch(TINY, 0), pictures, crop=96, seed=0)
    with pytest.raises(ArgumentError, match="side of the crops; got 20"):
        differences(scratch(TINY, 0), pictures, crop=20, seed=0)
