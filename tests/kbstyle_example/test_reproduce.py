"""A tiny reproduction from real files: all of it, stopped anywhere and gone on with, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import skd
from kbstyle_example import KBStyleConfig, data, reproduce, trial
from kbstyle_example.beginning import scratch
from kbstyle_example.evaluation import evaluate, pairs, sheet
from kbstyle_example.evaluation.costs import ROUNDS, latencies
from kbstyle_example.evaluation.results import Results
from kbstyle_example.peers import System
from kbstyle_example.perceptual import VGG
from kbstyle_example.reproduce import Reproduced
from kbstyle_example.reproduction import STAGES, Options, parts_of
from kbstyle_example.splits import split
from kbstyle_example.weights_file import about, load_weights, save_weights
from skd.errors import ArgumentError, DataError, FileError

NAMES = {"train": (0, 1, 2), "validation": (7,), "test": (8, 17)}  # what the names say: checked below
BLOCKS: dict[str, Any] = {"fine_blocks": 0, "deep_blocks": 1, "style_blocks": 0}


@dataclass
class Rate:
    """A learning rate that tells which steps were made, and can stop one."""

    stop: int | None = None
    seen: list[int] = field(default_factory=list)

    def __call__(self, step: int) -> float:
        self.seen.append(step)
        if step == self.stop:
            self.stop = None
            raise KeyboardInterrupt
        return 1.0

    def __repr__(self) -> str:
        return "Rate()"


def options(**changes: Any) -> Options:
    usual = {"warmup": 0, "log_every": 1, "save_every": 2}
    plain: dict[str, Any] = {
        "teacher_recipe": skd.Recipe(steps=5, schedule=Rate(), evaluate_every=4, seed=3, **usual),
        "student_recipe": skd.Recipe(steps=4, schedule=Rate(), seed=3, **usual),
        "teacher": KBStyleConfig(widths=(4, 5, 6), **BLOCKS),
        "student": KBStyleConfig(widths=(2, 3, 4), **BLOCKS),
        "teacher_crop": 16,
        "student_crop": 24,
        "batch_size": 2,
        "workers": 0,
        "size": 64,
        "pairs": 3,
    }
    return Options(**plain | changes)


def tiny(name: str = "fake", sha256: str = "abc") -> VGG:
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        net = VGG(name, (2, 3, 3, 4, 4), stages=tuple((1, str(i)) for i in range(1, 6)))
    net.sha256 = sha256
    return net.freeze()


def quick(patch: pytest.MonkeyPatch) -> None:
    def fast(systems: Any, _: Any, **rest: Any) -> Any:
        return latencies(systems, (32, 32), **{**rest, "rounds": 1})

    patch.setattr(evaluate, "latencies", fast)
    patch.setattr(trial, "TRIAL", 1)


@pytest.fixture(autouse=True)
def quick_here(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


def make_pictures(folder: Path, names: Any, seed: int) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir()
    for name in names:
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pictures")
    names = [name for part in NAMES.values() for name in part]
    for part, found in NAMES.items():
        assert all(split(f"{name}.png") == part for name in found)
    return make_pictures(root / "content", names, 0), make_pictures(root / "style", names, 1)


def run(folders: tuple[Path, Path], out: Path, **rest: Any) -> Reproduced:
    given: dict[str, Any] = {"options": options(), "say": lambda _: None, **rest}
    perceptual = given.pop("perceptual", None) or tiny()
    return reproduce.reproduce(*folders, out, perceptual, **given)


@dataclass
class Whole:
    """An uninterrupted reproduction."""

    out: Path
    made: Reproduced
    said: list[str]


@pytest.fixture(scope="module")
def whole(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        out = tmp_path_factory.mktemp("whole") / "out"
        yield Whole(out, run(folders, out, say=said.append), said)


def variants(out: Path) -> list[Path]:
    return [out / f"kbstyle-{dtype}.safetensors" for dtype in ("float16", "int8")]


def assert_equal(out: Path, whole: Whole) -> None:
    """All that doesn't hold times is the same, bit for bit."""
    for path in (whole.made.teacher, whole.made.student, *variants(whole.out), whole.out / "report.txt"):
        assert (out / path.relative_to(whole.out)).read_bytes() == path.read_bytes(), path.name
    for path in whole.made.sheets.iterdir():
        assert (out / "sheets" / path.name).read_bytes() == path.read_bytes(), path.name
    ours, theirs = (Results.load(folder / "evaluation").data for folder in (out, whole.out))
    assert [ours[key] for key in ("plan", "measured", "reference")] == [
        theirs[key] for key in ("plan", "measured", "reference")
    ]
    assert (out / "MODEL_CARD.md").is_file()


def content(out: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}


# --- all of it -------------------------------------------------------------------------------------------------------


def test_everything_appears(whole: Whole) -> None:
    made = whole.made
    assert made == Reproduced(
        whole.out / "teacher.safetensors",
        whole.out / "kbstyle.safetensors",
        whole.out / "evaluation" / "results.json",
        whole.out / "sheets",
        whole.out / "MODEL_CARD.md",
    )
    assert {path.name for path in whole.out.iterdir()} == {
        *(path.name for path in (*made, *variants(whole.out)) if path != made.results),
        *("evaluation", "teacher", "student", "report.txt", "reproduce.json"),
    }
    assert {path.name for path in made.sheets.iterdir()} == {
        "sheet_teacher.png", "sheet_kbstyle.png", "side_by_side.png",
    }  # fmt: skip
    assert (load_weights(made.teacher).config, load_weights(made.student).config) == (
        options().teacher,
        options().student,
    )
    assert (about(made.teacher)["trained"], about(made.teacher)["perceptual"]) == ("5 steps, seed 3", "fake abc")
    assert "imitated" not in about(made.teacher)
    for path in (made.student, *variants(whole.out)):
        assert about(path)["distilled"] == "4 steps, seed 3"
        assert load_weights(path).config == options().student
    report = (whole.out / "report.txt").read_text(encoding="utf-8")
    assert "output" in report
    assert "features" in report  # under the perceptual network, too
    assert not list(whole.out.rglob("*.part"))


def test_what_is_measured(whole: Whole) -> None:
    results = Results.load(whole.made.results)
    assert results.names == ["teacher", "kbstyle", "kbstyle-float16", "kbstyle-int8"]
    assert results.data["reference"] == "teacher"
    assert (len(results.data["plan"]["pairs"]), results.data["plan"]["size"]) == (3, 64)
    assert {name for pair in results.data["plan"]["pairs"] for name in pair} == {"8.png", "17.png"}
    assert list(results.data["plan"]["perceptuals"]) == ["fake"]
    assert (whole.out / "evaluation" / "table.txt").read_text(encoding="utf-8") == f"{results}\n"


def test_the_card_has_both_networks(whole: Whole) -> None:
    card = whole.made.card.read_text(encoding="utf-8")
    teacher, student = card.split("# kbstyle\n")
    assert teacher.startswith("# teacher\n")
    for text, steps, crop in ((teacher, 5, 16), (student, 4, 24)):
        for fact in (f"| steps | {steps} |", f"| crop | {crop} |", "| seed | 3 |", "| batch size | 2 |"):
            assert text.count(fact) == 1, fact
        assert text.count("| photographs | 3 files") == text.count("| paintings | 3 files") == 1
        assert "Measured under the very network that it was trained under, which flatters it." in text
        assert "The licence of the training pictures was not stated." in text
    assert card.count("| perceptual network | fake, sha256 `abc` |") == 2
    assert "| imitates" not in card
    assert "| begins with" not in card


def test_each_stage_says_what_is_left(whole: Whole) -> None:
    *stages, last = whole.said
    assert len(stages) == 5
    for index, (line, stage) in enumerate(zip(stages, STAGES, strict=True), start=1):
        time = r"\d+ (s|min|h|d)( \d+ (min|h))?"
        assert re.fullmatch(rf"\[{index}/5\] {stage}: about {time}; for all that is left about {time}", line), line
    assert re.fullmatch(r"Done in .*; see .*MODEL_CARD\.md", last)


def test_other_networks_measure(folders: tuple[Path, Path], whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    for name in ("reproduce.json", "evaluation/results.json", "MODEL_CARD.md"):
        (tmp_path / "out" / name).unlink()
    made = run(folders, tmp_path / "out", measures=[tiny("judge", "j"), tiny("other", "o")])
    assert list(Results.load(made.results).data["plan"]["perceptuals"]) == ["judge", "other"]
    assert "flatters" not in made.card.read_text(encoding="utf-8")
    assert made.teacher.read_bytes() == whole.made.teacher.read_bytes()


def test_pictures_for_tests_are_never_trained_on(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, opened, given = ["trial"], dict[tuple[str, str], set[str]](), list[set[str]]()

    def spy(kind: str, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def wrapped(path: Any) -> Any:
            opened.setdefault((stage[0], kind), set()).add(split(path))
            return original(path)

        return wrapped

    def spied(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **rest: Any) -> Any:
            given.append({split(path) for each in arguments if isinstance(each, list) for path in each})
            return original(*arguments, **rest)

        return wrapped

    def say(line: str) -> None:
        stage[0] = line.partition(":")[0]

    monkeypatch.setattr(data, "open_picture", spy("samples", data.open_picture))
    monkeypatch.setattr(pairs, "open_picture", spy("squares", pairs.open_picture))
    for module in (trial, reproduce):
        for name in ("train", "distill"):
            monkeypatch.setattr(module, name, spied(getattr(module, name)))
    run(folders, tmp_path / "out", say=say)
    assert given == [{"train"}] * 4  # the trial, and in earnest
    assert opened == {
        ("trial", "samples"): {"train"},
        ("trial", "squares"): {"test"},
        ("[1/5] train the teacher", "samples"): {"train", "validation"},
        ("[2/5] distil the student", "samples"): {"train", "validation"},
        ("[3/5] evaluate", "squares"): {"test"},
        ("[4/5] draw sheets", "squares"): {"test"},
    }


def test_a_guide_and_a_start_for_the_teacher(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial and the training are given both; record, weights and card say so."""
    asked, given = list[tuple[str, Path]](), list[dict[str, Any]]()

    def load(name: str, folder: Path) -> System:
        asked.append((name, folder))
        return System(name, lambda content, style: 1 - content, "f" * 64, 0, 0, lambda content, style: 0)

    def spied(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **rest: Any) -> Any:
            given.append(rest)
            return original(*arguments, **rest)

        return wrapped

    monkeypatch.setattr(reproduce, "load_peer", load)
    for module in (trial, reproduce):
        monkeypatch.setattr(module, "train", spied(module.train))
    chosen: dict[str, Any] = {"guide": ("microast", tmp_path / "peers"), "start_teacher": tmp_path / "begun"}
    save_weights(scratch(options().teacher, 6), tmp_path / "begun")
    made = run(folders, tmp_path / "out", options=options(**chosen))
    assert asked == [("microast", tmp_path / "peers")]
    assert [(each["guide"].name, each["start"]) for each in given] == [("microast", tmp_path / "begun")] * 2
    assert about(made.teacher)["imitated"] == f"microast {'f' * 64}"
    card = made.card.read_text(encoding="utf-8")
    assert card.count(f"| imitates | microast {'f' * 64} |") == card.count("| begins with | weights `") == 1
    assert card.index("| begins with") < card.index("# kbstyle\n")
    for changes, message in (
        ({"guide": None}, "guide: microast f{64} there, none here"),
        ({"start_teacher": None}, "start teacher: [0-9a-f]{16} there, random here"),
    ):
        with pytest.raises(FileError, match=f"the folder holds another reproduction; got {message}"):
            run(folders, tmp_path / "out", options=options(**{**chosen, **changes}))


# --- stopped, and gone on with ---------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def test_stopped_before_each_stage_it_goes_on(folders: tuple[Path, Path], whole: Whole, tmp_path: Path) -> None:
    for index in range(1, 7):
        said: list[str] = []

        def say(line: str, said: list[str] = said, at: str = f"[{index}/5]" if index < 6 else "Done") -> None:
            said.append(line)
            if line.startswith(at):
                raise Stopped

        with pytest.raises(Stopped):
            run(folders, tmp_path, say=say)
        assert ["done already" in line for line in said] == [True] * (index - 2) + [False] * min(index, 2)
        # Each run gets one stage further than the one before.
        assert list(json.loads((tmp_path / "reproduce.json").read_text())["done"]) == list(STAGES[: index - 1])
    run(folders, tmp_path)
    assert_equal(tmp_path, whole)


def interrupting(original: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Ctrl-C before the call of this number."""
    calls: list[int] = []

    def wrapped(*arguments: Any, **rest: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return original(*arguments, **rest)

    return wrapped


def test_interrupted_within_each_stage_it_goes_on(
    folders: tuple[Path, Path], whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options()
    teacher, student = chosen.teacher_recipe.schedule, chosen.student_recipe.schedule
    assert isinstance(teacher, Rate)
    assert isinstance(student, Rate)
    teacher.stop = student.stop = 3  # steps from 0; the checkpoint is of step 2

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            run(folders, tmp_path, options=chosen)
        assert not [path for path in tmp_path.rglob("*.part") if "checkpoints" not in path.parts]

    interrupted()
    assert teacher.seen == [0, 0, 1, 2, 3]  # the trial's, too
    assert not (tmp_path / "teacher.safetensors").exists()
    teacher.seen.clear()
    interrupted()
    assert teacher.seen == [0, 2, 3, 4]
    assert (tmp_path / "teacher.safetensors").read_bytes() == whole.made.teacher.read_bytes()
    student.seen.clear()
    # Judge once in the trial, twice in earnest: one pair is written.
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "Judge", interrupting(evaluate.Judge, 3))
        interrupted()
    assert student.seen == [0, 2, 3]
    measured = Results.load(tmp_path / "evaluation").data["measured"]
    assert [sum(map(len, values.values())) for values in measured.values()] == [1, 1, 1, 1]
    with monkeypatch.context() as patch:
        patch.setattr(sheet, "save_image", interrupting(sheet.save_image, 2))
        interrupted()
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["sheet_teacher.png"]
    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "write_card", interrupting(reproduce.write_card, 1))
        interrupted()
    assert not (tmp_path / "MODEL_CARD.md").exists()
    teacher.seen.clear(), student.seen.clear()
    run(folders, tmp_path, options=chosen)
    assert teacher.seen == student.seen == []
    assert_equal(tmp_path, whole)


def test_a_done_one_does_nothing_again(
    folders: tuple[Path, Path], whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "distill", "evaluate", "draw_sheets", "write_card"):
        monkeypatch.setattr(reproduce, name, lambda *_, name=name, **__: pytest.fail(name))
    before, said = content(whole.out), list[str]()
    assert run(folders, whole.out, options=options(workers=1), say=said.append) == whole.made
    after = content(whole.out)
    del before[whole.out / "reproduce.json"], after[whole.out / "reproduce.json"]
    assert after == before
    assert said[:5] == [f"[{i}/5] {stage}: done already" for i, stage in enumerate(STAGES, start=1)]
    assert len(said) == 6


def test_what_was_removed_is_made_again(folders: tuple[Path, Path], whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    for name in ("kbstyle.safetensors", "kbstyle-int8.safetensors"):
        (tmp_path / "out" / name).unlink()
        said: list[str] = []
        run(folders, tmp_path / "out", say=said.append)
        assert ["done already" in line for line in said[:5]] == [True, False, True, True, True]
        assert_equal(tmp_path / "out", whole)


def test_another_licence_changes_the_card_alone(folders: tuple[Path, Path], whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole.out, out)
    before, said = content(out), list[str]()
    run(folders, out, options=options(data_licence="All  mine."), say=said.append)
    changed = {path.name for path, found in content(out).items() if before[path] != found}
    assert changed == {"MODEL_CARD.md", "reproduce.json"}
    assert ["done already" in line for line in said[:5]] == [True, True, True, True, False]
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("All mine.") == 2
    assert "not stated" not in card


# --- how long it will take -------------------------------------------------------------------------------------------


def expected(out: Path, todo: tuple[str, ...], chosen: Options, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(trial, "_trial", lambda *_, **__: (2.0, 3.0, 0.5))
    tested = [[Path("8.png"), Path("17.png")], [Path("8.png")]]
    return trial.expected_times(todo, out, ([], []), tested, tiny(), [tiny()], chosen, None)


def test_expected_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = ROUNDS * (256**2 + 512**2) / 64**2  # of four networks, and a trial measures two
    chosen = options(pairs=64)  # and there are but two
    assert expected(tmp_path, STAGES, chosen, monkeypatch) == pytest.approx([10, 12, 2 * 0.5 * (2 + timing), 1.0, 1.0])
    assert expected(tmp_path, STAGES[3:], chosen, monkeypatch) == pytest.approx([0, 0, 0, 1.0, 1.0])
    limited = options(teacher_recipe=replace(chosen.teacher_recipe, seconds=7.0))
    assert expected(tmp_path, STAGES, limited, monkeypatch)[0] == 7
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "log.jsonl").write_text('{"step": 1}\n{"step": 3}\n')
    assert expected(tmp_path, STAGES, chosen, monkeypatch)[:2] == pytest.approx([2 * 2.0, 12.0])


@pytest.mark.parametrize("log", [None, "", '{"step": 3}\n{"st', "[]", '{"step": "x"}'])
def test_logs_that_tell_nothing(tmp_path: Path, log: str | None) -> None:
    if log is not None:
        (tmp_path / "log").write_text(log)
    assert trial._done(tmp_path / "log") == 0


# --- refusals --------------------------------------------------------------------------------------------------------


def changed_recipe(name: str, **changes: Any) -> dict[str, Any]:
    return {f"{name}_recipe": replace(getattr(options(), f"{name}_recipe"), **changes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 2}, "pairs: 3 there, 2 here"),
        ({"size": 48}, "size: 64 there, 48 here"),
        ({"batch_size": 1}, "batch_size: 2 there, 1 here"),
        ({"student_crop": 32}, "student, crop: 24 there, 32 here"),
        (
            {"teacher": KBStyleConfig(widths=(4, 5, 7), **BLOCKS)},
            r"teacher, widths: \[4, 5, 6\] there, \[4, 5, 7\] here",
        ),
        (changed_recipe("teacher", steps=6), "teacher recipe, steps: 5 there, 6 here"),
        (changed_recipe("student", seed=4), "student recipe, seed: 3 there, 4 here"),
    ],
)
def test_other_options_are_refused(
    folders: tuple[Path, Path], whole: Whole, changes: dict[str, Any], message: str
) -> None:
    before = content(whole.out)
    reason = rf"the folder holds another reproduction; got {message}\. Remedy: name another output folder, or remove .*"
    with pytest.raises(FileError, match=reason):
        run(folders, whole.out, options=options(**changes))
    assert content(whole.out) == before


def test_other_pictures_and_networks_are_refused(folders: tuple[Path, Path], whole: Whole, tmp_path: Path) -> None:
    before = content(whole.out)
    more = tmp_path / "content"
    shutil.copytree(folders[0], more)
    shutil.copy(more / "0.png", more / "3.png")
    with pytest.raises(FileError, match=r"got content/train: 3 files \w+ there, 4 files \w+ here\. "):
        run((more, folders[1]), whole.out)
    with pytest.raises(FileError, match=r"got perceptual: fake abc there, fake abd here"):
        run(folders, whole.out, perceptual=tiny(sha256="abd"))
    lifted = tiny()
    lifted.variant = "lifted"
    with pytest.raises(FileError, match=r"got perceptual: fake abc there, fake abc lifted here"):
        run(folders, whole.out, perceptual=lifted)
    with pytest.raises(FileError, match=r"got measures: \[\] there, \['judge j'\] here"):
        run(folders, whole.out, measures=[tiny("judge", "j")])
    assert content(whole.out) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"plan": {}}', '{"plan": [1], "done": {}}', '{"plan": {}, "done": 5}']
)
def test_a_damaged_record_is_refused(folders: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "reproduce.json").write_text(text)
    reason = r"the record of the reproduction can't be read; got .*reproduce\.json \(\w+\)\. Remedy: name another"
    with pytest.raises(FileError, match=reason):
        run(folders, tmp_path)
    assert (tmp_path / "reproduce.json").read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_checkpoints_are_refused(folders: tuple[Path, Path], whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    (tmp_path / "out" / "teacher.safetensors").unlink()
    for path in (tmp_path / "out" / "teacher" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileError, match=r"no checkpoint in .*teacher.*it is truncated"):
        run(folders, tmp_path / "out")
    assert not (tmp_path / "out" / "teacher.safetensors").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((0, 1, 7), r"no picture in few is for tests; got 3 pictures; expected about one in twenty.*Remedy: add pict"),
        ((7, 8, 17), r"no picture in few is for training; got 3 pictures.*Remedy: add pictures"),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_too_few_pictures(
    folders: tuple[Path, Path], tmp_path: Path, names: tuple[int, ...], message: str, side: int
) -> None:
    few = make_pictures(tmp_path / "few", names, 5)
    with pytest.raises(DataError, match=message):
        run((few, folders[1]) if side == 0 else (folders[0], few), tmp_path / "out")
    assert not (tmp_path / "out" / "reproduce.json").exists()


def test_pictures_that_cant_be_told_apart_or_used(folders: tuple[Path, Path], tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    shutil.copytree(folders[0], twice)
    shutil.copytree(folders[0], twice / "below")
    with pytest.raises(DataError, match=r"pictures for tests have the same name; got 17\.png, 8\.png\. Remedy: rename"):
        run((twice, folders[1]), tmp_path / "out")
    assert {part: len(paths) for part, paths in parts_of(folders[0]).items()} == {"train": 3, "test": 2}
    with pytest.raises(DataError, match=r"no pictures to measure on in content; got .* 2 for test, 2 of them not us"):
        run(folders, tmp_path / "out", options=options(size=128))
    broken = tmp_path / "broken"
    shutil.copytree(folders[0], broken)
    (broken / "7.png").write_text("no picture")  # the only one for validation
    with pytest.raises(DataError, match=r"none of the pictures can be used; got 1 skipped; 7\.png"):
        run((broken, folders[1]), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("step-*"))  # nothing was trained for it


def test_guides_and_starts_that_cant_be(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for changes, error, message in (
        ({"guide": ("microasd", tmp_path)}, ArgumentError, r"no published network of this name.*mean 'microast'"),
        ({"guide": ("microast", tmp_path)}, FileError, r"content_encoder_iter_160000\.pth\.tar"),
        ({"start_teacher": scratch(options().student, 0)}, ArgumentError, r"another shape; got widths \(2, 3, 4\)"),
        ({"start_teacher": tmp_path / "none"}, FileError, "there are no such weights"),
    ):
        with pytest.raises(error, match=message):
            run(folders, tmp_path / "out", options=options(**changes))
    assert not list((tmp_path / "out").iterdir())


def test_folders_that_cant_be_written(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"the output folder can't be made; got .*file.* Remedy: name another"):
        run(folders, tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_crop": 20}, "side of the crops; got 20"),
        ({"student_crop": 0}, "side of the crops; got 0"),
        ({"batch_size": 0}, "pairs in a batch; got 0"),
        ({"pairs": 0}, "number of pairs; got 0"),
        ({"size": 8}, "size of the pictures; got 8"),
    ],
)
def test_mistakes_show_before_the_work_and_dont_bind_the_folder(
    folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        run(folders, tmp_path / "out", options=options(**changes))
    assert not list((tmp_path / "out").iterdir())
