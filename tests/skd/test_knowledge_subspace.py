"""Coordinates, projections, energy kept, and how far subspaces agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from skd.errors import ArgumentError, ShapeError
from skd.knowledge import coordinates, energy_kept, lift, principal_angles, projection, subspace_affinity
from skd.taps import Layout

SHAPES: dict[Layout, tuple[int, ...]] = {
    "BCHW": (2, 4, 3, 5),
    "BCDHW": (1, 4, 2, 3, 2),
    "BCL": (2, 4, 7),
    "BNC": (1, 7, 4),
    "BC": (3, 4),
}


def matrix(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(seed: int, height: int, width: int) -> Tensor:
    q: Tensor = torch.linalg.qr(matrix(seed, height, width))[0]
    return q


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("with_mean", [True, False])
def test_values_in_every_layout(layout: Layout, with_mean: bool) -> None:
    feature, basis = matrix(0, *SHAPES[layout]), orthonormal(1, 4, 2)
    mean = matrix(2, 4) if with_mean else None
    axis = 2 if layout == "BNC" else 1
    f, u, m = feature.numpy(), basis.numpy(), np.zeros(4) if mean is None else mean.numpy()
    last = np.moveaxis(f, axis, -1) - m
    z = last @ u
    back = z @ u.T + m
    assert_close(
        coordinates(feature, basis=basis, mean=mean, layout=layout), torch.from_numpy(np.moveaxis(z, -1, axis).copy())
    )
    expected = torch.from_numpy(np.moveaxis(back, -1, axis).copy())
    assert_close(projection(feature, basis=basis, mean=mean, layout=layout), expected)
    assert_close(
        lift(coordinates(feature, basis=basis, mean=mean, layout=layout), basis=basis, mean=mean, layout=layout),
        expected,
    )
    share = torch.tensor((z**2).sum() / (last**2).sum())
    assert_close(energy_kept(feature, basis=basis, mean=mean, layout=layout), share)


@given(st.integers(0, 1000))
def test_projection_and_energy_depend_on_the_span_only(seed: int) -> None:
    feature, basis, change = matrix(seed, 2, 5, 6), orthonormal(seed + 1, 5, 3), matrix(seed + 2, 3, 3)
    change = change + 3 * torch.eye(3, dtype=torch.float64)  # invertible enough
    other = basis @ change
    assert_close(projection(feature, basis=other, layout="BCL"), projection(feature, basis=basis, layout="BCL"))
    kept = energy_kept(feature, basis=basis, layout="BCL")
    assert_close(energy_kept(feature, basis=other, layout="BCL"), kept)
    assert 0 <= kept <= 1
    once = projection(feature, basis=basis, layout="BCL")
    assert_close(projection(once, basis=basis, layout="BCL"), once)


def test_energy_kept_at_its_ends() -> None:
    feature = torch.zeros(1, 2, 3)
    feature[:, 0] = torch.randn(3)
    along, across = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert energy_kept(feature, basis=along, layout="BCL").item() == 1
    assert energy_kept(feature, basis=across, layout="BCL").item() == 0
    assert energy_kept(torch.zeros(1, 2, 3), basis=across, layout="BCL").item() == 1
    assert energy_kept(feature * 1e-25, basis=along, layout="BCL").item() == 1  # squares would underflow


def test_gradients() -> None:
    feature, basis, mean = matrix(0, 2, 3, 4).requires_grad_(), orthonormal(1, 3, 2), matrix(2, 3)
    for function in (coordinates, projection, energy_kept):
        assert torch.autograd.gradcheck(
            lambda f, function=function: function(f, basis=basis, mean=mean, layout="BCL"), (feature,)
        )
    sides = matrix(3, 6, 2).requires_grad_(), matrix(4, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(subspace_affinity, sides)


def test_half_is_computed_in_float32() -> None:
    feature, basis = matrix(0, 2, 4, 3, 5).half(), orthonormal(1, 4, 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = coordinates(feature, basis=basis)
    assert result.dtype == torch.float32
    assert_close(result.double(), coordinates(feature.double(), basis=basis), rtol=1e-5, atol=1e-5)


def test_bases_that_do_not_fit() -> None:
    feature = torch.randn(1, 3, 2, 2)
    for function in (coordinates, projection, energy_kept):
        with pytest.raises(ShapeError, match=r"basis of \(4, 2\) for 3 channels; expected \(3, c\).*tap's layout"):
            function(feature, basis=torch.ones(4, 2))
        with pytest.raises(ShapeError, match=r"basis of \(3, 4\) for 3 channels"):
            function(feature, basis=torch.ones(3, 4))
        with pytest.raises(ShapeError, match=r"mean doesn't fit the feature's channels; got \(2,\); expected \(3,\)"):
            function(feature, basis=torch.eye(3), mean=torch.ones(2))
    with pytest.raises(ShapeError, match=r"lift of \(5, 2\) for 3 coordinates; expected \(C, 3\)"):
        lift(feature, basis=torch.ones(5, 2))
    with pytest.raises(ShapeError, match=r"mean doesn't fit the feature's channels; got \(3,\); expected \(5,\)"):
        lift(feature, basis=torch.ones(5, 3), mean=torch.ones(3))


# ---- subspaces


@given(st.lists(st.floats(0, math.pi / 2), min_size=1, max_size=3), st.integers(0, 1000))
def test_principal_angles_are_recovered(angles: list[float], seed: int) -> None:
    """Two planes built with known angles: span(e_i) and span(cos θ_i e_i + sin θ_i e_{k+i})."""
    count = len(angles)
    first = torch.eye(2 * count, count, dtype=torch.float64)
    theta = torch.tensor(angles, dtype=torch.float64)
    second = torch.cat([torch.diag(theta.cos()), torch.diag(theta.sin())])
    turn, change = orthonormal(seed, 2 * count, 2 * count), orthonormal(seed + 1, count, count)
    found = principal_angles(turn @ first @ change, turn @ second)
    assert_close(found, theta.sort()[0], rtol=0, atol=1e-9)
    assert_close(principal_angles(turn @ second, turn @ first), theta.sort()[0], rtol=0, atol=1e-9)


def test_small_angles_are_exact_where_the_arc_cosine_is_blind() -> None:
    tiny = 1e-6
    first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[math.cos(tiny)], [math.sin(tiny)]])
    assert principal_angles(first, second).item() == pytest.approx(tiny, rel=1e-4)
    assert (first.T @ second).acos().item() == 0  # what the arc sine is there for


def test_principal_angles_are_canonical_correlations_of_features() -> None:
    first = matrix(0, 50, 3)
    second = torch.cat([first[:, :2] @ matrix(1, 2, 2), matrix(2, 50, 2)], 1)
    first, second = first - first.mean(0), second - second.mean(0)
    a, b = np.linalg.qr(first.numpy())[0], np.linalg.qr(second.numpy())[0]
    expected = np.arccos(np.clip(np.linalg.svd(a.T @ b, compute_uv=False), -1, 1))
    assert_close(principal_angles(first, second), torch.from_numpy(expected), rtol=0, atol=1e-7)
    assert_close(principal_angles(first, second)[:2], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_dead_channels_add_no_angle() -> None:
    samples = matrix(0, 8, 2)
    dead = torch.cat([samples, torch.zeros(8, 2, dtype=torch.float64), samples[:, :1]], 1)
    right = torch.zeros(2, dtype=torch.float64)
    assert_close(principal_angles(dead, samples), right, rtol=0, atol=1e-12)
    assert_close(principal_angles(dead, dead @ matrix(1, 5, 5)), right, rtol=0, atol=1e-7)  # two, though it has five


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4))
def test_affinity_is_the_mean_squared_cosine(seed: int, p: int, q: int) -> None:
    first, second = matrix(seed, 12, p), matrix(seed + 1, 12, q)
    expected = principal_angles(first, second).cos().square().mean()
    assert_close(subspace_affinity(first, second, ridge=0.0), expected, rtol=1e-6, atol=1e-9)
    assert_close(subspace_affinity(first, second), expected, rtol=0, atol=1e-3)
    turned = 7 * first @ orthonormal(seed + 2, p, p)
    assert_close(subspace_affinity(turned, second), subspace_affinity(first, second))


def test_affinity_of_dead_and_repeated_channels_has_a_finite_gradient() -> None:
    samples = torch.randn(8, 2)
    dead = torch.cat([samples, torch.zeros(8, 1), samples[:, :1]], 1).requires_grad_()
    subspace_affinity(dead, torch.randn(8, 3)).backward()
    assert dead.grad is not None
    assert torch.isfinite(dead.grad).all()


def test_affinity_checks_its_arguments() -> None:
    with pytest.raises(ArgumentError, match="ridge must be at least 0 and finite; got -1"):
        subspace_affinity(matrix(0, 4, 2), matrix(1, 4, 2), ridge=-1)
    for function in (subspace_affinity, principal_angles):
        with pytest.raises(ShapeError, match=r"same samples; got \(4, 2\) and \(5, 2\)"):
            function(matrix(0, 4, 2), matrix(1, 5, 2))
