"""Cells: one training of one student by one method; each is run once and is one line of a file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import nn
from torch.utils.data import DataLoader, Dataset

import skd
from benchmarks.methods.arms import ARMS, Start
from benchmarks.methods.task import Task
from benchmarks.methods.training import Supervised
from benchmarks.worth.arms import fresh
from kbstyle_example.devices import has_bfloat16
from skd._compression.analysis import Data
from skd._compression.outcome import output_energy
from skd.errors import ArgumentError, SkdError
from skd.knowledge import Reread

TUNING_SEED = 1000  # of the trials that choose a method's weight; no seed of the table


class Cell(NamedTuple):
    """Which training: task, arm, factor of its weight, seed, optimizer steps, split that is measured."""

    task: str
    arm: str
    factor: float
    seed: int
    steps: int
    split: str


class Begun(NamedTuple):
    """A student as `skd.compress` begins it, and how much of the teacher's output it has."""

    student: nn.Module
    output_energy: float


class Prepared:
    """What all cells of a task share: spectra, and the student's shape and start."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.calibration = task.calibration()
        self.pairing = task.pairing(task.teacher)
        self.spectra = skd.measure(task.teacher, self.pairing, self.calibration)
        self._fitted: Begun | None = None
        self.started = self._compressed("projected")

    def _compressed(self, start: Any) -> Begun:
        task = self.task
        if task.compressed is not None:
            student = task.compressed(start)
            return Begun(student, output_energy(task.teacher, student, Data(self.calibration, None)))
        done = skd.compress(
            task.teacher,
            self.spectra,
            data=self.calibration,
            size=task.setting.size,
            allocation="uniform",
            build=task.build,
            full=task.full,
            start=start,
        )
        return Begun(done.student, done.output_energy)

    def begun(self, start: Start) -> Begun:
        """What a start that isn't random takes its weights from; the fitted one is made when it is first asked for."""
        if start != "fitted":
            return self.started
        self._fitted = self._fitted or self._compressed("fitted")
        return self._fitted

    def student(self, seed: int, start: Start = "random") -> nn.Module:
        """Of random weights by a seed, the same for all methods; or as `compress` begins it, whole or in part."""
        student = self._student(seed, start)
        if self.task.settle is not None:
            self.task.settle(student)
        return student

    def _student(self, seed: int, start: Start) -> nn.Module:
        if start in ("compressed", "fitted"):
            return copy.deepcopy(self.begun(start).student)
        student = fresh(self.started.student, seed)
        if self.task.begin is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.task.begin(student)
        if start != "random":
            early, beside = self.encoders_layers(), self.beside()
            for name, value in self.started.student.state_dict().items():
                on_its_side = (name.rpartition(".")[0] in early) == (start == "encoder")
                if name.partition(".")[0] not in beside if start == "pairs" else on_its_side:
                    student.state_dict()[name].copy_(value)
        return student

    def beside(self) -> set[str]:
        """The parts of the network that only companions are in."""
        pairs = [(pair.companions, (pair.encoder, pair.decoder)) for pair in self.pairing]
        parts = [{tap.layer.partition(".")[0] for taps in each for tap in taps} for each in zip(*pairs, strict=True)]
        return parts[0] - parts[1]

    def encoders_layers(self) -> set[str]:
        """The student's layers that have run when the bottleneck is made; what runs later is the decoder's."""
        student, found, done = self.started.student, set[str](), False
        bottleneck = self.task.pairing(student).bottleneck

        def note(name: str) -> None:
            nonlocal done
            if not done:
                found.add(name)
            done = done or (bottleneck is not None and name == bottleneck.layer)

        handles = [
            module.register_forward_hook(lambda *_, name=name: note(name)) for name, module in student.named_modules()
        ]
        try:
            with torch.no_grad():
                given = self.calibration[0]
                student(*given) if isinstance(given, tuple) else student(given)
        finally:
            for handle in handles:
                handle.remove()
        return found


class Noted(Dataset[Any]):
    """A dataset with a digest of all samples that were read, in their order: equal for all methods of a seed."""

    def __init__(self, source: Any) -> None:
        self.source, self.digest = source, hashlib.sha256()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        sample = self.source[index]
        for part in sample:
            self.digest.update(part.numpy().tobytes())
        return sample


def samples_of(task: Task, cell: Cell) -> Dataset[Any]:
    """What a cell is trained on: the same for all cells of its seed."""
    return task.samples("train", cell.seed, cell.steps * task.setting.batch)


def run_cell(
    prepared: Prepared, cell: Cell, *, source: Any = None, each: Any = None, cache: Any = None, reread: Any = None
) -> dict[str, Any]:
    """Train and measure; a method without a meaning on this task says why under "na".

    `source` are its samples, if they are there already, and `reread` is in the place of the task's own; see `distill`
    for the other options.
    """
    task, arm = prepared.task, ARMS[cell.arm]
    student = prepared.student(cell.seed, arm.start)
    began = time.thread_time()
    samples = Noted(source or samples_of(task, cell))
    if arm.trained:
        try:
            rows = _rows(prepared, student, cell, reread or task.reread)
        except ArgumentError as error:
            return {"na": " ".join(str(error).split())}
        try:
            _train(task, student, rows, _loader(task, samples), cell, each=each, cache=cache)
        except SkdError as error:
            return {"na": " ".join(str(error).split())}
    long, setting = is_long(task, cell), task.setting
    figures = task.measured(student.eval(), cell.split, setting.long_held_out if long else setting.held_out)
    return {
        "value": next(iter(figures.values())),
        "figures": dict(figures),
        "order": samples.digest.hexdigest()[:16],
        "precision": recipe_of(task, cell).precision,
        # Its own thread's; of cells together, the first to ask pays for samples and teacher.
        "cpu_seconds": round(time.thread_time() - began, 1),
    }


def _loader(task: Task, samples: Any) -> Any:
    return DataLoader(samples, batch_size=task.setting.batch, collate_fn=task.collate)


def _rows(prepared: Prepared, student: nn.Module, cell: Cell, reread: Reread | None) -> Any:
    task, arm = prepared.task, ARMS[cell.arm]
    if arm.make is None:
        if task.loss is None:
            raise ArgumentError("it has no meaning here: nobody but the teacher knows what the output should be")
        return None
    if task.loss is None and arm.needs_loss:
        raise ArgumentError("it has no meaning here: without a loss of the task's own nothing would be left")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        plan = skd.match(prepared.pairing, task.pairing(student))
        method = arm.make(plan, prepared.spectra, cell.factor, cell.steps, reread)
        method.transfers() if isinstance(method, skd.methods.Method) else None  # refuses now what it can't do
        torch.manual_seed(cell.seed)
        return method


def is_long(task: Task, cell: Cell) -> bool:
    """Whether a cell is one of the long stage, by its steps."""
    return cell.steps >= task.setting.final


def recipe_of(task: Task, cell: Cell) -> skd.Recipe:
    """How every cell of a task is trained."""
    setting = task.setting
    return skd.Recipe(
        steps=cell.steps,
        learning_rate=setting.learning_rate,
        warmup=min(20, cell.steps // 10),
        precision=setting.long_precision if is_long(task, cell) and has_bfloat16() else "float32",
        channels_last=setting.crop > 0,
        seed=cell.seed,
        cpu=True,
    )


def _train(task: Task, student: nn.Module, rows: Any, loader: Any, cell: Cell, *, each: Any, cache: Any) -> None:
    recipe = recipe_of(task, cell)
    with tempfile.TemporaryDirectory() as folder:
        if rows is None and task.loss is not None:
            skd.fit(
                Supervised(student, task.inputs, task.loss),
                loader,
                folder,
                recipe=recipe,
                product=student,
                each=each,
                label=cell.arm,
            )
            return
        skd.distill(
            task.teacher,
            loader,
            folder,
            student=student,
            recipe=recipe,
            method=rows,
            inputs=task.inputs,
            pairings=(task.pairing(task.teacher), task.pairing(student)),
            fit_adapters=ARMS[cell.arm].fitted,
            task_loss=task.loss,
            calibration=task.batches("train", 2_000_000, 16),  # beside the check and the report, for fitted adapters
            cache=cache,
            each=each,
            label=cell.arm,
        )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines of a file, if it is there; what a killed process left of one is passed over."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


class Store:
    """The lines of a file: a cell that stands in it isn't run again, whoever ran it.

    Parameters
    ----------
    path : Path
    plan : str
        Digest of all that cells share; lines of another plan don't count.
    definitions : mapping of str to str
        Digests of the arms, by name; lines of another definition don't count.
    """

    def __init__(self, path: Path, plan: str, definitions: Mapping[str, str]) -> None:
        self.path, self.plan, self.definitions = path, plan, definitions
        path.parent.mkdir(parents=True, exist_ok=True)

    def lines(self) -> Iterator[dict[str, Any]]:
        """All whole lines of this plan and these definitions."""
        for line in read_lines(self.path):
            if line.get("plan") == self.plan and line.get("definition") == self.definitions.get(line["arm"], ""):
                yield line

    def done(self) -> dict[Cell, dict[str, Any]]:
        """By cell."""
        return {Cell(*(line[name] for name in Cell._fields)): line for line in self.lines()}

    def add(self, cell: Cell, found: Mapping[str, Any], surroundings: Mapping[str, Any]) -> None:
        """Append a line; several processes may."""
        digests = {"plan": self.plan, "definition": self.definitions[cell.arm]}
        line = {**cell._asdict(), **digests, **found, "surroundings": dict(surroundings)}
        with FileLock(f"{self.path}.lock"), self.path.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # half a line of a process that was killed
                    file.write(b"\n")
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
