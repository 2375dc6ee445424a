"""How long a reproduction's stages will take, by a few steps of each in a folder that goes away."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbstyle_example.beginning import scratch
from kbstyle_example.distill import distill
from kbstyle_example.evaluation.costs import ROUNDS
from kbstyle_example.evaluation.evaluate import TIMED, evaluate
from kbstyle_example.peers import System
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.reproduction import SHEET, STAGES, Options
from kbstyle_example.train import train
from kbstyle_example.validation import Folders

TRIAL = 4  # steps


def expected_times(
    todo: Sequence[str],
    out: Path,
    training: Folders,
    tested: Sequence[Sequence[Path]],
    perceptual: Perceptual,
    networks: Sequence[Perceptual],
    options: Options,
    guide: System | None,
) -> list[float]:
    """Seconds that each stage will still take, judged by a few steps and one pair; a mistake shows there, too.

    Parameters
    ----------
    todo : sequence of str
        The stages that aren't done, of `STAGES`.
    out : Path
        Folder of the reproduction: what is trained already counts.
    training : (sequence of Path, sequence of Path)
        Photographs and paintings to train on.
    tested : sequence of sequence of Path
        Photographs and paintings to measure on.
    perceptual : Perceptual
        The network trained under.
    networks : sequence of Perceptual
        Those that measure.
    options : Options
    guide : System or None

    Raises
    ------
    ArgumentError, DataError, FileError, NonFiniteError, ShapeError
        As the stages themselves.
    """
    if not set(todo) & set(STAGES[:4]):
        return [0.0, 0.0, 0.0, 0.0, 1.0]
    first, second, pair = _trial(
        training, tested, perceptual, networks, options, guide, trained=not set(todo) & set(STAGES[:2])
    )
    recipes = options.teacher_recipe, options.student_recipe
    seconds = []
    for rate, recipe, folder in zip((first, second), recipes, ("teacher", "student"), strict=True):
        left = 1 - _done(out / folder / "log.jsonl") / recipe.steps
        seconds.append(max(0.0, left) * min(rate * recipe.steps, recipe.seconds or math.inf))
    contents, styles = (len(paths) for paths in tested)
    # Timing is done at sizes of its own, and a picture costs what its area is. The trial measures two networks; in
    # earnest there are four (`student_files`).
    pairs = 2 * min(options.pairs, contents * styles) + 2 * ROUNDS * sum(w * h for w, h in TIMED) / options.size**2
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
    guide: System | None,
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
                guide=guide,
                start=options.start_teacher,
                **batch,
            )
            second = distill(
                first.network,
                *training,
                Path(folder, "student"),
                recipe=replace(options.student_recipe, **short),
                config=options.student,
                crop=options.student_crop,
                perceptual=perceptual,
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
