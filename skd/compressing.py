"""compress(): a student of the size that is named, started from its teacher's weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from skd._compression.analysis import Analysis, Data, analyse
from skd._compression.budget import file_bytes, parse_size, size_text, sizes_of, to_file
from skd._compression.costs import Costs
from skd._compression.factory import Factory
from skd._compression.outcome import output_energy
from skd._compression.projection import project
from skd._compression.widths import Unit, by_energy, uniform, worth
from skd._files import read_bytes, write_atomically
from skd._tables import format_table
from skd.errors import ArgumentError, CompressionError, FileError
from skd.spectra import Spectra

__all__ = ["Compressed", "compress"]

FORMAT, VERSION = "skd.widths", 1

Allocation = Literal["energy", "uniform"]
Start = Literal["projected", "cut"]
Bases = Literal["subset", "rotated"]


@dataclass(frozen=True)
class Row:
    """One channel group: its layers, its width before and after, and the energy that its basis keeps."""

    group: str
    layers: tuple[str, ...]
    width: int
    kept: int
    energy: float
    basis: str
    bytes: int
    whole: str | None = None


@dataclass(frozen=True)
class Compressed:
    """A student made from its teacher. ``str()`` is a table.

    Attributes
    ----------
    student : nn.Module
        A plain module, in eval mode.
    widths : dict of str to int
        Of the groups that could be narrowed, by name; `compress(widths=…)` makes the same network again.
    rows : tuple of Row
        One a group.
    bytes, budget, teacher_bytes : int
        Of the student's file in `dtype`; what it was allowed; of the teacher's file.
    next_bytes : int or None
        The smallest file above this one, one step wider in a single group; None where all are whole.
    output_energy : float
        Share of the variance of the teacher's output that the student's has before any training:
        1 − Σ(y_T − y_S)² / Σ(y_T − ȳ_T)². It is below 0 where the student's output is worse than a constant.
    dtype : torch.dtype
    notes : tuple of str
    """

    student: nn.Module
    widths: dict[str, int]
    rows: tuple[Row, ...]
    bytes: int
    budget: int
    teacher_bytes: int
    next_bytes: int | None
    output_energy: float
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = field(default=())

    @property
    def unused(self) -> float:
        """Share of the budget that is left."""
        return 1 - self.bytes / self.budget

    def __str__(self) -> str:
        header = ["group", "layers", "width", "kept", "basis", "energy kept", "bytes"]
        rows = [
            [
                row.group,
                str(len(row.layers)),
                str(row.width),
                str(row.kept) if row.whole is None else "whole",
                row.basis,
                "-" if row.whole is not None else f"{row.energy:.1%}",
                f"{row.bytes:,}",
            ]
            for row in self.rows
        ]
        whole = [f"{row.group} is whole: {row.whole}" for row in self.rows if row.whole is not None]
        title = (
            f"Compressed {self.teacher_bytes / self.bytes:.1f} times: {self.bytes:,} of {self.budget:,} bytes "
            f"({size_text(self.bytes)} in {str(self.dtype).removeprefix('torch.')}, {self.unused:.1%} unused), "
            f"output energy kept {self.output_energy:.1%}"
        )
        return format_table(title, header, rows, (*self.notes, *whole))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the student's weights in `dtype` as a safetensors file, of `bytes` bytes; whole or not at all.

        Raises
        ------
        FileError
            It can't be written.
        """
        write_atomically(path, to_file(self.student, self.dtype))

    def save_widths(self, path: str | os.PathLike[str]) -> None:
        """Write the widths as JSON: with the teacher's class, enough to make the student's shape again.

        Raises
        ------
        FileError
            It can't be written.
        """
        content = {"format": FORMAT, "version": VERSION, "widths": self.widths}
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())

    @staticmethod
    def load_widths(path: str | os.PathLike[str]) -> dict[str, int]:
        """Read what `save_widths` wrote.

        Raises
        ------
        FileError
            The file is missing, or not such a file.
        """
        data = read_bytes(path)
        try:
            content = json.loads(data)
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            return {str(name): int(width) for name, width in content["widths"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{str(path)!r} is no widths file, or a damaged one", got=error) from error


def compress(
    teacher: nn.Module,
    spectra: Spectra | None,
    *,
    data: Any,
    size: str | int | None = None,
    ratio: float | None = None,
    widths: Mapping[str, int] | Sequence[int] | None = None,
    build: Callable[[Any], nn.Module] | None = None,
    full: Sequence[int] | Mapping[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    allocation: Allocation = "energy",
    start: Start = "projected",
    bases: Bases = "subset",
    minimum: int = 1,
    multiple: int = 1,
    inputs: Callable[[Any], Any] | None = None,
    batches: int | None = None,
) -> Compressed:
    """Make a narrower student of a teacher, both sides of each pair by the same share, started from its weights."""
    for name, value, kind in (("allocation", allocation, Allocation), ("start", start, Start), ("bases", bases, Bases)):
        if value not in get_args(kind):
            raise ArgumentError(f"there is no such {name}", got=repr(value), expected=", ".join(get_args(kind)))
    if sum(each is not None for each in (size, ratio, widths)) != 1:
        raise ArgumentError("a student needs one of size=, ratio= and widths=")
    teacher_bytes = file_bytes(sizes_of(teacher, dtype))
    budget = teacher_bytes
    if size is not None:
        budget = parse_size(size)
    elif ratio is not None:
        if not ratio >= 1:
            raise ArgumentError("a ratio says how many times smaller", got=ratio, expected="1 or more")
        budget = int(teacher_bytes / ratio)
    source = Data.of(data, inputs, batches)
    factory = None if build is None else Factory(build, full or _levels(spectra), teacher, dtype)
    found = analyse(teacher, spectra, source, rotated=bases == "rotated", verified=factory is None)
    costs = Costs(teacher, found.groups, dtype)
    values: list[list[int]] = []
    if factory is None:
        members = list(found.units)
        units = [_unit(found, costs, each, minimum, multiple) for each in members]
    else:
        members, units, values = factory.units(found, costs, minimum, multiple)

    def spread(levels: Sequence[int]) -> dict[int, int]:
        return {
            k: width
            for each, unit, level in zip(members, units, levels, strict=True)
            for k, width in zip(each, unit.levels[level], strict=True)
        }

    def total(levels: Sequence[int]) -> int:
        return costs.total(spread(levels))

    def steps(levels: Sequence[int], u: int) -> npt.NDArray[np.int64]:
        found_bytes = costs.of(members[u], spread(levels), units[u].levels)
        return found_bytes - found_bytes[levels[u]]

    following, picked = None, list[int]()
    if widths is not None:
        if factory is None:
            chosen = _given(found, widths)
        else:
            picked = list(widths.values()) if isinstance(widths, Mapping) else list(widths)
            chosen = costs.infer(factory.sizes(picked))
        budget = costs.total(chosen)
    else:
        levels = by_energy(units, budget, total, steps) if allocation == "energy" else uniform(units, budget, total)
        chosen = spread(levels)
        wider = [
            total([*levels[:u], level + 1, *levels[u + 1 :]])
            for u, level in enumerate(levels)
            if level + 1 < len(units[u].levels)
        ]
        following = min(wider, default=None)
        picked = [each[level] for each, level in zip(values, levels, strict=True)] if factory else []
    chosen = {k: width for k, width in chosen.items() if k in found.choices}
    student = project(
        teacher, found.groups, found.choices, chosen, found.wanted, found.moments, lifted=start == "projected"
    )
    if factory is not None:
        student = factory.filled(picked, student)
    student.eval()
    names = _names(found)
    return Compressed(
        student,
        {names[k]: width for k, width in chosen.items()},
        tuple(_row(found, costs, chosen, k, names[k]) for k in range(len(found.groups))),
        file_bytes(sizes_of(student, dtype)),
        budget,
        teacher_bytes,
        following,
        output_energy(teacher, student, source),
        dtype,
        found.notes,
    )


def _levels(spectra: Spectra | None) -> tuple[int, ...]:
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
    levels = [level for level in dict.fromkeys([*levels, whole]) if costs.allowed(dict(zip(members, level, strict=True)))]
    choices = [found.choices[k] for k in members]
    values = [worth([(c.energy[w - 1], c.readers) for c, w in zip(choices, level, strict=True)]) for level in levels]
    return Unit(tuple(levels), tuple(values))


def _names(found: Analysis) -> list[str]:
    """Names of the groups, each once: several of one layer are numbered."""
    names: list[str] = []
    for group in found.groups:
        count = sum(name.partition("#")[0] == group.name for name in names)
        names.append(f"{group.name}#{count}" if count else group.name)
    return names


def _given(found: Analysis, widths: Mapping[str, int] | Sequence[int]) -> dict[int, int]:
    if not isinstance(widths, Mapping):
        raise ArgumentError("widths are given by the names of groups", got=type(widths).__name__, expected="a mapping")
    names = _names(found)
    known = {names[k]: k for k in found.choices}
    chosen = {k: found.groups[k].width for k in found.choices}
    for name, width in widths.items():
        if name not in known:
            raise ArgumentError("no group that can be narrowed has this name", got=repr(name), expected=", ".join(known))
        group = found.groups[known[name]]
        if not 1 <= width <= group.width or width % group.step:
            expected = f"1 to {group.width}" + (f", a multiple of {group.step}" if group.step > 1 else "")
            raise ArgumentError(f"group {name!r} can't have this width", got=width, expected=expected)
        chosen[known[name]] = width
    return chosen


def _row(found: Analysis, costs: Costs, widths: Mapping[int, int], k: int, name: str) -> Row:
    group, choice = found.groups[k], found.choices.get(k)
    kept = widths.get(k, group.width)
    return Row(
        name,
        group.layers,
        group.width,
        kept,
        1.0 if choice is None else choice.energy[kept - 1],
        "-" if choice is None else "rotated" if choice.rotated else "subset",
        int(costs.of([k], widths, [[kept]])[0]),
        group.whole,
    )


