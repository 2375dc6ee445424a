"""Statistics of features against numpy and autograd, and features that take them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbstyle_example.moments import EPSILON, Moments, modulated, moments, normalised

Array = np.ndarray[Any, Any]


def features(*shape: int, seed: int = 0) -> Tensor:
    """Every channel with a mean and a deviation of its own."""
    rng = np.random.default_rng(seed)
    scale, shift = rng.uniform(0.5, 4, (2, 1, shape[1], 1, 1))
    return torch.from_numpy(rng.standard_normal(shape) * scale + shift).float()


def population(feature: Tensor) -> tuple[Array, Array]:
    values = feature.double().numpy()
    return values.mean((2, 3), keepdims=True), np.sqrt(values.var((2, 3), keepdims=True) + EPSILON)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 4, 5), (3, 2, 1, 1)])
def test_moments_are_the_populations(shape: tuple[int, ...]) -> None:
    feature = features(*shape)
    mean, deviation = population(feature)
    found = moments(feature)
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.deviation.numpy(), deviation, rtol=1e-5)


def test_normalised_against_numpy() -> None:
    feature = features(2, 3, 6, 5)
    mean, deviation = population(feature)
    np.testing.assert_allclose(normalised(feature).numpy(), (feature.numpy() - mean) / deviation, atol=1e-5)


def test_a_constant_channel_has_no_infinite_gradient() -> None:
    feature = torch.full((1, 2, 3, 3), 7.0, requires_grad=True)
    found = moments(feature)
    torch.testing.assert_close(found.deviation, torch.full((1, 2, 1, 1), EPSILON**0.5))
    torch.testing.assert_close(normalised(feature), torch.zeros(1, 2, 3, 3))
    found.deviation.sum().backward()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moments_of_half_precision_are_taken_in_float32(dtype: torch.dtype) -> None:
    # In float16 the squares of these would overflow, and in bfloat16 the mean would stop growing.
    feature = (300 + 100 * torch.randn(1, 2, 32, 32)).to(dtype)
    mean, deviation = population(feature)
    found = moments(feature)
    assert found.mean.dtype == found.deviation.dtype == torch.float32
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(found.deviation.numpy(), deviation, rtol=1e-5)


def test_moments_in_channels_last_are_as_exact() -> None:
    # Batch normalisation's kernel alone is off by a thousandth here: a constant would seem to vary.
    feature = features(2, 3, 700, 900)
    feature[:, 0] = 0.3
    feature[:, 2] *= 1000
    mean, deviation = population(feature)
    found = moments(feature.to(memory_format=torch.channels_last))
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.deviation.numpy(), deviation, rtol=1e-5)
    one = moments(feature[1:].to(memory_format=torch.channels_last))  # a sample is what it is in any batch
    assert torch.equal(one.mean, found.mean[1:])
    assert torch.equal(one.deviation, found.deviation[1:])


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_moments_and_modulation(memory: torch.memory_format) -> None:
    feature = features(2, 3, 3, 4).double().to(memory_format=memory).requires_grad_()
    style = [(t.double() + 0.5).requires_grad_() for t in torch.rand(2, 2, 3, 1, 1)]
    assert moments(feature).mean.dtype == torch.float64
    assert torch.autograd.gradcheck(moments, (feature,))
    assert torch.autograd.gradcheck(lambda x, m, d: modulated(x, Moments(m, d)), (feature, *style))
    with torch.no_grad():
        without = modulated(feature, Moments(*style))
    torch.testing.assert_close(without, modulated(feature, Moments(*style)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modulating_half_precision_gives_float32(dtype: torch.dtype) -> None:
    feature, wanted = features(1, 2, 5, 6), Moments(torch.rand(1, 2, 1, 1), torch.rand(1, 2, 1, 1))
    for known in (None, moments(feature)):
        found = modulated(feature.to(dtype), wanted, known)
        assert found.dtype == torch.float32
        expected = modulated(feature.to(dtype).float(), wanted, known)
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_gradients_are_autograds(dtype: torch.dtype, memory: torch.memory_format) -> None:
    feature = (3 + torch.randn(2, 5, 9, 7)).to(dtype).contiguous(memory_format=memory).requires_grad_()
    weights = torch.rand(2, 2, 5, 1, 1)
    found = moments(feature)
    (gradient,) = torch.autograd.grad((found.mean * weights[0] + found.deviation * weights[1]).sum(), feature)
    variance, mean = torch.var_mean(feature.float(), dim=(2, 3), keepdim=True, correction=0)
    total = (mean * weights[0] + (variance + EPSILON).sqrt() * weights[1]).sum()
    (wanted,) = torch.autograd.grad(total, feature)
    assert gradient.dtype == dtype
    assert gradient.is_contiguous(memory_format=memory)
    torch.testing.assert_close(gradient, wanted, rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=1e-6)


def test_a_feature_that_was_changed_has_no_gradient_any_more() -> None:
    feature = torch.rand(1, 2, 4, 4, requires_grad=True) * 1
    found = moments(feature)
    feature.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.mean.sum().backward()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(2, 6))
def test_modulated_has_the_styles_moments(seed: int, batch: int, channels: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (batch, channels, height, width))
    values[..., 0, 0], values[..., -1, -1] = -2, 2  # never nearly constant: EPSILON would show
    mean = rng.uniform(-5, 5, (batch, channels, 1, 1))
    deviation = rng.uniform(0.1, 5, (batch, channels, 1, 1))
    wanted = Moments(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())
    result = modulated(torch.from_numpy(values).float(), wanted).double().numpy()
    np.testing.assert_allclose(result.mean((2, 3), keepdims=True), mean, atol=1e-5)
    np.testing.assert_allclose(result.std((2, 3), keepdims=True), deviation, rtol=1e-4)
    # And nothing else of the feature changes.
    centred = (values - values.mean((2, 3), keepdims=True)) / values.std((2, 3), keepdims=True)
    np.testing.assert_allclose(result, centred * deviation + mean, atol=1e-3)
