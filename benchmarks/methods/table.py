"""What the cells show: each method's mean with its interval over seeds, and its difference from SKD, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.methods.arms import ARMS, FACTORS, FINAL_CONTROLS, METHODS
from benchmarks.methods.cells import TUNING_SEED, Cell
from kbstyle_example.evaluation.intervals import t95

REFERENCE = "SKD"
BEST = 6


def chosen_factor(
    done: Mapping[Cell, Mapping[str, Any]], task: str, arm: str, steps: int, *, higher: bool
) -> float | None:
    """The factor with the best validation figure; None where the method has no meaning on the task."""
    if not ARMS[arm].tuned:
        return 1.0
    found = {
        factor: done[cell]["value"]
        for factor in FACTORS
        if (cell := Cell(task, arm, factor, TUNING_SEED, steps, "validation")) in done and "value" in done[cell]
    }
    if not found:
        return None
    return (max if higher else min)(found, key=lambda factor: found[factor])


def half_width(values: Sequence[float]) -> float | None:
    """Of the 95 % interval of a mean, by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    return t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def rows(lines: Sequence[Mapping[str, Any]], task: str, split: str, *, higher: bool) -> list[dict[str, Any]]:
    """One for each arm on a split, at the most steps that seeds ran; the best first, those without a meaning last."""
    mine = [line for line in lines if line["task"] == task]
    ran = [line["steps"] for line in mine if line["split"] == split and line["seed"] != TUNING_SEED]
    mine = [line for line in mine if line["steps"] == max(ran, default=0)]
    tables: dict[str, dict[int, float]] = defaultdict(dict)
    figures: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    reasons: dict[str, str] = {}
    factors: dict[str, float] = {}
    for line in mine:
        if "na" in line:  # the trials found that out, or, where there are none, the seeds
            reasons[line["arm"]] = line["na"]
        elif line["seed"] != TUNING_SEED and line["split"] == split:
            tables[line["arm"]][line["seed"]] = line["value"]
            figures[line["arm"]].append(line["figures"])
            factors[line["arm"]] = line["factor"]
    found = []
    reference = tables.get(REFERENCE, {})
    for arm, values in tables.items():
        both = sorted(values.keys() & reference.keys())
        apart = [values[seed] - reference[seed] for seed in both]
        found.append(
            {
                "arm": arm,
                "factor": factors[arm],
                "seeds": len(values),
                "figures": {name: statistics.fmean(each[name] for each in figures[arm]) for name in figures[arm][0]},
                "mean": statistics.fmean(values.values()),
                "half": half_width(list(values.values())),
                "apart": statistics.fmean(apart) if apart and arm != REFERENCE else None,
                "apart_half": half_width(apart) if arm != REFERENCE else None,
            }
        )
    found.sort(key=lambda row: -row["mean"] if higher else row["mean"])
    return found + [{"arm": arm, "na": reason} for arm, reason in reasons.items() if arm not in tables]


def finalists(lines: Sequence[Mapping[str, Any]], task: str, steps: int, *, higher: bool) -> list[str]:
    """Who runs long: SKD, the best six methods of a screening of so many steps, and the controls.

    Of methods with the very same figures (one is the other on this task) the first is enough.
    """
    screened = [line for line in lines if line["steps"] == steps]
    found = [row for row in rows(screened, task, "validation", higher=higher) if "na" not in row]
    different = {tuple(row["figures"].values()): row["arm"] for row in reversed(found)}
    ranked = [arm for arm in reversed(different.values()) if ARMS[arm].trained]
    best = [arm for arm in ranked if arm in METHODS and arm != REFERENCE][:BEST]
    return [REFERENCE, *best, *FINAL_CONTROLS] if best else []


def table(lines: Sequence[Mapping[str, Any]], task: str, split: str, *, higher: bool) -> list[str]:
    """Lines of reStructuredText: the figure that counts with its interval, and the means of the others."""
    found = rows(lines, task, split, higher=higher)
    names = next(([*row["figures"]] for row in found if "figures" in row), [])
    if not names:
        return ["Nothing has been measured."]
    cells = [["method", "weight ×", "seeds", names[0], f"less {REFERENCE}'s, seed by seed", *names[1:]]]
    notes = []
    for row in found:
        if "na" in row:
            cells.append([row["arm"], "n/a", *["–"] * (len(cells[0]) - 2)])
            notes.append(f"- {row['arm']}: n/a, {row['na']}")
            continue
        apart = "–" if row["apart"] is None else f"{row['apart']:+.3f}{_plus_minus(row['apart_half'])}"
        mean = f"{row['mean']:.3f}{_plus_minus(row['half'])}"
        factor = f"{row['factor']:.2g}" if ARMS[row["arm"]].tuned else "–"
        others = [f"{row['figures'][name]:.3f}" for name in names[1:]]
        cells.append([row["arm"], factor, str(row["seeds"]), mean, apart, *others])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    drawn = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [rule, drawn[0], rule, *drawn[1:], rule, "", *notes]


def _plus_minus(half: float | None) -> str:
    return "" if half is None else f" ± {half:.3f}"
