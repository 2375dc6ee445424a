"""From two folders of pictures to trained, measured and described networks, in stages that go on where they stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kbstyle_example.beginning import first_weights
from kbstyle_example.data import list_pictures
from kbstyle_example.distill import distill, save_student, student_files
from kbstyle_example.evaluation.card import model_card, write_card
from kbstyle_example.evaluation.evaluate import evaluate
from kbstyle_example.evaluation.pairs import pictures_to_measure
from kbstyle_example.evaluation.results import Results
from kbstyle_example.evaluation.sheet import draw_sheets
from kbstyle_example.files import writable_folder, write_atomically
from kbstyle_example.outlook import Outlook
from kbstyle_example.peers import System, as_system, load_peer
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.record import Record
from kbstyle_example.reproduction import SHEET, STAGES, Options, name_of, parts_of, plan_of
from kbstyle_example.train import guide_name, train
from kbstyle_example.trial import expected_times
from kbstyle_example.validation import pairs_to_validate
from kbstyle_example.weights_file import load_weights, save_weights

PLAN = "reproduce.json"


class Reproduced(NamedTuple):
    """The files that came of it; the student's beside float16 and int8, see `student_files`."""

    teacher: Path
    student: Path
    results: Path
    sheets: Path
    card: Path


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
    ArgumentError, NonFiniteError, ShapeError
        As `train`, `distill`, `evaluate` and, for the guide, `load_peer`.

    Examples
    --------
    >>> from kbstyle_example.perceptual_files import load_perceptual
    >>> reproduce("photos", "paintings", "out", load_perceptual("vgg19-dcbb9e9d.pth"))  # doctest: +SKIP
    """
    options = options or Options()
    out = writable_folder(out)
    pictures = {"content": parts_of(content), "style": parts_of(style)}
    tested = [pictures_to_measure(folder, part="test", size=options.size)[0] for folder in (content, style)]
    guide = None if options.guide is None else load_peer(*options.guide)
    record = Record(out / PLAN, plan_of(pictures, perceptual, measures, options, guide))
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
    if STAGES[1] not in todo and not all(path.exists() for path in student_files(student).values()):
        todo.insert(0, STAGES[1])
    if STAGES[-1] not in todo and not _states(files.card, options.data_licence):
        todo.append(STAGES[-1])  # quickly written anew: the words may change, unlike what was measured
    outlook = Outlook(STAGES, say)
    outlook.expect(*expected_times(todo, out, (contents, styles), tested, perceptual, networks, options, guide))
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
            guide=guide,
            start=options.start_teacher,
            validation=validation,
            **arguments,
        )
        facts = {
            "trained": f"{done.run.steps} steps, seed {options.teacher_recipe.seed}",
            "perceptual": name_of(perceptual),
        }
        if guide is not None:
            facts["imitated"] = guide_name(guide)
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
            perceptual=perceptual,
            validation=validation,
            **arguments,
        )
        facts = {"distilled": f"{done.run.steps} steps, seed {options.student_recipe.seed}"}
        save_student(done.student, student, about=facts)
        write_atomically(f"{done.report}\n", out / "report.txt")

    def measure() -> None:
        results = evaluate(
            {"teacher": teacher, **{path.stem: path for path in student_files(student).values()}},
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
        write_card(files.card, _cards(files, contents, styles, perceptual, measures, options, guide))

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


def _states(card: Path, licence: str) -> bool:
    return " ".join(licence.split()) in card.read_text(encoding="utf-8", errors="replace")


def _cards(
    files: Reproduced,
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptual: Perceptual,
    measures: Sequence[Perceptual],
    options: Options,
    guide: System | None,
) -> str:
    """The cards of both networks, one after the other."""
    results = Results.load(files.results)
    limits = ["Trained once, from one seed."]
    if not measures:
        limits.append("Measured under the very network that it was trained under, which flatters it.")
    taught = {"imitates": guide_name(guide)} if guide is not None else {}
    if options.start_teacher is not None:
        taught["begins with"] = f"weights `{first_weights(options.teacher, 0, options.start_teacher)[1]}`"
    cards = []
    for path, recipe, crop, more in (
        (files.teacher, options.teacher_recipe, options.teacher_crop, taught),
        (files.student, options.student_recipe, options.student_crop, {}),
    ):
        cards.append(
            model_card(
                path,
                recipe={
                    **{key: value for key, value in recipe.identity().items() if key not in ("steps", "seed")},
                    "crop": crop,
                    "batch size": options.batch_size,
                    **more,
                },
                steps=recipe.steps,
                seed=recipe.seed,
                contents=contents,
                styles=styles,
                perceptual=perceptual,
                results=results,
                limits=limits,
                data_licence=options.data_licence,
            )
        )
    return "\n".join(cards)
