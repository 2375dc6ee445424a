"""match() against the rows a person would write."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from skd.errors import ArgumentError, PairingError
from skd.pairing import Pairing, Plan, SymmetricPair, match, pair
from skd.taps import Tap


def at(scale: float | None, width: int, name: str, decoder_width: int | None = None) -> SymmetricPair:
    scales = None if scale is None else (scale, scale)
    return SymmetricPair(name, Tap(f"e{name}"), Tap(f"d{name}"), width, decoder_width or width, scales)


def names(plan: Plan) -> list[tuple[str, str]]:
    return [(teacher.name, student.name) for teacher, student in plan]


TEACHER = Pairing((at(1.0, 16, "1"), at(0.5, 32, "1/2"), at(0.25, 64, "1/4")), Tap("middle"))


class TestByScale:
    def test_same_scales_line_up(self) -> None:
        student = Pairing((at(1.0, 4, "a"), at(0.5, 8, "b"), at(0.25, 16, "c")), Tap("mid"))
        plan = match(TEACHER, student)
        assert names(plan) == [("1", "a"), ("1/2", "b"), ("1/4", "c")]
        assert plan.bottleneck == (Tap("middle"), Tap("mid"))
        assert plan.notes == ()
        assert plan[1] == (TEACHER["1/2"], student["b"])

    def test_a_shallower_student_lines_up_by_scale_not_by_place(self) -> None:
        plan = match(TEACHER, Pairing((at(0.5, 8, "b"), at(0.25, 16, "c"))))
        assert names(plan) == [("1/2", "b"), ("1/4", "c")]
        assert plan.bottleneck is None
        assert plan.notes == ("left out of the teacher: '1'",)

    def test_what_either_side_has_alone_is_noted(self) -> None:
        plan = match(TEACHER.without("1/2"), Pairing((at(1.0, 8, "a"), at(0.125, 8, "e"))))
        assert names(plan) == [("1", "a")]
        assert plan.notes == ("left out of the teacher: '1/4'", "left out of the student: 'e'")

    def test_odd_sizes(self) -> None:
        assert names(match(TEACHER, Pairing((at(33 / 65, 8, "a"), at(17 / 65, 8, "b"))))) == [
            ("1/2", "a"),
            ("1/4", "b"),
        ]

    def test_several_pairs_at_one_scale_line_up_by_depth(self) -> None:
        teacher = Pairing(tuple(at(0.5, 8, f"t{k}") for k in range(3)))
        student = Pairing(tuple(at(0.5, 8, f"s{k}") for k in range(2)))
        assert names(match(teacher, student)) == [("t0", "s0"), ("t2", "s1")]

    def test_nothing_in_common(self) -> None:
        with pytest.raises(
            PairingError, match=r"no scale in common; got 1, 0\.5, 0\.25.*in the teacher, 0\.125.*Plan\(\("
        ):
            match(TEACHER, Pairing((at(0.125, 8, "x"),)))

    def test_one_without_scales(self) -> None:
        with pytest.raises(PairingError, match=r"no scale in common; .* none in the student"):
            match(TEACHER, Pairing((at(None, 8, "x"),)))

    def test_another_number_of_axes(self) -> None:
        with pytest.raises(PairingError, match="no scale in common"):
            match(TEACHER, Pairing((dataclasses.replace(at(0.5, 8, "x"), scale=(0.5, 0.5, 0.5)),)))


class TestByDepth:
    @pytest.mark.parametrize(
        ("depth", "expected"),
        [
            (6, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]),
            (3, [(0, 0), (2, 1), (5, 2)]),
            (2, [(0, 0), (5, 1)]),
            (1, [(5, 0)]),
        ],
    )
    def test_relative(self, depth: int, expected: list[tuple[int, int]]) -> None:
        teacher = Pairing(tuple(at(None, 16, f"{k}") for k in range(6)))
        student = Pairing(tuple(at(None, 8, f"{k}") for k in range(depth)))
        plan = match(teacher, student)
        assert [(int(one), int(other)) for one, other in names(plan)] == expected
        assert ("neither has scales, so pairs are lined up by relative depth" in plan.notes) == (depth < 6)

    def test_a_deeper_student(self) -> None:
        teacher = Pairing(tuple(at(None, 16, f"{k}") for k in range(2)))
        student = Pairing(tuple(at(None, 8, f"{k}") for k in range(3)))
        plan = match(teacher, student)
        assert names(plan) == [("0", "0"), ("1", "2")]
        assert "left out of the student: '1'" in plan.notes


class TestRefused:
    def test_wider_student(self) -> None:
        with pytest.raises(
            PairingError,
            match=r"student's encoder is wider .* at '1/2' and 'b'; got 48 channels \('eb'\); expected at most 32",
        ):
            match(TEACHER, Pairing((at(0.5, 48, "b"),)))
        with pytest.raises(PairingError, match="student's decoder is wider"):
            match(TEACHER, Pairing((at(0.5, 32, "b", 33),)))

    def test_models_instead_of_pairings(self) -> None:
        with pytest.raises(
            ArgumentError, match=r"the student isn't a pairing; got Linear. Remedy: give pair\(model, example\)"
        ):
            match(TEACHER, nn.Linear(1, 1))  # type: ignore[arg-type]

    def test_empty_plan(self) -> None:
        with pytest.raises(PairingError, match="at least one row"):
            Plan(())


class TestPlan:
    def test_table(self) -> None:
        plan = match(TEACHER, Pairing((at(0.5, 8, "b", 4),), Tap("mid")))
        assert str(plan).splitlines() == [
            "Plan, 1 row, bottleneck middle → mid",
            "  teacher  student  encoder    decoder    channels  decoder's",
            "  1/2      b        e1/2 → eb  d1/2 → db  32 → 8    32 → 4",
            "  note: left out of the teacher: '1', '1/4'",
        ]

    def test_json(self) -> None:
        plan = match(TEACHER, Pairing((at(0.5, 8, "b"),), Tap("mid")))
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
        without = dataclasses.replace(plan, bottleneck=None)
        assert Plan.from_json(json.loads(json.dumps(without.to_json()))) == without

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "skd.pairing"}, "isn't a plan's JSON"),
            ({"version": 9}, "another version; got 9; expected 1"),
            ({"rows": [[1]]}, "damaged"),
            ({"rows": []}, "at least one row"),
            ({"bottleneck": [1]}, "damaged"),
        ],
    )
    def test_other_json(self, change: dict[str, object], message: str) -> None:
        data = {**match(TEACHER, TEACHER).to_json(), **change}
        with pytest.raises((ArgumentError, PairingError), match=message):
            Plan.from_json(data)

    def test_companions_that_do_not_correspond_are_noted(self) -> None:
        student = Pairing((dataclasses.replace(at(0.5, 8, "b"), companions=(Tap("style"),)),))
        assert "'1/2' and 'b' have 0 and 1 companions" in match(TEACHER, student).notes


def test_networks_of_unequal_depth_and_width() -> None:
    def net(*widths: int) -> nn.Sequential:
        steps = list(zip((3, *widths[:-1]), widths, strict=True))
        down = [nn.Conv2d(i, o, 3, 2, 1) for i, o in steps]
        return nn.Sequential(*down, *(nn.ConvTranspose2d(o, i, 2, 2) for i, o in reversed(steps)))

    x = torch.zeros(1, 3, 32, 48)
    plan = match(pair(net(8, 16, 32, 64), x), pair(net(4, 8, 16), x))
    assert names(plan) == [("1/2", "1/2"), ("1/4", "1/4")]
    assert [(t.decoder.layer, s.decoder.layer) for t, s in plan] == [("6", "4"), ("5", "3")]
    assert plan.notes == ("left out of the teacher: '1/8'",)
