"""Relations between positions and samples, and kernel alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from skd.errors import ArgumentError, ShapeError
from skd.knowledge import (
    Knowledge,
    alignment_kernel,
    batch_samples,
    kernel_alignment,
    position_affinity,
    position_samples,
    sample_similarity,
)
from skd.knowledge.alignment import Estimator
from skd.knowledge.relations import _grid

ESTIMATORS: tuple[Estimator, ...] = ("debiased", "centred", "plain")
Array = np.ndarray[Any, Any]


def rows(seed: int, n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, width: int) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(rows(seed, width, width))[0]
    return orthogonal


# ---- positions


def test_position_affinity_without_pooling() -> None:
    feature = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    f = feature.numpy().reshape(2, 3, 20)
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    assert_close(position_affinity(feature, count=20), torch.from_numpy(np.einsum("bcm,bcn->bmn", f, f)))


def test_position_affinity_pools_a_map_that_is_not_square() -> None:
    feature = torch.randn(2, 3, 4, 9, dtype=torch.float64)
    cells = feature.numpy().reshape(2, 3, 2, 2, 3, 3).mean((3, 5)).reshape(2, 3, 6)
    cells = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    expected = torch.from_numpy(np.einsum("bcm,bcn->bmn", cells, cells))
    assert_close(position_affinity(feature, grid=(2, 3)), expected)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple).filter(lambda s: np.prod(s) >= 2),
    st.integers(2, 300),
)
def test_the_grid_fits_and_is_not_wasteful(size: tuple[int, ...], most: int) -> None:
    grid = _grid(size, most)
    cells, full = int(np.prod(grid)), int(np.prod(size))
    assert cells <= most
    assert all(1 <= cell <= side for cell, side in zip(grid, size, strict=True))
    if full <= most:
        assert grid == size
    else:
        assert cells * 2 ** len(size) > most  # rounding down costs each axis less than half


def test_the_grid_depends_on_the_proportions_only() -> None:
    assert _grid((64, 48), 256) == _grid((32, 24), 256) == (19, 13)
    assert _grid((1, 1000), 64) == (1, 64)
    assert _grid((2000, 3), 64) == (64, 1)


def test_memory_of_the_affinity_does_not_grow_with_the_map() -> None:
    assert position_affinity(torch.randn(1, 2, 96, 160), count=64).shape == (1, 60, 60)
    assert position_affinity(torch.randn(1, 100, 2), layout="BNC", count=10).shape == (1, 10, 10)
    assert position_affinity(torch.randn(1, 2, 8, 16, 32), layout="BCDHW", count=64).shape == (1, 64, 64)


def test_pooling_and_sampling_compile_to_one_graph() -> None:
    torch.compiler.reset()
    feature = torch.randn(2, 3, 9, 7)
    for knowledge in (Knowledge(position_affinity, count=12), Knowledge(position_samples, count=12)):
        compiled = torch.compile(knowledge, fullgraph=True, backend="eager")
        assert_close(compiled(feature), knowledge(feature))


def test_position_affinity_checks_its_options() -> None:
    feature = torch.randn(1, 2, 3, 5)
    with pytest.raises(ArgumentError, match="at least two cells; got count=1"):
        position_affinity(feature, count=1)
    for grid in ((4, 5), (3,), (0, 2)):
        with pytest.raises(ArgumentError, match=r"grid doesn't fit in the feature; got grid=.*at most \(3, 5\)"):
            position_affinity(feature, grid=grid)


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_position_affinity_ignores_rotation_and_scale(seed: int, scale: float) -> None:
    feature = rows(seed, 12, 4).T.reshape(1, 4, 3, 4)
    turned = scale * torch.einsum("oc,bchw->bohw", rotation(seed + 1, 4), feature)
    assert_close(position_affinity(turned), position_affinity(feature))


# ---- samples


def test_sample_similarity() -> None:
    feature = torch.randn(4, 3, 2, 5, dtype=torch.float64)
    a = feature.numpy().reshape(4, 30)
    expected = a @ a.T / np.linalg.norm(a @ a.T, axis=1, keepdims=True)
    assert_close(sample_similarity(feature), torch.from_numpy(expected))
    assert_close(sample_similarity(feature * 1e-5), sample_similarity(feature))


def test_relations_between_samples_refuse_a_batch_of_one() -> None:
    for function in (sample_similarity, batch_samples):
        with pytest.raises(ShapeError, match=r"at least two samples.*got a batch of 1.*Remedy: use a larger batch"):
            function(torch.randn(1, 3, 4, 5))
    # What the guard is there for: at one sample the similarity is 1 whatever the feature is.
    assert_close(torch.nn.functional.normalize(torch.tensor([[17.0]]), dim=1), torch.ones(1, 1))


def test_batch_samples_keep_the_order() -> None:
    feature = torch.randn(2, 3, 4, 5)
    assert_close(batch_samples(feature), feature.reshape(2, 60))


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.sampled_from(["BCHW", "BNC"]))
def test_position_samples_are_distinct_and_the_same_ones_each_time(
    batch: int, height: int, width: int, count: int, layout: str
) -> None:
    total = batch * height * width
    numbers = torch.arange(float(total))
    feature = (
        numbers.reshape(batch, 1, height, width) if layout == "BCHW" else numbers.reshape(batch, height * width, 1)
    )
    sampled = position_samples(feature, layout=layout, count=count)  # type: ignore[arg-type]
    assert sampled.shape == (min(total, count), 1)
    assert sampled.unique().numel() == sampled.numel()
    assert_close(sampled, position_samples(feature, layout=layout, count=count))  # type: ignore[arg-type]
    if total <= count:
        assert_close(sampled[:, 0], numbers)


def test_position_samples_reach_every_sample_and_column() -> None:
    column = torch.arange(32.0).expand(8, 1, 32, 32)
    sampled = position_samples(column, count=512)
    assert sampled.unique().numel() == 32
    assert column.flatten()[:: 8192 // 512].unique().numel() == 2  # a plain stride sees two columns of 32
    batch = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 32, 32)
    _, found = position_samples(batch, count=512).unique(return_counts=True)
    assert found.numel() == 8
    assert int(found.max() - found.min()) <= 4


def test_position_samples_pair_student_and_teacher() -> None:
    place = torch.arange(3 * 40 * 30.0).reshape(3, 1, 40, 30)
    student, teacher = place.expand(3, 4, 40, 30), place.expand(3, 7, 40, 30)
    assert_close(position_samples(student, count=100)[:, 0], position_samples(teacher, count=100)[:, 0])


def test_position_samples_checks_its_options() -> None:
    with pytest.raises(ArgumentError, match="number of samples must be positive; got count=0"):
        position_samples(torch.randn(1, 2, 3, 4), count=0)


# ---- kernel alignment


def song(first: Array, second: Array) -> float:
    """The unbiased HSIC as Song et al. 2012, eq. 5, write it, of linear kernels."""
    n = len(first)
    k, l = first @ first.T, second @ second.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    value = np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    return float(np.divide(value, n * (n - 3)))


def oracle(first: Array, second: Array, estimator: str) -> float:
    if estimator == "debiased":
        return song(first, second) / (song(first, first) * song(second, second)) ** 0.5
    if estimator == "centred":  # Kornblith et al. 2019, feature form
        first, second = first - first.mean(0), second - second.mean(0)
    cross = np.linalg.norm(first.T @ second) ** 2
    return float(cross / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [4, 5, 30])
def test_kernel_alignment(estimator: Estimator, n: int) -> None:
    first = rows(0, n, 3) + 1
    second = first[:, :2] @ rows(1, 2, 5) + rows(2, n, 5)
    expected = oracle(first.numpy(), second.numpy(), estimator)
    assert kernel_alignment(first, second, estimator=estimator).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_of_kernel_alignment(estimator: Estimator) -> None:
    first, second = rows(0, 6, 2).requires_grad_(), rows(1, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: kernel_alignment(a, b, estimator=estimator), (first, second))


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.sampled_from(ESTIMATORS))
def test_kernel_alignment_ignores_rotation_and_scale(seed: int, scale: float, estimator: Estimator) -> None:
    first, second = rows(seed, 9, 4), rows(seed + 1, 9, 3)
    turned = scale * first @ rotation(seed + 2, 4)
    if estimator != "plain":
        turned = turned + rows(seed + 3, 1, 4)
    value = kernel_alignment(first, second, estimator=estimator)
    assert_close(kernel_alignment(turned, second, estimator=estimator), value)
    assert_close(kernel_alignment(second, turned, estimator=estimator), value)
    assert_close(kernel_alignment(turned, first, estimator=estimator), torch.ones_like(value))
    assert abs(value) <= 1 + 1e-12


def test_independent_features_score_high_unless_debiased() -> None:
    """The known trap: independent features after a ReLU look alike to plain KA, at eight samples also to biased CKA."""
    plain, centred, debiased = [], [], []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        first, second = (torch.randn(8, 64, 16, 12, generator=generator).relu() for _ in range(2))
        batch = batch_samples(first), batch_samples(second)
        places = position_samples(first), position_samples(second)
        plain.append(kernel_alignment(*batch, estimator="plain").item())
        centred.append(kernel_alignment(*batch, estimator="centred").item())
        debiased.append(kernel_alignment(*places).item())
    assert min(plain) > 0.997
    assert np.mean(centred) > 0.9
    assert abs(np.mean(debiased)) < 0.005
    assert np.abs(debiased).max() < 0.02


def test_a_large_common_mean_costs_no_precision() -> None:
    first, second = rows(0, 40, 3), rows(1, 40, 3)
    for estimator in ("debiased", "centred"):
        exact = kernel_alignment(first, second, estimator=estimator)
        shifted = kernel_alignment((first + 1000).float(), second.float(), estimator=estimator)
        assert_close(shifted.double(), exact, rtol=0, atol=1e-4)


def test_features_without_spread_align_with_nothing() -> None:
    constant, other = torch.ones(6, 3, requires_grad=True), rows(0, 6, 3).float()
    value = kernel_alignment(constant, other)
    assert value.item() == 0
    value.backward()
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_kernels_have_norm_one(estimator: Estimator) -> None:
    kernel = alignment_kernel(rows(0, 7, 3) * 1e-4, estimator=estimator)
    assert_close(torch.linalg.matrix_norm(kernel), torch.ones((), dtype=torch.float64))
    assert_close(kernel, kernel.T)


def test_kernel_alignment_refuses_what_it_can_not_compare() -> None:
    with pytest.raises(ShapeError, match=r"same samples; got \(5, 2\) and \(6, 2\).*SpaceAdapter"):
        kernel_alignment(rows(0, 5, 2), rows(0, 6, 2))
    with pytest.raises(ShapeError, match=r"same samples; got \(1, 5, 2\)"):
        kernel_alignment(rows(0, 5, 2)[None], rows(0, 5, 2))
    with pytest.raises(ShapeError, match=r"debiased kernel alignment.*got \(3, 2\); expected \(n, p\) with n from 4"):
        kernel_alignment(rows(0, 3, 2), rows(1, 3, 2))
    with pytest.raises(ShapeError, match=r"plain kernel alignment.*got \(1, 2\).*n from 2"):
        kernel_alignment(rows(0, 1, 2), rows(1, 1, 2), estimator="plain")
    with pytest.raises(ShapeError, match=r"to 8192.*position_samples"):
        kernel_alignment(torch.zeros(8193, 1), torch.zeros(8193, 1))
    with pytest.raises(ArgumentError, match="estimator isn't known; got 'biased'; expected debiased, centred or plain"):
        kernel_alignment(rows(0, 5, 2), rows(1, 5, 2), estimator="biased")  # type: ignore[arg-type]
    # What the least numbers are there for: one sample aligns with every other, and three always cancel.
    assert oracle(rows(0, 1, 2).numpy(), rows(1, 1, 2).numpy(), "plain") == pytest.approx(1)
    with np.errstate(all="ignore"):
        assert not np.isfinite(song(rows(0, 3, 2).numpy(), rows(1, 3, 2).numpy()))
