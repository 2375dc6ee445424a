"""Cells of one seed together: what they see, and what their teacher says of it, is made once a step for all of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.data import Dataset

from benchmarks.methods.cells import Cell, Prepared, run_cell, samples_of
from skd.adapters import Adapter
from skd.knowledge import Reread
from skd.taps import Layout, Tap, Taps

Features = dict[Tap, Tensor]


def run_together(prepared: Prepared, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """As `run_cell` of each, to the bit: one step of each in turn, in threads of which one runs at a time.

    An error of a cell is raised when the others are done.
    """
    if len(cells) == 1:
        return [run_cell(prepared, cells[0])]
    turns, teacher = Turns(len(cells)), TeacherForAll()
    reread = None if prepared.task.reread is None else RereadOnce(prepared.task.reread)
    source = ReadOnce(samples_of(prepared.task, cells[0]), 2 * prepared.task.setting.batch)
    found: list[dict[str, Any]] = [{} for _ in cells]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        torch.set_num_threads(1)  # which counts for the thread alone
        with turns.of(index):
            try:
                each = lambda *_: turns.pass_on(index)  # noqa: E731 - after each step of the optimizer
                found[index] = run_cell(prepared, cells[index], source=source, each=each, cache=teacher, reread=reread)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(cells))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


class Turns:
    """Threads that run one at a time, in a fixed order, each with random numbers of its own.

    Parameters
    ----------
    count : int
        How many; all begin with the random numbers as they are now.
    """

    def __init__(self, count: int) -> None:
        self.going, self.turn = list(range(count)), 0
        self.changed = threading.Condition()
        self.kept = [_random_state()] * count

    @contextmanager
    def of(self, index: int) -> Iterator[None]:
        """Around all that a thread does."""
        before = self.kept[index]
        self._wait(index)
        try:
            yield
        finally:
            with self.changed:
                self._next(index)
                self.going.remove(index)
                self.changed.notify_all()
            if not self.going:
                _put_random_state(before)

    def pass_on(self, index: int) -> None:
        """Let each of the others do as much, then go on."""
        self.kept[index] = _random_state()
        with self.changed:
            self._next(index)
            self.changed.notify_all()
        self._wait(index)

    def _next(self, index: int) -> None:
        place = self.going.index(index)
        self.turn = self.going[(place + 1) % len(self.going)]

    def _wait(self, index: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == index)
        _put_random_state(self.kept[index])


class ReadOnce(Dataset[Any]):
    """Samples of which the last few are kept."""

    def __init__(self, source: Any, most: int) -> None:
        self.source, self.most, self.kept = source, most, dict[int, Any]()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        if index not in self.kept:
            self.kept[index] = self.source[index]
            if len(self.kept) > self.most:
                del self.kept[next(iter(self.kept))]
        return self.kept[index]


class TeacherForAll:
    """In the place of a `skd.TeacherCache`: what a teacher says of the present batch, whoever asks."""

    def __init__(self) -> None:
        self._given: list[Any] = []
        self._known: Features = {}
        self._wanted: dict[Tap, None] = {}
        self._model: nn.Module | None = None

    def features(
        self,
        taps: Taps,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        adapters: Mapping[Tap, Adapter] | None = None,
    ) -> Features:
        """As `TeacherCache.features`, but to the bit."""
        given, _ = _pytree.tree_flatten((args, kwargs))
        if taps.model is not self._model or not _same(given, self._given):
            self._model, self._given, self._known = taps.model, given, {}
        if not self._known.keys() >= set(taps.taps):
            self._wanted |= dict.fromkeys(taps.taps)  # the next batch is asked for all that anybody has asked for
            self._known = Taps(taps.model, list(self._wanted), stop_early=True)(*args, **kwargs)[1]
        adapters = adapters or {}
        return {tap: adapters[tap](self._known[tap]) if tap in adapters else self._known[tap] for tap in taps.taps}


class RereadOnce(Reread):
    """As `reread`; what is asked of one tensor by several cells in turn, a teacher's output, is read for the first."""

    def __init__(self, reread: Reread) -> None:
        super().__init__(reread.taps.model, reread.taps.taps, inputs=reread.inputs)
        self._known: tuple[Tensor, Tensor] | None = None

    def __call__(self, output: Tensor, *, layout: Layout = "BCHW") -> Tensor:
        if output.requires_grad:
            return super().__call__(output, layout=layout)
        if self._known is None or self._known[0] is not output:
            self._known = output, super().__call__(output, layout=layout)
        return self._known[1]


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return a is b

    return len(one) == len(other) and all(map(equal, one, other))


def _random_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what code may draw from


def _put_random_state(kept: tuple[Any, ...]) -> None:
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])
