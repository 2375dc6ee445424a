"""What a distiller can be made of; checked before anything is changed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import nn

from skd.errors import ArgumentError, closest
from skd.methods.transfer import Stage, Through, Transfer


def check_networks(teachers: Mapping[str, nn.Module], student: nn.Module) -> None:
    """Raise ArgumentError unless there is a teacher, and a student that is another network."""
    for name, network in {**{f"teacher {name!r}": one for name, one in teachers.items()}, "student": student}.items():
        if not isinstance(network, nn.Module):
            raise ArgumentError(f"the {name} isn't a network", got=type(network).__name__, expected="an nn.Module")
    if not teachers or any(one is student for one in teachers.values()):
        raise ArgumentError("a distiller needs a teacher that isn't the student itself", remedy="copy.deepcopy it")


def check_rows(rows: tuple[Transfer, ...], teachers: Mapping[str, nn.Module]) -> None:
    """Raise ArgumentError for no rows, two of one name, or one whose teacher isn't there."""
    if not rows or not all(isinstance(row, Transfer) for row in rows):
        raise ArgumentError("a distiller needs at least one transfer", got=", ".join(map(str, rows)) or "none")
    names = [row.name for row in rows]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ArgumentError("two transfers have the same name", got=", ".join(double))
    runs: dict[Through, str] = {}
    for row in rows:
        if row.of not in teachers:
            raise ArgumentError(
                f"transfer {row.name!r} learns of a teacher that isn't there",
                got=repr(row.of),
                remedy=closest(row.of, teachers),
            )
        if row.through is not None and runs.setdefault(row.through, row.of) != row.of:
            raise ArgumentError(
                f"transfer {row.name!r} shares a second run with one of another teacher",
                got=f"{row.of!r} and {runs[row.through]!r}",
                remedy="make a Through for each teacher",
            )


def check_stages(stages: tuple[Stage, ...], rows: tuple[Transfer, ...], student: nn.Module) -> None:
    """Raise ArgumentError for stages that don't follow each other, or that name what isn't there."""
    ends = [0, *(float("inf") if stage.until is None else stage.until for stage in stages)]
    if any(end <= start for start, end in itertools.pairwise(ends)):
        got = [stage.until for stage in stages]
        raise ArgumentError("stages end one after the other, and only the last may go on", got=got)
    names, layers = [row.name for row in rows], [name for name, _ in student.named_modules(remove_duplicate=False)]
    for stage in stages:
        stage.check(names, layers)
