"""What widths from spectra and projected weights are worth: ``python -m benchmarks.worth``.

Five students of one size (`arms.ARMS`), on two tasks, after no, few and more steps of distillation; each number of
steps is a training of its own, whose learning rate comes down to nothing at its end. All have the same loss, learning
rate and, seed by seed, the same crops. Smaller is better for the difference from the teacher's pictures on held-out
crops, larger for the PSNR.

``--data`` holds content/ and style/. A cell that stands in ``--out`` already isn't run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import skd
from benchmarks.reports import resumed, write_report
from benchmarks.worth.arms import ARMS, Starts
from benchmarks.worth.table import table
from benchmarks.worth.tasks import SKD_OPTIONS, SMOKE, TASKS, Setting, Task
from kbstyle_example.data import list_pictures
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.splits import digest_of_names

RESULTS = Path(__file__).parents[1] / "results" / "worth.json"
WHAT = "students of one size by the widths and weights that they begin with, before and after distillation"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.worth", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=Path("runs/worth"), help="where the denoising teacher is kept")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--steps", type=int, nargs="+", help="of distillation (0 100 1000)")
    parser.add_argument("--seeds", type=int, nargs="+", help="(0 1 2)")
    parser.add_argument("--smoke", action="store_true", help="everything at its smallest: whether it runs at all")
    parser.add_argument("--show", action="store_true", help="print the table of what stands in --out, and run nothing")
    options = parser.parse_args(arguments)
    if options.data is None and not options.show:
        parser.error("--data is missing")
    options.steps = options.steps or ([0, 2] if options.smoke else [0, 100, 1000])
    options.seeds = options.seeds or ([0] if options.smoke else [0, 1, 2])
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run what is missing, the fewest steps of everything first; the report is written after each cell."""
    torch.set_num_threads(1)
    setting = SMOKE if options.smoke else Setting()
    plan = {
        **json.loads(json.dumps(dataclasses.asdict(setting))),
        "method": SKD_OPTIONS,
        "pictures": {kind: digest_of_names(list_pictures(options.data / kind)) for kind in ("content", "style")},
    }
    report = resumed(options.out, plan, {"what": WHAT, "tasks": {}})
    if (here := surroundings()) not in report["runs"]:
        report["runs"].append(here)
    made: dict[str, tuple[Task, Starts]] = {}
    for steps in options.steps:
        for name in options.tasks:
            for seed in options.seeds:
                for arm in options.arms:
                    if str(steps) in report["tasks"].get(name, {}).get("cells", {}).get(arm, {}).get(str(seed), {}):
                        continue
                    if name not in made:
                        made[name] = task_of(name, setting, options)
                    cell(report, name, *made[name], (arm, seed, steps))
                    write_report(report, options.out)
    return report


def task_of(name: str, setting: Setting, options: argparse.Namespace) -> tuple[Task, Starts]:
    """The task, and what its students begin with."""
    task = TASKS[name](setting, options.data, options.cache)
    calibration = task.calibration()
    spectra = skd.measure(task.teacher, task.pairing(task.teacher), calibration)
    return task, Starts(task.teacher, spectra, calibration, task.size)


def cell(report: dict[str, Any], name: str, task: Task, starts: Starts, which: tuple[str, int, int]) -> None:
    """Train one student and put down what it came to."""
    arm, seed, steps = which
    started = time.process_time()
    made = starts.compressed(ARMS[arm][0])
    student = starts.student(arm, seed)
    if steps:
        task.distilled(student, starts.spectra, seed, steps)
    found = report["tasks"].setdefault(name, {"cells": {}})
    if "teacher" not in found:
        found["teacher"] = {"bytes": made.teacher_bytes, **task.measured(task.teacher)}
    found.setdefault("widths", {})[ARMS[arm][0]] = {"bytes": made.bytes, "groups": made.widths}
    values = {key: float(f"{value:.6g}") for key, value in task.measured(student).items()}
    values["CPU seconds"] = round(time.process_time() - started, 1)
    found["cells"].setdefault(arm, {}).setdefault(str(seed), {})[str(steps)] = values
    print(f"{name}, {arm}, seed {seed}, {steps} steps: {values}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the tables."""
    options = parse(arguments)
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.show else run(options)
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
