"""The demo on tiny settings: what it writes, what it says, where the student begins, and what it never sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skd
from kbstyle_example import STUDENT, KBStyle, KBStyleConfig, demo
from kbstyle_example.beginning import scratch
from kbstyle_example.compressed import compressed
from kbstyle_example.demo import FILES, SAMPLES, SHOWN, STYLE_SIDE, compare, loss_curve, run_demo
from kbstyle_example.distill import STARTED
from kbstyle_example.images import load_image
from kbstyle_example.painting import render, style_tensor
from kbstyle_example.weights_file import BUDGET, about, encoded, load_weights, save_weights
from skd.errors import ArgumentError, FileError

TEACHER = KBStyleConfig(widths=(9, 21, 33))
HEIGHT = 96  # of the pictures in the sheet; as they are, tests would be slow
TINY: dict[str, Any] = {"steps": 2, "seconds": 60, "batch_size": 2, "crop": 32}


@pytest.fixture(scope="module")
def teacher() -> KBStyle:
    return scratch(TEACHER, seed=11)


@pytest.fixture(scope="module")
def begun(teacher: KBStyle) -> KBStyle:
    """The student before the demo's training, of its seed."""
    return compressed(teacher, *demo.training_pictures(), STUDENT, seed=3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "HEIGHT", HEIGHT)


@pytest.fixture(scope="module")
def done(
    teacher: KBStyle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[demo.Outcome, str, dict[str, Any]]]:
    """One run: its outcome, what it said, and what it distilled on."""
    said: list[str] = []
    seen: dict[str, Any] = {}

    def spy(
        network: KBStyle, contents: list[Path], styles: list[Path], out: Path, **options: Any
    ) -> skd.Distilled[KBStyle]:
        result = original(network, contents, styles, out, **options)
        seen.update(teacher=network, contents=contents, styles=styles, out=out, **options)
        return result

    original = demo.distill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "HEIGHT", HEIGHT)
        patch.setattr(demo, "distill", spy)
        out = tmp_path_factory.mktemp("demo") / "new" / "folder"
        yield run_demo(out, **TINY, seed=3, teacher=teacher, say=said.append), "\n".join(said), seen


Done = tuple[demo.Outcome, str, dict[str, Any]]


def test_it_writes_all_and_nothing_else(done: Done) -> None:
    outcome, _, _ = done
    names = {"side_by_side.png", "student.safetensors", "loss_curve.png", "report.txt", "report.json", "log.jsonl"}
    folder = outcome.files["student"].parent
    assert {path.name for path in folder.iterdir()} == names
    assert set(outcome.files.values()) == {folder / name for name in names}
    assert outcome.files.keys() == FILES.keys()
    assert outcome.steps == 2


def test_the_student_is_the_one_in_the_file(done: Done) -> None:
    outcome, _, _ = done
    path = outcome.files["student"]
    assert path.stat().st_size == outcome.student_bytes <= BUDGET
    loaded = load_weights(path)
    assert loaded.config == STUDENT
    batch = torch.rand(1, 3, 24, 32), torch.rand(1, 3, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*batch), outcome.student(*batch))
    assert about(path)["distilled"] == "2 steps, seed 3, bundled samples"


def test_report_and_log(done: Done) -> None:
    outcome, said, _ = done
    report = skd.Report.load(outcome.files["report_json"])
    assert outcome.files["report"].read_text(encoding="utf-8") == f"{report}\n"
    assert str(report) in said
    lines = [json.loads(line) for line in outcome.files["log"].read_text().splitlines()]
    assert [line["step"] for line in lines] == [2]
    assert {row.name for row in report.rows} <= lines[0].keys()


def test_the_student_begins_as_the_teacher_compressed(
    done: Done, teacher: KBStyle, begun: KBStyle, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, torch.Tensor] = {}

    def before_training(*_: Any, student: KBStyle, **__: Any) -> None:
        given.update({n: p.clone() for n, p in student.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(skd, "distill", before_training)
    with pytest.raises(KeyboardInterrupt):
        run_demo(done[0].files["student"].parent.parent / "other", **TINY, seed=3, teacher=teacher, say=lambda _: None)
    expected = begun.state_dict()
    assert given.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in given.items())
    # The bundled student has learned from the same teacher: nothing of it may be in the demo's.
    bundled = load_weights("kbstyle").state_dict()
    assert not any(torch.equal(value, bundled[name]) for name, value in given.items())


def test_shown_pictures_are_never_distilled_on(done: Done) -> None:
    _, said, seen = done

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    shown = {digest(SAMPLES / kind / f"{pair[i]}.jpg") for pair in SHOWN for i, kind in enumerate(("content", "style"))}
    used = {digest(path) for path in [*seen["contents"], *seen["styles"]]}
    assert len(shown) == 6
    assert not shown & used
    everything = {digest(path) for kind in ("content", "style") for path in (SAMPLES / kind).glob("*.jpg")}
    assert shown | used == everything
    assert "8 photographs and 6 paintings" in said
    assert "4 other pairs are kept" in said


def test_plan_and_seed_reach_the_training(done: Done, teacher: KBStyle) -> None:
    seen = done[2]
    assert (seen["recipe"].steps, seen["recipe"].seconds, seen["recipe"].seed) == (2, 60, 3)
    assert (seen["crop"], seen["batch_size"], seen["teacher"]) == (32, 2, teacher)
    assert STARTED.items() <= seen.items()
    assert seen["out"].parent == done[0].files["log"].parent
    assert not seen["out"].exists()


# --- figures and pictures --------------------------------------------------------------------------------------------


def test_the_errors_are_the_pictures(done: Done, teacher: KBStyle, begun: KBStyle) -> None:
    """Recomputed in numpy, in the height of the sheet."""
    outcome, said, _ = done
    squares: list[list[float]] = [[], []]
    for content, style in SHOWN:
        photograph = load_image(SAMPLES / "content" / f"{content}.jpg")
        width = round(photograph.shape[3] * HEIGHT / photograph.shape[2])
        photograph = torch.nn.functional.interpolate(photograph, (HEIGHT, width), mode="bicubic", antialias=True).clamp(
            0, 1
        )
        painting = style_tensor(SAMPLES / "style" / f"{style}.jpg", STYLE_SIDE)
        pictures = [
            255 * render(net, photograph, painting).double().numpy()
            for net in (teacher, begun, load_weights(outcome.files["student"]))
        ]
        for index in (0, 1):
            squares[index].append(float(((pictures[index + 1] - pictures[0]) ** 2).mean()))
    expected = [np.mean(values) ** 0.5 for values in squares]
    assert [outcome.error_before, outcome.error_after] == pytest.approx(expected, rel=1e-4)
    assert outcome.error_before != outcome.error_after
    assert f"{expected[0]:.1f} before, {expected[1]:.1f} after" in said


def test_the_sheet_shows_what_is_compared(done: Done, teacher: KBStyle) -> None:
    sheet = load_image(done[0].files["side_by_side"])
    assert sheet.shape[2] > 4 * HEIGHT
    rows, _ = compare(teacher, scratch(STUDENT, 3), done[0].student)
    assert all(picture is not None and picture.shape[2] == HEIGHT for row in rows for picture in row)
    assert [len(row) for row in rows] == [5] * 4
    for row in rows:
        shapes = [tuple(picture.shape) for picture in row if picture is not None]
        assert shapes[0] == shapes[2] == shapes[3] == shapes[4]


def test_the_sizes_said_are_the_files(
    done: Done, teacher: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, said, _ = done
    assert outcome.teacher_bytes == len(encoded(teacher)) == save_weights(teacher, tmp_path / "t.safetensors")
    assert f"{outcome.student_bytes:,} bytes, the whole file (budget 204,800)" in said
    assert f"the teacher's has {outcome.teacher_bytes:,}" in said
    assert f"widths 9-21-33, {sum(p.numel() for p in teacher.parameters()):,} parameters" in said
    captions: list[str] = []

    def grid(rows: Any, *, columns: Any) -> torch.Tensor:
        captions.extend(columns)
        return torch.zeros(3, 4, 4)

    monkeypatch.setattr(demo, "grid", grid)
    (tmp_path / "log.jsonl").touch()
    report = skd.Report.load(outcome.files["report_json"])
    finished = skd.Run(tmp_path, steps=2, seconds=0.0, ended="seconds", best=None, evaluation=None)
    distilled = skd.Distilled(outcome.student, report, finished)
    again = demo._write(tmp_path, teacher, scratch(STUDENT, 3), distilled, 3, 0.0)
    assert captions == [
        "photograph", "painting", f"teacher, {again.teacher_bytes / 1024:.0f} KB",
        "student before", f"student after, {again.student_bytes / 1024:.0f} KB",
    ]  # fmt: skip
    assert load_image(tmp_path / "loss_curve.png").shape == (1, 3, 540, 960)  # a log without a line: the time was up


def test_it_says_what_it_does_and_where_it_wrote(done: Done) -> None:
    outcome, said, _ = done
    for words in (
        "begun as skd.compress narrows the teacher",
        "until 2 steps or 60 s",
        "structure and statistics",
        "1/8",
    ):
        assert words in said
    for path in outcome.files.values():
        assert f"  {path}" in said.splitlines()


def test_the_loss_curve_draws_what_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: dict[str, tuple[list[float], list[float]]] = {}
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, *, label, **_: drawn.update({label: (x, y)}))
    monkeypatch.setattr(Axes, "legend", lambda self: None)
    lines = [
        {"step": step, "total": 10.0 * step, "output": 4.0 * step, "1/2/encoder/structure": 1.0 * step,
         "1/4/decoder/structure": 2.0 * step, "1/4/decoder/statistics": 3.0 * step}
        for step in (5, 10)
    ]  # fmt: skip
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss_curve(tmp_path / "log", tmp_path / "curve.png")
    assert drawn == {
        "total": ([5, 10], [50.0, 100.0]),
        "output": ([5, 10], [20.0, 40.0]),
        "structure": ([5, 10], [15.0, 30.0]),
        "statistics": ([5, 10], [15.0, 30.0]),
    }
    assert (tmp_path / "curve.png").stat().st_size > 1000


# --- again, and mistakes ---------------------------------------------------------------------------------------------


def test_a_second_run_replaces_the_first(teacher: KBStyle, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("not the demo's")
    silent: dict[str, Any] = {"teacher": teacher, "say": lambda _: None}
    first = run_demo(tmp_path, **TINY, **silent)
    old = {kind: path.read_bytes() for kind, path in first.files.items()}
    second = run_demo(tmp_path, **TINY | {"steps": 1}, seed=1, **silent)
    assert second.files == first.files
    assert [kind for kind, path in second.files.items() if path.read_bytes() == old[kind]] == []
    assert {path.name for path in tmp_path.iterdir()} == {*FILES.values(), "run"}
    assert (tmp_path / "run" / "mine.txt").read_text() == "not the demo's"


def test_a_demo_that_is_stopped_leaves_the_one_before(
    teacher: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "student.safetensors").write_text("of an earlier demo")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "loss_curve", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, **TINY, teacher=teacher, say=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]
    assert (tmp_path / "student.safetensors").read_text() == "of an earlier demo"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps of a recipe; got 0"),
        ({"seconds": 0}, "seconds of a recipe; got 0"),
        ({"seconds": -1.0}, "seconds of a recipe"),
        ({"seconds": float("nan")}, "seconds of a recipe"),
        ({"batch_size": 0}, "pairs in a batch; got 0"),
        ({"crop": 20}, "side of the crops; got 20"),
        ({"seed": -1}, "seed"),
    ],
)
def test_numbers_that_cant_be(teacher: KBStyle, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        run_demo(tmp_path / "out", **TINY | options, teacher=teacher, say=lambda _: None)
    assert not list(tmp_path.rglob("*.*"))


def test_teachers_and_places_that_cant_be(teacher: KBStyle, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no such weights; got techer.*did you mean 'teacher'"):
        run_demo(tmp_path / "out", **TINY, teacher="techer", say=lambda _: None)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="the output folder can't be made"):
        run_demo(tmp_path / "file", **TINY, teacher=teacher, say=lambda _: None)


def test_a_teacher_by_its_file(teacher: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(teacher, tmp_path / "t.safetensors")

    def stop(network: KBStyle, *_: Any, **__: Any) -> None:
        assert network.config == TEACHER
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "distill", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "out", teacher=str(tmp_path / "t.safetensors"), say=lambda _: None)
