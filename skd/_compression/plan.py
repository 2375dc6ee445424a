"""Widths under a budget, from a network's groups or from what a factory can build."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from skd._compression.analysis import Analysis
from skd._compression.costs import Costs
from skd._compression.factory import Factory
from skd._compression.widths import Unit, by_energy, uniform, worth
from skd.errors import ArgumentError, CompressionError
from skd.spectra import Spectra

NEAR = 100  # combinations that a factory is tried with where it fails at the best one


class Plan:
    """Widths under a budget, and for a factory what it is called with."""

    def __init__(
        self,
        found: Analysis,
        costs: Costs,
        budget: int,
        allocation: str,
        factory: Factory | None,
        minimum: int,
        multiple: int,
    ) -> None:
        self.found, self.costs, self.budget, self.allocation, self.factory = found, costs, budget, allocation, factory
        self.least = minimum, multiple
        self.widths: dict[int, int] = {}
        self.picked: list[int] = []
        self.following: int | None = None
        self.members: list[tuple[int, ...]] = []
        self.units: list[Unit] = []

    def choose(self) -> None:
        """Set the widths, and what a factory is called with for them."""
        factory = self.factory
        if factory is None:
            self.members = list(self.found.units)
            self.units = [_unit(self.found, self.costs, each, *self.least) for each in self.members]
            self._allocate()
            return
        levels: list[int] = []
        values: list[list[int]] = []
        problem: str | None = None
        for exact in (False, True):
            self.members, self.units, values = factory.units(self.found, self.costs, *self.least, exact=exact)
            levels = self._allocate()
            self.picked = [each[level] for each, level in zip(values, levels, strict=True)]
            problem = self._built(factory, self.picked)
            if problem is None:
                self._look_up(levels, values)
                return
        picked = self.picked
        for others in self._near(levels):
            self.picked = [each[level] for each, level in zip(values, others, strict=True)]
            if self._built(factory, self.picked) is None:
                self._look_up(others, values)
                return
        self.picked = picked
        raise CompressionError(
            f"build fails at the widths that fit best, {factory.given(self.picked)!r}",
            got=problem,
            remedy="give multiple=…, of which the widths must be multiples, or widths=…",
        )

    def _built(self, factory: Factory, picked: Sequence[int]) -> str | None:
        """Set the widths of the network with these values; why it isn't one, or doesn't fit."""
        try:
            built = self.costs.infer(factory.sizes(picked))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        if self.costs.total(built) > self.budget:
            return "a larger network than its widths one by one"
        self.widths = built
        return None

    def _can_build(self, picked: Sequence[int]) -> bool:
        try:
            self.costs.infer(self.factory.sizes(picked) if self.factory is not None else {})
        except Exception:  # as in `_built`: whatever build says
            return False
        return True

    def _near(self, levels: Sequence[int]) -> list[list[int]]:
        """Levels that fit with one or two units elsewhere, best first: where a combination can't be built."""
        steps = [
            [level for level in range(max(0, chosen - 4), min(len(unit.levels), chosen + 5)) if level != chosen]
            for unit, chosen in zip(self.units, levels, strict=True)
        ]
        changes = [{u: level} for u, each in enumerate(steps) for level in each]
        changes += [
            {u: one, v: other}
            for u, v in itertools.combinations(range(len(steps)), 2)
            for one in steps[u]
            for other in steps[v]
        ]
        ways = [[change.get(u, level) for u, level in enumerate(levels)] for change in changes[:2000]]
        ways = [way for way in ways if self.total(way) <= self.budget]
        ways.sort(key=lambda way: -sum(unit.values[level] for unit, level in zip(self.units, way, strict=True)))
        return ways[:NEAR]

    def _look_up(self, levels: Sequence[int], values: Sequence[Sequence[int]] | None = None) -> None:
        """Note the next step up, of a factory the next that it can build."""
        self.following = None
        steps = [
            [*levels[:u], up, *levels[u + 1 :]]
            for u, level in enumerate(levels)
            for up in range(level + 1, len(self.units[u].levels))
        ]
        if values is None:
            steps = [step for step in steps if sum(step) == sum(levels) + 1]
        for size, step in sorted((self.total(step), step) for step in steps):
            if values is None or self._can_build([each[k] for each, k in zip(values, step, strict=True)]):
                self.following = size
                return

    def _allocate(self) -> list[int]:
        if self.allocation == "energy":
            levels = by_energy(self.units, self.budget, self.total, self.steps)
        else:
            levels = uniform(self.units, self.budget, self.total)
        self.widths = self.spread(levels)
        self._look_up(levels)
        return levels

    def spread(self, levels: Sequence[int]) -> dict[int, int]:
        """The widths of the groups at these levels of the units."""
        return {
            k: width
            for each, unit, level in zip(self.members, self.units, levels, strict=True)
            for k, width in zip(each, unit.levels[level], strict=True)
        }

    def total(self, levels: Sequence[int]) -> int:
        """Bytes of the file."""
        return self.costs.total(self.spread(levels))

    def steps(self, levels: Sequence[int], u: int) -> npt.NDArray[np.int64]:
        """More bytes at each level of a unit."""
        found = self.costs.of(self.members[u], self.spread(levels), self.units[u].levels)
        more: npt.NDArray[np.int64] = found - found[levels[u]]
        return more


def pair_widths(spectra: Spectra | None) -> tuple[int, ...]:
    """The pairs' widths, outermost first, then the bottleneck's where it is none of theirs."""
    if spectra is None:
        raise ArgumentError("build= needs the widths that make the teacher", remedy="give full=…")
    last = () if spectra.bottleneck is None else (spectra.bottleneck.width,)
    return (*(pair.width for pair in spectra), *last)


def _unit(found: Analysis, costs: Costs, members: Sequence[int], minimum: int, multiple: int) -> Unit:
    """The widths that groups tied together may have, the same share of each."""
    groups = [found.groups[k] for k in members]
    steps = [math.lcm(group.step, multiple) for group in groups]
    leader = max(range(len(groups)), key=lambda k: groups[k].width // steps[k])
    whole = tuple(group.width for group in groups)
    levels = []
    for width in range(steps[leader], groups[leader].width + 1, steps[leader]):
        share = width / groups[leader].width
        level = tuple(
            min(group.width, max(step, round(group.width * share / step) * step))
            for group, step in zip(groups, steps, strict=True)
        )
        if all(w >= min(minimum, full) for w, full in zip(level, whole, strict=True)):
            levels.append(level)
    levels = [
        level for level in dict.fromkeys([*levels, whole]) if costs.allowed(dict(zip(members, level, strict=True)))
    ]
    choices = [found.choices[k] for k in members]
    values = [worth([(c.energy[w - 1], c.readers) for c, w in zip(choices, level, strict=True)]) for level in levels]
    return Unit(tuple(levels), tuple(values))


def names_of(found: Analysis) -> list[str]:
    """Names of the groups, each once: several of one layer are numbered."""
    names: list[str] = []
    for group in found.groups:
        count = sum(name.partition("#")[0] == group.name for name in names)
        names.append(f"{group.name}#{count}" if count else group.name)
    return names


def given_widths(found: Analysis, widths: Mapping[str, int] | Sequence[int]) -> dict[int, int]:
    if not isinstance(widths, Mapping):
        raise ArgumentError("widths are given by the names of groups", got=type(widths).__name__, expected="a mapping")
    names = names_of(found)
    known = {names[k]: k for k in found.choices}
    chosen = {k: found.groups[k].width for k in found.choices}
    for name, width in widths.items():
        if name not in known:
            raise ArgumentError(
                "no group that can be narrowed has this name", got=repr(name), expected=", ".join(known)
            )
        group = found.groups[known[name]]
        if not 1 <= width <= group.width or width % group.step:
            expected = f"1 to {group.width}" + (f", a multiple of {group.step}" if group.step > 1 else "")
            raise ArgumentError(f"group {name!r} can't have this width", got=width, expected=expected)
        chosen[known[name]] = width
    return chosen
