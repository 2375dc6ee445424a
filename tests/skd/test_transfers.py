from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skd import Tap
from skd.adapters import ChannelAdapter, Identity
from skd.distances import Distance, huber, mse
from skd.errors import ArgumentError
from skd.knowledge import Knowledge, attention, mean_std, raw
from skd.methods import Method, Stage, Through, Transfer
from skd.schedules import Window


def test_taps_and_adapters_are_made_uniform() -> None:
    adapter = ChannelAdapter(2, 3)
    row = Transfer("a", "enc#1", Tap("dec"), student_adapters=adapter)
    assert row.student_taps == (Tap("enc", call=1),)
    assert row.teacher_taps == (Tap("dec"),)
    assert row.student_adapters == (adapter,)
    assert row.teacher_adapters == (None,)
    assert (row.knowledge, row.distance, row.weight, row.of, row.through, row.info) == (
        raw, mse, 1.0, "teacher", None, {},
    )  # fmt: skip
    several = Transfer("b", ["x", Tap("y")], ("z",), mean_std, mse, student_adapters=[None, adapter])
    assert [str(tap) for tap in several.student_taps] == ["x", "y"]
    assert several.teacher_adapters == (None,)
    assert several.adapters() == (adapter,)


def test_adapters_of_all_places_are_listed() -> None:
    ours, theirs, put = Identity(), ChannelAdapter(2, 2), ChannelAdapter(2, 3)
    through = Through({"code": "enc"}, {"code": put})
    row = Transfer("a", "dec", "dec", student_adapters=ours, teacher_adapters=theirs, through=through)
    assert row.adapters() == (ours, theirs, put)


def test_its_text_says_what_is_compared() -> None:
    row = Transfer("at", ["a", "b"], "", Knowledge(attention, power=4), Distance(huber, delta=2.0), Window(1.0, 5))
    assert str(row) == (
        "at: output → a, b, attention(power=4), huber(delta=2.0), weight Window(weight=1.0, first=5, last=None)"
    )


def test_rows_are_identities_and_pickle() -> None:
    row = Transfer("a", "x", "x", student_adapters=ChannelAdapter(2, 3))
    assert row != Transfer("a", "x", "x")
    assert len({row, row}) == 1
    twin = pickle.loads(pickle.dumps(row))
    assert (twin.name, twin.student_taps) == (row.name, row.student_taps)
    assert torch.equal(twin.student_adapters[0].weight, row.student_adapters[0].weight)
    with pytest.raises(AttributeError):
        row.weight = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(("knowledge", "expected"), [(raw, True), (Knowledge(raw), True), (attention, False)])
def test_raw_needs_no_layout(knowledge: Any, expected: bool) -> None:
    assert Transfer("a", "x", "x", knowledge).is_raw is expected


def unmarked(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).sum()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transfer("", "x", "x"), "a transfer needs a name"),
        (lambda: Transfer("a", [], "x"), "'a' needs taps on the student's side.*got 0 taps and 0 adapters"),
        (lambda: Transfer("a", "x", ["y", "z"], mean_std, teacher_adapters=nn.Identity()),
         "'a' needs taps on the teacher's side, and an adapter or None for each; got 2 taps and 1 adapters"),
        (lambda: Transfer("a", "x", "y", student_adapters=[None, None]), "got 1 taps and 2 adapters"),
        (lambda: Transfer("a", "x", "x", raw, unmarked),
         r"'a' doesn't say whether it is a divergence; got unmarked.*@skd\.distances\.distance"),
        (lambda: Transfer("a", ["x", "y"], ["x", "y"]), "'a' compares raw features.*got 2 and 2 taps"),
        (lambda: Transfer("a", "x#y", "x"), "this isn't a tap; got 'x#y'"),
        (lambda: Through({}), "needs the taps it changes"),
        (lambda: Through({"code": "enc"}, {"up": nn.Identity()}), r"got put \['code'\], adapters \['up'\]"),
    ],
)  # fmt: skip
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_stage_counts_names_and_groups() -> None:
    stage = Stage(None, ("1/2", "output"))
    names = ["1/2", "1/2/encoder", "1/2/decoder/structure", "1/20/encoder", "output", "outputs", "1"]
    assert [name for name in names if stage.counts(name)] == [*names[:3], "output"]
    assert not Stage(None, ()).counts("output")


def test_a_method_gives_its_rows_and_no_stages() -> None:
    assert Method().stages() == ()
    with pytest.raises(NotImplementedError):
        Method().transfers()
