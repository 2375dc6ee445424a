from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd.errors import ArgumentError
from skd.schedules import Ramp, Scaled, Window, weight_at

weights = st.floats(0, 1e6)


@given(start=weights, end=weights, steps=st.integers(1, 50), delay=st.integers(0, 50), at=st.integers(0, 200))
def test_a_linear_ramp_is_an_interpolation(start: float, end: float, steps: int, delay: int, at: int) -> None:
    expected = np.interp(at, [delay, delay + steps], [start, end])
    assert Ramp(start, end, steps=steps, delay=delay)(at) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(
    start=weights,
    end=weights,
    steps=st.integers(0, 50),
    delay=st.integers(0, 50),
    shape=st.sampled_from(["linear", "cosine"]),
)
def test_a_ramp_begins_and_ends_exactly(start: float, end: float, steps: int, delay: int, shape: str) -> None:
    ramp = Ramp(start, end, steps=steps, delay=delay, shape=shape)
    assert {ramp(delay + steps), ramp(delay + steps + 7)} == {end}
    assert {ramp(delay - 1), ramp(-5)} == {start}
    values = [ramp(step) for step in range(delay + steps + 1)]
    pairs = list(itertools.pairwise(values))
    slack = 1e-9 * max(start, end) + 1e-300
    assert all(b >= a - slack for a, b in pairs) or all(b <= a + slack for a, b in pairs)


def test_a_cosine_ramp_is_half_a_cosine() -> None:
    ramp = Ramp(2.0, 0.0, steps=4, delay=1, shape="cosine")
    expected = 1 + np.cos(np.linspace(0, np.pi, 5))
    assert [ramp(step) for step in range(1, 6)] == pytest.approx(expected.tolist())


def test_no_steps_are_a_jump() -> None:
    ramp = Ramp(1.0, 3.0, steps=0, delay=2)
    assert [ramp(step) for step in (0, 1, 2, 3)] == [1.0, 1.0, 3.0, 3.0]


def test_a_window_is_half_open() -> None:
    window = Window(2.0, first=2, last=4)
    assert [window(step) for step in range(6)] == [0, 0, 2.0, 2.0, 0, 0]
    assert Window(2.0)(0) == Window(2.0)(10**9) == 2.0


def test_scaled_and_weight_at() -> None:
    ramp = Ramp(0.0, 1.0, steps=4)
    assert [weight_at(Scaled(ramp, 0.5), step) for step in (0, 2, 4)] == [0.0, 0.25, 0.5]
    assert weight_at(3, 99) == 3.0


@pytest.mark.parametrize("schedule", [Ramp(0.0, 1.0, steps=3), Window(1.0, 2), Scaled(Window(1.0), 2.0)])
def test_schedules_are_values(schedule: Any) -> None:
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    assert type(schedule).__name__ in repr(schedule)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), lambda step: -1.0])
def test_weights_are_finite_and_not_negative(weight: Any) -> None:
    with pytest.raises(ArgumentError, match=r"a loss can't have this weight; got .*expected a finite number from 0 up"):
        weight_at(weight, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(0, 1, steps=-1), "forward in time; got steps=-1, delay=0"),
        (lambda: Ramp(0, 1, steps=1, delay=-2), "forward in time; got steps=1, delay=-2"),
        (lambda: Ramp(0, 1, steps=1, shape="square"), "no such ramp; got 'square'; expected linear or cosine"),
        (lambda: Window(1.0, first=3, last=3), "ends after it begins; got first=3, last=3"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
