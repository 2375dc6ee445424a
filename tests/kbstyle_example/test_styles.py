"""Several styles: codes mixed by hand, masks of every kind, shares that sum to one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbstyle_example.networks import Moments, StyleCode
from kbstyle_example.styles import checked_weights, mask_tensor, mixed, shares, stretch
from skd.errors import ArgumentError


def code(seed: int) -> StyleCode:
    random = torch.Generator().manual_seed(seed)
    return StyleCode(*(Moments(*torch.rand(2, 1, width, 1, 1, generator=random)) for width in (3, 4, 5)))


def test_codes_by_hand() -> None:
    first, second, third = code(0), code(1), code(2)
    found = mixed([first, second, third], [2, 0, 6])
    for level, a, c in zip(found, first, third, strict=True):
        for part, x, z in zip(level, a, c, strict=True):
            torch.testing.assert_close(part, 0.25 * x + 0.75 * z)
    assert mixed([first], [7]) is first


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "got 1 weights; expected 2, one for each style"),
        ([1, 2, 3], "got 3 weights"),
        ([0, 0], r"got \[0\.0, 0\.0\]; expected numbers from 0 up, not all 0"),
        ([2, -1], ".*numbers from 0 up"),
        ([1, float("nan")], ".*numbers from 0 up"),
        ([1, float("inf")], ".*numbers from 0 up"),
        ([1e308, 1e308], ".*numbers from 0 up"),
    ],
)
def test_weights_that_cant_be(weights: list[float], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"weights of styles; {message}"):
        checked_weights(weights, 2)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.new("L", (2, 2), 51), 0.2),
        (Image.new("1", (2, 2), 1), 1.0),
        (Image.new("RGB", (2, 2), (255, 0, 0)), 0.299),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 51)), 0.2),
        (Image.new("LA", (2, 2), (255, 0)), 0.0),
        (Image.fromarray(np.full((2, 2), 13107, dtype=np.uint16)), 0.2),
        (np.full((2, 2), 0.7), 0.7),
        (np.ones((2, 2), dtype=bool), 1.0),
    ],
)
def test_masks_of_every_kind(mask: Any, expected: float) -> None:
    torch.testing.assert_close(mask_tensor(mask), torch.full((1, 1, 2, 2), expected), atol=1e-5, rtol=0)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4), st.integers(0, 2**31))
def test_shares_sum_to_one(sizes: list[tuple[int, int]], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = [torch.rand(1, 1, *size, generator=random).round(decimals=1) for size in sizes]
    weights = torch.rand(len(masks), generator=random).tolist()
    parts, rest = shares(masks, weights, (5, 9))
    for part in (*parts, rest):
        assert part.shape == (1, 1, 5, 9)
        assert -1e-6 <= part.min() <= part.max() <= 1 + 1e-6
    torch.testing.assert_close(sum(parts, rest), torch.ones(1, 1, 5, 9))


def test_shares_by_hand() -> None:
    left = torch.tensor([1.0, 1.0, 0.5, 0.0]).view(1, 1, 1, 4)
    right = torch.tensor([0.0, 1.0, 0.25, 0.0]).view(1, 1, 1, 4)
    (first, second), rest = shares([left, right], [3, 1], (1, 4))
    torch.testing.assert_close(first.flatten(), torch.tensor([1.0, 0.75, 0.75 * 6 / 7, 0.0]))
    torch.testing.assert_close(second.flatten(), torch.tensor([0.0, 0.25, 0.75 / 7, 0.0]))
    torch.testing.assert_close(rest.flatten(), torch.tensor([0.0, 0.0, 0.25, 1.0]))
    torch.testing.assert_close(shares([left], [0.1], (1, 4))[0][0], left)  # alone, its weight doesn't matter


def test_soft_edges_stay_soft() -> None:
    ramp = torch.linspace(0, 1, 9).view(1, 1, 1, 9)
    found = stretch(ramp, (4, 90))[0, 0, 0]
    assert float(found.diff().min()) >= 0
    assert float(found.diff().max()) < 0.02
    torch.testing.assert_close(stretch(stretch(ramp, (1, 90)), (1, 9)), ramp, atol=0.06, rtol=0)
    assert stretch(ramp, (1, 9)) is ramp
