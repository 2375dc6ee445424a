"""compress(): a student of the size that is named, started from its teacher's weights."""

from __future__ import annotations

import io
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
    """A student made from its teacher, by `compress`. ``str()`` is a table.

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
        Of the file.
    notes : tuple of str
        What to know about it.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3))
    >>> done = compress(net, None, data=[torch.randn(4, 1, 32)], widths={"0": 3})
    >>> done.widths, done.student[0].out_channels
    ({'0': 3}, 3)
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

    def export(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the student as a program of `torch.export`, which runs where neither skd nor its class is.

        Parameters
        ----------
        path : path
            Mostly ``….pt2``.
        *args, **kwargs
            An example of what the student is called with; the program takes these shapes.

        Raises
        ------
        FileError
            It can't be written.
        """
        program = torch.export.export(self.student, args, kwargs)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write_atomically(path, buffer.getvalue())

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
    """Make a narrower student of a teacher, both sides of each pair by the same share, started from its weights.

    The network is traced, and channels that are one and the same are found: a residual stream's, a concatenation's
    parts, a norm's and a depthwise convolution's. Each such group is narrowed as one; that its places are the right
    ones is proven by running a narrowed copy. What can't be narrowed stays whole, with its reason in the report. Groups
    that a pair reads on its two sides keep the same share of their widths.

    One pass over the data measures what every layer reads. Widths are given where they keep the most of that under the
    budget: the sum over all layers of the logarithm of the energy kept. Of a group, those channels are kept that
    explain the others best (pivoted Cholesky), and what the others were is folded into the layers that read them, by
    least squares; see DESIGN 6.5.

    Parameters
    ----------
    teacher : nn.Module
        It is left as it is.
    spectra : Spectra or None
        Of `measure`: its pairs are narrowed together, and its covariances count. None: no pairs.
    data : iterable
        Calibration batches of what the teacher is called with, read several times; some hundred positions a channel.
    size, ratio, widths : optional
        One of them. Bytes of the student's file, as "200 KB" (of 1,024), "1.5 MB" or an integer; or how many times
        smaller than the teacher's file; or the widths themselves: by the names of groups, as `Compressed.widths` has
        them, or with `build`, what it is called with. Counted is a safetensors file of all parameters and buffers, in
        `dtype`, its head included.
    build : callable, optional
        A function from widths to a narrower network of the teacher's class, which is filled by name. Its student is
        saved as a state dict like any other. Without it, a copy of the teacher is narrowed: `Compressed.export` saves
        it, or `save` and `save_widths`.
    full : sequence or mapping of int, optional
        The widths with which `build` makes the teacher; it is called with the same kind. By default the pairs' widths,
        outermost first, and the bottleneck's.
    dtype : torch.dtype
        Floating point numbers are saved in this one; the student itself keeps the teacher's.
    allocation : {"energy", "uniform"}
        Widths by energy, or one share for all.
    start : {"projected", "cut"}
        Weights folded, or only cut: a control.
    bases : {"subset", "rotated"}
        Channels, or leading directions where nothing but linear operations that treat all channels alike is between
        layers (elsewhere channels).
    minimum, multiple : int
        Least width, and what widths are multiples of.
    inputs : callable, optional
        Turns an item of `data` into what the teacher takes, e.g. ``lambda batch: batch[0]``.
    batches : int, optional
        Read so many batches at most.

    Returns
    -------
    Compressed
        The student, a plain module without anything of skd in it, its widths, and a report.

    Raises
    ------
    CompressionError
        The size is impossible (says the smallest that is possible), the network can't be traced, or `build` doesn't
        make narrower copies of it.
    DataError, NonFiniteError
        No data, too few (says how many are needed), constant ones, or NaN.
    ArgumentError
        A size or another argument that can't be.
    MissingExtraError
        torch-pruning isn't installed.

    Examples
    --------
    >>> from skd import measure, pair
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
    ...                     nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 3, 2, 2))
    >>> data = [torch.randn(4, 3, 16, 24) for _ in range(4)]
    >>> done = compress(net, measure(net, pair(net, data[0]), data), data=data, size="10 KB")
    >>> done.bytes <= 10 * 1024, done.student[0].out_channels == done.student[4].out_channels
    (True, True)
    """
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
    plan = _Plan(found, costs, budget, allocation, factory, minimum, multiple)
    if widths is None:
        plan.choose()
    elif factory is None:
        plan.widths = _given(found, widths)
    else:
        plan.picked = list(widths.values()) if isinstance(widths, Mapping) else list(widths)
        plan.widths = costs.infer(factory.sizes(plan.picked))
    budget = costs.total(plan.widths) if widths is not None else budget
    chosen = {k: width for k, width in plan.widths.items() if k in found.choices}
    student = project(
        teacher, found.groups, found.choices, chosen, found.wanted, found.moments, lifted=start == "projected"
    )
    if factory is not None:
        student = factory.filled(plan.picked, student)
    student.eval()
    names = _names(found)
    return Compressed(
        student,
        {names[k]: width for k, width in chosen.items()},
        tuple(_row(found, costs, chosen, k, names[k]) for k in range(len(found.groups))),
        file_bytes(sizes_of(student, dtype)),
        budget,
        teacher_bytes,
        plan.following,
        output_energy(teacher, student, source),
        dtype,
        found.notes,
    )


class _Plan:
    """Widths under a budget, and for a factory what it is called with."""

    def __init__(
        self,
        found: Analysis,
        costs: Costs,
        budget: int,
        allocation: Allocation,
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
        for exact in (False, True):
            self.members, self.units, values = factory.units(self.found, self.costs, *self.least, exact=exact)
            levels = self._allocate()
            self.picked = [each[level] for each, level in zip(values, levels, strict=True)]
            try:
                built = self.costs.infer(factory.sizes(self.picked))
            except Exception as error:
                problem: object = f"{type(error).__name__}: {error}"
            else:
                if all(built[k] == width for k, width in self.widths.items()):
                    return
                problem = "other channels than its widths one by one"
        raise CompressionError(
            f"build fails at the widths that fit best, {factory.given(self.picked)!r}",
            got=problem,
            remedy="give multiple=…, of which the widths must be multiples, or widths=…",
        )

    def _allocate(self) -> list[int]:
        if self.allocation == "energy":
            levels = by_energy(self.units, self.budget, self.total, self.steps)
        else:
            levels = uniform(self.units, self.budget, self.total)
        self.widths = self.spread(levels)
        wider = [
            self.total([*levels[:u], level + 1, *levels[u + 1 :]])
            for u, level in enumerate(levels)
            if level + 1 < len(self.units[u].levels)
        ]
        self.following = min(wider, default=None)
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
    levels = [
        level for level in dict.fromkeys([*levels, whole]) if costs.allowed(dict(zip(members, level, strict=True)))
    ]
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
            raise ArgumentError(
                "no group that can be narrowed has this name", got=repr(name), expected=", ".join(known)
            )
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
