"""How fast a distillation trains, with and without what can speed it up: ``python -m benchmarks.training``.

Two distillations by SKD on the bundled pictures: a denoising U-Net to a fourth of its widths, and KBStyle from its
teacher. A step is everything: the batch, both networks, the losses, the backward and the optimizer. Variants change one
thing each, take turns in blocks of steps, and each ratio is taken within a round, to the student's own training step
(the denoiser's loss alone; for KBStyle, which only the teacher can tell what to do, the output alone with the teacher's
pictures at hand). Seconds of the wall, as loading may overlap; one thread for the networks.

The profile says where a step's seconds go, before and after: batch, teacher, student, the method's knowledge and
distances, backward, optimizer.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import skd
from benchmarks.methods.denoising import begin, loss
from benchmarks.reports import write_report
from benchmarks.worth.unet import NoisyCrops, UNet, unet_pairing
from kbstyle_example.data import StylePairs
from kbstyle_example.distill import kbstyle_pairing
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.weights_file import load_weights

RESULTS = Path(__file__).parent / "results" / "training.json"
SAMPLES = Path(__file__).parents[1] / "kbstyle_example" / "samples"
OWN, PLAIN = "student alone", "SKD"
PARTS = ("batch", "teacher", "student", "method", "backward", "optimizer")


@dataclass(frozen=True)
class Task:
    """A distillation to time: two networks, their pairing, a dataset, and the student's own loss, if it has one."""

    teacher: nn.Module
    student: nn.Module
    pairing: Any
    data: Dataset[Any]
    batch: int
    own: Any = None

    def inputs(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the networks are called with."""
        return tuple(batch) if self.own is None else (batch[0],)


@dataclass(frozen=True)
class Variant:
    """What is changed; None of it is SKD with everything as it comes."""

    channels_last: bool = False
    early: bool = False
    sides: Any = "both"
    output: float = 1.0
    cache: bool = False
    workers: int = 0
    bfloat16: bool = False
    compiled: bool = False
    keeps_layouts: bool = False
    alone: bool = False


VARIANTS = {
    OWN: Variant(alone=True),
    f"{OWN}, channels_last, loaded by another process": Variant(alone=True, channels_last=True, workers=1),
    PLAIN: Variant(),
    "channels_last": Variant(channels_last=True),
    "loaded by another process": Variant(workers=1),
    "features from disk": Variant(cache=True),
    "bfloat16": Variant(bfloat16=True),
    "torch.compile": Variant(compiled=True),
    "torch.compile, no layouts of its own": Variant(compiled=True, keeps_layouts=True),
    "encoder's rows alone, the teacher runs through": Variant(sides="encoder", output=0.0),
    "encoder's rows alone, the teacher stops early": Variant(sides="encoder", output=0.0, early=True),
    "channels_last, loaded by another process": Variant(channels_last=True, workers=1),
    "and features from disk": Variant(channels_last=True, workers=1, cache=True),
}
PROFILED = (PLAIN, "channels_last, loaded by another process", "and features from disk")


def denoiser(samples: int) -> Task:
    """The U-Net of the methods' benchmark, at the widths of its teacher and a fourth of them."""
    teacher, student = UNet((32, 64, 128)), UNet((8, 16, 32))
    begin(teacher)
    data = NoisyCrops(sorted((SAMPLES / "content").glob("*.jpg")), crop=64, length=samples, seed=0)
    return Task(teacher.eval(), student, unet_pairing, data, 4, loss)


def kbstyle(samples: int) -> Task:
    """The bundled networks."""
    content, style = (sorted((SAMPLES / kind).glob("*.jpg")) for kind in ("content", "style"))
    data = StylePairs(content, style, crop=128, length=samples)
    return Task(load_weights("teacher").eval(), load_weights("kbstyle"), kbstyle_pairing, data, 2)


TASKS = {"denoiser": denoiser, "KBStyle": kbstyle}


@dataclass
class Runner:
    """One variant of a task, ready to step."""

    task: Task
    variant: Variant
    folder: Path
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def __post_init__(self) -> None:
        task, variant = self.task, self.variant
        teacher, student = copy.deepcopy(task.teacher), copy.deepcopy(task.student)
        pairing = task.pairing(teacher)
        batches = DataLoader(task.data, batch_size=task.batch)
        spectra = skd.measure(teacher, pairing, itertools.islice((task.inputs(each) for each in batches), 4))
        plan = skd.match(pairing, task.pairing(student))
        alone = variant.alone and task.own is None
        method = (
            skd.methods.OutputOnly(plan, spectra)
            if alone
            else skd.methods.SKD(plan, spectra, sides=variant.sides, output=variant.output)
        )
        cache = skd.TeacherCache(self.folder) if variant.cache or alone else None
        self.distiller = skd.Distiller(
            teacher, student, method, cache=cache, keep_teacher_output=cache is None and not variant.early
        )
        if variant.channels_last:
            self.distiller.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student = student
        self.watched = {"teacher": teacher, "student": student}
        if cache is not None:
            with torch.no_grad():
                for batch in batches:
                    self.distiller(*self._placed(task.inputs(batch)))
        # The compiler makes convolutions channels_last, and then fails on the backward of padding="replicate".
        options = {"layout_optimization": False} if variant.keeps_layouts else None
        self.run: Any = self.distiller
        if variant.compiled:
            self.run = torch.compile(self.distiller, dynamic=False, options=options)
        self.optimizer = torch.optim.AdamW(self.distiller.parameters(), 1e-4, fused=True)
        self.batches = self._endless()

    def _placed(self, given: Sequence[Tensor]) -> list[Tensor]:
        form = torch.channels_last if self.variant.channels_last else torch.contiguous_format
        return [each.contiguous(memory_format=form) for each in given]

    def _endless(self) -> Iterator[Any]:
        workers = self.variant.workers
        loader = DataLoader(
            self.task.data, batch_size=self.task.batch, num_workers=workers, persistent_workers=workers > 0
        )
        while True:
            yield from loader

    def step(self) -> None:
        """One, all of it."""
        marks = [time.perf_counter()]
        batch = self._placed(next(self.batches))
        marks.append(time.perf_counter())
        given = self.task.inputs(batch)
        around = torch.autocast("cpu", torch.bfloat16) if self.variant.bfloat16 else nullcontext()
        with around:
            if self.variant.alone and self.task.own is not None:
                total = self.task.own(self.student(*given), batch)
            else:
                found = self.run(*given)
                total = found.losses.total
                if self.task.own is not None:
                    total = total + self.task.own(found.output, batch)
        marks.append(time.perf_counter())
        self.optimizer.zero_grad()
        total.backward()
        marks.append(time.perf_counter())
        self.optimizer.step()
        marks.append(time.perf_counter())
        batch_, forward, backward, optimizer = (b - a for a, b in itertools.pairwise(marks))
        for name, seconds in (("batch", batch_), ("method", forward), ("backward", backward), ("optimizer", optimizer)):
            self.spent[name] += seconds

    def profile(self, steps: int) -> dict[str, float]:
        """Seconds of each part of a step, the mean."""
        begun = dict.fromkeys(self.watched, 0.0)
        handles = []
        for name, network in self.watched.items():

            def before(*_: Any, name: str = name) -> None:
                begun[name] = time.perf_counter()

            def after(*_: Any, name: str = name) -> None:
                seconds = time.perf_counter() - begun[name]
                self.spent[name] += seconds
                self.spent["method"] -= seconds

            handles.append(network.register_forward_pre_hook(before))
            handles.append(network.register_forward_hook(after, always_call=True))  # a teacher that stops early raises
        try:
            self.spent = dict.fromkeys(PARTS, 0.0)
            for _ in range(steps):
                self.step()
        finally:
            for handle in handles:
                handle.remove()
        return {name: round(seconds / steps, 5) for name, seconds in self.spent.items()}


def failing(runner: Runner) -> str | None:
    """Why a compiled step can't be taken, where it can't: there are operators whose compilation fails in PyTorch."""
    try:
        runner.step()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def timed(runners: dict[str, Runner], rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Steps a second, and ratios of a step's time to the first's: medians over the rounds, least and greatest."""
    taken: dict[str, list[float]] = {name: [] for name in runners}
    names, order = list(runners), random.Random(0)
    for turn in range(rounds + 1):
        for name in order.sample(names, len(names)):
            block = 1 if runners[name].variant.bfloat16 else steps  # where it is emulated, a step takes seconds
            begun = time.perf_counter()
            for _ in range(block):
                runners[name].step()
            if turn > 0:  # the first warms up
                taken[name].append((time.perf_counter() - begun) / block)
    found = {}
    for name, each in taken.items():
        ratios = [one / other for one, other in zip(each, taken[names[0]], strict=True)]
        found[name] = {
            "steps a second": round(1 / statistics.median(each), 2),
            "ratio": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "greatest": round(max(ratios), 3),
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.training", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="of a block (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="different ones (%(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it wants a C++ compiler)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report: dict[str, Any] = {"command": "python -m benchmarks.training", "rounds": options.rounds, **surroundings()}
    report["tasks"] = {}
    for title, make in TASKS.items():
        torch.manual_seed(0)
        task = make(options.samples)
        with tempfile.TemporaryDirectory() as name:
            runners = {
                each: Runner(task, replace(variant), Path(name) / each)
                for each, variant in VARIANTS.items()
                if not (variant.compiled and options.no_compile)
            }
            failed = {
                each: why for each, runner in runners.items() if runner.variant.compiled and (why := failing(runner))
            }
            for each in failed:
                del runners[each]
            steps = timed(runners, options.rounds, options.steps)
            profile = {each: runners[each].profile(4 * options.steps) for each in PROFILED}
        report["tasks"][title] = {"steps": steps, "failed": failed, "profile": profile}
        print(title)
        for each, row in steps.items():
            spread = f"{row['ratio']:.2f} ({row['least']:.2f} to {row['greatest']:.2f})"
            print(f"  {each:50}{row['steps a second']:8.2f} a second  {spread}", flush=True)
        for each, why in failed.items():
            print(f"  {each}: {why}")
        for each, parts in profile.items():
            print(f"  {each}: {', '.join(f'{part} {1000 * s:.1f} ms' for part, s in parts.items())}", flush=True)
    write_report(report, options.out)


if __name__ == "__main__":
    main()
