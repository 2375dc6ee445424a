"""What the figures show: differences to the reference with intervals, beside the noise of the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.ablations.arms import BASE
from kbstyle_example.evaluation.intervals import Interval, interval, t95
from kbstyle_example.evaluation.measures import HIGHER_IS_BETTER

MEASURES = {"style": "style", "luminance_style": "lum. style", "content": "content", "ssim": "SSIM"}
TITLES = {
    "loss": "The loss",
    "shapes": "What keeps shapes",
    "network": "The network, at equal bytes",
}


class Difference(NamedTuple):
    """An arm's mean over pairs (and seeds), less its reference's.

    `noise` is what another seed alone could make of it, with 95 % confidence; None where too few seeds were run.
    """

    mean: float
    apart: Interval
    noise: float | None

    @property
    def shown(self) -> bool:
        """The interval over pairs leaves out 0, and seeds alone don't explain it."""
        return self.apart.sign != 0 and self.noise is not None and abs(self.apart.mean) > self.noise


def pair_means(arm: Mapping[str, Any], measure: str) -> list[float]:
    """Each pair's value, the mean over the arm's seeds."""
    return [statistics.fmean(values) for values in zip(*_values(arm, measure), strict=True)]


def _values(arm: Mapping[str, Any], measure: str) -> list[list[float]]:
    return [run["values"][measure] for run in arm["seeds"].values()]


def seed_deviation(report: Mapping[str, Any], measure: str) -> float | None:
    """Standard deviation over the base's seeds of the mean over pairs; None with fewer than two."""
    means = [statistics.fmean(values) for values in _values(report["arms"][BASE], measure)]
    return statistics.stdev(means) if len(means) > 1 else None


def difference(report: Mapping[str, Any], name: str, measure: str) -> Difference:
    """The arm beside its reference, pair by pair.

    The noise is that of a difference of two means of runs whose deviation is known from the base's n seeds alone:
    t(n − 1) · deviation · √(1/seeds of the arm + 1/seeds of the reference).
    """
    arm = report["arms"][name]
    reference = report["arms"][arm["reference"]]
    own, other = pair_means(arm, measure), pair_means(reference, measure)
    pairs = [tuple(pair) for pair in report["plan"]["pairs"]]
    apart = interval({pair: a - b for pair, a, b in zip(pairs, own, other, strict=True)})
    deviation, runs = seed_deviation(report, measure), len(report["arms"][BASE]["seeds"])
    noise = None
    if deviation is not None:
        noise = t95(runs - 1) * deviation * math.sqrt(1 / len(arm["seeds"]) + 1 / len(reference["seeds"]))
    return Difference(statistics.fmean(own), apart, noise)


def table(report: Mapping[str, Any]) -> list[str]:
    """Lines of reStructuredText, one simple table for each group of arms."""
    lines = []
    for group, title in TITLES.items():
        arms = {name: arm for name, arm in report["arms"].items() if arm["group"] == group and name != BASE}
        arms = {name: arm for name, arm in arms.items() if arm["reference"] in report["arms"]}
        if not arms:
            continue
        rows = [["arm", *MEASURES.values(), "bytes", "time"], _absolute(report, BASE)]
        for reference in dict.fromkeys(arm["reference"] for arm in arms.values()):
            if reference != BASE:
                rows.append(_absolute(report, reference))
            rows += [_relative(report, name) for name, arm in arms.items() if arm["reference"] == reference]
        lines += [title, "", *_simple(rows), ""]
    return lines


def _absolute(report: Mapping[str, Any], name: str) -> list[str]:
    arm = report["arms"][name]
    cells = []
    for measure in MEASURES:
        noise = seed_deviation(report, measure) if name == BASE else None
        mean = statistics.fmean(pair_means(arm, measure))
        cells.append(f"{mean:.3f}" + ("" if noise is None else f" (seeds ± {noise:.3f})"))
    return [f"**{name}**", *cells, f"{arm['bytes']:,}", "1"]


def _relative(report: Mapping[str, Any], name: str) -> list[str]:
    arm = report["arms"][name]
    cells = []
    for measure in MEASURES:
        found = difference(report, name, measure)
        half = "" if found.apart.half_width is None else f" ± {found.apart.half_width:.3f}"
        if not found.shown:
            verdict = "not shown"
        else:
            verdict = "better" if (found.apart.mean > 0) == HIGHER_IS_BETTER[measure] else "worse"
        cells.append(f"{found.apart.mean:+.3f}{half} {verdict}")
    return [name, *cells, f"{arm['bytes']:,}", f"{arm['time']['ratio']:.2f}" if arm["time"] else "1"]


def _simple(rows: Iterable[list[str]]) -> list[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [rule, lines[0], rule, *lines[1:], rule]
