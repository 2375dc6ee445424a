"""Widths under a budget: the bytes go where they keep the most energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skd._compression.budget import size_text
from skd.errors import CompressionError

FLOOR = 1e-6  # of an energy, whose logarithm is taken
COARSE = 48  # widths of a unit that are looked at first


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
        """Levels on the upper hull of value over width, at most COARSE of them: steps that pay less and less."""
        count = len(self.levels)
        stride = max(1, count // COARSE)
        chosen = list(range(0, count, stride))
        chosen += [] if chosen[-1] == count - 1 else [count - 1]
        found: list[int] = []
        for k in chosen:
            while len(found) > 1 and self._slope(found[-2], found[-1]) <= self._slope(found[-1], k):
                found.pop()
            found.append(k)
        return found

    def _slope(self, one: int, other: int) -> float:
        return (self.values[other] - self.values[one]) / (sum(self.levels[other]) - sum(self.levels[one]))


def worth(energies: Sequence[float]) -> float:
    """The sum of the logarithms of energies: a signal passes all of its layers, so shares multiply."""
    return sum(math.log(max(FLOOR, energy)) for energy in energies)


Total = Callable[[Sequence[int]], int]  # chosen level of every unit → bytes
Step = Callable[[Sequence[int], int, int], int]  # chosen levels, a unit, its new level → more bytes


def by_energy(units: Sequence[Unit], budget: int, total: Total, step: Step) -> list[int]:
    """The level of every unit: from the smallest up, each time the step that keeps the most energy for its bytes.

    Raises
    ------
    CompressionError
        Not even the smallest fits; says how large that is.
    """
    chosen = _smallest(units, budget, total)
    hulls = [unit.hull() for unit in units]
    size = total(chosen)
    for fine in (False, True):
        open_units = set(range(len(units)))
        while open_units:
            best: tuple[float, int, int, int] | None = None
            for u in sorted(open_units):
                above = range(chosen[u] + 1, len(units[u].levels)) if fine else hulls[u]
                up = next((level for level in above if level > chosen[u]), None)
                more = None if up is None else step(chosen, u, up)
                if up is None or more is None or size + more > budget:
                    open_units.discard(u)
                    continue
                gain = (units[u].values[up] - units[u].values[chosen[u]]) / max(1, more)
                if best is None or gain > best[0]:
                    best = (gain, u, up, more)
            if best is None:
                break
            _, u, up, more = best
            trial = [*chosen[:u], up, *chosen[u + 1 :]]
            if total(trial) > budget:  # the file's head may have grown
                open_units.discard(u)
                continue
            chosen, size = trial, total(trial)
    return chosen


def uniform(units: Sequence[Unit], budget: int, total: Total) -> list[int]:
    """The level of every unit: one share of the widths for all, the largest that fits.

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
    return full if total(full) <= budget else chosen


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
