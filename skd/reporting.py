"""What was retained, layer by layer: energy kept, alignment, losses, sizes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skd._files import read_bytes, write_atomically
from skd._looking import evaluate, undisturbed, unwrapped
from skd._measuring import arguments
from skd._tables import format_table
from skd.distiller import Distiller
from skd.errors import ArgumentError, DataError, FileError, MissingExtraError, NonFiniteError, SkdError
from skd.knowledge import kernel_alignment, position_samples
from skd.methods.transfer import Transfer
from skd.taps import Layout, Tap, as_layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "Row", "report"]

FORMAT, VERSION = "skd.report", 1


@dataclass(frozen=True)
class Row:
    """One transfer of a report.

    Attributes
    ----------
    name, teacher, student : str
        The transfer and its taps.
    loss : float or None
        Unweighted, the mean over the batches. None where it is made in the teacher's second run (`Through`) and a
        schedule holds its weight at zero.
    alignment : float or None
        Debiased CKA between the raw features of both sides, of up to 512 positions a batch: 1 is the same up to
        rotation and scale, 0 unrelated. None where it isn't defined (several taps, a second run, an unstated layout,
        another number of positions, fewer than four).
    energy_kept : float or None
        Share of the teacher's variance in the basis that the student is compared in; None where there is no basis.

    Examples
    --------
    >>> Row("output", "output", "output", 0.25, None, None).loss
    0.25
    """

    name: str
    teacher: str
    student: str
    loss: float | None
    alignment: float | None
    energy_kept: float | None


@dataclass(frozen=True)
class Report:
    """What a student has taken from its teacher. ``str()`` is a table.

    Attributes
    ----------
    rows : tuple of Row
        One a transfer of the present stage.
    teacher_parameters, student_parameters : int
        Their numbers, each counted once; of all teachers together.
    teacher_bytes, student_bytes : int
        Of parameters and buffers, at the dtype they have.
    batches : int
        How many batches were looked at.

    Examples
    --------
    >>> found = Report((Row("output", "output", "output", 0.25, 0.9, None),), 5_000, 500, 20_000, 2_000, 1)
    >>> print(found)
    Report on 1 batch: student 500 parameters (2.0 KB), teacher 5,000 (19.5 KB), 10.0 times as large
      transfer  teacher  student  loss  alignment  energy kept
      output    output   output   0.25  0.900      -
    >>> Report.from_json(found.to_json()) == found
    True
    """

    rows: tuple[Row, ...]
    teacher_parameters: int
    student_parameters: int
    teacher_bytes: int
    student_bytes: int
    batches: int

    def __str__(self) -> str:
        header = ["transfer", "teacher", "student", "loss", "alignment", "energy kept"]
        rows = [
            [
                row.name,
                row.teacher,
                row.student,
                _text(row.loss, ".4g"),
                _text(row.alignment, ".3f"),
                _text(row.energy_kept, ".1%"),
            ]
            for row in self.rows
        ]
        title = (
            f"Report on {self.batches} batch{'es' * (self.batches > 1)}: "
            f"student {self.student_parameters:,} parameters ({self.student_bytes / 1024:.1f} KB), "
            f"teacher {self.teacher_parameters:,} ({self.teacher_bytes / 1024:.1f} KB), "
            f"{self.teacher_bytes / max(1, self.student_bytes):.1f} times as large"
        )
        return format_table(title, header, rows)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {"format": FORMAT, "version": VERSION, **asdict(self), "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_json` wrote.

        Raises
        ------
        ArgumentError
            The values aren't a report's, or of another version.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ArgumentError("this isn't a report's JSON", expected=f"the format {FORMAT!r}")
        if data.get("version") != VERSION:
            raise ArgumentError("the report has another version", got=data.get("version"), expected=VERSION)
        try:
            rows = tuple(Row(**row) for row in data["rows"])
            return cls(rows, **{field.name: int(data[field.name]) for field in fields(cls) if field.name != "rows"})
        except (KeyError, TypeError, ValueError) as error:
            raise ArgumentError("the report's JSON is damaged", got=error) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file; it is there whole or not at all.

        Raises
        ------
        FileError
            It can't be written.
        """
        write_atomically(path, (json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read what `save` wrote.

        Raises
        ------
        FileError
            The file is missing, truncated, or not such a file.
        """
        content = read_bytes(path)
        try:
            return cls.from_json(json.loads(content))
        except (ValueError, SkdError) as error:
            raise FileError(f"{str(path)!r} is no report file, or a damaged one", got=error) from error

    def figure(self) -> Figure:
        """Bars of loss, alignment and energy kept by transfer (matplotlib); no bar where there is no value.

        Raises
        ------
        MissingExtraError
            matplotlib isn't installed.
        """
        try:
            from matplotlib.figure import Figure as NewFigure
        except ImportError:
            raise MissingExtraError("matplotlib", extra="plot", purpose="the figure of a report") from None
        figure = NewFigure(figsize=(9, 1.2 + 0.3 * len(self.rows)), layout="constrained")
        columns = (
            ("loss (0 is a copy)", [row.loss for row in self.rows]),
            ("alignment (debiased CKA)", [row.alignment for row in self.rows]),
            ("energy kept", [row.energy_kept for row in self.rows]),
        )
        panels = figure.subplots(1, len(columns), sharey=True)
        for axes, (title, values) in zip(panels, columns, strict=True):
            places = [place for place, value in enumerate(values) if value is not None]
            axes.barh(places, [value for value in values if value is not None], color="#4c72b0")
            axes.set_title(title, fontsize=9)
            axes.set_yticks(range(len(values)), [row.name for row in self.rows], fontsize=8)
            axes.tick_params(axis="x", labelsize=8)
        panels[0].set_ylim(len(self.rows) - 0.5, -0.5)  # the first on top, for all: they share the axis
        for axes, (_, values) in zip(panels[1:], columns[1:], strict=True):
            axes.set_xlim(min([0.0, *(value for value in values if value is not None)]), 1)
        return figure


def report(
    distiller: nn.Module,
    loader: Iterable[Any],
    *,
    batches: int | None = None,
    inputs: Callable[[Any], Any] | None = None,
) -> Report:
    """Measure what the student has taken from its teacher, transfer by transfer.

    All networks run in eval mode without gradients; flags, buffers and random states are as before afterwards, also
    after an error.

    Parameters
    ----------
    distiller : Distiller
        Or the DDP or compiled module around it.
    loader : iterable
        Of what the distiller is called with: a tensor, a tuple of arguments or a dict of keyword arguments.
    batches : int, optional
        Look at so many at most.
    inputs : callable, optional
        Turns an item of `loader` into what the distiller takes, e.g. ``lambda batch: batch[0]``.

    Returns
    -------
    Report

    Raises
    ------
    DataError
        The loader is empty, or an item is of the wrong kind.
    NonFiniteError
        A loss is NaN or infinite; says which transfer and batch.
    ArgumentError
        This isn't a distiller, or `batches` isn't positive.

    Examples
    --------
    >>> from skd.methods import Transfer
    >>> teacher = nn.Conv2d(1, 4, 3, padding=1)
    >>> twin = nn.Conv2d(1, 4, 3, padding=1)
    >>> _ = twin.load_state_dict(teacher.state_dict())
    >>> found = report(Distiller(teacher, twin, [Transfer("output", "", "")]), [torch.randn(2, 1, 6, 8)])
    >>> found.rows[0].loss, round(found.rows[0].alignment, 4), found.student_parameters
    (0.0, 1.0, 40)
    """
    inner = unwrapped(distiller)
    if batches is not None and batches < 1:
        raise ArgumentError("at least one batch has to be looked at", got=f"batches={batches}")
    rows = [inner.transfers[index] for index in inner.active]
    found: dict[str, list[_Values]] = {row.name: [] for row in rows}
    seen = 0
    with undisturbed(inner), torch.no_grad():
        evaluate(inner)
        for index, item in enumerate(islice(loader, batches)):
            args, kwargs = arguments(inner.student, item if inputs is None else inputs(item), index)
            for name, values in _look(inner, rows, args, kwargs).items():
                if values[0] is not None and not math.isfinite(values[0]):
                    remedy = "look at this batch, and at the student's output"
                    raise NonFiniteError(
                        f"the loss {name!r} of batch {index} isn't finite", got=values[0], remedy=remedy
                    )
                found[name].append(values)
            seen += 1
    if seen == 0:
        raise DataError("there are no data to report on", got="0 batches", remedy="give at least one batch")
    teachers, students = list(inner.teachers.values()), [inner.student]
    return Report(
        rows=tuple(_row(row, found[row.name]) for row in rows),
        teacher_parameters=sum(tensor.numel() for tensor in _tensors(teachers, buffers=False)),
        student_parameters=sum(tensor.numel() for tensor in _tensors(students, buffers=False)),
        teacher_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _tensors(teachers)),
        student_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _tensors(students)),
        batches=seen,
    )


_Values = tuple[float | None, float | None]  # loss and alignment


def _look(distiller: Distiller, rows: list[Transfer], args: Any, kwargs: Any) -> dict[str, _Values]:
    """Loss and alignment of every row on one batch."""
    student, teachers = distiller.features(*args, **kwargs)
    values: dict[str, _Values] = {}
    for row in rows:
        if row.through is None:
            ours, theirs = distiller.knowledge(row, student, teachers[row.of])
            values[row.name] = float(row.distance(ours, theirs)), _alignment(row, student, teachers[row.of])
    if len(values) < len(rows):  # the others' student side is made in the teacher's second run
        terms = distiller(*args, **kwargs).losses.terms
        for row in rows:
            factor = float(distiller.factors[distiller.transfers.index(row)])
            if row.through is not None:
                values[row.name] = (float(terms[row.name]) / factor if factor else None), None
    return values


def _row(row: Transfer, values: list[_Values]) -> Row:
    teacher, student = (
        ", ".join(str(tap) or "output" for tap in taps) for taps in (row.teacher_taps, row.student_taps)
    )
    losses, alignments = zip(*values, strict=True)
    return Row(row.name, teacher, student, _mean(losses), _mean(alignments), row.info.get("energy kept"))


def _alignment(row: Transfer, student: Mapping[Tap, Tensor], teacher: Mapping[Tap, Tensor]) -> float | None:
    if len(row.student_taps) != 1 or len(row.teacher_taps) != 1:
        return None
    samples, positions = [], []
    for features, tap in ((student, row.student_taps[0]), (teacher, row.teacher_taps[0])):
        feature = features[tap]
        if tap.layout is None and feature.ndim not in (2, 4, 5):
            return None
        layout: Layout = as_layout(feature, tap)
        samples.append(position_samples(feature, layout=layout))
        positions.append(feature.shape[:2] if layout == "BNC" else (feature.shape[0], *feature.shape[2:]))
    if positions[0] != positions[1] or len(samples[0]) < 4:
        return None
    return float(kernel_alignment(*samples))


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _tensors(networks: Iterable[nn.Module], *, buffers: bool = True) -> list[Tensor]:
    """Every parameter (and buffer) once, however many layers share it."""
    found: dict[int, Tensor] = {}
    for network in networks:
        for tensor in (*network.parameters(), *(network.buffers() if buffers else ())):
            found[id(tensor)] = tensor
    return list(found.values())
