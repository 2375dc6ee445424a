"""Several styles: codes mixed by hand, masks of every kind, shares that sum to one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbstyle_example.moments import Moments, StyleCode
from kbstyle_example.options import checked_weights
from kbstyle_example.strips import resized
from kbstyle_example.styles import layers, mask_pixels, mixed
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
    np.testing.assert_array_equal(mask_pixels(mask), np.full((2, 2), round(255 * expected)))


def shares(masks: list[torch.Tensor], weights: list[float]) -> list[torch.Tensor]:
    """What is seen in the end of each layer, and of what lies beneath all."""
    seen = [torch.ones_like(masks[0])]
    for over in layers(masks, weights):
        assert 0 <= over.min() <= over.max() <= 1
        seen = [(1 - over) * part for part in seen] + [over]
    return [*seen[1:], seen[0]]


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(0, 2**31))
def test_layers_give_each_its_share(count: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = [torch.rand(1, 1, 5, 9, generator=random).round(decimals=1) for _ in range(count)]
    weights = (torch.rand(count, generator=random) + 0.01).tolist()
    covered = sum(masks, torch.zeros(())).clamp(max=1)
    total = sum((w * m for w, m in zip(weights, masks, strict=True)), torch.zeros(()))
    *parts, rest = shares(masks, weights)
    torch.testing.assert_close(rest, 1 - covered, atol=1e-5, rtol=0)
    for part, weight, mask in zip(parts, weights, masks, strict=True):
        wanted = torch.where(total > 0, covered * weight * mask / total, 0)
        torch.testing.assert_close(part, wanted, atol=1e-5, rtol=0)


def test_shares_by_hand() -> None:
    left = torch.tensor([1.0, 1.0, 0.5, 0.0])
    right = torch.tensor([0.0, 1.0, 0.25, 0.0])
    first, second, rest = shares([left, right], [3, 1])
    torch.testing.assert_close(first, torch.tensor([1.0, 0.75, 0.75 * 6 / 7, 0.0]))
    torch.testing.assert_close(second, torch.tensor([0.0, 0.25, 0.75 / 7, 0.0]))
    torch.testing.assert_close(rest, torch.tensor([0.0, 0.0, 0.25, 1.0]))
    torch.testing.assert_close(layers([left], [0.1])[0], left)  # alone, its weight doesn't matter
    torch.testing.assert_close(shares([left, right], [0, 1])[0], torch.tensor([0.0, 0.0, 0.0, 0.0]))


def test_soft_edges_stay_soft() -> None:
    ramp = np.linspace(0, 255, 9).astype(np.uint8)[None]
    found = resized(ramp, (4, 90), mode="bilinear")[0].astype(int)
    assert np.diff(found).min() >= 0
    assert np.diff(found).max() <= 5
    back = resized(resized(ramp, (1, 90), mode="bilinear"), (1, 9), mode="bilinear")
    np.testing.assert_allclose(back.astype(int), ramp, atol=15)
    assert resized(ramp, (1, 9)) is ramp
