"""Painting without PyTorch: the pictures are PyTorch's, it isn't imported, and what it can't do is refused."""

from __future__ import annotations

import json
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

pytest.importorskip("onnxruntime")

from kbstyle_example.__main__ import main
from kbstyle_example.exporting import export_kbstyle
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.onnx_painter import OnnxPainter
from kbstyle_example.painting import Painter
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, DataError, FileError, MissingExtraError, NonFiniteError, ShapeError

SAMPLES = Path(__file__).parents[2] / "kbstyle_example/samples"
COFFEE = SAMPLES / "content/coffee.jpg"
PAINTING = sorted((SAMPLES / "style").glob("*.jpg"))[0]
OTHER = sorted((SAMPLES / "style").glob("*.jpg"))[1]


def noise(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# --- the pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strength": 0.4},
        {"style_size": 200},
        {"paint_size": 150},
        {"style_weights": [3, 1]},
        {"precision": "float32", "device": "cpu", "masks": None, "keep_colour": False},
    ],
    ids=str,
)
def test_it_paints_what_pytorch_paints(options: Any) -> None:
    photograph = np.asarray(Image.open(COFFEE).convert("RGB").resize((250, 171)))
    styles = [PAINTING, OTHER]
    one, other = (kind(styles, **options)(photograph) for kind in (OnnxPainter, Painter))
    assert one.shape == photograph.shape
    # Scaled up again, a picture has two resamplings' rounding beside the network's.
    assert apart(one, other) <= (3 if "paint_size" in options else 2)


@given(st.integers(1, 60), st.integers(2, 60), st.integers(0, 9))  # one pixel is flat: rounding is all that varies
@settings(max_examples=15, deadline=None)
def test_any_size(height: int, width: int, seed: int) -> None:
    painting, photograph = noise(40, 33, seed + 1), noise(height, width, seed)
    assert apart(OnnxPainter(painting)(photograph), Painter(painting)(photograph)) <= 2


def test_a_transparent_painting_lies_on_white() -> None:
    painting = Image.fromarray(noise(64, 48))
    painting.putalpha(Image.linear_gradient("L").resize(painting.size))
    photograph = noise(40, 50, 1)
    assert apart(OnnxPainter(painting)(photograph), Painter(painting)(photograph)) <= 2


def test_no_strength_is_the_photograph() -> None:
    photograph = noise(20, 30)
    assert OnnxPainter(PAINTING, strength=0.0)(photograph) is photograph


def test_weights_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = KBStyle(KBStyleConfig(widths=(2, 3, 4), fine_blocks=0, deep_blocks=0, style_blocks=0))
    save_weights(network, tmp_path / "mine.safetensors")
    export_kbstyle(tmp_path / "mine.safetensors", tmp_path)
    photograph, painting = noise(40, 50), noise(32, 32, 1)
    wanted = Painter(painting, network=network)(photograph)
    for name in ("mine.onnx", "mine-paint.onnx", "mine-style.onnx"):
        assert apart(OnnxPainter(painting, network=tmp_path / name)(photograph), wanted) <= 2


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_does_not_import_pytorch(tmp_path: Path) -> None:
    see_through = Image.fromarray(noise(48, 60))
    see_through.putalpha(Image.radial_gradient("L").resize(see_through.size))
    see_through.save(tmp_path / "a.png")
    code = (
        "import sys\nfrom kbstyle_example.__main__ import main\n"
        f"done = main({['stylize', str(tmp_path), '--style', str(PAINTING), '-o', str(tmp_path / 'out'), '--json']}"
        " + ['--backend', 'onnx', '--strength', '0.8'])\n"
        "print(done, 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    Image.open(COFFEE).resize((90, 70)).save(tmp_path / "b.jpg")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *reports, last = done.stdout.splitlines()
    assert last == "0 False True"
    assert sorted((each["width"], each["height"]) for each in map(json.loads, reports)) == [(60, 48), (90, 70)]
    assert main(["stylize", str(tmp_path / "a.png"), "--style", str(PAINTING), "-o", str(tmp_path / "torch.png")]) == 0
    with Image.open(tmp_path / "out/a.png") as one, Image.open(tmp_path / "a.png") as given:
        assert one.mode == "RGBA"
        assert one.getchannel("A").tobytes() == given.getchannel("A").tobytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep-colour"], "ONNX Runtime has no keep_colour; got True"),
        (["--mask", str(COFFEE)], "ONNX Runtime has no masks"),
        (["--precision", "bfloat16"], "ONNX Runtime has no precision; got bfloat16"),
        (["--device", "cuda"], "ONNX Runtime has no device; got cuda"),
        (["--weights", "teacher"], "no network for ONNX Runtime; got teacher"),
        (["--weights", "missing.onnx"], "no such network; got missing-style.onnx"),
        (["--strength", "2"], "strength of the style; got 2.0"),
        (["--paint-size", "3"], "paint size; got 3"),
        (["--style-size", "3"], "style size; got 3"),
        (["--style-weights", "1", "2"], "weights of styles; got 2 weights"),
    ],
)
def test_what_it_cannot_do_is_said(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    command = ["stylize", str(COFFEE), "--style", str(PAINTING), "-o", str(out), "--backend", "onnx", *options]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    for half in ("-style", "-paint"):
        (tmp_path / f"bad{half}.onnx").write_bytes(b"no network")
    with pytest.raises(FileError, match=r"the network can't be read.*bad-style\.onnx"):
        OnnxPainter(PAINTING, network=tmp_path / "bad.onnx")
    web = Path(__file__).parents[2] / "kbstyle_example/web"
    for half in ("-style", "-paint"):
        (tmp_path / f"bad{half}.onnx").write_bytes((web / "kbstyle-paint.onnx").read_bytes())
    with pytest.raises(FileError, match=r"holds another network.*with content, code; expected style"):
        OnnxPainter(PAINTING, network=tmp_path / "bad.onnx")


def test_pictures_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShapeError, match="the painting is too small; got 20×9"):
        OnnxPainter(noise(9, 20))
    with pytest.raises(ShapeError, match="scaled to 64 pixels, is too small; got 64×4"):
        OnnxPainter(noise(20, 320), style_size=64)
    with pytest.raises(ArgumentError, match="no style"):
        OnnxPainter([])
    painter = OnnxPainter(PAINTING)
    with pytest.raises(ArgumentError, match=r"float64 of \(3, 4\)"):
        painter(np.zeros((3, 4)))
    painter.code[:] = np.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        painter(noise(20, 20))

    def full(*_: Any) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer")

    monkeypatch.setattr("kbstyle_example.onnx_painter._run", full)
    with pytest.raises(DataError, match="more memory than there is; got 30×20"):
        painter(noise(20, 30))


def test_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'onnxruntime'.*skd\[onnx\]"):
        OnnxPainter(PAINTING)
