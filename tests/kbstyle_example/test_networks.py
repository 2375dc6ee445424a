"""KBStyle: levels and sizes, budgets, statistics and upsampling against numpy, the forward pass by hand, mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.correction import Correction, flat
from kbstyle_example.layers import Block, StyledBlocks, conv3, doubled
from kbstyle_example.moments import EPSILON, Moments, StyleCode, modulated, moments
from kbstyle_example.networks import (
    STUDENT,
    TEACHER,
    Decoder,
    Encoder,
    KBStyle,
    KBStyleConfig,
    even_phases,
    padded,
)
from kbstyle_example.weights_file import load_weights, save_weights
from skd.errors import ArgumentError, ShapeError

TINY = KBStyleConfig(widths=(3, 4, 5), fine_blocks=1, deep_blocks=2, style_blocks=1)
Array = np.ndarray[Any, Any]


def network(config: KBStyleConfig = TINY) -> KBStyle:
    torch.manual_seed(1)
    net = KBStyle(config).eval()
    for name, p in net.named_parameters():
        if name.endswith("film.2.weight"):
            torch.nn.init.normal_(p)  # zeros at first: the style's gains and shifts would be nothing
        elif name.startswith("correction.last."):
            torch.nn.init.normal_(p, std=0.1)
    if net.correction is not None:
        net.correction.settle(torch.rand(7, len(net.correction.centre)))
    return net


NET = network()


def features(*shape: int, seed: int = 0) -> Tensor:
    """Every channel with a mean and a deviation of its own."""
    rng = np.random.default_rng(seed)
    scale, shift = rng.uniform(0.5, 4, (2, 1, shape[1], 1, 1))
    return torch.from_numpy(rng.standard_normal(shape) * scale + shift).float()


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 2])
def test_levels_are_at_a_half_a_quarter_and_an_eighth(blocks: int) -> None:
    one, two, three = Encoder((3, 4, 5), blocks=blocks)(torch.rand(2, 3, 24, 40))
    assert one.shape == (2, 3, 12, 20)
    assert two.shape == (2, 4, 6, 10)
    assert three.shape == (2, 5, 3, 5)


@settings(max_examples=15)
@given(st.tuples(*[st.integers(16, 41)] * 4))
def test_any_size_from_16_pixels_stays(sides: tuple[int, int, int, int]) -> None:
    height, width, style_height, style_width = sides
    with torch.no_grad():
        result = NET(torch.rand(1, 3, height, width), torch.rand(1, 3, style_height, style_width))
    assert result.shape == (1, 3, height, width)
    assert result.isfinite().all()


@settings(max_examples=15)
@given(st.integers(16, 41), st.integers(16, 41))
def test_padding_repeats_the_right_and_lower_edge(height: int, width: int) -> None:
    image = torch.rand(1, 3, height, width)
    below, beside = -height % 8, -width % 8
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, below), (0, beside)), mode="edge")
    np.testing.assert_array_equal(padded(image).numpy(), expected)


def test_a_picture_that_fits_is_not_copied() -> None:
    image = torch.rand(1, 3, 16, 24)
    assert padded(image) is image


def test_the_style_codes_size_is_not_the_paintings() -> None:
    for size in ((16, 16), (37, 50)):
        code = NET.encode_style(torch.rand(2, 3, *size))
        assert [tuple(m.mean.shape) for m in code] == [(2, 3, 1, 1), (2, 4, 1, 1), (2, 5, 1, 1)]
        assert all(m.deviation.shape == m.mean.shape and (m.deviation > 0).all() for m in code)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_the_teachers_parameters() -> None:
    assert 600_000 <= sum(p.numel() for p in KBStyle(TEACHER).parameters()) <= 750_000


def test_the_students_whole_file_is_within_200_kilobytes(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_weights(KBStyle(STUDENT), path)
    assert path.stat().st_size <= 204_800


def test_the_student_is_as_wide_as_its_budget_allows(tmp_path: Path) -> None:
    first, second, third = STUDENT.widths
    for widths in ((first, second + 4, third), (first + 4, second, third), (first, second, third + 4)):
        assert save_weights(KBStyle(replace(STUDENT, widths=widths)), tmp_path / "wider.safetensors") > 204_800


def test_teacher_and_student_differ_in_widths_and_depth_and_the_correction_alone() -> None:
    assert TEACHER.widths != STUDENT.widths
    blocks = {"fine_blocks": TEACHER.fine_blocks, "deep_blocks": TEACHER.deep_blocks, "correction": 0}
    assert replace(STUDENT, widths=TEACHER.widths, **blocks) == TEACHER
    teacher, student = KBStyle(TEACHER), KBStyle(replace(STUDENT, **blocks))
    kinds = [[(name, type(module)) for name, module in net.named_modules()] for net in (teacher, student)]
    assert kinds[0] == kinds[1]
    assert list(teacher.state_dict()) == list(student.state_dict())


# --- upsampling ------------------------------------------------------------------------------------------------------


def blurred_by_hand(x: Array, axis: int) -> Array:
    pad = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
    grown, n = np.pad(x, pad, mode="edge"), x.shape[axis]
    before, here, after = (grown.take(range(k, k + n), axis) for k in range(3))
    return (before + 2 * here + after) / 4


def bilinear_by_hand(x: Array, axis: int) -> Array:
    pad = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
    grown, n = np.pad(x, pad, mode="edge"), x.shape[axis]
    before, here, after = (grown.take(range(k, k + n), axis) for k in range(3))
    # The new centres lie a quarter of a pixel before and behind the old one.
    pairs = np.stack([0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 2, 2), (2, 3, 5, 4)])
def test_doubled_against_numpy(shape: tuple[int, ...]) -> None:
    feature = features(*shape)
    expected = feature.double().numpy()
    for axis in (2, 3):
        expected = blurred_by_hand(expected, axis)
    for axis in (2, 3):
        expected = bilinear_by_hand(expected, axis)
    np.testing.assert_allclose(doubled(feature).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_doubled_takes_away_what_alternates() -> None:
    rows = (torch.arange(8) % 2 * 2 - 1.0).view(1, 1, 8, 1).expand(1, 1, 8, 10)
    columns = (torch.arange(10) % 2 * 2 - 1.0).view(1, 1, 1, 10).expand(1, 1, 8, 10)
    for pattern in (rows, columns, rows * columns):
        assert not doubled(pattern)[..., 3:-3, 3:-3].any()
        # Bilinear alone would keep half of it.
        plain = F.interpolate(pattern, scale_factor=2.0, mode="bilinear", align_corners=False)
        assert plain[..., 3:-3, 3:-3].abs().max() >= 0.25
    constant = torch.full((1, 1, 4, 5), 3.0)
    torch.testing.assert_close(doubled(constant), torch.full((1, 1, 8, 10), 3.0))


# --- the forward pass by hand ----------------------------------------------------------------------------------------

State = dict[str, Tensor]


def replicated(state: State, name: str, x: Tensor, *, reach: int = 1, stride: int = 1, groups: int = 1) -> Tensor:
    grown = F.pad(x, (reach,) * 4, mode="replicate")
    return F.conv2d(grown, state[f"{name}.weight"], state[f"{name}.bias"], stride=stride, groups=groups)


def block(state: State, name: str, x: Tensor, gain: Tensor | float = 0.0, shift: Tensor | float = 0.0) -> Tensor:
    y = replicated(state, f"{name}.reach", x, reach=3, groups=x.shape[1])
    y = F.conv2d(y, state[f"{name}.mix.weight"], state[f"{name}.mix.bias"])
    y = F.relu(y * (1 + gain) + shift)
    return x + F.conv2d(y, state[f"{name}.out.weight"], state[f"{name}.out.bias"])


def styled_blocks(state: State, name: str, x: Tensor, style: list[Tensor], count: int) -> Tensor:
    if count == 0:
        return x
    code = torch.cat(style, 1)
    hidden = F.relu(code @ state[f"{name}.film.0.weight"].T + state[f"{name}.film.0.bias"])
    films = (hidden @ state[f"{name}.film.2.weight"].T).view(len(code), 2 * count, -1, 1, 1)
    for index in range(count):
        x = block(state, f"{name}.blocks.{index}", x, films[:, 2 * index], films[:, 2 * index + 1])
    return x


def encoder(state: State, name: str, image: Tensor, *, blocks: int) -> list[Tensor]:
    b, _, h, w = image.shape
    # Space to depth: the four pixels of each 2×2 square become channels.
    x = (image - 0.5).view(b, 3, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 12, h // 2, w // 2)
    levels = [F.relu(replicated(state, f"{name}.level1.1", x))]
    for level, count in ((2, 0), (3, blocks)):
        x = F.relu(replicated(state, f"{name}.level{level}.0", levels[-1], stride=2))
        for index in range(count):
            x = block(state, f"{name}.level{level}.{2 + index}", x)
        levels.append(x)
    return levels


def restyled(x: Tensor, style: list[Tensor]) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    deviation = ((x - mean).square().mean((2, 3), keepdim=True) + EPSILON).sqrt()
    wanted_mean, wanted_deviation = (value[..., None, None] for value in style)
    return (x - mean) / deviation * wanted_deviation + wanted_mean


def doubled_by_hand(x: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel).expand(x.shape[1], 1, 3, 3)
    x = F.conv2d(F.pad(x, (1,) * 4, mode="replicate"), kernel, groups=x.shape[1])
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def code_by_hand(net: KBStyle, style: Tensor) -> list[list[Tensor]]:
    """Means and deviations of the three levels, (B, C) each."""
    state, config = net.state_dict(), net.config
    levels = encoder(state, "style_encoder", style, blocks=config.style_blocks)
    code = [[x.mean((2, 3)), (x.var((2, 3), correction=0) + EPSILON).sqrt()] for x in levels]
    if not config.correction:
        return code
    values = torch.cat([value for level in code for value in level], 1)
    seen = (values - state["correction.centre"]) / state["correction.spread"]
    hidden = (seen @ state["correction.first.weight"].T + state["correction.first.bias"]).clamp(min=0)
    more = hidden @ state["correction.last.weight"].T + state["correction.last.bias"]
    values = values + more * state["correction.spread"]
    sizes = [size for width in config.widths for size in (width, width)]
    parts = values.split(sizes, 1)
    return [[parts[k], parts[k + 1]] for k in (0, 2, 4)]


def forward_by_hand(net: KBStyle, content: Tensor, style: Tensor) -> Tensor:
    state, config = net.state_dict(), net.config
    one, two, three = encoder(state, "content_encoder", content, blocks=0)
    styles = code_by_hand(net, style)
    x = styled_blocks(state, "decoder.level3", restyled(three, styles[2]), styles[2], config.deep_blocks)
    x = F.relu(restyled(doubled_by_hand(replicated(state, "decoder.up2", x)) + two, styles[1]))
    x = styled_blocks(state, "decoder.level2", x, styles[1], config.fine_blocks)
    x = F.relu(restyled(doubled_by_hand(replicated(state, "decoder.up1", x)) + one, styles[0]))
    x = replicated(state, "decoder.output.0", x)
    b, _, h, w = x.shape
    return x.view(b, 3, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, 3, 2 * h, 2 * w) + 0.5


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        KBStyleConfig(widths=(2, 3, 2), fine_blocks=0, deep_blocks=0, style_blocks=0),
        KBStyleConfig(widths=(4, 2, 3), fine_blocks=2, deep_blocks=1, style_blocks=3),
        KBStyleConfig(widths=(4, 2, 3), fine_blocks=2, deep_blocks=0, style_blocks=1, correction=6),
    ],
)
def test_the_forward_pass_by_hand(config: KBStyleConfig) -> None:
    net = network(config)
    content, style = torch.rand(2, 3, 24, 32), torch.rand(2, 3, 16, 40)
    with torch.no_grad():
        torch.testing.assert_close(net(content, style), forward_by_hand(net, content, style), atol=1e-4, rtol=1e-4)


def test_a_block_by_hand() -> None:
    module = Block(5)
    state = {f"block.{name}": value for name, value in module.state_dict().items()}
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(module(x), block(state, "block", x))


def test_a_stack_of_blocks_begins_near_the_identity() -> None:
    # A pointwise layer of PyTorch's begins within ±1/√inputs.
    assert Block(16).out.weight.abs().max() <= 0.3 / 16**0.5
    assert Block(16).mix.weight.abs().max() > 0.3 / 16**0.5


def test_blocks_begin_without_a_style_and_are_given_one() -> None:
    torch.manual_seed(0)
    blocks, x = StyledBlocks(32, 2), torch.randn(2, 32, 5, 6)
    one, other = (moments(features(1, 32, 4, 4, seed=seed)) for seed in (1, 2))
    with torch.no_grad():
        first = blocks(x, one)
        assert torch.equal(first, blocks(x, other))
        torch.testing.assert_close(first, blocks.blocks[1](blocks.blocks[0](x)))
    blocks(x, one).square().sum().backward()
    assert blocks.film[2].weight.grad.any()  # so it leaves zero
    torch.nn.init.normal_(blocks.film[2].weight)
    with torch.no_grad():
        styled = blocks(x, one)
        assert (styled - blocks(x, other)).abs().max() > 0.1
        both = Moments(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
        torch.testing.assert_close(blocks(x, both), torch.cat([styled[:1], blocks(x[1:], other)]))
        torch.testing.assert_close(blocks(x[:1], both), torch.cat([styled[:1], blocks(x[:1], other)]))


def test_no_blocks_change_nothing() -> None:
    x = torch.randn(1, 3, 4, 4)
    assert StyledBlocks(3, 0)(x, moments(x)) is x


def test_statistics_and_styled_blocks_compile_to_one_graph() -> None:
    blocks = StyledBlocks(4, 1)

    def styled(feature: Tensor, painting: Tensor) -> Tensor:
        style = moments(painting)
        out: Tensor = blocks(modulated(feature, style), style)
        return out

    content, style = (features(1, 4, 5, 6, seed=seed).to(memory_format=torch.channels_last) for seed in (1, 2))
    with torch.no_grad():
        found = torch.compile(styled, fullgraph=True, backend="eager")(content, style)
        torch.testing.assert_close(found, styled(content, style))


def test_convolutions_repeat_the_edge() -> None:
    conv = conv3(2, 2)
    constant = torch.full((1, 2, 5, 6), 3.0)
    result = conv(constant)
    torch.testing.assert_close(result, result[..., :1, :1].expand_as(result))  # no dark frame


# --- one style, many contents ----------------------------------------------------------------------------------------


def test_one_style_serves_a_batch() -> None:
    contents, style = torch.rand(3, 3, 20, 16), torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        repeated = NET(contents, style.expand(3, -1, -1, -1))
        torch.testing.assert_close(NET(contents, style), repeated)
        torch.testing.assert_close(torch.cat([NET(content[None], style) for content in contents]), repeated)


def test_one_content_in_many_styles() -> None:
    content, styles = torch.rand(1, 3, 20, 16), torch.rand(3, 3, 16, 24)
    with torch.no_grad():
        expected = NET(content.expand(3, -1, -1, -1), styles)
        torch.testing.assert_close(NET(content, styles), expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_encoding_then_rendering_is_the_forward_pass() -> None:
    content, style = torch.rand(2, 3, 19, 33), torch.rand(2, 3, 21, 16)
    with torch.no_grad():
        assert torch.equal(NET.render(content, NET.encode_style(style)), NET(content, style))


def test_gradients_reach_every_parameter() -> None:
    net = network(replace(TINY, widths=(8, 32, 32)))  # fewer channels may all be dead
    net(torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    # (Of biases before a normalisation only rounding is left.)
    assert all(p.grad.any() for p in net.parameters() if p.grad is not None and p.dim() > 1)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (1, 1, 3, 16, 16), (1, 1, 16, 16), (1, 4, 16, 16), (1, 3, 15, 40), (1, 3, 40, 15)]
)
def test_pictures_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    right, wrong = torch.rand(1, 3, 16, 16), torch.rand(shape)
    text = r"a picture has the wrong shape; got \(" + ", ".join(map(str, shape)) + r"\).*H and W at least 16"
    for content, style in ((right, wrong), (wrong, right)):
        with pytest.raises(ShapeError, match=text):
            NET(content, style)
    with pytest.raises(ShapeError, match=text):
        NET.encode_style(wrong)


@pytest.mark.parametrize(
    ("picture", "got"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"torch\.uint8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), r"torch\.int64"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.bool), r"torch\.bool"),
        (np.zeros((1, 3, 16, 16), dtype=np.float32), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_pictures_of_the_wrong_type(picture: Any, got: str) -> None:
    with pytest.raises(ArgumentError, match=f"a picture of the wrong type; got {got}; expected a tensor of floats"):
        NET.encode_style(picture)
    with pytest.raises(ArgumentError, match="a picture of the wrong type"):
        padded(picture)


def test_a_style_code_of_another_network() -> None:
    other = network(KBStyleConfig(widths=(3, 4, 6), fine_blocks=0, deep_blocks=0, style_blocks=0))
    with pytest.raises(ShapeError, match=r"doesn't fit the network or the batch; got 1 styles of 6 .* 1 or 2 of 5"):
        NET.render(torch.rand(2, 3, 16, 16), other.encode_style(torch.rand(1, 3, 16, 16)))
    one, two, three = NET.encode_style(torch.rand(1, 3, 16, 16))
    with pytest.raises(ShapeError, match="got 1 styles of 3 channels; expected 1 or 1 of 4"):
        NET.render(torch.rand(1, 3, 16, 16), StyleCode(two, one, three))


def test_style_codes_of_another_batch() -> None:
    code = NET.encode_style(torch.rand(3, 3, 16, 16))
    with pytest.raises(ShapeError, match=r"got 3 styles of 5 channels; expected 1 or 2 of 5"):
        NET.render(torch.rand(2, 3, 16, 16), code)
    # A single channel would broadcast without complaint.
    with pytest.raises(ShapeError, match="styles of 1 channels"):
        modulated(torch.rand(1, 4, 2, 2), Moments(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))


@pytest.mark.parametrize("widths", [(), (8, 16), (8, 16, 28, 40), (8, 0, 28), (-1, 16, 28), (8.7, 16, 28)])
def test_widths_that_cant_be(widths: Any) -> None:
    with pytest.raises(ArgumentError, match=r"widths of a KBStyle network.*three positive integers"):
        KBStyleConfig(widths=widths)


@pytest.mark.parametrize("blocks", [{"deep_blocks": -1}, {"style_blocks": -2}, {"fine_blocks": -1}])
def test_blocks_that_cant_be(blocks: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match=r"blocks of a KBStyle network; got .*-\d.*; expected 0 or more"):
        KBStyleConfig(widths=(2, 2, 2), **blocks)


def test_a_configuration_from_its_plain_values() -> None:
    assert KBStyleConfig(**STUDENT.as_dict()) == STUDENT  # type: ignore[arg-type]
    values = {**STUDENT.as_dict(), "widths": [8, 20, 32]}  # as JSON gives it back
    assert KBStyleConfig(**values) == STUDENT  # type: ignore[arg-type]
    del values["correction"]  # files from before there was one
    assert KBStyleConfig(**values) == replace(STUDENT, correction=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [-1, 2.5, "8"])
def test_corrections_that_cant_be(channels: Any) -> None:
    with pytest.raises(ArgumentError, match=r"channels of a style code's correction; got .*; expected 0 or more"):
        KBStyleConfig(widths=(2, 2, 2), correction=channels)


def test_a_correction_begins_as_nothing_and_learns() -> None:
    torch.manual_seed(0)
    net = KBStyle(KBStyleConfig(widths=(3, 4, 5), fine_blocks=1, deep_blocks=0, style_blocks=1, correction=6))
    style, content = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 16, 16)
    assert net.correction is not None
    code = StyleCode(*map(moments, net.style_encoder(style)))
    for level, wanted in zip(net.encode_style(style), code, strict=True):
        torch.testing.assert_close(level, wanted, rtol=0, atol=0)
    net(content, style).square().sum().backward()
    assert net.correction.last.weight.grad is not None
    assert net.correction.last.weight.grad.any()
    assert net.correction.last.bias.grad is not None
    assert net.correction.last.bias.grad.any()


def test_a_settled_correction_is_in_the_codes_units() -> None:
    """What is put in has mean 0 and deviation 1, and adding one adds a deviation."""
    torch.manual_seed(0)
    correction = Correction((1, 2, 1), 3)
    codes = 100 + torch.tensor([1.0, 10.0] * 4) * torch.randn(500, 8)
    correction.settle(codes)
    seen: list[Tensor] = []
    correction.first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.nn.init.ones_(correction.last.bias)
    parts = [part[..., None, None] for part in codes.split([1, 1, 2, 2, 1, 1], 1)]
    found = flat(correction(StyleCode(*(Moments(*parts[k : k + 2]) for k in (0, 2, 4)))))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[0].std(0, correction=0), torch.ones(8), atol=2e-3, rtol=0)
    torch.testing.assert_close(found - codes, codes.std(0, correction=0).expand(500, 8) + 1e-3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_even_phases_keep_the_mean_and_take_the_pattern(memory: torch.memory_format) -> None:
    decoder = Decoder((2, 3, 4), fine_blocks=0, deep_blocks=0).to(memory_format=memory)  # type: ignore[call-overload]
    flat = torch.full((1, 2, 3, 5), 0.7)
    before = decoder.output(flat).detach()
    assert float(before.std((2, 3)).max()) > 1e-3  # the pattern was there
    even_phases(decoder)
    after = decoder.output(flat).detach()
    torch.testing.assert_close(after, before.mean((2, 3), keepdim=True).expand_as(after))


def test_the_bundled_teacher_has_no_pattern_of_two_pixels() -> None:
    after = load_weights("teacher").decoder.output(torch.ones(1, 32, 4, 4)).detach()
    assert float((after - after.mean((2, 3), keepdim=True)).abs().max()) < 1e-5


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float16, 1.0), (torch.bfloat16, 4.0)])
def test_it_paints_in_half(dtype: torch.dtype, apart: float) -> None:
    """As whoever calls ``.half()`` or ``.bfloat16()`` on the bundled network expects."""
    network = load_weights("kbstyle")
    content, style = (torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    content, style = (F.interpolate(x, (96, 128), mode="bicubic").clamp(0, 1) for x in (content, style))
    with torch.inference_mode():
        wanted = network(content, style).clamp(0, 1)
        found = network.to(dtype)(content.to(dtype), style.to(dtype))
    assert found.dtype == dtype
    assert 255 * (found.float().clamp(0, 1) - wanted).square().mean().sqrt() < apart
