"""Other colours: rotations against closed forms, and what stays whatever is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbstyle_example import recolouring
from kbstyle_example.recolouring import recoloured, turned


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_turning_is_a_rotation_that_keeps_greys(angle: float, other: float) -> None:
    rotation = turned(angle)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation @ np.ones(3), np.ones(3), atol=1e-12)
    np.testing.assert_allclose(turned(other) @ rotation, turned(angle + other), atol=1e-12)


def test_a_third_of_a_turn_permutes_the_channels() -> None:
    np.testing.assert_allclose(turned(2 * math.pi / 3), np.roll(np.eye(3), 1, axis=0), atol=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 7))
def test_pictures_stay_pictures(seed: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    before = pixels.copy()
    found = recoloured(pixels, np.random.default_rng(seed))
    assert (found.shape, found.dtype) == (pixels.shape, np.float32)
    assert 0 <= found.min() <= found.max() <= 1
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(found, recoloured(pixels, np.random.default_rng(seed)))


def test_white_and_black_change_places_in_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recolouring, "GAIN", (1.0, 1.0))
    white = np.ones((1, 1, 3), np.float32)
    for share, wanted in ((0.0, 1.0), (1.0, 0.0)):
        monkeypatch.setattr(recolouring, "INVERTED", share)
        for seed in range(5):
            np.testing.assert_allclose(recoloured(white, np.random.default_rng(seed)), wanted, atol=1e-6)


def test_the_share_of_negatives() -> None:
    grey = np.full((1, 1, 3), 0.05, np.float32)
    light = sum(recoloured(grey, np.random.default_rng(seed)).mean() > 0.5 for seed in range(400))
    assert abs(light - 400 * recolouring.INVERTED) < 3 * (400 * 0.15 * 0.85) ** 0.5
