"""Oklab against its published values, and the photograph's colours on painted strokes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kbstyle_example.colours import from_oklab, to_oklab, with_colours_of
from kbstyle_example.strips import Pixels, as_numbers


# Of colours in sRGB, by Ottosson's C++ listing in double precision.
@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1, 1, 1), (1.0, 0.0, 0.0)),
        ((1, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 1, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 1), (0.45201, -0.03246, -0.31153)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_known_colours(colour: tuple[float, ...], expected: tuple[float, ...]) -> None:
    found = to_oklab(torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_there_and_back() -> None:
    levels = torch.linspace(0, 1, 17)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 17, 289)
    torch.testing.assert_close(from_oklab(to_oklab(cube)), cube, atol=1e-3, rtol=0)
    for dtype in (torch.float32, torch.float64):
        assert from_oklab(to_oklab(cube.to(dtype))).dtype == dtype


def noise(seed: int, low: float, high: float) -> Pixels:
    return np.random.default_rng(seed).integers(round(255 * low), round(255 * high), (19, 21, 3), dtype=np.uint8)


def oklab(pixels: Pixels) -> torch.Tensor:
    return to_oklab(as_numbers(pixels))[0]


def test_hues_are_the_photographs_and_lightness_has_its_statistics() -> None:
    photograph, painted = noise(0, 0.4, 0.6), noise(1, 0.3, 0.8)  # in the middle of the gamut: nothing is cut off
    found, wanted, given = (oklab(x) for x in (with_colours_of(photograph, painted), photograph, painted))
    torch.testing.assert_close(found[1:], wanted[1:], atol=5e-3, rtol=0)
    for kind in (torch.mean, torch.std):
        torch.testing.assert_close(kind(found[0]), kind(wanted[0]), atol=1e-3, rtol=0)
    assert np.corrcoef(found[0].flatten(), given[0].flatten())[0, 1] > 0.999  # the strokes are the painting's


def test_contrast_is_raised_by_half_at_most() -> None:
    photograph, painted = noise(0, 0.3, 0.7), noise(1, 0.45, 0.55)
    found, given, wanted = (oklab(x)[0] for x in (with_colours_of(photograph, painted), painted, photograph))
    assert float(wanted.std() / given.std()) > 2
    torch.testing.assert_close(found.std() / given.std(), torch.tensor(1.5), atol=0.02, rtol=0)
    torch.testing.assert_close(found.mean(), wanted.mean(), atol=2e-3, rtol=0)


def test_even_pictures() -> None:
    photograph, even = noise(0, 0, 1), np.full((19, 21, 3), 128, np.uint8)
    assert float(oklab(with_colours_of(photograph, even))[0].std()) < 0.1
    np.testing.assert_allclose(with_colours_of(even, photograph).astype(int), even, atol=1)
