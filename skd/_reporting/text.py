"""A report in words: its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skd._tables import format_table

if TYPE_CHECKING:
    from skd._reporting.results import Narrowed, Report, Row, Spectrum


def table(report: Report) -> str:
    """The transfers, and where they are known the spectra and the groups."""
    header = ["transfer", "teacher", "student", "loss", "alignment", "energy kept"]
    shared = any(row.gradient_share is not None for row in report.rows)
    header += ["gradient share"] if shared else []
    title = f"Report on {report.batches} batch{'es' * (report.batches > 1)}: {sizes(report)}"
    tables = [format_table(title, header, [_row(row)[: len(header)] for row in report.rows], costs(report))]
    if report.spectra:
        header = ["pair", "channels", "directions for 90 %", "for 99 %"]
        rows = [_spectrum(each) for each in report.spectra]
        tables.append(format_table("Spectra, encoder / decoder", header, rows))
    if report.narrowed:
        header = ["group", "width", "kept", "energy kept", "bytes"]
        title = f"Compressed, output energy kept {_text(report.output_energy, '.1%')} before training"
        whole = [f"{each.name} is whole: {each.whole}" for each in report.narrowed if each.whole is not None]
        tables.append(format_table(title, header, [_group(each) for each in report.narrowed], whole))
    return "\n".join(tables)


def sizes(report: Report) -> str:
    """Parameters and bytes."""
    return (
        f"student {report.student_parameters:,} parameters ({report.student_bytes / 1024:.1f} KB), "
        f"teacher {report.teacher_parameters:,} ({report.teacher_bytes / 1024:.1f} KB), "
        f"{report.teacher_bytes / max(1, report.student_bytes):.1f} times as large"
    )


def costs(report: Report) -> list[str]:
    """Multiply-adds and latency, where they are known."""
    found = []
    ours, theirs = report.student_multiply_adds, report.teacher_multiply_adds
    if ours and theirs:
        found.append(
            f"multiply-adds of the first batch: student {ours:,}, teacher {theirs:,}, {theirs / ours:.1f} times"
        )
    quick, slow = report.student_milliseconds, report.teacher_milliseconds
    if quick and slow:
        found.append(
            f"time of the first batch, median of {report.rounds} in turns on this machine: "
            f"student {quick:.1f} ms, teacher {slow:.1f} ms, {slow / quick:.1f} times"
        )
    return found


def _row(row: Row) -> list[str]:
    return [
        row.name,
        row.teacher,
        row.student,
        _text(row.loss, ".4g"),
        _text(row.alignment, ".3f"),
        _text(row.energy_kept, ".1%"),
        _text(row.gradient_share, ".1%"),
    ]


def _spectrum(found: Spectrum) -> list[str]:
    cells = [found.name, f"{len(found.encoder)} / {len(found.decoder)}"]
    return cells + [f"{found.directions(share, 'encoder')} / {found.directions(share)}" for share in (0.9, 0.99)]


def _group(found: Narrowed) -> list[str]:
    if found.whole is not None:
        return [found.name, str(found.width), "whole", "-", f"{found.bytes:,}"]
    return [found.name, str(found.width), str(found.kept), f"{found.energy:.1%}", f"{found.bytes:,}"]


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
