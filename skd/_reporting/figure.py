"""The figure of a report, in matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skd._reporting.text import costs, sizes
from skd.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skd._reporting.results import Report

COLOUR, BESIDE, PALE = "#4c72b0", "#dd8452", "#d0d7e5"
ROW, HEAD, BELOW = 0.3, 1.4, 2.8  # inches


def draw(report: Report) -> Figure:
    """Transfers above, spectra and groups below where they are known.

    Raises
    ------
    MissingExtraError
        matplotlib isn't installed.
    """
    try:
        from matplotlib.figure import Figure as NewFigure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="plot", purpose="the figure of a report") from None
    upper = HEAD + ROW * len(report.rows)
    lower = max(BELOW, HEAD + ROW * len(report.narrowed)) if report.spectra or report.narrowed else 0.0
    figure = NewFigure(figsize=(10, upper + lower), layout="constrained")
    figure.suptitle("\n".join([sizes(report), *costs(report)]), fontsize=8)
    if not lower:
        _transfers(report, figure)
        return figure
    parts: Any = figure.subfigures(2, 1, height_ratios=(upper, lower))
    above, below = parts
    _transfers(report, above)
    panels = iter(below.subplots(1, bool(report.spectra) + bool(report.narrowed), squeeze=False)[0])
    if report.spectra:
        _spectra(report, next(panels))
    if report.narrowed:
        _groups(report, next(panels))
    return figure


def _transfers(report: Report, figure: Any) -> None:
    """A panel for each value; loss first, whose axis has no end."""
    columns: list[tuple[str, Sequence[float | None]]] = [
        ("loss (0 is a copy)", [row.loss for row in report.rows]),
        ("alignment (debiased CKA)", [row.alignment for row in report.rows]),
        ("energy kept", [row.energy_kept for row in report.rows]),
    ]
    if any(row.gradient_share is not None for row in report.rows):
        columns.append(("share of the gradients", [row.gradient_share for row in report.rows]))
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (title, values) in zip(panels, columns, strict=True):
        places = [place for place, value in enumerate(values) if value is not None]
        axes.barh(places, [value for value in values if value is not None], color=COLOUR)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(values)), [row.name for row in report.rows], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
    panels[0].set_ylim(len(report.rows) - 0.5, -0.5)  # the first on top, for all: they share the axis
    for axes, (_, values) in zip(panels[1:], columns[1:], strict=True):
        axes.set_xlim(min([0.0, *(value for value in values if value is not None)]), 1)


def _spectra(report: Report, axes: Any) -> None:
    """Each direction's share of its side's variance, on a logarithmic axis."""
    for number, spectrum in enumerate(report.spectra):
        for side, line in (("encoder", "-"), ("decoder", "--")):
            values = getattr(spectrum, side)
            axes.plot(range(1, len(values) + 1), values, line, color=f"C{number % 10}", label=f"{spectrum.name} {side}")
    axes.set_yscale("log")
    axes.set_title("eigenvalues, share of the variance", fontsize=9)
    axes.set_xlabel("direction", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7)


def _groups(report: Report, axes: Any) -> None:
    """Kept of the width, and the energy that they keep."""
    places = range(len(report.narrowed))
    axes.barh(places, [1.0] * len(report.narrowed), color=PALE, label="the teacher's")
    axes.barh(places, [each.kept / each.width for each in report.narrowed], color=COLOUR, label="channels kept")
    axes.plot([each.energy for each in report.narrowed], places, "o", color=BESIDE, markersize=4, label="energy kept")
    names = [f"{each.name} ({each.kept} of {each.width})" for each in report.narrowed]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(len(report.narrowed) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title("compressed: channels and energy kept", fontsize=9)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncol=3)
