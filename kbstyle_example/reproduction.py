"""What a reproduction depends on: options, the pictures of each part, and the plan that its folder is bound to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import skd
from kbstyle_example.beginning import Start, first_weights
from kbstyle_example.data import list_pictures
from kbstyle_example.distill import RECIPE as STUDENT_RECIPE
from kbstyle_example.evaluation.card import NOT_STATED
from kbstyle_example.networks import STUDENT, TEACHER, KBStyleConfig
from kbstyle_example.peers import System
from kbstyle_example.perceptual import Perceptual, identity_of
from kbstyle_example.splits import digest_of_names, of_split
from kbstyle_example.train import guide_name
from skd.errors import DataError

TEACHER_RECIPE = replace(STUDENT_RECIPE, steps=40_000)
STAGES = ("train the teacher", "distil the student", "evaluate", "draw sheets", "write the model card")
SIZE, PAIRS, SHEET = 512, 64, 8


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
    guide : (str, path), optional
        Name of the published network whose pictures the teacher's shall be like (`kbstyle_example.peers.PEERS`), and
        the folder that holds its files.
    start_teacher : KBStyle, path or str, optional
        What the teacher begins with, see `train`.
    data_licence : str
        What the pictures' licences allow, for the model card.

    Examples
    --------
    >>> Options().student.widths
    (8, 20, 32)
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
    guide: tuple[str, str | os.PathLike[str]] | None = None
    start_teacher: Start | None = None
    data_licence: str = NOT_STATED


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
                expected="about one in twenty for tests, by their names (see kbstyle_example.splits.split)",
                remedy="add pictures: of a hundred, some are for each",
            )
    twice = {path.name for path in parts["test"] if sum(other.name == path.name for other in parts["test"]) > 1}
    if twice:
        remedy = "rename one of them (a renamed picture may change sides)"
        raise DataError("pictures for tests have the same name", got=", ".join(sorted(twice)), remedy=remedy)
    return parts


def plan_of(
    pictures: Mapping[str, Mapping[str, list[Path]]],
    perceptual: Perceptual,
    measures: Sequence[Perceptual],
    options: Options,
    guide: System | None,
) -> dict[str, Any]:
    """Plain values that tell one reproduction from another.

    Raises
    ------
    ArgumentError, FileError
        The weights that the teacher starts with have another shape, or aren't there.
    """
    plan: dict[str, Any] = {
        f"{kind}/{part}": digest_of_names(paths) for kind, parts in pictures.items() for part, paths in parts.items()
    }
    plan |= {"perceptual": name_of(perceptual), "measures": [name_of(network) for network in measures]}
    begun = first_weights(options.teacher, options.teacher_recipe.seed, options.start_teacher)[1]
    plan |= {"guide": guide_name(guide), "start teacher": begun}
    for name in ("teacher", "student"):
        plan[f"{name} recipe"] = getattr(options, f"{name}_recipe").identity()
        plan[name] = {**asdict(getattr(options, name)), "crop": getattr(options, f"{name}_crop")}
    return plan | {"batch_size": options.batch_size, "size": options.size, "pairs": options.pairs}


def name_of(network: Perceptual) -> str:
    """Its name, and what tells it from others of that name."""
    return f"{network.name} {identity_of(network)}".strip()
