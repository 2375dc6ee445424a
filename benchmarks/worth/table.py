"""The table: means over seeds with their 95 % intervals, and each arm less the student from scratch, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.worth.arms import ARMS
from kbstyle_example.evaluation.intervals import Interval, t95
from skd._tables import format_table

TITLES = {
    "difference": "root mean squared difference from the teacher, of 255 (smaller is better)",
    "psnr": "PSNR in dB (larger is better)",
}
SCRATCH = next(iter(ARMS))


def over_seeds(values: Sequence[float]) -> Interval:
    """Their mean, and Student's interval, which three values make wide."""
    if len(values) < 2:
        return Interval(statistics.fmean(values), None)
    half = t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.fmean(values), half)


def values_of(task: Mapping[str, Any], arm: str, steps: str, measure: str) -> dict[str, float]:
    """One measure of an arm, by seed."""
    seeds = task["cells"].get(arm, {})
    return {seed: cells[steps][measure] for seed, cells in seeds.items() if measure in cells.get(steps, {})}


def table(report: Mapping[str, Any]) -> list[str]:
    """One table for each task and measure."""
    found = []
    for name, task in report["tasks"].items():
        every = {steps for seeds in task["cells"].values() for cells in seeds.values() for steps in cells}
        steps = sorted(every, key=int)
        for measure, title in TITLES.items():
            if measure not in task["teacher"]:
                continue
            header = ["arm", "widths", "weights", *(f"{n} steps" for n in steps), f"against scratch, {steps[-1]} steps"]
            rows = [_row(task, arm, steps, measure) for arm in ARMS if arm in task["cells"]]
            notes = [f"{len(groups['groups'])} groups, {groups['bytes']:,} bytes with {kind} widths"
                     for kind, groups in task["widths"].items()]  # fmt: skip
            teacher = task["teacher"]
            notes.append(f"the teacher: {teacher['bytes']:,} bytes, {teacher[measure]:.2f}")
            found.append(format_table(f"{name}: {title}", header, rows, notes))
    return found


def _row(task: Mapping[str, Any], arm: str, steps: Sequence[str], measure: str) -> list[str]:
    cells = [_text(list(values_of(task, arm, n, measure).values())) for n in steps]
    own, other = (values_of(task, which, steps[-1], measure) for which in (arm, SCRATCH))
    apart = [own[seed] - other[seed] for seed in own if seed in other]  # the same crops
    return [arm, *ARMS[arm], *cells, "-" if arm == SCRATCH else _text(apart, sign="+")]


def _text(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "-"
    found = over_seeds(values)
    return f"{found.mean:{sign}.2f}" + ("" if found.half_width is None else f" ± {found.half_width:.2f}")
