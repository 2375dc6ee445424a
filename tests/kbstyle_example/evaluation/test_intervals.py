"""Intervals against tables, closed forms and simulated pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbstyle_example.evaluation.intervals import Interval, interval, t95
from skd.errors import ArgumentError, DataError, NonFiniteError

# Two-sided 95 % points as printed in every table.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 8: 2.306, 15: 2.131, 29: 2.045, 60: 2.000}


@pytest.mark.parametrize(("freedom", "wanted"), TABLE.items())
def test_t95(freedom: int, wanted: float) -> None:
    assert t95(freedom) == pytest.approx(wanted, abs=5e-4)


def test_t95_of_one_is_a_tangent_and_of_many_the_normal() -> None:
    assert t95(1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-6)
    assert t95(100_000) == pytest.approx(1.95996, abs=1e-4)
    with pytest.raises(ArgumentError, match="degrees of freedom; got 0"):
        t95(0)


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_where_each_picture_appears_once_it_is_the_usual_interval(numbers: list[float]) -> None:
    found = interval({(f"c{i}", f"s{i}"): number for i, number in enumerate(numbers)})
    count = len(numbers)
    assert found.mean == pytest.approx(np.mean(numbers), abs=1e-12)
    assert found.half_width is not None
    assert found.half_width == pytest.approx(t95(count - 1) * np.std(numbers, ddof=1) / math.sqrt(count), abs=1e-9)


def test_clustered_by_hand() -> None:
    """Contents differ, styles don't: the pairs of one content count as one."""
    values = {(c, s): {"a": 1.0, "b": 2.0, "c": 3.0}[c] for c in "abc" for s in "xyz"}
    found = interval(values)
    # By content: sums −3, 0, 3 → 18 · 3/2 / 81; by style 0; by pair 6 · 9/8 / 81, less than by content.
    assert found == pytest.approx((2.0, t95(2) * math.sqrt(18 * 1.5 / 81)))


def test_it_covers_the_truth_where_pairs_share_pictures() -> None:
    """400 draws of 8 contents × 8 styles: 95 % of the intervals hold the truth; the naive one holds it far less."""
    random = np.random.default_rng(0)
    keys = [(f"c{c}", f"s{s}") for c in range(8) for s in range(8)]
    draws, held, naive = 400, 0, 0
    for _ in range(draws):
        table = random.normal(size=(8, 1)) + random.normal(size=(1, 8)) + 0.5 * random.normal(size=(8, 8))
        found = interval(dict(zip(keys, table.flatten().tolist(), strict=True)))
        assert found.half_width is not None
        held += abs(found.mean) <= found.half_width
        naive += abs(found.mean) <= t95(63) * table.std(ddof=1) / 8
    assert 0.92 <= held / draws <= 0.99
    assert naive / draws < 0.75


@pytest.mark.parametrize("keys", [["ax"], ["ax", "ay"], ["ax", "bx"]])
def test_one_content_or_one_style_tells_no_interval(keys: list[str]) -> None:
    found = interval({(key[0], key[1]): 1.0 + index for index, key in enumerate(keys)})
    assert found.half_width is None
    assert found.sign == 0
    assert str(found) == f"{found.mean:.4f}"


def test_sign() -> None:
    assert Interval(0.3, 0.2).sign == 1
    assert Interval(-0.3, 0.2).sign == -1
    assert Interval(0.1, 0.2).sign == 0


def test_values_that_have_no_mean() -> None:
    with pytest.raises(DataError, match="no values"):
        interval({})
    with pytest.raises(NonFiniteError, match=r"isn't finite; got \('b', 'y'\)"):
        interval({("a", "x"): 1.0, ("b", "y"): math.nan})
