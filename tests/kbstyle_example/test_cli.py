"""The command line: every command end to end, defaults from the API, one clear line for every mistake, exit codes."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kbstyle_example import KBStyle, KBStyleConfig, weights_file
from kbstyle_example.__main__ import _parser, main
from kbstyle_example.demo import run_demo
from kbstyle_example.distill import distill, scratch
from kbstyle_example.loop import Plan
from kbstyle_example.losses import StyleTask
from kbstyle_example.perceptual import VGG
from kbstyle_example.stylize import stylize
from kbstyle_example.train import train
from kbstyle_example.weights_file import load_weights, save_weights
from skd.errors import ArgumentError

TEACHER = KBStyleConfig(widths=(9, 17, 29), fine_blocks=0, content_blocks=1, style_blocks=0)
COMMANDS = ("demo", "stylize", "distill", "train", "info")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, weights, and what isn't either; the bundled weights are a small network here."""
    random = np.random.default_rng(0)
    for folder in ("photos", "paintings", "none", "broken"):
        (tmp_path / folder).mkdir()
    for name in ("photos/a.png", "photos/b.png", "paintings/c.png"):
        Image.fromarray(random.integers(0, 256, (41, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    for name in ("broken/d.png", "none/notes.txt", "other.safetensors"):
        (tmp_path / name).write_text("something else")
    Image.new("RGB", (10, 40)).save(tmp_path / "small.png")
    (tmp_path / "weights").mkdir()
    save_weights(scratch(TEACHER, 1), tmp_path / "weights" / "teacher.safetensors", about={"trained": "3 steps"})
    monkeypatch.setattr(weights_file, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr("kbstyle_example.distill.CALIBRATION_BATCHES", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def run_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


# --- help and defaults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: python -m kbstyle_example")
    assert not err
    if not command:
        assert all(name in out for name in COMMANDS)


def parsed(*arguments: str) -> dict[str, Any]:
    return vars(_parser().parse_args(arguments))


def default(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def test_defaults_are_those_of_the_api() -> None:
    found = parsed("demo")
    for name in ("seconds", "steps", "batch_size", "crop", "seed"):
        assert found[name] == default(run_demo, name)
        assert type(found[name]) is type(default(run_demo, name))
    found = parsed("stylize", "a.png", "--style", "b.png", "-o", "c.png")
    assert (found["weights"], found["style_size"]) == (default(stylize, "network"), default(stylize, "style_size"))
    folders = ("--content", "a", "--style", "b", "--out", "c")
    for function, arguments in ((distill, ("distill", *folders)), (train, ("train", *folders, "--perceptual", "d"))):
        found, plan = parsed(*arguments), default(function, "plan")
        assert isinstance(plan, Plan)
        for name in ("steps", "seconds", "batch_size", "learning_rate", "workers"):
            assert found[name] == getattr(plan, name)
        for name in ("crop", "seed"):
            assert found[name] == default(function, name)
    assert found["style_weight"] == default(StyleTask, "style_weight")
    assert found["content_weight"] == default(StyleTask, "content_weight")


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}
    monkeypatch.setattr("kbstyle_example.demo.run_demo", lambda out, **options: called.update(out=out, **options))
    # The parser reads the defaults of what stands in: give it the original's.
    monkeypatch.setattr("kbstyle_example.demo.run_demo.__signature__", inspect.signature(run_demo), raising=False)
    given = ["--out", "x", "--seconds", "7.5", "--steps", "3", "--batch-size", "2", "--crop", "64", "--seed", "9"]
    assert main(["demo", *given]) == 0
    assert called == {"out": Path("x"), "seconds": 7.5, "steps": 3, "batch_size": 2, "crop": 64, "seed": 9}


# --- commands --------------------------------------------------------------------------------------------------------


def test_stylize(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stylize", "photos/a.png", "--style", "paintings/c.png", "-o", "new/folder/out.png"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert (Path(out.strip()), err) == (Path("new/folder/out.png"), "")
    expected = np.asarray(stylize("photos/a.png", "paintings/c.png", network=scratch(TEACHER, 1)))
    np.testing.assert_array_equal(np.asarray(Image.open(inputs / "new/folder/out.png")), expected)
    assert main([*arguments[:-1], "scaled.png", "--style-size", "32", "--weights", "weights/teacher.safetensors"]) == 0
    expected = np.asarray(stylize("photos/a.png", "paintings/c.png", network=scratch(TEACHER, 1), style_size=32))
    np.testing.assert_array_equal(np.asarray(Image.open(inputs / "scaled.png")), expected)


DISTILL = ["distill", "--content", "photos", "--style", "paintings", "--out", "run"]
SHORT = ["--steps", "2", "--batch-size", "2", "--crop", "24", "--workers", "0"]


def test_distill(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISTILL, *SHORT, "--seed", "4"]) == 0
    out, _ = capsys.readouterr()
    path = inputs / "run" / "student.safetensors"
    assert f"{path.relative_to(inputs)}: {path.stat().st_size:,} bytes" in out
    assert "1/2/encoder/structure" in out
    student = load_weights(path)
    assert student.config.widths == (8, 16, 28)
    assert weights_file.about(path)["distilled"] == "2 steps, seed 4"
    assert files(inputs / "run") == {"student.safetensors", "checkpoint.pt", "log.jsonl"}


def test_train(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A stand-in for VGG-19, which is too large to be made here.
    perceptual = VGG("fake", (4, 4, 6, 8, 8), stages=tuple((1, str(i)) for i in range(1, 6)))
    seen = []

    def load(path: Path) -> VGG:
        seen.append(path)
        perceptual.sha256 = "abc"
        return perceptual.freeze()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kbstyle_example.perceptual.load_perceptual", load)
        arguments = [*DISTILL[1:], *SHORT, "--perceptual", "vgg.pth", "--style-weight", "2"]
        assert main(["train", *arguments]) == 0
    assert seen == [Path("vgg.pth")]
    out, _ = capsys.readouterr()
    path = inputs / "run" / "teacher.safetensors"
    assert f"{path.stat().st_size:,} bytes" in out
    assert load_weights(path).config.widths == (32, 64, 128)
    assert weights_file.about(path)["perceptual"] == "fake abc"
    assert weights_file.about(path)["trained"] == "2 steps, seed 0"


def test_info(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out, _ = capsys.readouterr()
    assert torch.__version__ in out
    assert "teacher: " in out
    assert "trained 3 steps" in out


# --- mistakes --------------------------------------------------------------------------------------------------------

STYLIZE = ["stylize", "photos/a.png", "--style", "paintings/c.png", "-o", "new/out.png"]
TRAIN = ["train", *DISTILL[1:], "--perceptual", "missing.pth"]


def replaced(arguments: list[str], option: str, value: str) -> list[str]:
    index = arguments.index(option)
    return [*arguments[: index + 1], value, *arguments[index + 2 :]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["demonstrate"], "invalid choice: 'demonstrate'"),
        (["stylize", "photos/a.png"], "the following arguments are required: --style, -o/--out"),
        (["demo", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["info", "--verbose"], "unrecognized arguments: --verbose"),
        (["demo", "--steps", "0"], "steps of a training plan; got 0"),
        (["demo", "--seconds", "0"], "seconds of a training plan; got 0"),
        (["demo", "--seconds", "-5"], "seconds of a training plan; got -5"),
        (["demo", "--seconds", "nan"], "seconds of a training plan; got nan"),
        (["demo", "--batch-size", "0"], "batch_size of a training plan; got 0"),
        (["demo", "--seed", "-1"], "seed of the first weights; got -1"),
        (["demo", "--out", "small.png"], "the output folder can't be made; got small.png"),
        ([*DISTILL, "--steps", "0"], "steps of a training plan; got 0"),
        ([*DISTILL, "--seconds", "0"], "seconds of a training plan; got 0"),
        ([*DISTILL, "--batch-size", "0"], "batch_size of a training plan; got 0"),
        ([*DISTILL, "--learning-rate", "0"], "learning_rate of a training plan; got 0"),
        ([*DISTILL, "--workers", "-1"], "workers of a training plan; got -1"),
        ([*DISTILL, "--crop", "20"], "side of the crops; got 20; expected a multiple of 8"),
        ([*DISTILL, "--teacher", "techer"], "no such weights; got techer"),
        ([*DISTILL, "--teacher", "other.safetensors"], "these aren't the weights of a KBStyle network"),
        (replaced(DISTILL, "--content", "missing"), "no folder of pictures; got missing"),
        (replaced(DISTILL, "--style", "none"), "no pictures in the folder; got none"),
        (replaced(DISTILL, "--style", "paintings/c.png"), "no folder of pictures; got paintings/c.png"),
        (replaced(DISTILL, "--out", "small.png"), "the output folder can't be made; got small.png"),
        (replaced(DISTILL, "--out", "small.png/run"), "the output folder can't be made; got small.png/run"),
        (TRAIN, "no perceptual network there; got missing.pth"),
        ([*TRAIN, "--crop", "20", "--perceptual", "other.safetensors"], "not a file of weights"),
        (replaced(TRAIN, "--content", "missing"), "no folder of pictures; got missing"),
        (replaced(STYLIZE, "stylize", "missing.png"), "there is no such picture; got missing.png"),
        (replaced(STYLIZE, "stylize", "broken/d.png"), "the file isn't a picture; got broken/d.png"),
        (replaced(STYLIZE, "stylize", "photos"), "the picture can't be read; got photos"),
        (replaced(STYLIZE, "stylize", "small.png"), "the photograph is too small; got 10×40"),
        (replaced(STYLIZE, "--style", "small.png"), "the painting is too small; got 10×40"),
        ([*STYLIZE, "--style-size", "0"], "style size; got 0; expected 16 pixels or more"),
        ([*STYLIZE, "--weights", "techer"], "no such weights; got techer"),
        ([*STYLIZE, "--weights", "other.safetensors"], "these aren't the weights of a KBStyle network"),
        (replaced(STYLIZE, "-o", "new/out.xyz"), "no format for this file; got new/out.xyz"),
        (replaced(STYLIZE, "-o", "new"), "no format for this file; got new"),
        (replaced(STYLIZE, "-o", "small.png/out.png"), "the output folder can't be made; got small.png"),
    ],
)  # fmt: skip
def test_mistakes(inputs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    before = files(inputs)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert files(inputs) == before


def test_close_names_are_told(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STYLIZE, "--weights", "techer"]) == 2
    assert "did you mean 'teacher'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["distill", "train"])
def test_folders_without_a_usable_picture(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("kbstyle_example.perceptual.load_perceptual", lambda _: VGG("fake", (2,), stages=((1, "1"),)))
    arguments = [command, *replaced(DISTILL, "--content", "broken")[1:]]
    assert main([*arguments, "--perceptual", "x"] if command == "train" else arguments) == 2
    err = capsys.readouterr().err
    assert "none of the pictures can be used" in err
    assert "d.png" in err
    assert err.count("\n") == 1
    assert not list(inputs.rglob("run/*"))


def test_a_full_disk_is_one_line(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(STYLIZE) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert not (inputs / "new" / "out.png").exists()


def test_a_folder_that_is_read_only(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root, nothing is read-only
    for arguments in ([*DISTILL, *SHORT], STYLIZE, ["demo", "--steps", "1", "--out", "run"]):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: nothing can be written into the output folder")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("kbstyle_example.distill.fit", [*DISTILL, *SHORT], "interrupted; the same command goes on"),
        ("kbstyle_example.stylize.render", STYLIZE, "interrupted\n"),
    ],
)
def test_interrupted(
    inputs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    arguments: list[str],
    expected: str,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, stop)
    assert main(arguments) == 130
    assert capsys.readouterr().err.startswith(expected)


def test_defects_are_not_hidden(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kbstyle_example.stylize.render", fail)
    with pytest.raises(ZeroDivisionError):
        main(STYLIZE)


# --- processes -------------------------------------------------------------------------------------------------------

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
RUN = "from kbstyle_example.__main__ import main\nraise SystemExit(main(sys.argv[1:]))"
EXTRA = {"PIL": "pillow", "safetensors": "safetensors", "tqdm": "tqdm", "matplotlib": "matplotlib"}


def test_the_package_imports_without_the_extra() -> None:
    code = BLOCK.format(blocked=set(EXTRA)) + (
        "import kbstyle_example\n"
        "assert kbstyle_example.KBStyle(kbstyle_example.STUDENT)\n"
        f"assert not {set(EXTRA)!r} & set(sys.modules)\n"
    )
    done = run_process(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_package_is_named() -> None:
    done = run_process(BLOCK.format(blocked={"matplotlib"}) + RUN, "demo")
    assert done.returncode == 2
    assert done.stderr == (
        "error: kbstyle_example needs the package 'matplotlib', which isn't installed. "
        "Remedy: pip install 'skd[kbstyle]'.\n"
    )


@pytest.mark.parametrize("module", EXTRA)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str, command: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert main([command]) == 2
    assert f"needs the package {EXTRA[module]!r}" in capsys.readouterr().err


def test_the_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kbstyle_example", "stylize", "--style", "x.png", "-o", "y.png", "no-such.png",
         "--weights", "no-such"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: there are no such weights; got no-such")
    assert done.stdout == ""


def test_only_the_public_face_of_skd_is_used() -> None:
    import ast

    import kbstyle_example

    for path in Path(kbstyle_example.__file__ or "").parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            private = [n for n in names if n.startswith("skd.") and any(part.startswith("_") for part in n.split("."))]
            assert not private, path.name


def test_parser_errors_are_typed() -> None:
    with pytest.raises(ArgumentError, match=r"Remedy: python -m kbstyle_example demo --help"):
        _parser().parse_args(["demo", "--steps", "x"])


def test_the_bundled_teacher_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "teacher: 2," in capsys.readouterr().out
    assert isinstance(load_weights("teacher"), KBStyle)
