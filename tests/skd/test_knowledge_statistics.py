"""Knowledge that forgets the positions. What holds for all knowledge is tested in test_knowledge_maps.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from skd.knowledge import channel_correlation, covariance, gram, mean_std


@pytest.fixture
def feature() -> Tensor:
    return torch.randn(2, 3, 4, 5, dtype=torch.float64) * 2 + 1


def test_mean_std(feature: Tensor) -> None:
    f = feature.numpy().reshape(2, 3, 20)
    expected = np.concatenate([f.mean(2), np.sqrt(f.var(2) + 0.1)], axis=1)
    assert_close(mean_std(feature, eps=0.1), torch.from_numpy(expected))


def test_mean_std_of_one_position_is_finite() -> None:
    feature = torch.tensor([[3.0, -1.0]], requires_grad=True)
    result = mean_std(feature, layout="BC", eps=1e-4)
    assert_close(result, torch.tensor([[3.0, -1.0, 0.01, 0.01]]))
    result.sum().backward()
    assert_close(feature.grad, torch.ones(1, 2))


def test_the_gradient_of_a_constant_channel_is_zero_where_the_bare_deviation_has_none() -> None:
    constant = torch.full((1, 1, 4), 2.0, requires_grad=True)
    mean_std(constant, layout="BCL")[:, 1].sum().backward()
    assert_close(constant.grad, torch.zeros(1, 1, 4))
    bare = torch.full((1, 1, 4), 2.0, requires_grad=True)
    (bare - bare.mean()).square().mean().sqrt().backward()
    assert bare.grad is not None
    assert torch.isnan(bare.grad).all()


def test_covariance(feature: Tensor) -> None:
    expected = np.stack([np.cov(sample.reshape(3, 20), bias=True) for sample in feature.numpy()])
    assert_close(covariance(feature), torch.from_numpy(expected))


def test_gram(feature: Tensor) -> None:
    f = feature.numpy().reshape(2, 3, 20)
    assert_close(gram(feature), torch.from_numpy(np.einsum("bcn,bdn->bcd", f, f) / 60))


def test_channel_correlation(feature: Tensor) -> None:
    f = feature.numpy().reshape(2, 3, 20)
    products = np.einsum("bcn,bdn->bcd", f, f)
    expected = products / np.linalg.norm(products, axis=2, keepdims=True)
    assert_close(channel_correlation(feature), torch.from_numpy(expected))


def test_channel_correlation_of_dead_and_faint_channels() -> None:
    dead = torch.randn(1, 3, 6)
    dead[:, 1] = 0
    result = channel_correlation(dead, layout="BCL")
    assert_close(result[0, 1], torch.zeros(3))
    assert_close(channel_correlation(dead * 1e-5, layout="BCL"), result)


@given(st.integers(0, 1000), st.permutations(range(20)))
def test_statistics_forget_the_order_of_positions(seed: int, order: list[int]) -> None:
    feature = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for function in (mean_std, covariance, gram, channel_correlation):
        assert_close(function(feature[:, :, order], layout="BCL"), function(feature, layout="BCL"))


@given(st.integers(0, 1000))
def test_covariance_follows_a_linear_map_of_the_channels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    matrix = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    expected = matrix @ covariance(feature, layout="BCL") @ matrix.T
    assert_close(covariance(matrix @ feature + 7, layout="BCL"), expected)
