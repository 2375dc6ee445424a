"""What a cell's figure depends on, as digests: lines of the same digests are never run twice, others don't count."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import skd
from benchmarks.methods.arms import ARMS, FACTORS, OUTPUT, Arm
from benchmarks.methods.cells import Prepared
from kbstyle_example.data import list_pictures
from kbstyle_example.splits import digest_of_names
from skd._code import code_of

PACKAGE = Path(skd.__file__).parent
# What every method is made of. A method's own file counts for its arms alone: a new one leaves all others' cells.
SHARED = ("knowledge/*.py", "adapters/*.py", "distances.py", "distiller.py", "methods/_*.py", "methods/transfer.py")
# Which the teacher's weights, and the cells' lines, tell.
OF_TRAINING = ("teacher_rounds", "begins_as", "screen", "final", "long_precision")


def plan_of(prepared: Prepared, data: Path) -> str:
    """What all cells of a task share: sizes, pictures, the teacher's weights, the student's shape, common code."""
    task = prepared.task
    pictures = {kind: digest_of_names(list_pictures(data / kind)) for kind in ("content", "style")}
    sizes = {name: size for name, size in dataclasses.asdict(task.setting).items() if name not in OF_TRAINING}
    shapes = {name: list(tensor.shape) for name, tensor in prepared.started.student.state_dict().items()}
    found = hashlib.sha256(json.dumps([sizes, pictures, shapes, OUTPUT], sort_keys=True).encode())
    for name, tensor in task.teacher.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    for path in _files(SHARED):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def definition_of(arm: Arm, prepared: Prepared) -> str:
    """What an arm is: its options, its method's code, and how its student begins."""
    # Where it has a meaning is no part of what it does there.
    without = ("name", "make", "uses", "needs_loss")
    fields = {name: value for name, value in vars(arm).items() if name not in without}
    found = hashlib.sha256(json.dumps([fields, FACTORS if arm.tuned else ()], sort_keys=True).encode())
    if arm.make is not None:
        found.update(code_of(arm.make).encode())
    if arm.uses is not None:
        found.update(arm.uses.__qualname__.encode())
        module = arm.uses.__module__.removeprefix("skd.").replace(".", "/")
        found.update((PACKAGE / f"{module}.py").read_bytes())
    if arm.uses is skd.methods.SKD:
        found.update(f"{prepared.task.reread!r}".encode())
    if arm.fitted:
        found.update((PACKAGE / "fitting.py").read_bytes())
    if arm.start != "random":
        # By what it does, rounded: the last bits of its weights are another processor's, and its code changes oftener.
        found.update(f"{prepared.begun(arm.start).output_energy:.3f}".encode())
    return found.hexdigest()[:12]


def definitions_of(prepared: Prepared, names: Sequence[str]) -> dict[str, str]:
    """By the arms' names."""
    return {name: definition_of(ARMS[name], prepared) for name in names}


def _files(patterns: Sequence[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
