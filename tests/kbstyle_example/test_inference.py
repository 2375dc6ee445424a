"""The passes for painting against the network itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from kbstyle_example import inference, quick_layers
from kbstyle_example.inference import Inference
from kbstyle_example.networks import STUDENT, TEACHER, KBStyle, KBStyleConfig
from kbstyle_example.painting import Painter, encoded, render
from kbstyle_example.strips import as_numbers, as_pixels
from kbstyle_example.weights_file import load_weights
from skd.errors import NonFiniteError

CONFIGS = [
    STUDENT,
    TEACHER,
    KBStyleConfig(widths=(3, 5, 7), fine_blocks=0, deep_blocks=1, style_blocks=3),
    KBStyleConfig(widths=(2, 4, 6), fine_blocks=1, deep_blocks=0, style_blocks=0),
    KBStyleConfig(widths=(3, 4, 6), fine_blocks=1, deep_blocks=1, style_blocks=1, correction=5),
]


def lively(config: KBStyleConfig) -> KBStyle:
    """No weight is zero, as the films' are at first."""
    torch.manual_seed(0)
    network = KBStyle(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.widths)))
def test_it_paints_what_the_network_paints(config: KBStyleConfig) -> None:
    network = lively(config)
    content, style = pictures((88, 40), (48, 72))
    precise = network.double()
    with torch.inference_mode():
        wanted = precise(content.double(), style.double()).float()
        network.float()
        quick = Inference(network)
        code = quick.encode_style(style)
        for found, known in zip(code, network.encode_style(style), strict=True):
            torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)
        scale = float(wanted.abs().max())
        torch.testing.assert_close(quick.render(content, code), wanted, rtol=0, atol=2e-5 * scale)


@settings(max_examples=12, deadline=None)
@given(
    content=st.tuples(st.integers(16, 160), st.integers(16, 60)),
    style=st.tuples(st.integers(16, 90), st.integers(16, 60)),
    last=st.booleans(),
    strip=st.sampled_from([1, 10_000, 2**21]),
)
def test_of_any_size_and_memory_format(
    content: tuple[int, int], style: tuple[int, int], last: bool, strip: int
) -> None:
    network = load_weights("kbstyle").eval()
    photograph, painting = pictures(content, style)
    if last:
        photograph, painting = (x.contiguous(memory_format=torch.channels_last) for x in (photograph, painting))
    before = photograph.clone()
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_layers, "STRIP", strip)
        quick = Inference(network)
        found = quick.render(photograph, quick.encode_style(painting))
        torch.testing.assert_close(found, network(photograph, painting), rtol=0, atol=2e-4)
    assert torch.equal(photograph, before)


def test_in_bfloat16_it_differs_by_less_than_the_rounding() -> None:
    """Real pictures: level 3's means, hundreds of deviations, would take all of bfloat16's digits (4 of 255 then)."""
    network = load_weights("kbstyle").eval()
    samples = Path(inference.__file__).parent / "samples"
    content, style = (
        as_numbers(np.asarray(Image.open(sorted((samples / part).glob("*.jpg"))[0]).convert("RGB").resize((128, 96))))
        for part in ("content", "style")
    )
    with torch.inference_mode():
        wanted = network.double()(content.double(), style.double())
        network.float()
        quick = Inference(network, torch.bfloat16)
        code = quick.encode_style(style)
        found = quick.render(content, code)
    assert {each.dtype for level in code for each in level} == {found.dtype} == {torch.float32}
    apart = 255 * (found.clamp(0, 1) - wanted.clamp(0, 1)).abs()
    assert 0.01 < apart.mean() < 0.8
    assert apart.max() < 8  # the worst value of 36,864, which goes with the weights


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    halo=st.integers(1, 3),
    rows=st.tuples(st.integers(0, 8), st.integers(1, 9)),
    inner=st.lists(st.integers(1, 3), max_size=2),
)
def test_a_window_is_what_padding_makes(height: int, halo: int, rows: tuple[int, int], inner: list[int]) -> None:
    top, bottom = min(rows[0], height - 1), min(rows[0] + rows[1], height)
    feature = torch.rand(height, 5, *inner)
    found = quick_layers.window(feature, slice(top, max(bottom, top + 1)), halo)
    padding = [(halo, halo), (halo, halo), *[(0, 0) for _ in inner]]
    wanted = np.pad(feature.numpy(), padding, mode="edge")[top : max(bottom, top + 1) + 2 * halo]
    np.testing.assert_array_equal(found.numpy(), wanted)


@settings(max_examples=25, deadline=None)
@given(outputs=st.integers(1, 12), stride=st.sampled_from([(1, 1), (2, 1), (2, 2)]), kernel=st.integers(1, 5))
def test_two_positions_at_once_are_one_after_the_other(outputs: int, stride: tuple[int, int], kernel: int) -> None:
    torch.manual_seed(outputs)
    weight, bias = torch.randn(outputs, 3, 3, kernel), torch.randn(outputs)
    x = torch.randn(7, 3 * stride[1] + kernel, 3)  # four columns
    wanted = torch.nn.functional.conv2d(x.permute(2, 0, 1)[None].double(), weight.double(), bias.double(), stride)
    for paired in (False, True):
        conv = quick_layers.Conv(weight, bias, stride, paired=paired, dtype=torch.float32)
        assert len(conv.weight) == outputs * (2 if paired and outputs <= 8 else 1)
        torch.testing.assert_close(conv(x), wanted[0].permute(1, 2, 0).float(), rtol=1e-4, atol=1e-5)


def test_it_stands_in_only_where_it_can() -> None:
    network = load_weights("kbstyle").eval()
    photograph, painting = pictures((24, 32), (16, 16))

    class Another(KBStyle):
        pass

    assert Inference.of(network, (photograph,)) is network  # gradients are on
    with torch.inference_mode():
        assert isinstance(Inference.of(network, (photograph, painting)), Inference)
        assert Inference.of(network, (photograph.expand(2, -1, -1, -1),)) is network
        assert Inference.of(network, (photograph.double(),)) is network
        assert Inference.of(network.double(), (photograph,)) is network
        other = Another(STUDENT)
        assert Inference.of(other, (photograph,)) is other
        meta = KBStyle(STUDENT).to("meta")
        assert Inference.of(meta, (photograph,)) is meta


def test_painting_goes_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_weights("kbstyle").eval()
    photograph, painting = pictures((24, 32), (16, 16))
    code = encoded(network, painting)
    wanted = render(network, photograph, code)

    def never(*_: object) -> Tensor:
        raise RuntimeError("the network was asked")

    monkeypatch.setattr(KBStyle, "render", never)
    monkeypatch.setattr(KBStyle, "encode_style", never)
    assert torch.equal(render(network, photograph, painting), wanted)
    with pytest.raises(RuntimeError, match="the network was asked"):
        render(network, photograph.expand(2, -1, -1, -1), code)


def test_a_painter_makes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_weights("kbstyle").eval()
    photograph = (np.random.default_rng(0).random((24, 32, 3)) * 255).astype(np.uint8)
    painter = Painter(photograph[:16, :16], network=network)
    wanted = painter(photograph)
    made = []
    before = Inference.__init__
    monkeypatch.setattr(Inference, "__init__", lambda self, net: made.append(1) or before(self, net))
    assert np.array_equal(painter(photograph), wanted)
    assert made == []
    with torch.inference_mode():
        picture = network.render(as_numbers(photograph), painter.free)
    assert np.abs(as_pixels(picture.clamp(0, 1)).astype(int) - wanted).max() <= 1


@settings(max_examples=12, deadline=None)
@given(size=st.tuples(st.integers(1, 90), st.integers(1, 60)), strip=st.sampled_from([1, 10_000, 2**21]))
def test_bytes_are_painted_as_numbers_are(size: tuple[int, int], strip: int) -> None:
    network = load_weights("kbstyle").eval()
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    code = encoded(network, pictures((32, 24))[0])
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_layers, "STRIP", strip)
        found = Inference(network).paint(pixels, code)
        small = [(0, max(0, 16 - side)) for side in size]
        grown = np.pad(pixels, (*small, (0, 0)), mode="edge")
        wanted = as_pixels(network.render(as_numbers(grown), code))[: size[0], : size[1]]
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert np.sum(found != wanted) <= max(2, 0.01 * found.size)


def test_what_isnt_finite_is_no_picture() -> None:
    network = load_weights("kbstyle").eval()
    code = encoded(network, pictures((32, 24))[0])
    with torch.no_grad():
        network.decoder.output[0].bias[5] = float("nan")  # type: ignore[index]
    with torch.inference_mode(), pytest.raises(NonFiniteError, match="a picture holds NaN or infinite values"):
        Inference(network).paint(np.zeros((24, 32, 3), np.uint8), code)
