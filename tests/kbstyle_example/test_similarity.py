"""Structural similarity against the paper's formula, window by window, closed forms and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbstyle_example.similarity import Shapes, ssim
from skd.errors import ArgumentError, ShapeError

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


# --- the loss that holds shapes --------------------------------------------------------------------------------------


def test_shapes_are_weighed() -> None:
    content, output = torch.rand(2, 2, 3, 16, 20)
    loss = Shapes(3.0)(output.requires_grad_(), content)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), 3 * (1 - ssim(output.detach(), content)).float())
    assert Shapes(3.0).state_dict() == {}  # runs from before there was one go on


@pytest.mark.parametrize("follows", [0.0, 0.1, -0.2])
def test_a_weight_that_follows_goes_up_while_shapes_are_kept_worse(follows: float) -> None:
    content, reference, output = torch.rand(3, 2, 3, 16, 20)
    output.requires_grad_()
    shapes = Shapes(2.0, follows)
    found, wanted, weight = float(ssim(output.detach(), content)), float(ssim(reference, content)), 2.0
    for _ in range(3):
        loss = shapes(output, content, reference)
        assert loss.item() == pytest.approx(weight * (1 - found), rel=1e-5)
        weight *= np.exp(0.15 * (wanted + follows - found))
        assert shapes.weight.item() == pytest.approx(weight, rel=1e-5)
    loss.backward()  # through the weight of its own step
    gradient = torch.autograd.grad(-ssim(output, content), output)[0]
    used = weight / np.exp(0.15 * (wanted + follows - found))
    assert output.grad is not None
    torch.testing.assert_close(output.grad, used * gradient, rtol=1e-4, atol=1e-9)


def test_a_weight_that_follows_stays_between_its_bounds_and_without_gradients() -> None:
    content = torch.rand(1, 3, 16, 20)
    output = (1 - content).requires_grad_()
    for follows, end in ((1e6, 50.0), (-1e6, 0.05)):
        shapes = Shapes(2.0, follows)
        shapes(output, content, content)
        assert shapes.weight.item() == pytest.approx(end)
        with torch.no_grad():
            shapes(output, content)
        assert shapes.weight.item() == pytest.approx(end)


def test_a_weight_finds_what_keeps_the_shapes_asked_for() -> None:
    """A picture pulled from the photograph: where a fixed weight leaves it short, one that follows brings it there."""
    noise = torch.Generator().manual_seed(3)
    content, pull = torch.rand(2, 1, 3, 16, 20, generator=noise)
    kept = {}
    for follows in (None, 0.0):
        shapes, output = Shapes(0.05, follows), pull.clone().requires_grad_()
        reference = 0.6 * content + 0.4 * pull
        for _ in range(600):
            loss = (output - pull).square().mean() + 0.1 * shapes(output, content, reference)
            (gradient,) = torch.autograd.grad(loss, output)
            output = (output - 30 * gradient).detach().requires_grad_()
        kept[follows] = float(ssim(output.detach(), content) - ssim(reference, content))
    assert kept[None] < -0.2
    assert kept[0.0] == pytest.approx(0, abs=0.02)


def test_what_cant_be_followed() -> None:
    with pytest.raises(ArgumentError, match=r"a weight of shapes that follows begins; got 0\.0; expected above 0"):
        Shapes(0.0, follows=0.0)
    with pytest.raises(ArgumentError, match=r"shapes shall be kept better; got nan; expected a finite number"):
        Shapes(1.0, follows=float("nan"))
    with pytest.raises(ArgumentError, match=r"the weight of shapes follows pictures; got none"):
        Shapes(1.0, follows=0.0)(torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16))
