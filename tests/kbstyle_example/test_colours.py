"""Oklab against its published values, and the photograph's colours on painted strokes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kbstyle_example.colours import from_oklab, to_oklab, with_colours_of


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


def test_hues_are_the_photographs_and_lightness_has_its_statistics() -> None:
    torch.manual_seed(0)
    photograph = 0.4 + 0.2 * torch.rand(2, 3, 9, 11)  # in the middle of the gamut, where nothing is cut off
    painted = 0.3 + 0.5 * torch.rand(2, 3, 9, 11)
    found, wanted, given = (to_oklab(x) for x in (with_colours_of(photograph, painted), photograph, painted))
    torch.testing.assert_close(found[:, 1:], wanted[:, 1:], atol=1e-3, rtol=0)
    for kind in (torch.mean, torch.std):
        torch.testing.assert_close(kind(found[:, 0], (1, 2)), kind(wanted[:, 0], (1, 2)), atol=1e-3, rtol=0)
    for k in range(2):  # the strokes are the painting's
        assert np.corrcoef(found[k, 0].flatten(), given[k, 0].flatten())[0, 1] > 0.999


def test_contrast_is_raised_by_half_at_most() -> None:
    torch.manual_seed(0)
    photograph, painted = 0.3 + 0.4 * torch.rand(1, 3, 9, 11), 0.45 + 0.1 * torch.rand(1, 3, 9, 11)
    found, given, wanted = (to_oklab(x)[:, 0] for x in (with_colours_of(photograph, painted), painted, photograph))
    assert float(wanted.std() / given.std()) > 2
    torch.testing.assert_close(found.std() / given.std(), torch.tensor(1.5), atol=0.02, rtol=0)
    torch.testing.assert_close(found.mean(), wanted.mean(), atol=2e-3, rtol=0)


def test_an_even_painting_has_no_contrast_to_scale() -> None:
    photograph = torch.rand(1, 3, 8, 8)
    found = with_colours_of(photograph, torch.full((1, 3, 8, 8), 0.5))
    assert bool(found.isfinite().all())
    assert float(to_oklab(found)[:, 0].std()) < 0.1
    flat = torch.full((1, 3, 8, 8), 0.25)
    torch.testing.assert_close(with_colours_of(flat, torch.rand(1, 3, 8, 8)), flat, atol=1e-3, rtol=0)
