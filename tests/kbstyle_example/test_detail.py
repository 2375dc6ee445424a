"""The finest detail against numpy and closed forms: a lattice is seen, what isn't one isn't."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.detail import detail_distance, strengths, unevenness
from skd.errors import ShapeError


def smooth(side: int = 32, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(1, 3, side // 2, side // 2, generator=random), scale_factor=2, mode="bilinear")


def lattice(side: int = 32) -> Tensor:
    return torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(side // 2, side // 2).expand(1, 3, -1, -1)


def test_strengths_by_hand() -> None:
    image = torch.rand(2, 3, 11, 14)
    binomial = [np.array([math.comb(order, k) * (-1) ** k for k in range(order + 1)]) / 2**order for order in (6, 4)]
    kernels = [*binomial, np.array([-1, 0, 2, 0, -1]) / 4]
    found = strengths(image)
    for sample in range(2):
        for colour in range(3):
            plane = image[sample, colour].double().numpy()
            for axis in (0, 1):
                for index, kernel in enumerate(kernels):
                    passed = np.apply_along_axis(np.convolve, axis, plane, kernel, "valid")
                    cut = (7 - len(kernel)) // 2  # all three stand over the same pixels
                    inside = slice(cut, passed.shape[axis] - cut)
                    passed = passed[inside] if axis == 0 else passed[:, inside]
                    wanted = np.sqrt((passed**2).mean() + 1e-7)
                    assert found[sample, 3 * axis + index, colour].item() == pytest.approx(wanted, rel=1e-4)
            second = np.array([-1, 0, 2, 0, -1]) / 4
            across = [np.diag([-1, 2, -1]) / 4, np.diag([-1, 2, -1])[::-1] / 4]
            across += [
                np.outer(second[:: 3 - down], second[:: 3 - along])  # every pixel, or every other
                for down in (1, 2)
                for along in (1, 2)
            ]
            for index, square in enumerate(across):
                windows = np.lib.stride_tricks.sliding_window_view(plane, square.shape)
                wanted = np.sqrt((np.einsum("ijkl,kl->ij", windows, square) ** 2).mean() + 1e-7)
                assert found[sample, 6 + index, colour].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("period", "gains"), [(2, (1.0, 1.0, 0.0)), (4, (0.125, 0.25, 1.0)), (3, (0.422, 0.5625, 0.75))]
)
def test_gains_of_waves(period: int, gains: tuple[float, ...]) -> None:
    wave = torch.cos(2 * math.pi / period * torch.arange(252 + 6) + 0.7)
    image = wave.view(1, 1, -1, 1).expand(1, 3, -1, 16)
    own = float(wave[3:-3].square().mean().sqrt())
    for found, gain in zip(strengths(image)[0, :3, 0].tolist(), gains, strict=True):
        assert found / own == pytest.approx(gain, abs=2e-3)
    assert float(strengths(image)[0, [3, 4, 5, 8, 9, 10, 11]].max()) < 1e-3  # nothing along rows


def test_the_distance_by_hand() -> None:
    result, style = smooth(seed=1) + 0.05 * lattice(), smooth(seed=2)
    ours, theirs = strengths(result), strengths(style)
    floors = torch.tensor([*(0.003, 0.005, 0.006) * 2, 0.006, 0.006, 0.003, 0.004, 0.004, 0.005]).view(1, 12, 1)
    wanted = ((ours - theirs) ** 2 / (theirs**2 + floors**2)).mean() + unevenness(result)
    torch.testing.assert_close(detail_distance(result, style), wanted)


def test_a_hatch_isnt_a_grain_of_its_strength() -> None:
    """Along rows and columns alone as strong as the painting: only what goes across tells them apart."""
    grain = 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
    line = 0.1 * torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    hatch = (line[0][:, None] + line[1]).expand(1, 3, -1, -1)
    hatch, grain = (image + 0.5 for image in (hatch, grain))
    ours, theirs = strengths(hatch)[0, :, 0], strengths(grain)[0, :, 0]
    assert (ours[:6] / theirs[:6] - 1).abs().max() < 0.25
    assert (ours[8:] / theirs[8:]).max() < 0.01


def test_unevenness_by_hand() -> None:
    image = torch.rand(2, 3, 12, 16)
    image[:, :, ::2, ::2] = 0.5
    found = []
    for sample in image.double().numpy():
        grey = np.tensordot(np.array([0.299, 0.587, 0.114]), sample, 1)
        around = np.pad(grey, 1, mode="reflect")
        means = sum(around[i : i + 12, j : j + 16] for i in range(3) for j in range(3)) / 9
        energies = [((grey - means)[i::2, j::2] ** 2).mean() for i in (0, 1) for j in (0, 1)]
        found.append(2 * np.var(energies) / np.mean(energies) ** 2)
    assert unevenness(image).item() == pytest.approx(np.mean(found), rel=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.02, 0.3))
def test_a_lattice_is_seen(seed: int, strength: float) -> None:
    picture = smooth(seed=seed)
    assert detail_distance(picture + strength * lattice(), picture) > 2 * detail_distance(picture, picture)


def test_nothing_is_lost_on_pictures_that_are_alike() -> None:
    picture = smooth()
    torch.testing.assert_close(detail_distance(picture, picture), unevenness(picture))
    even = torch.full((1, 3, 16, 16), 0.3)
    assert detail_distance(even, even).item() == pytest.approx(0, abs=1e-6)


def test_flips_and_one_painting_for_many() -> None:
    result, style = torch.rand(3, 3, 20, 24), smooth()
    found = detail_distance(result, style)
    torch.testing.assert_close(detail_distance(result.flip(-1), style.flip(-2)), found)
    torch.testing.assert_close(torch.stack([detail_distance(each[None], style) for each in result]).mean(), found)


def test_gradients_are_finite_where_nothing_happens() -> None:
    even = torch.full((1, 3, 16, 16), 0.3, requires_grad=True)
    detail_distance(even, smooth()).backward()
    assert even.grad is not None
    assert bool(even.grad.isfinite().all())


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision(precision: torch.dtype) -> None:
    result, style = smooth(seed=1), smooth(seed=2)
    found = detail_distance(result.to(precision), style.to(precision))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, detail_distance(result, style), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("sizes", [((6, 20), (20, 20)), ((20, 20), (20, 6))])
def test_pictures_too_small(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(ShapeError, match=r"a picture too small for its detail; got \(1, 3, .*6.*\); expected 7 a side"):
        detail_distance(*(torch.rand(1, 3, *size) for size in sizes))
