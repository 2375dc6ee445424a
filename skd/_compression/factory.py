"""Students from a function of the user's: what each of its widths narrows, and its weights filled by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skd._compression.analysis import Analysis
from skd._compression.attention import even_scales
from skd._compression.budget import Size, sizes_of
from skd._compression.costs import Costs
from skd._compression.foreign import replace, restore
from skd._compression.widths import Unit, worth
from skd.errors import ArgumentError, CompressionError

Build = Callable[[Any], nn.Module]
Full = Sequence[int] | Mapping[str, int]

VALUES = 64  # of one width that are looked at


class Factory:
    """A function from widths to a network.

    Parameters
    ----------
    build : callable
        Given widths of the same kind as `full`, a narrower network of the teacher's architecture.
    full : sequence or mapping of int
        The widths with which it builds the teacher.
    teacher : nn.Module
    dtype : torch.dtype

    Raises
    ------
    ArgumentError
        `build(full)` isn't like the teacher.
    """

    def __init__(self, build: Build, full: Full, teacher: nn.Module, dtype: torch.dtype) -> None:
        self.build, self.dtype = build, dtype
        self.keys = list(full) if isinstance(full, Mapping) else None
        self.full = list(full.values()) if isinstance(full, Mapping) else list(full)
        if not self.full or any(type(width) is not int or width < 1 for width in self.full):
            raise ArgumentError("these aren't widths", got=full, expected="positive integers")
        self.on_meta = True
        built, wanted = self.sizes(self.full), sizes_of(teacher, dtype)
        if built != wanted:
            names = sorted(name for name in {*built, *wanted} if built.get(name) != wanted.get(name))
            first = names[0]
            raise ArgumentError(
                f"build({self.given(self.full)!r}) isn't the teacher",
                got=f"{first!r} of {built.get(first, ('no shape',))[0]}",
                expected=f"{wanted.get(first, ('no such tensor',))[0]}",
                remedy="give the widths that make the teacher: full=…",
            )

    def given(self, values: Sequence[int]) -> Any:
        """What the function is called with."""
        return dict(zip(self.keys, values, strict=True)) if self.keys is not None else tuple(values)

    def network(self, values: Sequence[int]) -> nn.Module:
        """The network with these widths, of plain layers (see `foreign`)."""
        model = self.build(self.given(values))
        if not isinstance(model, nn.Module):
            raise ArgumentError("build must return a network", got=type(model).__name__, expected="an nn.Module")
        return replace(model)

    def sizes(self, values: Sequence[int]) -> dict[str, Size]:
        """Its tensors, without their memory where the network can be made so."""
        if self.on_meta:
            try:
                with torch.random.fork_rng(devices=[]), torch.device("meta"):
                    return sizes_of(self.network(values), self.dtype)
            except (NotImplementedError, RuntimeError):
                self.on_meta = False  # its constructor looks at numbers
        with torch.random.fork_rng(devices=[]):
            return sizes_of(self.network(values), self.dtype)

    def units(
        self, found: Analysis, costs: Costs, minimum: int, multiple: int, *, exact: bool = False
    ) -> tuple[list[tuple[int, ...]], list[Unit], list[list[int]]]:
        """For each width: the groups that it narrows, their levels, and the width's value at each level.

        A few networks are built, and where all groups were in proportion there, they are taken to be so in between;
        with `exact`, up to VALUES are built for each width.

        Raises
        ------
        CompressionError
            A width narrows what can't be followed, or none but the teacher's can be built.
        """
        members: list[tuple[int, ...]] = []
        units: list[Unit] = []
        values: list[list[int]] = []
        taken: set[int] = set()
        for place, full in enumerate(self.full):
            lowest = min(full, -(-max(1, minimum) // multiple) * multiple)
            every = [*range(lowest, full, multiple), full]
            probes = every if exact else every[:: -max(1, len(every) // 3)]
            tables, problem = self._tables(place, probes, costs)
            if problem is not None and not exact:
                tables, problem = self._tables(place, every, costs)
            if problem is not None and list(tables) == [full] and len(every) > 1:
                raise CompressionError(
                    f"build fails at every number {place + 1} of the widths but the teacher's",
                    got=problem,
                    remedy="give multiple=…, of which the widths must be multiples",
                )
            narrows = tuple(
                k
                for k in found.choices
                if k not in taken and any(t[k] < found.groups[k].width for t in tables.values())
            )
            if not narrows:  # nothing depends on it, or what does is narrowed by another
                tables, every = {full: {}}, [full]
            elif (
                not exact
                and problem is None
                and all(
                    table[k] * full == found.groups[k].width * value for value, table in tables.items() for k in narrows
                )
            ):
                whole = {k: found.groups[k].width for k in narrows}
                every = [v for v in every if all(n * v % full == 0 for n in whole.values())]
                tables = {v: {k: n * v // full for k, n in whole.items()} for v in every}
            elif not exact and problem is None:
                tables, _ = self._tables(place, every, costs)
            taken.update(narrows)
            members.append(narrows)
            levels = [tuple(table[k] for k in narrows) for table in tables.values()]
            choices = [found.choices[k] for k in narrows]
            worths = [
                worth((c.energy[w - 1], c.readers) for c, w in zip(choices, level, strict=True)) for level in levels
            ]
            units.append(Unit(tuple(levels), tuple(worths)))
            values.append(list(tables))
        return members, units, values

    def _tables(self, place: int, values: Sequence[int], costs: Costs) -> tuple[dict[int, dict[int, int]], str | None]:
        """The widths of all groups at some values of one width, the others as they are in the teacher; what failed."""
        full = self.full[place]
        tables: dict[int, dict[int, int]] = {}
        problem: str | None = None
        downwards = sorted({*values, full}, reverse=True)
        for value in sorted(downwards[:: max(1, len(downwards) // VALUES)]):
            try:
                sizes = self.sizes([*self.full[:place], value, *self.full[place + 1 :]])
            except Exception as error:  # its own checks: not every width can be built
                problem = problem or f"{type(error).__name__}: {error}"
                continue
            try:
                tables[value] = costs.infer(sizes)
            except CompressionError as error:  # another network there: a shortcut where two widths are equal
                problem = f"{type(error).__name__}: {error}"
                if value == full:
                    raise
        return tables, problem

    def filled(self, values: Sequence[int], start: nn.Module) -> nn.Module:
        """The network with these widths and the weights of `start`, by name.

        Raises
        ------
        CompressionError
            The names or shapes differ.
        """
        student = self.network(values)
        try:
            student.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise CompressionError(
                "the built network can't be filled by name", got=str(error).splitlines()[-1]
            ) from None
        reference = next((p for p in start.parameters()), None)
        if reference is not None:
            student.to(reference.device, reference.dtype)
            student.load_state_dict(start.state_dict())
        even_scales(start, student)
        return restore(student).eval()
