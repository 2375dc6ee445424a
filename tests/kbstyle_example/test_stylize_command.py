"""The command `stylize`: files, folders, streams and JSON; exit codes, and one line on stderr for each failure."""

from __future__ import annotations

import argparse
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kbstyle_example
from kbstyle_example import KBStyle, KBStyleConfig, weights_file
from kbstyle_example.__main__ import main
from kbstyle_example.folders import stylize_files
from kbstyle_example.painting import stylize
from kbstyle_example.parsing import parser
from kbstyle_example.weights_file import load_weights, save_weights

RANDOM = np.random.default_rng(0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs, paintings and a mask; the bundled weights are a small network here."""
    torch.manual_seed(0)
    net = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=0, deep_blocks=0, style_blocks=0)).eval()
    for name in ("photos/a.png", "photos/sub/b.png", "c.png", "styles/d.png", "styles/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    Image.fromarray(np.linspace(0, 255, 40).astype(np.uint8)[None].repeat(32, 0)).save(tmp_path / "mask.png")
    (tmp_path / "weights").mkdir()
    save_weights(net, tmp_path / "weights" / "kbstyle.safetensors")
    monkeypatch.setattr(weights_file, "FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: str) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_defaults_are_the_apis() -> None:
    options = vars(parser().parse_args(["stylize", "a.png", "--style", "b.png", "-o", "c.png"], argparse.Namespace()))
    defaults = {name: parameter.default for name, parameter in inspect.signature(stylize).parameters.items()}
    for name, value in defaults.items():
        if name not in ("content", "style"):
            assert options[{"network": "weights", "masks": "mask"}.get(name, name)] == value, name
    assert options["quality"] == inspect.signature(stylize_files).parameters["quality"].default
    assert (options["format"], options["json"]) == (None, False)


def test_every_option_reaches_the_painter(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stylize", "c.png", "--style", "styles/d.png", "styles/e.png", "-o", "out.png"]
    arguments += ["--style-weights", "1", "3", "--mask", "mask.png", "none", "--strength", "0.7", "--keep-colour"]
    arguments += ["--style-size", "20", "--paint-size", "48", "--precision", "float32", "--device", "cpu"]
    assert main(arguments) == 0
    assert capsys.readouterr() == ("out.png\n", "")
    expected = stylize(
        "c.png",
        ["styles/d.png", "styles/e.png"],
        style_weights=[1, 3],
        masks=["mask.png", None],
        strength=0.7,
        keep_colour=True,
        style_size=20,
        paint_size=48,
    )
    np.testing.assert_array_equal(pixels("out.png"), np.asarray(expected))


def test_a_folder_with_failures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos" / "empty.jpg").touch()
    (place / "photos" / "text.jpg").write_text("text")
    assert main(["stylize", "photos", "c.png", "--style", "styles/d.png", "-o", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second, last = err.splitlines()
    assert first == f"error: the picture's file is empty; got {Path('photos/empty.jpg')}."
    assert second.startswith(f"error: the file isn't a picture; got {Path('photos/text.jpg')}")
    assert last == "error: 2 of 5 photographs couldn't be painted, each for the reason above."
    found = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert found == ["a.png", "c.png", "sub/b.png"]
    np.testing.assert_array_equal(pixels("out/c.png"), np.asarray(stylize("c.png", "styles/d.png")))


def test_a_folder_without_failures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stylize", "photos", "--style", "styles/d.png", "-o", "out", "--format", "webp"]) == 0
    assert capsys.readouterr() == ("2 photographs painted into out\n", "")
    assert {path.name for path in Path("out").rglob("*.*")} == {"a.webp", "b.webp"}


def test_a_bar_where_somebody_looks(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    (place / "photos" / "empty.jpg").touch()
    assert main(["stylize", "photos", "--style", "styles/d.png", "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert "stylize: 100%" in err
    assert "3/3" in err
    assert "error: the picture's file is empty" in err


def test_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos" / "empty.jpg").touch()
    assert main(["stylize", "photos", "--style", "styles/d.png", "-o", "out", "--json"]) == 2
    out, err = capsys.readouterr()
    facts = [json.loads(line) for line in out.splitlines()]
    assert [fact.pop("seconds") >= 0 for fact in facts] == [True] * 3
    empty, a = str(Path("photos/empty.jpg")), str(Path("photos/a.png"))
    assert facts == [
        {"content": a, "out": str(Path("out/a.png")), "width": 40, "height": 32},
        {
            "content": empty,
            "out": str(Path("out/empty.jpg")),
            "error": f"the picture's file is empty; got {empty}.",
            "kind": "FileError",
        },
        {"content": str(Path("photos/sub/b.png")), "out": str(Path("out/sub/b.png")), "width": 40, "height": 32},
    ]
    assert err.count("\n") == 2
    assert main(["stylize", "missing.png", "--style", "styles/d.png", "-o", "out.png", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "FileError"
    assert err == "error: there is no such picture; got missing.png.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "-", "--json"], "--json and the picture both on stdout"),
        (["-o", "c.png"], "a painting would replace a picture that is read; got c.png"),
        (["-o", os.path.join("styles", "d.png")], "a painting would replace a picture that is read"),
        (["-o", "mask.png", "--mask", "mask.png"], "a painting would replace a picture that is read"),
        (["-o", "x.png", "--mask", "none", "none"], "masks; got 2 masks; expected 1"),
        (["-o", "x.png", "--style-weights", "1", "2"], "weights of styles; got 2 weights; expected 1"),
        (["-o", "x.png", "--strength", "1.5"], "strength of the style; got 1.5"),
        (["-o", "x.png", "--paint-size", "3"], "paint size; got 3"),
        (["-o", "x.png", "--device", "gpu"], "no such device; got gpu"),
        (["-o", "x.jpg", "--quality", "0"], "quality of a picture; got 0"),
        (["-o", "x.png", "--max-pixels", "1279"], "the picture is too large; got styles"),
        (["-o", "x.png", "--format", "jpeg"], "the file's ending says another format; got x.png"),
        (["-o", "x.png", "--format", "gif"], "argument --format: invalid choice: 'gif'"),
    ],
)
def test_mistakes(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*.*")}
    assert main(["stylize", "c.png", "--style", "styles/d.png", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}")
    assert (out, err.count("\n")) == ("", 1)
    assert {path: path.read_bytes() for path in place.rglob("*.*")} == before


def test_weights_of_another_network_and_damaged_ones(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (place / "weights" / "kbstyle.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    flipped = bytearray(whole)
    flipped[start + 100] ^= 1
    nothing = whole[:start] + b"\xff" * (len(whole) - start)
    wider = whole.replace(b"[4, 5, 6]", b"[4, 5, 7]")
    assert wider != whole
    for content, what in ((flipped, "changed"), (nothing, ""), (wider, ""), (whole[:-4], ""), (b"", "")):
        (place / "bad.safetensors").write_bytes(content)
        command = ["stylize", "c.png", "--style", "styles/d.png", "-o", "x.png", "--weights", "bad.safetensors"]
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: these aren't the weights of a KBStyle network; got bad.safetensors (")
        assert what in err
        assert err.count("\n") == 1
    assert not (place / "x.png").exists()
    assert load_weights("kbstyle").config.widths == (4, 5, 6)


def test_streams_in_a_process_of_their_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "kbstyle_example", "stylize", "-", "--style", "styles/d.png", "-o", "-"]
    command += ["--weights", str(place / "weights" / "kbstyle.safetensors")]
    if not os.environ.get("SKD_TEST_INSTALLED"):  # the process starts elsewhere
        monkeypatch.setenv("PYTHONPATH", str(Path(kbstyle_example.__file__).parents[1]))
    done = subprocess.run(command, input=(place / "c.png").read_bytes(), capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(stylize("c.png", "styles/d.png")))


def test_names_that_stdout_cant_spell(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # as on Windows
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["stylize", "c.png", "--style", "styles/d.png", "-o", "絵.png"]) == 0
    stream.flush()
    assert stream.buffer.getvalue().split() == [rb"\u7d75.png"]
    assert (place / "絵.png").exists()
