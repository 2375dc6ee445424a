"""Cells run one after the other, or side by side."""

# Not in __main__, where a spawned process wouldn't find what it is to do.

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.methods.cells import Cell, Prepared, Store
from benchmarks.methods.tasks import task_of
from benchmarks.methods.together import run_together
from kbstyle_example.evaluation.costs import surroundings

_prepared: dict[tuple[str, bool, Path, Path], Prepared] = {}


def prepared(task: str, smoke: bool, data: Path, cache: Path) -> Prepared:
    """A task made ready, once in a process."""
    key = task, smoke, data, cache
    if key not in _prepared:
        torch.set_num_threads(1)
        _prepared[key] = Prepared(task_of(task, data, cache, smoke=smoke))
    return _prepared[key]


def work(options: argparse.Namespace, store: Store, cells: Sequence[Cell]) -> None:
    """Run cells of one seed together and keep their lines."""
    ready = prepared(options.task, options.smoke, options.data, options.cache)
    for cell, found in zip(cells, run_together(ready, cells), strict=True):
        store.add(cell, found, surroundings())
        print(*cell[:4], found.get("value", found.get("na")), flush=True)


def groups(cells: Sequence[Cell], most: int) -> list[list[Cell]]:
    """Cells that see the same batches, at most so many together."""
    alike: dict[tuple[int, int, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[cell.seed, cell.steps, cell.split].append(cell)
    return [some[k : k + most] for some in alike.values() for k in range(0, len(some), most)]


def end_with_parent() -> None:
    """Let this process end when the one that started it does: a killed run's workers neither go on nor wait forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # half a line that it was writing is passed over when lines are read

    threading.Thread(target=watch, daemon=True).start()


def run_all(options: argparse.Namespace, store: Store, cells: Sequence[Cell]) -> None:
    """Those that are missing."""
    done = store.done()
    missing = groups([cell for cell in cells if cell not in done], options.together)
    if options.jobs <= 1 or len(missing) <= 1:
        for some in missing:
            work(options, store, some)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=end_with_parent) as pool:
        for future in [pool.submit(work, options, store, some) for some in missing]:
            future.result()
