"""Plain tables for terminals and logs."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()) -> str:
    """Title, aligned columns, then the notes, one a line.

    Examples
    --------
    >>> print(format_table("Sizes", ["layer", "bytes"], [["enc", 12], ["decoder", 4]], ["all in float32"]))
    Sizes
      layer    bytes
      enc      12
      decoder  4
      note: all in float32
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([title, *("  " + line for line in lines), *(f"  note: {note}" for note in notes)])
