"""Tables in reST."""

from __future__ import annotations

from collections.abc import Sequence


def list_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; no cell is empty."""
    cells = [("   * - " if k == 0 else "     - ") + cell for row in (head, *rows) for k, cell in enumerate(row)]
    return "\n".join([".. list-table::", "   :header-rows: 1", "", *cells])
