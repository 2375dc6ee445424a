"""Tiles give the picture of the whole: compared with the network run at once, its reach with autograd's answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbstyle_example.moments import EPSILON, Moments, Statistics, StyleCode
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.tiles import render_tiles, tiles
from kbstyle_example.weights_file import load_weights
from skd.errors import ArgumentError


def network(*, fine: int = 1, blocks: int = 1) -> KBStyle:
    """Random weights as large as trained ones, so that distant parts of the picture matter."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = KBStyle(KBStyleConfig(widths=(4, 6, 8), fine_blocks=fine, deep_blocks=blocks, style_blocks=1)).eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("reach.weight"):
                p.mul_(3.0)
            elif name.endswith("film.2.weight"):
                p.fill_(0.2)
    return net


def photograph(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * 1000 + width)
    smooth = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return (smooth + random.integers(0, 36, (height, width, 3))).astype(np.uint8)


def code(net: KBStyle) -> StyleCode:
    with torch.no_grad():
        return net.encode_style(torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(1)))


def whole(net: KBStyle, picture: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        return net.render(pixels, code(net)).clamp(0, 1).mul(255)


@given(height=st.integers(16, 260), width=st.integers(16, 260), side=st.sampled_from([40, 96, 512]))
@example(height=40, width=57, side=8)
@settings(max_examples=12, deadline=None)
def test_tiles_give_the_picture_of_the_whole(height: int, width: int, side: int) -> None:
    net, picture = network(fine=0, blocks=0), photograph(height, width)
    found = torch.from_numpy(render_tiles(net, picture, code(net), side=side)).permute(2, 0, 1)[None].float()
    assert found.shape[2:] == (height, width)
    assert float((found - whole(net, picture)).abs().max()) <= 0.51, "but for the rounding to 255 steps"


def test_with_blocks_of_long_reach() -> None:
    net, picture = network(), photograph(600, 470)
    found = torch.from_numpy(render_tiles(net, picture, code(net), side=160)).permute(2, 0, 1)[None].float()
    assert float((found - whole(net, picture)).abs().max()) <= 0.51


def test_with_trained_weights() -> None:
    net, picture = load_weights("teacher"), photograph(560, 40)  # longer than the network reaches
    found = torch.from_numpy(render_tiles(net, picture, code(net), side=160)).permute(2, 0, 1)[None].float()
    assert float((found - whole(net, picture)).abs().max()) <= 1


def test_the_guard_statistics_of_a_tile_alone_give_another_picture() -> None:
    net, picture = network(fine=0, blocks=0), photograph(160, 160)
    alone = render_tiles(net, np.ascontiguousarray(picture[:, :80]), code(net), side=80)
    together = render_tiles(net, picture, code(net), side=80)[:, :80]
    assert np.abs(alone.astype(int) - together).max() > 5


@pytest.mark.parametrize(("fine", "blocks"), [(0, 0), (1, 0), (0, 2), (2, 3)])
def test_the_reach_is_what_autograd_says(fine: int, blocks: int) -> None:
    """Known statistics, all weights and features positive: nothing cancels, and nothing ends in a ReLU."""
    net = network(fine=fine, blocks=blocks).double()
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    first, second, third = (
        Moments(torch.zeros(1, c, 1, 1).double(), torch.ones(1, c, 1, 1).double()) for c in net.config.widths
    )
    picture = (0.5 + torch.rand(1, 3, 1024, 16, dtype=torch.double)).requires_grad_()
    style = StyleCode(first, second, third)
    result = net.decoder(net.content_encoder(picture), style, [third, second, first])
    farthest = 0
    for row in range(512, 520):
        (gradient,) = torch.autograd.grad(result[0, :, row].sum(), picture, retain_graph=True)
        seen = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        farthest = max(farthest, row - int(seen[0]), int(seen[-1]) - row)
    assert farthest <= net.reach <= farthest + 8


def test_tiles_cover_everything_once() -> None:
    covered = np.zeros((72, 104), int)
    for top, left, bottom, right, seen in tiles(72, 104, side=40, margin=16):
        covered[top:bottom, left:right] += 1
        assert seen == (max(0, top - 16), max(0, left - 16), min(72, bottom + 16), min(104, right + 16))
    assert (covered == 1).all()


def test_progress_is_told() -> None:
    net, told = network(fine=0, blocks=0), list[float]()
    render_tiles(net, photograph(64, 64), code(net), side=32, progress=told.append)
    assert told == [pytest.approx((i + 1) / 16) for i in range(16)]


@pytest.mark.parametrize("side", [0, 4, 100, -8])
def test_sides_that_do_not_fit_the_grid(side: int) -> None:
    net = network(fine=0, blocks=0)
    with pytest.raises(ArgumentError, match=rf"side of the tiles; got {side}; expected a multiple of 8"):
        render_tiles(net, photograph(32, 32), code(net), side=side)


@pytest.mark.parametrize(
    "picture", [np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8), np.zeros((8, 32, 3), np.uint8)]
)
def test_what_is_no_photograph(picture: np.ndarray) -> None:
    net = network(fine=0, blocks=0)
    with pytest.raises(ArgumentError, match=r"no photograph to paint in tiles; got .*expected \(H, W, 3\) in uint8"):
        render_tiles(net, picture, code(net))


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 29), max_size=4, unique=True),
    mean=st.sampled_from([0.0, -3.0, 1000.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    last=st.booleans(),
)
def test_statistics_of_parts_are_those_of_the_whole(
    cuts: list[int], mean: float, dtype: torch.dtype, last: bool
) -> None:
    torch.manual_seed(len(cuts))
    feature = (mean + torch.randn(1, 3, 30, 7)).to(dtype)
    if last:
        feature = feature.contiguous(memory_format=torch.channels_last)
    statistics = Statistics()
    for top, bottom in itertools.pairwise([0, *sorted(cuts), 30]):
        statistics.add(feature[:, :, top:bottom])
    found, values = statistics.moments(), feature.double().numpy()
    assert found.mean.dtype == found.deviation.dtype == torch.float32
    torch.testing.assert_close(found.mean, torch.from_numpy(values.mean((2, 3), keepdims=True)).float())
    deviation = np.sqrt(values.var((2, 3), keepdims=True) + EPSILON)
    torch.testing.assert_close(found.deviation, torch.from_numpy(deviation).float(), rtol=2e-3, atol=1e-6)
