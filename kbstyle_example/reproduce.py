"""From two folders of pictures to trained, measured and described networks, in stages that go on where they stopped."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import skd
from kbstyle_example.data import digest_of_names, list_pictures, of_split
from kbstyle_example.distill import RECIPE as STUDENT_RECIPE
from kbstyle_example.distill import distill, scratch
from kbstyle_example.evaluation.card import NOT_STATED, model_card, write_card
from kbstyle_example.evaluation.costs import ROUNDS
from kbstyle_example.evaluation.evaluate import TIMED, evaluate
from kbstyle_example.evaluation.pairs import pictures_to_measure
from kbstyle_example.evaluation.results import Results
from kbstyle_example.evaluation.sheet import draw_sheets
from kbstyle_example.files import writable_folder, write_atomically
from kbstyle_example.networks import STUDENT, TEACHER, KBStyleConfig
from kbstyle_example.outlook import Outlook
from kbstyle_example.peers import as_system
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.record import Record
from kbstyle_example.train import train
from kbstyle_example.validation import Folders, pairs_to_validate
from kbstyle_example.weights_file import load_weights, save_weights
from skd.errors import DataError

TEACHER_RECIPE = replace(STUDENT_RECIPE, steps=40_000)
STAGES = ("train the teacher", "distil the student", "evaluate", "draw sheets", "write the model card")
PLAN, SIZE, PAIRS, SHEET = "reproduce.json", 512, 64, 8
TRIAL = 4  # steps


class Reproduced(NamedTuple):
    """The files that came of it."""

    teacher: Path
    student: Path
    results: Path
    sheets: Path
    card: Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a reproduction depends on beside the pictures.

    Parameters
    ----------
    teacher_recipe, student_recipe : skd.Recipe
    teacher, student : KBStyleConfig
    teacher_crop, student_crop : int
        Sides of the training crops in pixels.
    batch_size, workers : int
    size : int
        Side of the squares that are measured and drawn.
    pairs : int
        How many pairs of a photograph and a painting are measured.
    data_licence : str
        What the pictures' licences allow, for the model card.

    Examples
    --------
    >>> Options().student.widths
    (8, 16, 28)
    """

    teacher_recipe: skd.Recipe = TEACHER_RECIPE
    student_recipe: skd.Recipe = STUDENT_RECIPE
    teacher: KBStyleConfig = TEACHER
    student: KBStyleConfig = STUDENT
    teacher_crop: int = 160
    student_crop: int = 128
    batch_size: int = 4
    workers: int = 1
    size: int = SIZE
    pairs: int = PAIRS
    data_licence: str = NOT_STATED


def reproduce(
    content: str | os.PathLike[str],
    style: str | os.PathLike[str],
    out: str | os.PathLike[str],
    perceptual: Perceptual,
    *,
    measures: Sequence[Perceptual] = (),
    options: Options | None = None,
    say: Callable[[str], None] = print,
) -> Reproduced:
    """Train a teacher, distil it, evaluate both, draw sheets and write the model card.

    Stopped at any point, the same call goes on: training from its last checkpoint, measuring from the last pair. Each
    stage says how long all that is left will take, from what a few steps and a pair took at the start; mistakes in the
    options show then, too. Once that went well the folder holds this reproduction, and no other.

    Pictures whose name says "test" (`data.split`) are measured on and never trained on; those that say "validation"
    are looked at while it trains.

    Parameters
    ----------
    content, style : path
        Folders of photographs and of paintings.
    out : path
        Folder for everything.
    perceptual : Perceptual
        The network that the teacher is trained under.
    measures : sequence of Perceptual
        Networks that only measure. Without them the one trained under measures, which flatters; the card says so.
    options : Options, optional
    say : callable
        Told each line that a person should read.

    Returns
    -------
    Reproduced

    Raises
    ------
    DataError
        No pictures of a kind, for training or for tests; two for tests of one name; none that can be used.
    FileError
        The folder holds a reproduction of other pictures or options, or can't be written into; a record or checkpoint
        there is damaged.
    ArgumentError, NonFiniteError
        As `train`, `distill` and `evaluate`.

    Examples
    --------
    >>> from kbstyle_example.perceptual import load_perceptual
    >>> reproduce("photos", "paintings", "out", load_perceptual("vgg19-dcbb9e9d.pth"))  # doctest: +SKIP
    """
    options = options or Options()
    out = writable_folder(out)
    pictures = {"content": parts_of(content), "style": parts_of(style)}
    tested = [pictures_to_measure(folder, part="test", size=options.size)[0] for folder in (content, style)]
    record = Record(out / PLAN, _plan(pictures, perceptual, measures, options))
    contents, styles = pictures["content"]["train"], pictures["style"]["train"]
    validation = pairs_to_validate(list_pictures(content), list_pictures(style))
    teacher, student = out / "teacher.safetensors", out / "kbstyle.safetensors"
    files = Reproduced(teacher, student, out / "evaluation" / "results.json", out / "sheets", out / "MODEL_CARD.md")
    arguments: dict[str, Any] = {"batch_size": options.batch_size, "workers": options.workers}
    networks = list(measures) or [perceptual]
    made = dict(
        zip(STAGES, (teacher, student, files.results, files.sheets / "side_by_side.png", files.card), strict=True)
    )
    todo = [stage for stage, file in made.items() if not record.has(stage, file)]
    if STAGES[-1] not in todo and not _states(files.card, options.data_licence):
        todo.append(STAGES[-1])  # quickly written anew: the words may change, unlike what was measured
    outlook = Outlook(STAGES, say)
    outlook.expect(*_expected(todo, out, (contents, styles), tested, perceptual, networks, options))
    record.keep()  # the trial went well: from here on the folder holds this reproduction, and no other

    def train_teacher() -> None:
        done = train(
            contents,
            styles,
            perceptual,
            out / "teacher",
            recipe=options.teacher_recipe,
            config=options.teacher,
            crop=options.teacher_crop,
            validation=validation,
            **arguments,
        )
        facts = {
            "trained": f"{done.run.steps} steps, seed {options.teacher_recipe.seed}",
            "perceptual": _name(perceptual),
        }
        save_weights(done.network, teacher, about=facts)

    def distil_student() -> None:
        done = distill(
            load_weights(teacher),
            contents,
            styles,
            out / "student",
            recipe=options.student_recipe,
            config=options.student,
            crop=options.student_crop,
            validation=validation,
            **arguments,
        )
        save_weights(
            done.student, student, about={"distilled": f"{done.run.steps} steps, seed {options.student_recipe.seed}"}
        )
        write_atomically(f"{done.report}\n", out / "report.txt")

    def measure() -> None:
        results = evaluate(
            {"teacher": teacher, "kbstyle": student},
            tested[0],
            tested[1],
            networks,
            out / "evaluation",
            size=options.size,
            pairs=options.pairs,
            reference="teacher",
        )
        write_atomically(f"{results}\n", out / "evaluation" / "table.txt")

    def draw() -> None:
        draw_sheets(
            [as_system(teacher), as_system(student)], tested[0], tested[1], files.sheets, count=SHEET, size=options.size
        )

    def describe() -> None:
        write_card(files.card, _cards(files, contents, styles, perceptual, measures, options))

    works = (train_teacher, distil_student, measure, draw, describe)
    for stage, work in zip(STAGES, works, strict=True):
        if stage not in todo:
            outlook.skip(stage)
            continue
        outlook.begin(stage)
        work()
        record.note(stage, made[stage])
        outlook.end(stage)
    outlook.finish(f"see {files.card}")
    return files


def parts_of(folder: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """The pictures of a folder that are for training, and those for tests.

    Raises
    ------
    DataError
        No folder, none of a kind, or two for tests of one name, which couldn't be told apart in the figures.

    Examples
    --------
    >>> {part: len(paths) for part, paths in parts_of(Path(__file__).parent / "samples").items()}
    {'train': 17, 'test': 2}
    """
    paths = list_pictures(folder)
    parts = {"train": of_split(paths, "train"), "test": of_split(paths, "test")}
    for part, found in parts.items():
        if not found:
            raise DataError(
                f"no picture in {Path(folder).name} is for {'training' if part == 'train' else 'tests'}",
                got=f"{len(paths)} pictures",
                expected="about one in twenty for tests, by their names (see kbstyle_example.data.split)",
                remedy="add pictures: of a hundred, some are for each",
            )
    twice = {path.name for path in parts["test"] if sum(other.name == path.name for other in parts["test"]) > 1}
    if twice:
        remedy = "rename one of them (a renamed picture may change sides)"
        raise DataError("pictures for tests have the same name", got=", ".join(sorted(twice)), remedy=remedy)
    return parts


def _plan(
    pictures: Mapping[str, Mapping[str, list[Path]]],
    perceptual: Perceptual,
    measures: Sequence[Perceptual],
    options: Options,
) -> dict[str, Any]:
    plan: dict[str, Any] = {
        f"{kind}/{part}": digest_of_names(paths) for kind, parts in pictures.items() for part, paths in parts.items()
    }
    plan |= {"perceptual": _name(perceptual), "measures": [_name(network) for network in measures]}
    for name in ("teacher", "student"):
        plan[f"{name} recipe"] = getattr(options, f"{name}_recipe").identity()
        plan[name] = {**asdict(getattr(options, name)), "crop": getattr(options, f"{name}_crop")}
    return plan | {"batch_size": options.batch_size, "size": options.size, "pairs": options.pairs}


def _name(network: Perceptual) -> str:
    return f"{network.name} {network.sha256 or ''}".strip()


def _expected(
    todo: Sequence[str],
    out: Path,
    training: Folders,
    tested: Sequence[Sequence[Path]],
    perceptual: Perceptual,
    networks: Sequence[Perceptual],
    options: Options,
) -> list[float]:
    """Seconds that each stage will still take, judged by a few steps and one pair; a mistake shows there, too."""
    if not set(todo) & set(STAGES[:4]):
        return [0.0, 0.0, 0.0, 0.0, 1.0]
    first, second, pair = _trial(
        training, tested, perceptual, networks, options, trained=not set(todo) & set(STAGES[:2])
    )
    recipes = options.teacher_recipe, options.student_recipe
    seconds = []
    for rate, recipe, folder in zip((first, second), recipes, ("teacher", "student"), strict=True):
        left = 1 - _done(out / folder / "log.jsonl") / recipe.steps
        seconds.append(max(0.0, left) * min(rate * recipe.steps, recipe.seconds or math.inf))
    contents, styles = (len(paths) for paths in tested)
    # Timing is done at sizes of its own, and a picture costs what its area is.
    pairs = min(options.pairs, contents * styles) + ROUNDS * sum(w * h for w, h in TIMED) / options.size**2
    seconds += [pairs * pair, min(SHEET, contents) * min(SHEET, styles) * pair, 1.0]
    return [expected if stage in todo else 0.0 for stage, expected in zip(STAGES, seconds, strict=True)]


def _done(log: Path) -> int:
    """The step of a log's last line, 0 without one."""
    try:
        return int(json.loads(log.read_bytes().splitlines()[-1])["step"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):  # none yet, or cut short when the run was killed
        return 0


def _trial(
    training: Folders,
    tested: Sequence[Sequence[Path]],
    perceptual: Perceptual,
    networks: Sequence[Perceptual],
    options: Options,
    *,
    trained: bool,
) -> tuple[float, float, float]:
    """Seconds a step of the teacher's training and of the distillation, and a pair of the evaluation.

    All in a folder that goes away; with networks that are trained already, pairs alone.
    """
    short: dict[str, Any] = {"steps": TRIAL, "seconds": None, "evaluate_every": None}
    batch: dict[str, Any] = {"batch_size": options.batch_size, "workers": options.workers}
    teacher, student = scratch(options.teacher, 0), scratch(options.student, 0)
    rates = (0.0, 0.0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # no bars
        if not trained:
            first = train(
                *training,
                perceptual,
                Path(folder, "teacher"),
                recipe=replace(options.teacher_recipe, **short),
                config=options.teacher,
                crop=options.teacher_crop,
                **batch,
            )
            second = distill(
                first.network,
                *training,
                Path(folder, "student"),
                recipe=replace(options.student_recipe, **short),
                config=options.student,
                crop=options.student_crop,
                **batch,
            )
            teacher, student = first.network, second.student
            rates = first.run.seconds / TRIAL, second.run.seconds / TRIAL
        started = time.monotonic()
        evaluate(
            {"teacher": teacher.eval(), "kbstyle": student.eval()},
            tested[0][:1],
            tested[1][:1],
            networks,
            Path(folder, "evaluation"),
            size=options.size,
            pairs=min(1, options.pairs),
            timed=(),
        )
        return *rates, time.monotonic() - started


def _states(card: Path, licence: str) -> bool:
    return " ".join(licence.split()) in card.read_text(encoding="utf-8", errors="replace")


def _cards(
    files: Reproduced,
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptual: Perceptual,
    measures: Sequence[Perceptual],
    options: Options,
) -> str:
    """The cards of both networks, one after the other."""
    results = Results.load(files.results)
    limits = ["Trained once, from one seed."]
    if not measures:
        limits.append("Measured under the very network that it was trained under, which flatters it.")
    cards = []
    for path, recipe, crop in (
        (files.teacher, options.teacher_recipe, options.teacher_crop),
        (files.student, options.student_recipe, options.student_crop),
    ):
        cards.append(
            model_card(
                path,
                recipe={
                    **{key: value for key, value in recipe.identity().items() if key not in ("steps", "seed")},
                    "crop": crop,
                    "batch size": options.batch_size,
                },
                steps=recipe.steps,
                seed=recipe.seed,
                contents=contents,
                styles=styles,
                perceptual=perceptual if path == files.teacher else None,
                results=results,
                limits=limits,
                data_licence=options.data_licence,
            )
        )
    return "\n".join(cards)
