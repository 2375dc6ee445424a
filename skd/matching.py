"""match(): the pairs of a teacher lined up with those of a student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skd._pairing.found import spread
from skd._pairing.pairs import Pairing
from skd._pairing.symmetric import SymmetricPair, scale_text
from skd._tables import format_table
from skd.errors import ArgumentError, PairingError
from skd.taps import Tap

__all__ = ["Plan", "match"]

FORMAT, VERSION = "skd.plan", 1

Row = tuple[SymmetricPair, SymmetricPair]


@dataclass(frozen=True)
class Plan:
    """Teacher pairs matched to student pairs, outermost first. ``str()`` is a table of them.

    Attributes
    ----------
    rows : tuple of (SymmetricPair, SymmetricPair)
        The teacher's and the student's.
    bottleneck : tuple of (Tap, Tap) or None
        The teacher's and the student's bottleneck, where both have one.
    notes : tuple of str
        How they were lined up, and what was left out.

    Raises
    ------
    PairingError
        There is no row, or a student's side is wider than the teacher's.

    Examples
    --------
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> print(Plan(((teacher, student),)))
    Plan, 1 row
      teacher  student  encoder       decoder   channels  decoder's
      1/2      1/2      down → small  up → big  32 → 8    32 → 8
    """

    rows: tuple[Row, ...]
    bottleneck: tuple[Tap, Tap] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise PairingError("a plan needs at least one row")
        for teacher, student in self.rows:
            for side, wide, narrow in (
                ("encoder", teacher.width, student.width),
                ("decoder", teacher.decoder_width, student.decoder_width),
            ):
                if narrow > wide:
                    raise PairingError(
                        f"the student's {side} is wider than the teacher's at {teacher.name!r} and {student.name!r}",
                        got=f"{narrow} channels ('{getattr(student, side)}')",
                        expected=f"at most {wide} ('{getattr(teacher, side)}')",
                        remedy="leave the pair out with pairing.without(name), or check that teacher comes first",
                    )

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __str__(self) -> str:
        header = ["teacher", "student", "encoder", "decoder", "channels", "decoder's"]
        rows = [
            [
                teacher.name,
                student.name,
                f"{teacher.encoder} → {student.encoder}",
                f"{teacher.decoder} → {student.decoder}",
                f"{teacher.width} → {student.width}",
                f"{teacher.decoder_width} → {student.decoder_width}",
            ]
            for teacher, student in self.rows
        ]
        title = f"Plan, {len(self)} row{'s' * (len(self) > 1)}"
        title += f", bottleneck {self.bottleneck[0]} → {self.bottleneck[1]}" if self.bottleneck else ""
        return format_table(title, header, rows, self.notes)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "rows": [[teacher.to_json(), student.to_json()] for teacher, student in self.rows],
            "bottleneck": [tap.to_json() for tap in self.bottleneck] if self.bottleneck else None,
            "notes": [*self.notes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote.

        Raises
        ------
        ArgumentError
            The values aren't a plan's, or of another version.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ArgumentError("this isn't a plan's JSON", expected=f"the format {FORMAT!r}")
        if data.get("version") != VERSION:
            raise ArgumentError("the plan has another version", got=data.get("version"), expected=VERSION)
        try:
            rows = [(SymmetricPair.from_json(one), SymmetricPair.from_json(other)) for one, other in data["rows"]]
            ends = None
            if data["bottleneck"] is not None:
                one, other = data["bottleneck"]
                ends = (Tap.from_json(one), Tap.from_json(other))
            return cls(tuple(rows), ends, tuple(map(str, data["notes"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ArgumentError("the plan's JSON is damaged", got=error) from error


def match(teacher: Pairing, student: Pairing) -> Plan:
    """Line the pairs of a student up with those of its teacher.

    Pairs of the same scale belong together (within a factor of 1.25 on every axis, which odd sizes make); pairs that
    only one of the two has are left out and noted. Where neither has scales, pairs are lined up by relative depth:
    outermost to outermost, innermost to innermost, and evenly spread in between.

    Parameters
    ----------
    teacher, student : Pairing

    Raises
    ------
    PairingError
        The two have no scale in common, only one of them has scales, or the student is wider than the teacher.
    ArgumentError
        One of them isn't a pairing.

    Examples
    --------
    >>> teacher = Pairing((SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32, (0.5, 0.5)),))
    >>> student = Pairing((SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8, (0.5, 0.5)),))
    >>> print(match(teacher, student))
    Plan, 1 row
      teacher  student  encoder       decoder   channels  decoder's
      1/2      1/2      down → small  up → big  32 → 8    32 → 8
    """
    given: tuple[object, object] = (teacher, student)
    for role, one in zip(("teacher", "student"), given, strict=True):
        if not isinstance(one, Pairing):
            got = type(one).__name__
            raise ArgumentError(f"the {role} isn't a pairing", got=got, remedy="give pair(model, example)")
    scaled = [{pair.scale is not None for pair in pairing} for pairing in (teacher, student)]
    if scaled == [{False}, {False}]:
        rows = _by_depth(teacher.pairs, student.pairs)
        notes = [] if len(teacher) == len(student) else ["neither has scales, so pairs are lined up by relative depth"]
    else:
        rows, notes = _by_scale(teacher.pairs, student.pairs), []
    if not rows:
        raise PairingError(
            "the two pairings have no scale in common",
            got=f"{_scales(teacher)} in the teacher, {_scales(student)} in the student",
            remedy="state the rows: Plan(((teacher['…'], student['…']), …))",
        )
    for role, pairing, used in (("teacher", teacher, [t for t, _ in rows]), ("student", student, [s for _, s in rows])):
        left = [f"{pair.name!r}" for pair in pairing if pair not in used]
        if left:
            notes.append(f"left out of the {role}: {', '.join(left)}")
    for row in rows:
        if len(row[0].companions) != len(row[1].companions):
            count = f"{len(row[0].companions)} and {len(row[1].companions)}"
            notes.append(f"{row[0].name!r} and {row[1].name!r} have {count} companions")
    one_end, other_end = teacher.bottleneck, student.bottleneck
    ends = None if one_end is None or other_end is None else (one_end, other_end)
    return Plan(tuple(rows), ends, tuple(notes))


def _by_scale(teacher: Sequence[SymmetricPair], student: Sequence[SymmetricPair]) -> list[Row]:
    """Each scale of the teacher with the same of the student; several pairs at one scale by relative depth."""
    rows: list[Row] = []
    done: list[SymmetricPair] = []
    for pair in teacher:
        if pair in done:
            continue
        one = [other for other in teacher if _same_scale(pair, other) and other not in done]
        other = [each for each in student if _same_scale(pair, each)]
        done += one
        rows += _by_depth(one, other)
    return rows


def _by_depth(teacher: Sequence[SymmetricPair], student: Sequence[SymmetricPair]) -> list[Row]:
    count = min(len(teacher), len(student))
    return list(zip(spread(teacher, count), spread(student, count), strict=True))


def _same_scale(one: SymmetricPair, other: SymmetricPair) -> bool:
    if one.scale is None or other.scale is None or len(one.scale) != len(other.scale):
        return False
    return all(max(a, b) <= 1.25 * min(a, b) for a, b in zip(one.scale, other.scale, strict=True))


def _scales(pairing: Pairing) -> str:
    return ", ".join("none" if pair.scale is None else scale_text(pair.scale) for pair in pairing)
