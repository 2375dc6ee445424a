"""Tables and plots of the cells that ran: ``python -m benchmarks.methods.draw --plots FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods.arms import ARMS, CONTROLS
from benchmarks.methods.cells import read_lines
from benchmarks.methods.table import REFERENCE, rows, table

RESULTS = Path(__file__).parents[1] / "results" / "methods.jsonl"
HIGHER_IS_BETTER = {"style": False, "denoising": True, "pronunciation": False}
Line = Mapping[str, Any]


def latest(lines: Sequence[Line], task: str) -> list[Line]:
    """The lines of a task's last plan and of each arm's last definition: older ones are of other code or weights."""
    mine = [line for line in lines if line["task"] == task and line["arm"] in ARMS]
    mine = [line for line in mine if line["plan"] == mine[-1]["plan"]]
    last = {line["arm"]: line["definition"] for line in mine}
    return [line for line in mine if line["definition"] == last[line["arm"]]]


def drawn(lines: Sequence[Line]) -> dict[tuple[str, str], list[str]]:
    """By task and split, where seeds ran: the table."""
    found = {}
    for task, higher in HIGHER_IS_BETTER.items():
        mine = latest(lines, task)
        for split in ("validation", "test"):
            if any("mean" in row for row in rows(mine, task, split, higher=higher)):
                found[task, split] = table(mine, task, split, higher=higher)
    return found


def plot(lines: Sequence[Line], task: str, split: str, path: Path) -> None:
    """Each method's mean and interval, the best on top; controls are hollow."""
    from matplotlib.figure import Figure

    found = [row for row in rows(latest(lines, task), task, split, higher=HIGHER_IS_BETTER[task]) if "mean" in row]
    # A control that isn't trained would squeeze all others into a corner.
    found = [row for row in found if not row["arm"].endswith(", not trained")][::-1]
    figure = Figure(figsize=(7, 0.6 + 0.24 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    for height, row in enumerate(found):
        colour = "tab:red" if row["arm"] == REFERENCE else "tab:gray" if row["arm"] in CONTROLS else "tab:blue"
        face = "white" if row["arm"] in CONTROLS else colour
        axes.errorbar(
            row["mean"], height, xerr=row["half"] or 0, fmt="o", color=colour, markerfacecolor=face, capsize=2
        )
    axes.set_yticks(range(len(found)), [row["arm"] for row in found])
    axes.set_xlabel(next(iter(found[0]["figures"])) + f", {split} split, 95 % intervals over seeds")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)  # the same figure is the same file


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, draw the plots."""
    parser = argparse.ArgumentParser(prog="benchmarks.methods.draw", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plots", type=Path, help="folder for one picture a table")
    options = parser.parse_args(arguments)
    lines = list(read_lines(options.results))
    for (task, split), text in drawn(lines).items():
        print(f"\n{task}, {split} split\n")
        print("\n".join(text))
        if options.plots is not None:
            options.plots.mkdir(parents=True, exist_ok=True)
            plot(lines, task, split, options.plots / f"{task}-{split}.svg")


if __name__ == "__main__":
    main()
