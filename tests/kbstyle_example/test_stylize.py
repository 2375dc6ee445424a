"""Stylising: the result by hand, every kind of input, odd sizes, the painting's scale, pictures that are too small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.images import load_image
from kbstyle_example.stylize import LONGEST_STYLE_SIDE, render, style_tensor, stylize
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, DataError, FileError, ShapeError


def network() -> KBStyle:
    torch.manual_seed(1)
    net = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, content_blocks=1, style_blocks=1)).eval()
    with torch.no_grad():
        net.decoder.output[0].weight.mul_(3)  # bright enough to be clamped
    return net


NET = network()
PHOTO = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
PAINTING = np.random.default_rng(1).integers(0, 256, (41, 29, 3), dtype=np.uint8)


def as_tensor(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def test_the_result_is_the_networks_clamped_and_rounded() -> None:
    with torch.no_grad():
        raw = NET(as_tensor(PHOTO), as_tensor(PAINTING))
    assert raw.min() < 0
    assert raw.max() > 1
    expected = (raw.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(stylize(PHOTO, PAINTING, network=NET)), expected)


def test_paths_pictures_and_arrays_give_the_same(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(PAINTING).save(tmp_path / "painting.png")
    save_weights(NET, tmp_path / "net.safetensors")
    expected = np.asarray(stylize(PHOTO, PAINTING, network=NET))
    for photo, painting, net in (
        (tmp_path / "photo.png", tmp_path / "painting.png", tmp_path / "net.safetensors"),
        (str(tmp_path / "photo.png"), str(tmp_path / "painting.png"), str(tmp_path / "net.safetensors")),
        (Image.fromarray(PHOTO), Image.fromarray(PAINTING), NET),
        (PHOTO.astype(np.float32) / 255, PAINTING.astype(np.float32) / 255, NET),
    ):
        np.testing.assert_array_equal(np.asarray(stylize(photo, painting, network=net)), expected)


@settings(max_examples=20)
@given(st.tuples(*[st.integers(16, 40)] * 4))
def test_the_size_is_the_photographs(sides: tuple[int, int, int, int]) -> None:
    height, width, style_height, style_width = sides
    picture = stylize(
        PHOTO[:16, :16].repeat(3, 0).repeat(3, 1)[:height, :width],
        np.resize(PAINTING, (style_height, style_width, 3)),
        network=NET,
    )
    assert picture.size == (width, height)
    assert picture.mode == "RGB"


def test_it_is_deterministic_and_leaves_the_network_alone() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluated = np.asarray(stylize(PHOTO, PAINTING, network=net))
    net.train()
    np.testing.assert_array_equal(np.asarray(stylize(PHOTO, PAINTING, network=net)), evaluated)
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_a_code_serves_for_many_photographs() -> None:
    photo, painting = as_tensor(PHOTO), as_tensor(PAINTING)
    code = NET.encode_style(painting)
    result = render(NET, photo, code)
    assert torch.equal(result, render(NET, photo, painting))
    assert not result.requires_grad


# --- the painting's scale --------------------------------------------------------------------------------------------


def test_style_size_scales_the_painting_down() -> None:
    scaled = F.interpolate(as_tensor(PAINTING), (32, 23), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(style_tensor(PAINTING, 32), scaled)
    expected = render(NET, as_tensor(PHOTO), scaled)
    found = load_image(stylize(PHOTO, PAINTING, network=NET, style_size=32))
    torch.testing.assert_close(found, expected, atol=0.5 / 255 + 1e-5, rtol=0)
    whole = load_image(stylize(PHOTO, PAINTING, network=NET))
    assert (whole - found).abs().max() > 1 / 255


@pytest.mark.parametrize("size", [41, 42, LONGEST_STYLE_SIDE])
def test_a_smaller_painting_stays(size: int) -> None:
    torch.testing.assert_close(style_tensor(PAINTING, size), as_tensor(PAINTING))


@given(st.integers(16, 700), st.integers(16, 700), st.integers(16, 600))
@settings(max_examples=30)
def test_the_longest_side_is_met_exactly(height: int, width: int, longest: int) -> None:
    try:
        found = style_tensor(Image.new("RGB", (width, height)), longest).shape[-2:]
    except ShapeError:
        assert min(height, width) * longest / max(height, width) < 16
        return
    assert max(found) == min(longest, max(height, width))
    assert abs(found[0] / found[1] - height / width) <= 0.6 * (1 + height / width) / found[1]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(15, 40, 3), (40, 15, 3), (1, 1, 3)])
def test_too_small(shape: tuple[int, ...]) -> None:
    small = np.zeros(shape, dtype=np.uint8)
    size = f"got {shape[1]}×{shape[0]}; expected 16 pixels a side or more"
    with pytest.raises(ShapeError, match=f"the photograph is too small; {size}"):
        stylize(small, PAINTING, network=NET)
    with pytest.raises(ShapeError, match=f"the painting is too small; {size}"):
        stylize(PHOTO, small, network=NET)


def test_too_small_once_scaled() -> None:
    banner = np.zeros((20, 400, 3), dtype=np.uint8)
    stylize(PHOTO, banner, network=NET)
    with pytest.raises(ShapeError, match="the painting, scaled to 200 pixels, is too small; got 200×10"):
        stylize(PHOTO, banner, network=NET, style_size=200)


@pytest.mark.parametrize("size", [15, 0, -512])
def test_style_sizes_that_cant_be(size: int) -> None:
    with pytest.raises(ArgumentError, match=f"style size; got {size}; expected 16 pixels or more"):
        stylize(PHOTO, PAINTING, network=NET, style_size=size)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no such picture; got .*missing\.png"):
        stylize(tmp_path / "missing.png", PAINTING, network=NET)
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(FileError, match="the file isn't a picture"):
        stylize(PHOTO, tmp_path / "notes.png", network=NET)
    with pytest.raises(DataError, match="out of range"):
        stylize(PHOTO.astype(np.float32), PAINTING, network=NET)
    with pytest.raises(FileError, match="no such weights; got studnt"):
        stylize(PHOTO, PAINTING, network="studnt")
    with pytest.raises(FileError, match="no such weights"):
        stylize(PHOTO, PAINTING, network=os.fspath(tmp_path))


def test_the_bundled_teacher_is_the_default() -> None:
    assert stylize(PHOTO, PAINTING).size == (50, 37)
