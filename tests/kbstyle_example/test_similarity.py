"""Structural similarity against the paper's formula, window by window, closed forms and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbstyle_example.similarity import ssim
from skd.errors import ShapeError

Array = np.ndarray[Any, Any]


def ssim_by_hand(first: Tensor, second: Tensor) -> float:
    """Equation 13 of the paper, window by window, with weighted covariances about the weighted mean."""

    def grey(image: Tensor) -> Array:
        red, green, blue = image[0].double().numpy()
        return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue)

    x, y = grey(first), grey(second)
    weights = np.array([[np.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    weights /= weights.sum()
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append(
                (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


@pytest.mark.parametrize("size", [(11, 11), (14, 19), (23, 12)])
def test_ssim(size: tuple[int, int]) -> None:
    first = torch.rand(1, 3, *size)
    for second in (torch.rand(1, 3, *size), (0.7 * first + 0.1).clamp(0, 1), first**2):
        assert ssim(first, second).item() == pytest.approx(ssim_by_hand(first, second), abs=1e-9)


def test_ssim_of_even_pictures() -> None:
    for a, b in ((0.2, 0.7), (0.0, 1.0), (0.5, 0.5)):
        wanted = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        found = ssim(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
        assert found.item() == pytest.approx(wanted, abs=1e-7)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_ssim_is_symmetric_and_at_most_one(seed: int, share: float) -> None:
    noise = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 1, 3, 13, 15, generator=noise)
    mixed = share * a + (1 - share) * b
    assert ssim(a, mixed).item() == pytest.approx(ssim(mixed, a).item())
    assert ssim(a, mixed).item() <= 1 + 1e-9
    assert ssim(a, a).item() == pytest.approx(1)


def test_ssim_of_a_batch_is_the_mean() -> None:
    a, b = torch.rand(2, 3, 3, 16, 16)
    alone = torch.stack([ssim(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(ssim(a, b), alone.mean())


def test_ssim_needs_pictures_of_one_size_and_as_large_as_the_window() -> None:
    with pytest.raises(ShapeError, match=r"pictures to compare; got \(1, 3, 16, 16\); expected \(1, 3, 16, 17\)"):
        ssim(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 17))
    with pytest.raises(ShapeError, match=r"smaller than the window.*expected 11 a side"):
        ssim(torch.rand(1, 3, 16, 10), torch.rand(1, 3, 16, 10))


def test_its_gradient() -> None:
    first, second = torch.rand(2, 2, 3, 12, 13, dtype=torch.float64).requires_grad_().unbind()
    assert torch.autograd.gradcheck(ssim, (first, second))
