"""Losses, alignment and gradients of a distiller on one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skd._reporting.results import Row
from skd.distiller import Distiller
from skd.errors import NonFiniteError
from skd.knowledge import kernel_alignment, position_samples
from skd.methods.transfer import Transfer
from skd.taps import Layout, Tap, as_layout

Values = tuple[float | None, float | None]  # loss and alignment


def look(distiller: Distiller, rows: Sequence[Transfer], args: Any, kwargs: Any, batch: int) -> dict[str, Values]:
    """Loss and alignment of every row on one batch."""
    student, teachers = distiller.features(*args, **kwargs)
    values: dict[str, Values] = {}
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
    for name, (loss, _) in values.items():
        _check_finite(loss, f"the loss {name!r}", batch)
    return values


def gradients(distiller: Distiller, args: Any, kwargs: Any, batch: int) -> dict[str, float]:
    """Norm of the gradient of each weighted term on the student's trained parameters; `.grad` isn't touched."""
    parameters = [p for p in distiller.student.parameters() if p.requires_grad]
    norms = {}
    with torch.inference_mode(False), torch.enable_grad():
        terms = distiller(*args, **kwargs).losses.terms
        for name, term in terms.items():
            found: Sequence[Tensor | None] = []
            if parameters and term.requires_grad:
                found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            squares = [float(each.double().square().sum()) for each in found if each is not None]
            norms[name] = math.sqrt(sum(squares))
            _check_finite(norms[name], f"the gradient of the loss {name!r}", batch)
    return norms


def _check_finite(value: float | None, what: str, batch: int) -> None:
    if value is not None and not math.isfinite(value):
        remedy = "look at this batch, and at the student's output"
        raise NonFiniteError(f"{what} of batch {batch} isn't finite", got=value, remedy=remedy)


def shares(norms: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of the terms' norms, summed over the batches; nothing where all are zero.

    Examples
    --------
    >>> shares([{"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 1.0}])
    {'a': 0.75, 'b': 0.25}
    """
    sums: dict[str, float] = {}
    for each in norms:
        for name, norm in each.items():
            sums[name] = sums.get(name, 0.0) + norm
    total = sum(sums.values())
    return {name: norm / total for name, norm in sums.items()} if total else {}


def row_of(row: Transfer, values: Sequence[Values], share: float | None) -> Row:
    """The row's means over the batches."""
    teacher, student = (
        ", ".join(str(tap) or "output" for tap in taps) for taps in (row.teacher_taps, row.student_taps)
    )
    losses, alignments = zip(*values, strict=True)
    return Row(row.name, teacher, student, _mean(losses), _mean(alignments), row.info.get("energy kept"), share)


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


def tensors(networks: Iterable[nn.Module], *, buffers: bool = True) -> list[Tensor]:
    """Every parameter (and buffer) once, however many layers share it."""
    found: dict[int, Tensor] = {}
    for network in networks:
        for tensor in (*network.parameters(), *(network.buffers() if buffers else ())):
            found[id(tensor)] = tensor
    return list(found.values())
