"""What was retained, layer by layer, and what it costs: energy kept, alignment, losses, gradients, sizes, time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skd._looking import evaluate, undisturbed, unwrapped
from skd._measuring import arguments
from skd._reporting.costs import in_turns, multiply_adds, waiting
from skd._reporting.measuring import Values, gradients, look, row_of, shares, tensors
from skd._reporting.results import Narrowed, Report, Row, Spectrum
from skd.distiller import Distiller
from skd.errors import ArgumentError, DataError
from skd.spectra import Spectra

if TYPE_CHECKING:
    from skd.compressing import Compressed

__all__ = ["Narrowed", "Report", "Row", "Spectrum", "report"]


def report(
    distiller: nn.Module,
    loader: Iterable[Any],
    *,
    batches: int | None = None,
    inputs: Callable[[Any], Any] | None = None,
    gradient_shares: bool = False,
    rounds: int = 0,
    spectra: Spectra | None = None,
    compressed: Compressed | None = None,
) -> Report:
    """Measure what the student has taken from its teacher, transfer by transfer, and what it costs.

    All networks run in eval mode, without gradients unless their shares are asked for; flags, buffers, `.grad` and
    random states are as before afterwards, also after an error.

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
    gradient_shares : bool
        Measure how much of the student's gradient comes from each term: a backward run a term and batch.
    rounds : int
        Time teacher and student on the first batch, in turns, so many times; 0 leaves it out.
    spectra : Spectra, optional
        Of `measure`, to go into the report.
    compressed : Compressed, optional
        Of `compress`, whose groups go into the report.

    Returns
    -------
    Report

    Raises
    ------
    DataError
        The loader is empty, or an item is of the wrong kind.
    NonFiniteError
        A loss or its gradient is NaN or infinite; says which transfer and batch.
    ArgumentError
        This isn't a distiller, `batches` isn't positive, `rounds` is negative, or what is given to go into the report
        is something else.

    Examples
    --------
    >>> from skd.methods import Transfer
    >>> teacher = nn.Conv2d(1, 4, 3, padding=1)
    >>> twin = nn.Conv2d(1, 4, 3, padding=1)
    >>> _ = twin.load_state_dict(teacher.state_dict())
    >>> found = report(Distiller(teacher, twin, [Transfer("output", "", "")]), [torch.randn(2, 1, 6, 8)])
    >>> found.rows[0].loss, round(found.rows[0].alignment, 4), found.student_parameters, found.student_multiply_adds
    (0.0, 1.0, 40, 3456)
    """
    inner = unwrapped(distiller)
    if batches is not None and batches < 1:
        raise ArgumentError("at least one batch has to be looked at", got=f"batches={batches}")
    if rounds < 0:
        raise ArgumentError("rounds of timing", got=rounds, expected="0 or more")
    beside = {**_spectra(spectra), **_narrowed(compressed)}
    rows = [inner.transfers[index] for index in inner.active]
    found: dict[str, list[Values]] = {row.name: [] for row in rows}
    norms: list[dict[str, float]] = []
    costs: dict[str, Any] = {}
    seen = 0
    with undisturbed(inner), _flags_kept(inner), torch.no_grad():
        evaluate(inner)
        for index, item in enumerate(islice(loader, batches)):
            args, kwargs = arguments(inner.student, item if inputs is None else inputs(item), index)
            for name, values in look(inner, rows, args, kwargs, index).items():
                found[name].append(values)
            if gradient_shares:
                norms.append(gradients(inner, args, kwargs, index))
            if index == 0:
                costs = _costs(inner, args, kwargs, rounds)
            seen += 1
    if seen == 0:
        raise DataError("there are no data to report on", got="0 batches", remedy="give at least one batch")
    teachers, students = list(inner.teachers.values()), [inner.student]
    share = shares(norms)
    return Report(
        rows=tuple(row_of(row, found[row.name], share.get(row.name)) for row in rows),
        teacher_parameters=sum(tensor.numel() for tensor in tensors(teachers, buffers=False)),
        student_parameters=sum(tensor.numel() for tensor in tensors(students, buffers=False)),
        teacher_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors(teachers)),
        student_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors(students)),
        batches=seen,
        **costs,
        **beside,
    )


@contextmanager
def _flags_kept(distiller: Distiller) -> Iterator[None]:
    """Put the teachers' gradient flags back: a second run of a teacher sets them."""
    flags = [(p, p.requires_grad) for teacher in distiller.teachers.values() for p in teacher.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _costs(distiller: Distiller, args: Any, kwargs: Any, rounds: int) -> dict[str, Any]:
    """Multiply-adds and latency of one forward; the teachers' together, each on what the distiller gives it."""
    theirs, their_kwargs = distiller.teacher_inputs(*args, **kwargs) if distiller.teacher_inputs else (args, kwargs)

    def student() -> None:
        distiller.student(*args, **kwargs)

    def teachers() -> None:
        for teacher in distiller.teachers.values():
            teacher(*theirs, **their_kwargs)

    costs: dict[str, Any] = {
        "teacher_multiply_adds": multiply_adds([teachers]),
        "student_multiply_adds": multiply_adds([student]),
    }
    if rounds:
        times = in_turns([teachers, student], rounds, waiting(distiller.factors.device))
        costs |= {"teacher_milliseconds": times[0], "student_milliseconds": times[1], "rounds": rounds}
    return costs


def _spectra(spectra: Spectra | None) -> dict[str, Any]:
    if spectra is None:
        return {}
    if not isinstance(spectra, Spectra):
        raise ArgumentError("these aren't spectra", got=type(spectra).__name__, expected="what skd.measure returns")
    every = [*spectra, *([spectra.bottleneck] if spectra.bottleneck else [])]
    return {
        "spectra": tuple(
            Spectrum(
                pair.name, tuple(pair.eigenvalues("encoder").tolist()), tuple(pair.eigenvalues("decoder").tolist())
            )
            for pair in every
        )
    }


def _narrowed(compressed: Compressed | None) -> dict[str, Any]:
    if compressed is None:
        return {}
    from skd.compressing import Compressed as Known  # whoever has one has loaded it

    if not isinstance(compressed, Known):
        raise ArgumentError(
            "this isn't a compressed student", got=type(compressed).__name__, expected="what skd.compress returns"
        )
    rows = tuple(Narrowed(row.group, row.width, row.kept, row.energy, row.bytes, row.whole) for row in compressed.rows)
    return {"narrowed": rows, "output_energy": compressed.output_energy}
