"""Cells run one after the other, or side by side."""

# Not in __main__, where a spawned process wouldn't find what it is to do.

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.methods.cells import Cell, Prepared, Store, run_cell
from benchmarks.methods.tasks import task_of
from kbstyle_example.evaluation.costs import surroundings

_prepared: dict[tuple[str, bool, Path, Path], Prepared] = {}


def prepared(task: str, smoke: bool, data: Path, cache: Path) -> Prepared:
    """A task made ready, once in a process."""
    key = task, smoke, data, cache
    if key not in _prepared:
        torch.set_num_threads(1)
        _prepared[key] = Prepared(task_of(task, data, cache, smoke=smoke))
    return _prepared[key]


def work(options: argparse.Namespace, store: Store, cell: Cell) -> None:
    """Run a cell and keep its line."""
    found = run_cell(prepared(options.task, options.smoke, options.data, options.cache), cell)
    store.add(cell, found, surroundings())
    print(*cell[:4], found.get("value", found.get("na")), flush=True)


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
    missing = [cell for cell in cells if cell not in done]
    if options.jobs <= 1 or len(missing) <= 1:
        for cell in missing:
            work(options, store, cell)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=end_with_parent) as pool:
        for future in [pool.submit(work, options, store, cell) for cell in missing]:
            future.result()
