"""Stylising: the result by hand, every kind of input and option, odd sizes, the painting's scale, mistakes."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

import kbstyle_example
from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.colours import with_colours_of
from kbstyle_example.images import load_image, to_pil
from kbstyle_example.inference import Inference
from kbstyle_example.networks import STUDENT, TEACHER
from kbstyle_example.onnx_painter import OnnxPainter
from kbstyle_example.options import DEFAULT, LONGEST_STYLE_SIDE, PainterOptions
from kbstyle_example.painting import Painter, encoded, render, style_tensor, stylize
from kbstyle_example.strips import as_pixels, strips
from kbstyle_example.styles import mixed
from kbstyle_example.video import stylize_video
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, DataError, FileError, ShapeError


def network() -> KBStyle:
    torch.manual_seed(1)
    net = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, deep_blocks=1, style_blocks=1)).eval()
    with torch.no_grad():
        net.decoder.output[0].weight.mul_(3)  # bright enough to be clamped
    return net


NET = network()
PHOTO = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
PAINTING = np.random.default_rng(1).integers(0, 256, (41, 29, 3), dtype=np.uint8)
OTHER = PAINTING[::-1, :, ::-1] // 2
SIZE = 41  # the painting as it is
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B")


def as_tensor(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def painted(style: np.ndarray[Any, Any] = PAINTING, photo: np.ndarray[Any, Any] = PHOTO) -> torch.Tensor:
    with torch.no_grad():
        return NET(as_tensor(photo), as_tensor(style)).clamp(0, 1)


def run(**options: Any) -> torch.Tensor:
    options = {"network": NET, "style_size": SIZE, **options}
    styles = options.pop("styles", PAINTING)
    return as_tensor(Painter(styles, **options)(PHOTO))


def assert_near(found: torch.Tensor, wanted: torch.Tensor, *, steps: float = 0.51) -> None:
    """By how many steps of 8 bits; each rounding takes half a step."""
    torch.testing.assert_close(found, wanted, atol=steps / 255, rtol=0)


def scaled(pixels: np.ndarray[Any, Any], shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """By PIL, which scales 8 bits in two passes, as we do."""
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BICUBIC))


def test_the_result_is_the_networks_clamped_and_rounded() -> None:
    with torch.no_grad():
        raw = NET(as_tensor(PHOTO), as_tensor(PAINTING))
    assert raw.min() < 0
    assert raw.max() > 1
    expected = (raw.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(stylize(PHOTO, PAINTING, network=NET, style_size=SIZE)), expected)


def test_paths_pictures_arrays_and_tensors_give_the_same(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(PAINTING).save(tmp_path / "painting.png")
    save_weights(NET, tmp_path / "net.safetensors")
    expected = np.asarray(stylize(PHOTO, PAINTING, network=NET))
    for photo, painting, net in (
        (tmp_path / "photo.png", tmp_path / "painting.png", tmp_path / "net.safetensors"),
        (str(tmp_path / "photo.png"), str(tmp_path / "painting.png"), str(tmp_path / "net.safetensors")),
        ((tmp_path / "photo.png").read_bytes(), (tmp_path / "painting.png").read_bytes(), NET),
        (Image.fromarray(PHOTO), Image.fromarray(PAINTING), NET),
        (PHOTO.astype(np.float32) / 255, PAINTING.astype(np.float32) / 255, NET),
        (as_tensor(PHOTO), as_tensor(PAINTING)[0], NET),
        (PHOTO, [PAINTING], NET),
        (PHOTO, (PAINTING,), NET),
    ):
        np.testing.assert_array_equal(np.asarray(stylize(photo, painting, network=net)), expected)


@settings(max_examples=40)
@given(st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.booleans())
def test_every_mode_and_size(mode: str, width: int, height: int, orientation: int, colour: bool) -> None:
    photo = Image.new(mode, (width, height))
    photo.getexif()[0x0112] = orientation
    picture = stylize(photo, PAINTING, network=NET, style_size=32, keep_colour=colour)
    assert picture.size == ((height, width) if orientation >= 5 else (width, height))
    assert picture.mode == ("RGBA" if mode in ("LA", "PA", "RGBA") else "RGB")


@pytest.mark.parametrize("size", [(1, 1), (15, 16), (3, 90), (90, 3)])
def test_small_photographs_are_grown_and_cut(size: tuple[int, int]) -> None:
    height, width = size
    photo = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    grown = np.pad(photo, ((0, max(0, 16 - height)), (0, max(0, 16 - width)), (0, 0)), mode="edge")
    found = render(NET, as_tensor(photo), as_tensor(PAINTING))
    torch.testing.assert_close(found, painted(photo=grown)[..., :height, :width])


def test_transparency_is_kept_and_not_painted_with() -> None:
    alpha = np.full((37, 50), 255, dtype=np.uint8)
    alpha[:, 30:] = 0
    hidden = [np.dstack([np.where(alpha[..., None] > 0, PHOTO, value).astype(np.uint8), alpha]) for value in (0, 255)]
    first, second = (np.asarray(stylize(Image.fromarray(photo), PAINTING, network=NET)) for photo in hidden)
    np.testing.assert_array_equal(first[..., 3], alpha)
    np.testing.assert_array_equal(first, second)


def test_it_is_deterministic_and_leaves_the_network_alone() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluated = np.asarray(stylize(PHOTO, PAINTING, network=net, device="cpu"))
    net.train()
    np.testing.assert_array_equal(np.asarray(stylize(PHOTO, PAINTING, network=net)), evaluated)
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_a_code_serves_for_many_photographs() -> None:
    photo, painting = as_tensor(PHOTO), as_tensor(PAINTING)
    code = encoded(NET, painting)
    result = render(NET, photo, code)
    assert torch.equal(result, render(NET, photo, painting))
    assert not result.requires_grad


def test_the_package_has_it_without_importing_it() -> None:
    assert kbstyle_example.stylize is stylize
    assert {"stylize", "Painter"} <= set(dir(kbstyle_example))
    with pytest.raises(AttributeError, match="has no attribute 'stylise'"):
        kbstyle_example.stylise  # noqa: B018
    code = "import sys, kbstyle_example as kb; print('PIL' in sys.modules); kb.stylize; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"


def test_one_set_of_defaults() -> None:
    wanted = {name: p for name, p in inspect.signature(Painter).parameters.items() if name != "styles"}
    for function in (stylize, stylize_video):
        assert {name: inspect.signature(function).parameters[name] for name in wanted} == wanted
    told = {name: hint.__forward_arg__ for name, hint in PainterOptions.__annotations__.items()}
    assert told == {name: p.annotation for name, p in wanted.items()}
    other = dict(inspect.signature(OnnxPainter).parameters)
    assert other.pop("styles") == inspect.signature(Painter).parameters["styles"]
    assert other == wanted  # the command line reads its defaults there
    assert wanted["network"].default == DEFAULT
    with pytest.raises(TypeError, match="unexpected keyword argument 'strenght'"):
        stylize(PHOTO, PAINTING, strenght=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("photo", [PHOTO.astype(np.uint16), PHOTO[..., :1], PHOTO[..., 0], PHOTO[:0]])
def test_painters_take_arrays_of_8_bits(photo: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"no photograph to paint; got .*; expected \(H, W, 3\) of uint8"):
        Painter(PAINTING, network=NET)(photo)


def test_pixels_that_may_not_be_written() -> None:
    photo, painting = PHOTO.copy(), PAINTING.copy()
    photo.flags.writeable = painting.flags.writeable = False
    options: dict[str, Any] = {"network": NET, "paint_size": 25, "keep_colour": True, "strength": 0.5}
    np.testing.assert_array_equal(stylize(photo, painting, **options), stylize(PHOTO, PAINTING, **options))
    turned = stylize(PHOTO[::-1, ::-1], PAINTING, masks=[PHOTO[::2, ::-2, 0]], **options)
    assert turned.size == (50, 37)


# --- strength and colour ---------------------------------------------------------------------------------------------


def test_strength_by_hand() -> None:
    for strength in (0.25, 0.5):
        wanted = (1 - strength) * as_tensor(PHOTO) + strength * painted()
        assert_near(run(strength=strength), wanted, steps=1.01)
    assert torch.equal(run(strength=0.0), as_tensor(PHOTO))
    assert_near(run(strength=1.0), painted())
    np.testing.assert_array_equal(np.asarray(stylize(PHOTO, PAINTING, network=NET, strength=0)), PHOTO)


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan"), float("inf")])
def test_strengths_that_cant_be(strength: float) -> None:
    with pytest.raises(ArgumentError, match=f"strength of the style; got {strength}; expected a number from 0 to 1"):
        run(strength=strength)


def test_colours_kept() -> None:
    wanted = as_tensor(with_colours_of(PHOTO, as_pixels(painted())))
    assert torch.equal(run(keep_colour=True), wanted)
    assert (wanted - painted()).abs().max() > 0.1


# --- several styles --------------------------------------------------------------------------------------------------


def test_styles_are_mixed_by_weight() -> None:
    codes = [NET.encode_style(as_tensor(style)) for style in (PAINTING, OTHER)]
    for weights in (None, [1, 3], [5, 0]):
        wanted = render(NET, as_tensor(PHOTO), mixed(codes, weights or [1, 1]))
        assert_near(run(styles=[PAINTING, OTHER], style_weights=weights), wanted)
    assert_near(run(styles=[PAINTING, OTHER], style_weights=[5, 0]), painted())


def test_masks_by_hand() -> None:
    ramp = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(37, 0)
    share = torch.from_numpy(ramp)
    first, second, photo = painted(), painted(OTHER), as_tensor(PHOTO)
    one = run(masks=[ramp])
    assert_near(one, share * first + (1 - share) * photo, steps=1.6)  # elsewhere the photograph
    both = run(styles=[PAINTING, OTHER], masks=[ramp, None])
    assert_near(both, share * first + (1 - share) * second, steps=1.6)  # the other takes the rest
    half = np.zeros((2, 2), dtype=np.uint8)
    half[:, :1] = 255
    small = run(styles=[PAINTING, OTHER], masks=[np.ones((3, 3)), half], style_weights=[1, 1])
    assert_near(small[..., -5:], first[..., -5:])
    assert_near(small[..., :5], (first / 2 + second / 2)[..., :5], steps=1.01)  # both cover it: the weights decide


def test_masked_everywhere_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_near(run(masks=[np.ones((1, 1))]), painted())
    monkeypatch.setattr("kbstyle_example.painting._rendered", lambda *_: 1 / 0)  # nothing is painted for nothing
    assert torch.equal(run(masks=[np.zeros((1, 1))]), as_tensor(PHOTO))


def test_strength_colour_and_masks_together() -> None:
    mask = np.zeros((37, 50))
    mask[:, :25] = 1
    found = run(masks=[mask], keep_colour=True, strength=0.5)
    assert torch.equal(found[..., 25:], as_tensor(PHOTO)[..., 25:])
    coloured = as_tensor(with_colours_of(PHOTO, as_pixels(painted())))
    assert_near(found[..., :25], (as_tensor(PHOTO) / 2 + coloured / 2)[..., :25])


def test_mistakes_with_several() -> None:
    with pytest.raises(ArgumentError, match="no style to paint in; expected one painting or more"):
        run(styles=[])
    with pytest.raises(ArgumentError, match="masks; got 1 masks; expected 2, one for each style"):
        run(styles=[PAINTING, OTHER], masks=[None])
    with pytest.raises(ArgumentError, match="weights of styles; got 3 weights; expected 2"):
        run(styles=[PAINTING, OTHER], style_weights=[1, 2, 3])
    with pytest.raises(FileError, match=r"no such picture; got mask\.png"):
        run(masks=["mask.png"])


# --- scale -----------------------------------------------------------------------------------------------------------


def test_style_size_scales_the_painting() -> None:
    for size, shape in ((32, (32, 23)), (82, (82, 58))):
        assert_near(style_tensor(PAINTING, size), as_tensor(scaled(PAINTING, shape)), steps=1.01)
        assert_near(run(style_size=size), render(NET, as_tensor(PHOTO), style_tensor(PAINTING, size)))
    assert (run(style_size=32) - run()).abs().max() > 1 / 255
    assert torch.equal(style_tensor(PAINTING, 41), as_tensor(PAINTING))


def test_a_scan_of_more_pixels_gives_nearly_the_same() -> None:
    smooth = Image.fromarray(PAINTING).resize((64, 96), Image.Resampling.BICUBIC)
    large = smooth.resize((640, 960), Image.Resampling.BICUBIC)
    first, second = (style_tensor(scan, 96) for scan in (smooth, large))
    torch.testing.assert_close(first, second, atol=0.08, rtol=0)


@given(st.integers(16, 700), st.integers(16, 700), st.integers(16, 600))
@settings(max_examples=30)
def test_the_longest_side_is_met_exactly(height: int, width: int, longest: int) -> None:
    try:
        found = style_tensor(Image.new("RGB", (width, height)), longest).shape[-2:]
    except ShapeError:
        assert min(height, width) * longest / max(height, width) < 16
        return
    assert max(found) == longest
    assert abs(found[0] / found[1] - height / width) <= 0.6 * (1 + height / width) / found[1]


def test_paint_size_paints_smaller_or_larger() -> None:
    for longest, shape in ((25, (18, 25)), (75, (56, 75))):
        small = as_pixels(painted(photo=scaled(PHOTO, shape)))
        found = run(paint_size=longest) - as_tensor(scaled(small, (37, 50)))
        assert float(found.abs().mean()) < 1 / 255  # PIL's scaling differs by a step here and there
    assert torch.equal(run(paint_size=50), run())


def test_strokes_keep_their_share_of_the_picture() -> None:
    smooth = Image.fromarray(PHOTO).resize((6, 4)).resize((60, 40), Image.Resampling.BICUBIC)
    large = smooth.resize((240, 160), Image.Resampling.BICUBIC)
    small = load_image(stylize(smooth, PAINTING, network=NET, style_size=SIZE))

    def apart(**options: Any) -> float:
        found = load_image(stylize(large, PAINTING, network=NET, style_size=SIZE, **options))
        coarse = [F.interpolate(x, (10, 15), mode="bicubic", antialias=True) for x in (found, small)]
        return float((coarse[0] - coarse[1]).abs().mean())

    assert apart(paint_size=60) < apart() / 2


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(15, 40, 3), (40, 15, 3), (1, 1, 3)])
def test_paintings_that_are_too_small(shape: tuple[int, ...]) -> None:
    size = f"got {shape[1]}×{shape[0]}; expected 16 pixels a side or more"
    with pytest.raises(ShapeError, match=f"the painting is too small; {size}"):
        stylize(PHOTO, np.zeros(shape, dtype=np.uint8), network=NET)


def test_too_small_once_scaled() -> None:
    banner = np.zeros((20, 400, 3), dtype=np.uint8)
    stylize(PHOTO, banner, network=NET, style_size=400)
    with pytest.raises(ShapeError, match="the painting, scaled to 200 pixels, is too small; got 200×10"):
        stylize(PHOTO, banner, network=NET, style_size=200)


@pytest.mark.parametrize("size", [15, 0, -512])
def test_sizes_that_cant_be(size: int) -> None:
    with pytest.raises(ArgumentError, match=f"style size; got {size}; expected 16 pixels or more"):
        run(style_size=size)
    with pytest.raises(ArgumentError, match=f"paint size; got {size}; expected 16 pixels or more"):
        run(paint_size=size)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(Painter(PAINTING, network=NET, device="cpu").network.parameters()).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ArgumentError, match="this device isn't on this machine; got cuda; expected one of cpu"):
        run(device="cuda")


def test_a_picture_that_doesnt_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("memory"),
    ]
    for error in errors:

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("kbstyle_example.painting._rendered", fail)
        with pytest.raises(DataError, match=r"needs more memory than there is; got 50×37. Remedy: .*--paint-size"):
            run()
    monkeypatch.setattr("kbstyle_example.painting._rendered", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()


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
    file = io.BytesIO()
    to_pil(as_tensor(PHOTO)).save(file, "PNG")
    for content, style in ((file.getvalue(), PAINTING), (PHOTO, file.getvalue())):
        with pytest.raises(FileError, match=r"too large; got stdin with 1,850 pixels; expected at most 1,849"):
            stylize(content, style, network=NET, max_pixels=1849)


def test_the_bundled_teacher_is_the_default() -> None:
    assert stylize(PHOTO, PAINTING).size == (50, 37)
    assert inspect.signature(stylize).parameters["style_size"].default == LONGEST_STYLE_SIDE


@pytest.mark.parametrize("size", [(70, 90), (5, 700)])
def test_large_photographs_are_painted_in_tiles(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    from kbstyle_example import painting

    net = KBStyle(KBStyleConfig(widths=(4, 6, 8))).eval()
    photograph, style = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), torch.rand(1, 3, 32, 40)
    whole = painting.render(net, as_tensor(photograph), style)
    by_painter = Painter(style, network=net, style_size=40)(photograph)
    monkeypatch.setattr(painting, "TILED_FROM", 0)
    tiled = painting.render(net, as_tensor(photograph), style)
    assert not torch.equal(whole, tiled)
    assert_near(tiled, whole)
    found = Painter(style, network=net, style_size=40)(photograph)
    assert np.abs(found.astype(int) - by_painter).max() <= 1


def test_what_is_large_depends_on_the_network() -> None:
    from kbstyle_example.painting import _is_large

    found = {config.widths[0]: _is_large(KBStyle(config), 16384, 8192) for config in (STUDENT, TEACHER)}
    assert found == {8: False, 32: True}
    assert not _is_large(KBStyle(TEACHER), 8192, 4096)
    assert _is_large(KBStyle(STUDENT), 16384, 8193)


def test_the_precision_is_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbstyle_example.devices.has_bfloat16", lambda: True)
    for name in ("float32", "bfloat16"):
        quick = Painter(PAINTING, network=NET, precision=name).quick
        assert isinstance(quick, Inference)
        assert str(quick.dtype) == f"torch.{name}"
    with pytest.raises(ArgumentError, match="precision to paint in; got float64"):
        Painter(PAINTING, network=NET, precision="float64")


def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option that works on strips of rows, in one strip and in many."""
    alpha = np.random.default_rng(3).integers(0, 3, (37, 50), dtype=np.uint8) * 127
    alpha[8:25, 10:30] = 0
    options: dict[str, Any] = {"network": NET, "masks": [PHOTO[..., 0], None], "strength": 0.7, "keep_colour": True}
    arguments = np.dstack([PHOTO, alpha]), [np.dstack([PAINTING, PAINTING[..., 0]]), OTHER]
    whole = np.asarray(stylize(*arguments, **options), dtype=int)
    monkeypatch.setattr("kbstyle_example.strips.STRIP", 1)
    assert len(list(strips(37, 50))) == 19
    assert np.abs(np.asarray(stylize(*arguments, **options)) - whole).max() <= 1
