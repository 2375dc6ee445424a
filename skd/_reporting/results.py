"""A report: its values, its table and its JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from skd._files import read_bytes, write_atomically
from skd._reporting.text import table
from skd.errors import ArgumentError, FileError, SkdError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Version 1 had no costs but sizes, no gradients, spectra and groups: it is read as a report that lacks them.
FORMAT, VERSION, READABLE = "skd.report", 2, (1, 2)

_COUNTS = ("teacher_parameters", "student_parameters", "teacher_bytes", "student_bytes", "batches", "rounds")
_MEASURED = (
    "teacher_multiply_adds",
    "student_multiply_adds",
    "teacher_milliseconds",
    "student_milliseconds",
    "output_energy",
)
_NUMBERS = (int, float, type(None))


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
    gradient_share : float or None
        Norm of the weighted term's gradient with respect to the student's trained parameters, as a share of the sum
        over all terms. None where it wasn't asked for, or where no term has a gradient.

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
    gradient_share: float | None = None


@dataclass(frozen=True)
class Spectrum:
    """The spectra of one pair (or of the bottleneck, both sides of which are the same).

    Attributes
    ----------
    name : str
    encoder, decoder : tuple of float
        Eigenvalues of each side's covariance, largest first, as shares of their sum.

    Examples
    --------
    >>> spectrum = Spectrum("1/2", encoder=(0.7, 0.2, 0.1), decoder=(0.5, 0.3, 0.2))
    >>> spectrum.directions(0.75), spectrum.directions(0.75, "encoder")
    (2, 2)
    """

    name: str
    encoder: tuple[float, ...]
    decoder: tuple[float, ...]

    def directions(self, share: float, side: Literal["encoder", "decoder"] = "decoder") -> int:
        """How many directions hold this share of a side's variance."""
        values = self.encoder if side == "encoder" else self.decoder
        return 1 + sum(held < share - 1e-9 for held in list(accumulate(values))[:-1])


@dataclass(frozen=True)
class Narrowed:
    """A channel group of the compressed student.

    Attributes
    ----------
    name : str
        The layer that makes it, the first of several.
    width, kept : int
        Channels in the teacher and in the student.
    energy : float
        Share of the teacher's variance that the kept ones explain.
    bytes : int
        Of the student's file.
    whole : str or None
        Why it wasn't narrowed.

    Examples
    --------
    >>> Narrowed("enc", 32, 8, 0.9, 1024).kept
    8
    """

    name: str
    width: int
    kept: int
    energy: float
    bytes: int
    whole: str | None = None


@dataclass(frozen=True)
class Report:
    """What a student has taken from its teacher, and what it costs. ``str()`` is a table.

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
    teacher_multiply_adds, student_multiply_adds : int or None
        Of one forward of the first batch, in convolutions, matrix products and attention. None where they can't be
        counted, as in kernels of somebody's own.
    teacher_milliseconds, student_milliseconds : float or None
        Of one forward of the first batch, on this machine: medians over rounds in which both take turns.
    rounds : int
        How many of them; 0 where nothing was timed.
    spectra : tuple of Spectrum
        Of the teacher's pairs, where they were given.
    narrowed : tuple of Narrowed
        The groups of the compressed student, where it was given.
    output_energy : float or None
        Share of the variance of the teacher's output that the compressed student had before any training.

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
    teacher_multiply_adds: int | None = None
    student_multiply_adds: int | None = None
    teacher_milliseconds: float | None = None
    student_milliseconds: float | None = None
    rounds: int = 0
    spectra: tuple[Spectrum, ...] = ()
    narrowed: tuple[Narrowed, ...] = ()
    output_energy: float | None = None

    def __str__(self) -> str:
        return table(self)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_json` wrote, in this version or an earlier one.

        Raises
        ------
        ArgumentError
            The values aren't a report's, or of a later version.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ArgumentError("this isn't a report's JSON", expected=f"the format {FORMAT!r}")
        if data.get("version") not in READABLE:
            raise ArgumentError("the report has another version", got=data.get("version"), expected=VERSION)
        try:
            values: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            values["rows"] = tuple(Row(**row) for row in data["rows"])
            values["spectra"] = tuple(
                Spectrum(each["name"], tuple(each["encoder"]), tuple(each["decoder"]))
                for each in values.get("spectra", ())
            )
            values["narrowed"] = tuple(Narrowed(**each) for each in values.get("narrowed", ()))
            for name, value in values.items():
                if (name in _COUNTS and type(value) is not int) or (name in _MEASURED and type(value) not in _NUMBERS):
                    raise ValueError(f"{name} is {value!r}")
            return cls(**values)
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
        """Bars of loss, alignment, energy kept and gradient share by transfer, the spectra, and the groups' widths.

        No bar where there is no value, and no panel where there are none.

        Raises
        ------
        MissingExtraError
            matplotlib isn't installed.
        """
        from skd._reporting.figure import draw

        return draw(self)
