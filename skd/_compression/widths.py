"""Widths under a budget: the bytes go where they keep the most energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skd._compression.budget import size_text
from skd.errors import CompressionError

FLOOR = 1e-6  # of an energy, whose logarithm is taken
COARSE = 32  # widths of a unit that are looked at first


@dataclass(frozen=True)
class Unit:
    """What is narrowed together.

    Attributes
    ----------
    levels : tuple of tuple of int
        The widths that its parts may have, ascending; the last is the full ones.
    values : tuple of float
        What each level is worth: the sum of the logarithms of the energies kept.
    """

    levels: tuple[tuple[int, ...], ...]
    values: tuple[float, ...]

    def hull(self) -> list[int]:
        """Levels on the upper hull of value over width, of the coarse ones: steps that pay less and less."""
        found: list[int] = []
        for k in self.coarse():
            while len(found) > 1 and self._slope(found[-2], found[-1]) <= self._slope(found[-1], k):
                found.pop()
            found.append(k)
        return found

    def coarse(self) -> list[int]:
        """Levels from the first to the last, evenly spread, at most about COARSE."""
        count = len(self.levels)
        return sorted({*range(0, count, -(-count // COARSE)), count - 1})

    def _slope(self, one: int, other: int) -> float:
        return (self.values[other] - self.values[one]) / (sum(self.levels[other]) - sum(self.levels[one]))


def worth(energies: Iterable[tuple[float, int]]) -> float:
    """The sum of the logarithms of energies, each as often as it is read: what passes many layers, is lost many times.

    Examples
    --------
    >>> round(worth([(0.5, 1), (1.0, 3)]), 3)
    -0.693
    """
    return sum(readers * math.log(max(FLOOR, energy)) for energy, readers in energies)


Total = Callable[[Sequence[int]], int]  # chosen level of every unit → bytes
Steps = Callable[
    [Sequence[int], int], npt.NDArray[np.int64]
]  # chosen levels, a unit → more bytes at each of its levels


def by_energy(units: Sequence[Unit], budget: int, total: Total, steps: Steps) -> list[int]:
    """The level of every unit under the budget: those that together keep the most energy, as far as is found.

    What a unit costs depends on the widths of its neighbours, so no single pass is right. Tried are: from the smallest
    widths up, each time the step that pays best for its bytes; and for a falling price of a byte, from one share for
    all and from all whole, the level of each unit that is worth most at that price, until none changes. Each is then
    filled up, step by step, until nothing more fits; the best one is taken.

    Raises
    ------
    CompressionError
        Not even the smallest fits; says how large that is.
    """
    smallest = _smallest(units, budget, total)
    found = [_filled(units, smallest, budget, total, steps, hulls=True)]
    alike = uniform(units, budget, total)
    for begin in (alike, [len(unit.levels) - 1 for unit in units]):
        found.append(_filled(units, _priced(units, begin, smallest, budget, total, steps), budget, total, steps))
    found.append(_filled(units, alike, budget, total, steps))
    return max(found, key=lambda chosen: sum(unit.values[k] for unit, k in zip(units, chosen, strict=True)))


def _priced(
    units: Sequence[Unit], begin: Sequence[int], smallest: list[int], budget: int, total: Total, steps: Steps
) -> list[int]:
    """The widths at the lowest price of a byte at which they fit, found by halving."""
    best = smallest
    low, high = -30.0, 0.0  # logarithms of the price
    coarse = [unit.coarse() for unit in units]
    for _ in range(12):
        price = math.exp((low + high) / 2)
        chosen = list(begin)
        for _ in range(6):
            before = list(chosen)
            for u, unit in enumerate(units):
                paid = np.array(unit.values)[coarse[u]] - price * steps(chosen, u)[coarse[u]]
                chosen[u] = coarse[u][int(paid.argmax())]
            if chosen == before:
                break
        if total(chosen) <= budget:
            best, high = list(chosen), (low + high) / 2
        else:
            low = (low + high) / 2
    return best


def _filled(
    units: Sequence[Unit], begin: Sequence[int], budget: int, total: Total, steps: Steps, *, hulls: bool = False
) -> list[int]:
    """From there up, each time the step that pays best for its bytes, until no step fits."""
    chosen, size = list(begin), total(begin)
    for fine in (False, True) if hulls else (True,):
        open_units = set(range(len(units)))
        ways = [list(range(len(unit.levels))) if fine else unit.hull() for unit in units]
        while open_units:
            best: tuple[float, int, int] | None = None
            for u in sorted(open_units):
                up = next((level for level in ways[u] if level > chosen[u]), None)
                more = None if up is None else int(steps(chosen, u)[up])
                if up is None or more is None or size + more > budget:
                    open_units.discard(u)
                    continue
                gain = (units[u].values[up] - units[u].values[chosen[u]]) / max(1, more)
                if best is None or gain > best[0]:
                    best = (gain, u, up)
            if best is None:
                break
            _, u, up = best
            trial = [*chosen[:u], up, *chosen[u + 1 :]]
            bytes_ = total(trial)
            if bytes_ > budget:  # the file's head has grown, too
                open_units.discard(u)
            else:
                chosen, size = trial, bytes_
    return chosen


def uniform(units: Sequence[Unit], budget: int, total: Total) -> list[int]:
    """The level of every unit: one share of the widths for all, the largest that fits, then single steps as they fit.

    Raises
    ------
    CompressionError
        Not even the smallest fits; says how large that is.
    """
    chosen = _smallest(units, budget, total)
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        trial = [_at_share(unit, share) for unit in units]
        if total(trial) <= budget:
            low, chosen = share, trial
        else:
            high = share
    full = [len(unit.levels) - 1 for unit in units]
    if total(full) <= budget:
        return full
    for u in sorted(range(len(units)), key=lambda u: sum(units[u].levels[chosen[u]]) / sum(units[u].levels[-1])):
        trial = [*chosen[:u], min(chosen[u] + 1, full[u]), *chosen[u + 1 :]]
        chosen = trial if total(trial) <= budget else chosen
    return chosen


def _at_share(unit: Unit, share: float) -> int:
    whole = sum(unit.levels[-1])
    return min(range(len(unit.levels)), key=lambda k: (abs(sum(unit.levels[k]) / whole - share), k))


def _smallest(units: Sequence[Unit], budget: int, total: Total) -> list[int]:
    chosen = [0] * len(units)
    smallest = total(chosen)
    if smallest > budget:
        raise CompressionError(
            "the network can't be made that small",
            got=f"a budget of {budget:,} bytes ({size_text(budget)})",
            expected=f"at least {smallest:,} bytes ({size_text(smallest)}), its size with all widths at their minimum",
            remedy="give more bytes, a smaller dtype, or lower minimum= and multiple=",
        )
    return chosen
