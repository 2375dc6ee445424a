"""Finer strokes: unsharp masking beside Pillow's, and what it does to a picture's octaves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kbstyle_example.sharpening import mirrored, sharpened

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("amount", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 5)])
def test_sharpened_is_unsharp_masking(amount: float, size: tuple[int, int]) -> None:
    pixels = RANDOM.random((*size, 3), dtype=np.float32)
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="symmetric")
    wanted = np.empty_like(pixels)
    for row, column in np.ndindex(*size):
        mean = framed[row : row + 3, column : column + 3].mean((0, 1))
        wanted[row, column] = np.clip(pixels[row, column] * (1 + amount) - amount * mean, 0, 1)
    found = sharpened(pixels, amount)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_sharpened_as_pillow_sharpens() -> None:
    values = RANDOM.integers(60, 190, (12, 15, 3), dtype=np.uint8)
    # 3×3, the middle less the mean of nine, once: what lies within the border, which Pillow leaves as it is.
    kernel = ImageFilter.Kernel((3, 3), [-1, -1, -1, -1, 17, -1, -1, -1, -1], scale=9)
    wanted = np.asarray(Image.fromarray(values).filter(kernel), dtype=np.float32)
    found = sharpened(values.astype(np.float32) / np.float32(255), 1.0) * 255
    np.testing.assert_allclose(found[1:-1, 1:-1], wanted[1:-1, 1:-1], atol=0.51)


def test_flat_pictures_stay_flat() -> None:
    flat = np.full((5, 4, 3), 0.3, np.float32)
    np.testing.assert_allclose(sharpened(flat, 1.5), flat, atol=1e-6)


def test_mirrored() -> None:
    pixels = RANDOM.random((3, 4, 3), dtype=np.float32)
    found = mirrored(pixels)
    np.testing.assert_array_equal(found, np.pad(pixels, ((0, 3), (0, 4), (0, 0)), mode="symmetric"))
