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

import skd
from kbstyle_example import STUDENT, KBStyle, KBStyleConfig, validation, weights_file
from kbstyle_example.__main__ import main
from kbstyle_example.beginning import scratch
from kbstyle_example.by_turns import ByTurns
from kbstyle_example.data import StylePairs
from kbstyle_example.demo import run_demo
from kbstyle_example.distill import distill
from kbstyle_example.evaluation.costs import latencies
from kbstyle_example.evaluation.evaluate import evaluate
from kbstyle_example.evaluation.results import Results
from kbstyle_example.evaluation.sheet import draw_sheets
from kbstyle_example.losses import StyleTask
from kbstyle_example.painting import stylize
from kbstyle_example.parsing import parser
from kbstyle_example.peers import System
from kbstyle_example.perceptual import VGG, identity_of
from kbstyle_example.reproduction import Options
from kbstyle_example.train import train
from kbstyle_example.weights_file import load_weights, save_weights
from skd.errors import ArgumentError

TEACHER = KBStyleConfig(widths=(9, 21, 33), fine_blocks=0, deep_blocks=1, style_blocks=0)
MANY = {"train": (0, 1), "validation": (7, 29), "test": (8, 17)}  # what the names say
COMMANDS = ("demo", "stylize", "distill", "train", "reproduce", "evaluate", "sheet", "info")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, weights, and what isn't either; the bundled weights are a small network here."""
    random = np.random.default_rng(0)
    for folder in ("photos", "paintings", "none", "broken", "many", "tests"):
        (tmp_path / folder).mkdir()
    many = (f"many/{name}.png" for names in MANY.values() for name in names)
    for name in ("photos/a.png", "photos/b.png", "paintings/e.png", "tests/8.png", *many):
        Image.fromarray(random.integers(0, 256, (41, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    for name in ("broken/d.png", "none/notes.txt", "other.safetensors"):
        (tmp_path / name).write_text("something else")
    Image.new("RGB", (10, 40)).save(tmp_path / "small.png")
    (tmp_path / "weights").mkdir()
    save_weights(scratch(TEACHER, 1), tmp_path / "weights" / "teacher.safetensors", about={"trained": "3 steps"})
    save_weights(scratch(TEACHER, 1), tmp_path / "weights" / "kbstyle.safetensors", about={"distilled": "3 steps"})
    monkeypatch.setattr(weights_file, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr("kbstyle_example.perceptual_files.urlopen", lambda *_, **__: pytest.fail("a download"))
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


def test_painting_imports_nothing_that_trains() -> None:
    code = (
        "import sys\nfrom kbstyle_example.__main__ import main\n"
        "try:\n    main(['stylize', '--help'])\nexcept SystemExit:\n    pass\n"
        "from kbstyle_example import commands, painting\n"
        "print(sorted(name for name in sys.modules if name.startswith(('skd.methods', 'skd.pairing', 'accelerate',"
        " 'matplotlib', 'kbstyle_example.distill', 'kbstyle_example.train', 'kbstyle_example.evaluation'))))"
    )
    done = run_process(code)
    assert not done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def parsed(*arguments: str) -> dict[str, Any]:
    return vars(parser().parse_args(arguments))


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
        found, recipe = parsed(*arguments), default(function, "recipe")
        assert isinstance(recipe, skd.Recipe)
        for name in ("steps", "seconds", "learning_rate", "accumulate", "average", "evaluate_every", "save_every"):
            assert found[name] == getattr(recipe, name)
        assert (found["seed"], found["precision"]) == (recipe.seed, recipe.precision)
        for name in ("crop", "batch_size", "workers"):
            assert found[name] == default(function, name)
    for name in ("style", "content", "pixel", "feature"):
        assert found[f"{name}_weight"] == default(StyleTask, f"{name}_weight")
    for function, arguments in (
        (distill, ("distill", *folders)),
        (StyleTask, ("train", *folders, "--perceptual", "d")),
    ):
        found = parsed(*arguments)
        for name in ("style_weight", "feature_weight", "style_weights", "covariance_weights", "feature_weights"):
            assert found[name] == default(function, name)
    assert (parsed("distill", *folders)["perceptual"], found["imitate"], found["start"]) == (None, None, None)
    for name in ("basis", "structure", "statistics"):
        assert parsed("distill", *folders)[name] == default(skd.methods.SKD, name)
    found, options = parsed("reproduce", *folders), Options()
    for name in ("teacher_crop", "student_crop", "batch_size", "workers", "size", "pairs", "data_licence"):
        assert found[name] == getattr(options, name)
    for name in ("teacher", "student"):
        recipe = getattr(options, f"{name}_recipe")
        assert (found[f"{name}_steps"], found["seed"]) == (recipe.steps, recipe.seed)
    found = parsed("evaluate", *folders, "--perceptual", "d", "e")
    assert found["perceptual"] == [Path("d"), Path("e")]
    for name in ("size", "pairs", "seed"):
        assert found[name] == default(evaluate, name)
    found = parsed("sheet", *folders)
    for name in ("size", "count"):
        assert found[name] == default(draw_sheets, name)


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
    arguments = ["stylize", "photos/a.png", "--style", "paintings/e.png", "-o", "new/folder/out.png"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert (Path(out.strip()), err) == (Path("new/folder/out.png"), "")
    expected = np.asarray(stylize("photos/a.png", "paintings/e.png", network=scratch(TEACHER, 1)))
    np.testing.assert_array_equal(np.asarray(Image.open(inputs / "new/folder/out.png")), expected)
    assert main([*arguments[:-1], "scaled.png", "--style-size", "32", "--weights", "weights/teacher.safetensors"]) == 0
    expected = np.asarray(stylize("photos/a.png", "paintings/e.png", network=scratch(TEACHER, 1), style_size=32))
    np.testing.assert_array_equal(np.asarray(Image.open(inputs / "scaled.png")), expected)


DISTILL = ["distill", "--content", "photos", "--style", "paintings", "--out", "run"]
SHORT = ["--steps", "2", "--batch-size", "2", "--crop", "24", "--workers", "0"]


def test_distill(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISTILL, *SHORT, "--seed", "4"]) == 0
    out, _ = capsys.readouterr()
    path = inputs / "run" / "student.safetensors"
    variants = [path.with_stem(f"student-{dtype}") for dtype in ("float16", "int8")]
    for file in (path, *variants):
        assert f"{file.relative_to(inputs)}: {file.stat().st_size:,} bytes" in out
        assert load_weights(file).config == STUDENT
    assert "1/2/encoder/structure" in out
    assert weights_file.about(path)["distilled"] == "2 steps, seed 4"
    written = {"student.safetensors", "last.pt", "log.jsonl", "checkpoints"}
    assert written <= files(inputs / "run")
    assert not list(inputs.rglob("*.part"))


def test_train(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def load(path: Path, *, lifted: bool) -> VGG:
        seen.append((path, lifted))
        return tiny_vgg(lifted=lifted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kbstyle_example.perceptual_files.load_perceptual", load)
        arguments = [*DISTILL[1:], *SHORT, "--perceptual", "vgg.pth", "--perceptual-lifted", "--style-weight", "2"]
        assert main(["train", *arguments]) == 0
    assert seen == [(Path("vgg.pth"), True)]
    out, _ = capsys.readouterr()
    path = inputs / "run" / "teacher.safetensors"
    assert f"{path.stat().st_size:,} bytes" in out
    assert load_weights(path).config.widths == (32, 64, 128)
    assert weights_file.about(path)["perceptual"] == "fake abc lifted"
    assert weights_file.about(path)["trained"] == "2 steps, seed 0"


def test_info(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out, _ = capsys.readouterr()
    assert torch.__version__ in out
    assert "teacher: " in out
    assert "trained 3 steps" in out


def tiny_vgg(_: object = None, *, lifted: bool = False) -> VGG:
    """A stand-in for VGG-19, which is too large to be made here."""
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        perceptual = VGG("fake", (4, 4, 6, 8, 8), stages=tuple((1, str(i)) for i in range(1, 6)))
    perceptual.sha256, perceptual.variant = "abc", "lifted" if lifted else ""
    return perceptual.freeze()


def test_no_validation_or_test_picture_is_trained_on(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spied on where files are opened. Validation pictures are looked at, pictures for tests aren't even opened."""
    opened: dict[str, set[str]] = {"train": set(), "validation": set()}
    inside = ["train"]
    original = StylePairs._crop

    def spy(self: StylePairs, pictures: Any, *drawn: Any) -> torch.Tensor:
        opened[inside[0]] |= {path.stem for path in pictures.paths}
        return original(self, pictures, *drawn)

    def looking(make: Callable[..., Any]) -> Callable[..., Any]:
        """What `make` reads, and what the function that it makes reads, is looked at and not trained on."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            inside[0] = "validation"
            made = make(*arguments, **options)
            inside[0] = "train"
            return looking(made) if callable(made) else made

        return wrapped

    monkeypatch.setattr(StylePairs, "_crop", spy)
    monkeypatch.setattr("kbstyle_example.train.style_losses", looking(validation.style_losses))
    monkeypatch.setattr("kbstyle_example.distill.differences", looking(validation.differences))
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", tiny_vgg)
    wanted = {part: {str(name) for name in MANY[part]} for part in opened}
    folders = ["--content", "many", "--style", "many"]
    for command in (["distill"], ["train", "--perceptual", "x"]):
        opened.update(train=set(), validation=set())
        assert main([*command, *folders, "--out", command[0], *SHORT, "--evaluate-every", "1"]) == 0
        assert opened == wanted


def test_recipe_options_reach_the_training(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}

    def stop(*_: Any, recipe: skd.Recipe, **options: Any) -> None:
        called.update(vars(recipe), **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("kbstyle_example.distill.distill", stop)
    monkeypatch.setattr(stop, "__signature__", inspect.signature(distill), raising=False)
    given: dict[str, Any] = {
        "steps": 7, "seconds": 8.5, "learning_rate": 0.25, "accumulate": 2, "average": 0.5, "evaluate_every": 3,
        "save_every": 4, "seed": 5, "precision": "bfloat16", "optimizer": "soap", "crop": 32,
        "batch_size": 3, "workers": 2, "vary_colours": 0.5, "vary_strokes": 0.75,
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main([*DISTILL, *options]) == 130
    assert {name: called[name] for name in given} == given
    assert called["channels_last"]  # of the standard recipe


@pytest.mark.parametrize("command", ["distill", "train"])
def test_losses_and_beginnings_reach_the_training(inputs: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    called: dict[str, Any] = {}

    def stop(*given: Any, **options: Any) -> None:
        called.update([("perceptual", each) for each in given if isinstance(each, VGG)], **options)
        raise KeyboardInterrupt

    name = f"kbstyle_example.{command}.{command}"
    monkeypatch.setattr(
        stop, "__signature__", inspect.signature({"distill": distill, "train": train}[command]), raising=False
    )
    monkeypatch.setattr(name, stop)
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", tiny_vgg)
    asked: list[Any] = []
    guide = System("microast", lambda content, style: content, "f" * 64, 0, 0, lambda content, style: 0)
    monkeypatch.setattr("kbstyle_example.peers.load_peer", lambda *names: asked.append(names) or guide)
    wanted: dict[str, Any] = {
        "start": "weights/begun", "style_weight": 2.5, "feature_weight": 3.5, "luminance_weight": 1.5,
        "similarity_weight": 4.25, "similarity_follows": -0.5, "detail_weight": 5.25,
        "vary_colours": 0.25, "vary_strokes": 0.125, "hard_pairs": 7,
        "style_weights": {"relu1_1": 0.5, "relu2_1": 2.0}, "covariance_weights": {},
        "feature_weights": {"relu3_1": 1.0},
    }  # fmt: skip
    if command == "train":
        wanted |= {"pixel_weight": 4.5, "content_weight": 0.25}
    else:
        wanted |= {"basis": "learned", "structure": 0.5, "statistics": 0.25}
    arguments = [
        command,
        *DISTILL[1:],
        "--perceptual",
        "x",
        "--perceptual-precision",
        "bfloat16",
        "--perceptual-lifted",
    ]
    for option, value in wanted.items():
        values = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
        arguments += [f"--{option.replace('_', '-')}", *values]
    if command == "train":
        arguments += ["--imitate", "microast", "--peers", "folder"]
    assert main(arguments) == 130
    assert {name: called[name] for name in wanted} == wanted
    assert identity_of(called["perceptual"]) == "abc lifted bfloat16"
    assert command == "distill" or called["guide"] is guide
    assert asked == ([] if command == "distill" else [("microast", Path("folder"))])


def test_several_perceptual_networks_look_by_turns(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}
    asked: list[Any] = []

    def stop(*given: Any, **options: Any) -> None:
        called.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(stop, "__signature__", inspect.signature(distill), raising=False)
    monkeypatch.setattr("kbstyle_example.distill.distill", stop)
    monkeypatch.setattr(
        "kbstyle_example.perceptual_files.load_perceptual",
        lambda path, **options: asked.append(path) or tiny_vgg(path, **options),
    )
    assert main([*DISTILL, "--perceptual", "4SE.pth", "5SE.pth", "--perceptual-precision", "bfloat16"]) == 130
    assert asked == [Path("4SE.pth"), Path("5SE.pth")]
    assert isinstance(called["perceptual"], ByTurns)
    assert identity_of(called["perceptual"]) == "abc + abc bfloat16"


def replaced(arguments: list[str], option: str, value: str) -> list[str]:
    index = arguments.index(option)
    return [*arguments[: index + 1], value, *arguments[index + 2 :]]


FOLDERS = ["--content", "many", "--style", "many", "--out", "run"]
REPRODUCE = ["reproduce", *FOLDERS, "--perceptual", "vgg.pth"]
EVALUATE = ["evaluate", *FOLDERS, "--perceptual", "vgg.pth", "--size", "48"]
SHEET = ["sheet", *FOLDERS]


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(systems: Any, _: Any, **options: Any) -> Any:
        return latencies(systems, (32, 32), **{**options, "rounds": 1})

    monkeypatch.setattr("kbstyle_example.evaluation.evaluate.latencies", quick)


@pytest.mark.usefixtures("quick_timing")
def test_evaluate(inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", tiny_vgg)
    (inputs / "many" / "50.png").write_text("no picture")  # for validation, too
    for part in ("validation", "test"):
        arguments = replaced(EVALUATE, "--out", part)
        assert main([*arguments, "--part", part, "--pairs", "3"]) == 0
        out, err = capsys.readouterr()
        results = Results.load(inputs / part)
        assert out == f"{results}\n"
        assert ("50.png left out: the file isn't a picture" in err) == (part == "validation")
        assert {name for pair in results.data["plan"]["pairs"] for name in pair} <= {f"{n}.png" for n in MANY[part]}
        assert (len(results.data["plan"]["pairs"]), results.data["plan"]["size"]) == (3, 48)
        assert results.names == ["teacher", "kbstyle"]
    wanted = Results.load(inputs / "test").means("teacher")
    judge = [path for path in (inputs / "many").glob("*.png") if int(path.stem) in MANY["test"]]
    again = evaluate(["teacher"], sorted(judge), sorted(judge), [tiny_vgg()], inputs / "api", size=48, pairs=3)
    assert again.means("teacher") == wanted


def test_sheet(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SHEET, "--size", "48", "--count", "2", "--weights", "teacher", "weights/teacher.safetensors"]
    assert main(arguments) == 2  # two systems of one name
    assert "systems to draw; got ['teacher', 'teacher']" in capsys.readouterr().err
    assert main(arguments[:-1]) == 0
    out, _ = capsys.readouterr()
    assert out.split() == ["run/sheet_teacher.png", "run/side_by_side.png"]
    assert files(inputs / "run") == {"sheet_teacher.png", "side_by_side.png"}


@pytest.mark.usefixtures("quick_timing")
def test_reproduce(inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", tiny_vgg)
    monkeypatch.setattr("kbstyle_example.trial.TRIAL", 1)
    monkeypatch.setattr("skd.distilling.CALIBRATION_BATCHES", 16)  # for covariances of 128 channels
    options = {
        "--teacher-steps": 2, "--student-steps": 3, "--teacher-crop": 16, "--student-crop": 24, "--batch-size": 1,
        "--workers": 0, "--size": 48, "--pairs": 2, "--seed": 6, "--data-licence": "All mine.",
    }  # fmt: skip
    arguments = [*REPRODUCE, *(str(text) for item in options.items() for text in item)]
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[-5:] == [
        "run/teacher.safetensors", "run/kbstyle.safetensors", "run/evaluation/results.json", "run/sheets",
        "run/MODEL_CARD.md",
    ]  # fmt: skip
    assert all((inputs / path).exists() for path in out.splitlines()[-5:])
    assert weights_file.about(inputs / "run/teacher.safetensors")["trained"] == "2 steps, seed 6"
    assert weights_file.about(inputs / "run/kbstyle.safetensors")["distilled"] == "3 steps, seed 6"
    assert "All mine." in (inputs / "run/MODEL_CARD.md").read_text()
    assert load_weights(inputs / "run/kbstyle.safetensors").config == STUDENT
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("done already") == 5
    assert main(replaced(arguments, "--pairs", "1")) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the folder holds another reproduction; got pairs: 2 there, 1 here.")
    assert err.count("\n") == 1


def test_vgg19_is_fetched_into_the_folder(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def fetch(path: Path) -> Path:
        asked.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr("kbstyle_example.perceptual_files.download_vgg19", fetch)
    assert main(["reproduce", *FOLDERS]) == 130
    assert asked == [Path("run/vgg19-dcbb9e9d.pth")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*REPRODUCE, "--student-crop", "20"], "side of the crops; got 20"),
        ([*REPRODUCE, "--workers", "-1"], "processes that load pictures; got -1"),
        ([*REPRODUCE, "--size", "8"], "size of the pictures; got 8; expected 16 pixels or more"),
        ([*REPRODUCE, "--pairs", "0"], "number of pairs; got 0; expected 1 or more"),
    ],
)
def test_a_reproduction_meets_mistakes_before_the_work(
    inputs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", tiny_vgg)
    monkeypatch.setattr("kbstyle_example.trial.TRIAL", 1)
    monkeypatch.setattr("skd.distilling.CALIBRATION_BATCHES", 16)  # for covariances of 128 channels
    small = ["--teacher-crop", "16", "--student-crop", "24", "--batch-size", "1", "--workers", "0", "--size", "48"]
    assert main([arguments[0], *small, *arguments[1:]]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert (err.count("\n"), err[:7]) == (1, "error: ")
    assert not list((inputs / "run").iterdir())  # so that the mended command isn't another reproduction's


# --- mistakes --------------------------------------------------------------------------------------------------------

STYLIZE = ["stylize", "photos/a.png", "--style", "paintings/e.png", "-o", "new/out.png"]
TRAIN = ["train", *DISTILL[1:], "--perceptual", "missing.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["demonstrate"], "invalid choice: 'demonstrate'"),
        (["stylize", "photos/a.png"], "the following arguments are required: -o/--out, --style"),
        (["demo", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["info", "--verbose"], "unrecognized arguments: --verbose"),
        (["demo", "--steps", "0"], "steps of a recipe; got 0"),
        (["demo", "--seconds", "0"], "seconds of a recipe; got 0"),
        (["demo", "--seconds", "-5"], "seconds of a recipe; got -5"),
        (["demo", "--seconds", "nan"], "seconds of a recipe; got nan"),
        (["demo", "--batch-size", "0", "--out", "photos"], "pairs in a batch; got 0"),
        (["demo", "--seed", "-1"], "seed of a recipe; got -1"),
        (["demo", "--out", "small.png"], "the output folder can't be made; got small.png"),
        ([*DISTILL, "--steps", "0"], "steps of a recipe; got 0"),
        ([*DISTILL, "--seconds", "0"], "seconds of a recipe; got 0"),
        ([*DISTILL, "--batch-size", "0"], "pairs in a batch; got 0"),
        ([*DISTILL, "--learning-rate", "0"], "learning_rate of a recipe; got 0"),
        ([*DISTILL, "--workers", "-1"], "processes that load pictures; got -1"),
        ([*DISTILL, "--crop", "20"], "side of the crops; got 20; expected a multiple of 8"),
        ([*DISTILL, "--teacher", "techer"], "no such weights; got techer"),
        ([*DISTILL, *SHORT, "--start", "techer"], "no such weights; got techer"),
        ([*DISTILL, *SHORT, "--start", "teacher"], "weights to start from are of a network of another shape; got wid"),
        ([*DISTILL, "--perceptual", "missing.pth"], "no perceptual network there; got missing.pth"),
        ([*DISTILL, "--style-weights", "relu1_1"], "weight of a layer: 'relu1_1', expected such as relu3_1=0.5"),
        ([*DISTILL, "--feature-weights", "relu1_1=x"], "invalid weight of a layer: 'relu1_1=x'"),
        ([*DISTILL, "--teacher", "other.safetensors"], "these aren't the weights of a KBStyle network"),
        (replaced(DISTILL, "--content", "missing"), "no folder of pictures; got missing"),
        (replaced(DISTILL, "--style", "none"), "no pictures in the folder; got none"),
        (replaced(DISTILL, "--style", "paintings/e.png"), "no folder of pictures; got paintings/e.png"),
        ([*replaced(DISTILL, "--out", "small.png"), *SHORT], "the output folder can't be written into; got small.png"),
        ([*replaced(DISTILL, "--out", "small.png/x"), *SHORT], "can't be written into; got small.png/x"),
        (replaced(DISTILL, "--style", "tests"), "no picture in the folder is for training; got tests with 1 pictures"),
        (["reproduce"], "the following arguments are required: --content, --style, --out"),
        ([*REPRODUCE, "--teacher-steps", "0"], "steps of a recipe; got 0"),
        ([*REPRODUCE, "--seed", "-1"], "seed of a recipe; got -1"),
        (REPRODUCE, "no perceptual network there; got vgg.pth"),
        (replaced(REPRODUCE, "--perceptual", "other.safetensors"), "not a file of weights; got other.safetensors"),
        (replaced(["reproduce", *FOLDERS], "--content", "missing"), "no folder of pictures; got missing"),
        (replaced(["reproduce", *FOLDERS], "--style", "photos"), "no picture in photos is for tests; got 2 pictures"),
        (replaced(["reproduce", *FOLDERS], "--content", "tests"), "no picture in tests is for training"),
        ([*REPRODUCE, "--imitate", "microast"], "network to imitate lies isn't said; got microast. Remedy: --peers"),
        (["evaluate", *FOLDERS], "the following arguments are required: --perceptual"),
        ([*EVALUATE, "--part", "train"], "argument --part: invalid choice: 'train'"),
        (EVALUATE, "no perceptual network there; got vgg.pth"),
        (replaced(EVALUATE, "--content", "photos"), "no pictures to measure on in photos; got 2 pictures, 0 for vali"),
        (replaced(EVALUATE, "--style", "missing"), "no folder of pictures; got missing"),
        ([*EVALUATE, "--weights", "techer"], "no such weights; got techer"),
        ([*SHEET, "--size", "48", "--count", "0"], "a sheet of no pictures; got count 0"),
        ([*SHEET, "--size", "512"], "no pictures to measure on in many; got 6 pictures, 2 for validation, 2 of them"),
        ([*SHEET, "--size", "48", "--weights", "other.safetensors"], "these aren't the weights of a KBStyle network"),
        ([*SHEET[:-1], "small.png", "--size", "48"], "the output folder can't be made; got small.png"),
        (TRAIN, "no perceptual network there; got missing.pth"),
        ([*TRAIN, "--imitate", "microast"], "network to imitate lies isn't said; got microast. Remedy: --peers"),
        ([*TRAIN, "--crop", "20", "--perceptual", "other.safetensors"], "not a file of weights"),
        (replaced(TRAIN, "--content", "missing"), "no folder of pictures; got missing"),
        (replaced(STYLIZE, "stylize", "missing.png"), "there is no such picture; got missing.png"),
        (replaced(STYLIZE, "stylize", "broken/d.png"), "the file isn't a picture; got broken/d.png"),
        (replaced(STYLIZE, "stylize", "photos"), "several photographs need a folder to write into; got new/out.png"),
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
    *others, last = err.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert not [line for line in others if "left out: " not in line]  # pictures that couldn't be used are told, too
    assert files(inputs) == before


def test_close_names_are_told(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STYLIZE, "--weights", "techer"]) == 2
    assert "did you mean 'teacher'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["distill", "train"])
def test_folders_without_a_usable_picture(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    tiny = VGG("fake", (2,), stages=((1, "1"),))
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", lambda _, lifted=False: tiny)
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
    monkeypatch.setattr("kbstyle_example.perceptual_files.load_perceptual", tiny_vgg)
    for arguments in (STYLIZE, ["demo", "--steps", "1", "--out", "run"], REPRODUCE, EVALUATE, [*SHEET, "--size", "48"]):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: nothing can be written into the output folder")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("skd.distill", [*DISTILL, *SHORT], "interrupted; the same command goes on"),
        ("kbstyle_example.painting._rendered", STYLIZE, "interrupted\n"),
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

    monkeypatch.setattr("kbstyle_example.painting._rendered", fail)
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
EXTRA = {
    **{name: name for name in ("safetensors", "tqdm", "matplotlib", "accelerate", "filelock")},
    "PIL": "pillow",
}


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

    for path in Path(kbstyle_example.__file__ or "").parent.rglob("*.py"):
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
        parser().parse_args(["demo", "--steps", "x"])


def test_the_bundled_teacher_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "teacher: 2," in capsys.readouterr().out
    assert isinstance(load_weights("teacher"), KBStyle)
