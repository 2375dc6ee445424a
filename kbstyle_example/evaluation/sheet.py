"""Contact sheets: what figures can't tell has to be looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from kbstyle_example.evaluation.pairs import SIZE, square
from kbstyle_example.files import writable_folder
from kbstyle_example.images import grid, save_image
from kbstyle_example.options import SMALLEST_SIDE
from kbstyle_example.peers.system import System
from skd.errors import ArgumentError, DataError

COUNT = 8  # contents, and styles
CELL = 192  # pixels


def draw_sheets(
    systems: Sequence[System],
    contents: Sequence[Path],
    styles: Sequence[Path],
    out: str | os.PathLike[str],
    *,
    count: int = COUNT,
    size: int = SIZE,
    cell: int = CELL,
) -> list[Path]:
    """For each system a sheet of all contents (rows) in all styles (columns), and one of all systems side by side.

    Pictures are stylised at `size` and scaled down at once: the memory taken is that of one picture and of the cells.

    Parameters
    ----------
    systems : sequence of System
    contents, styles : sequence of Path
        Of more than `count`, that many are taken, spread evenly over the list.
    out : path
        Folder; gets sheet_NAME.png for each system, and side_by_side.png: pair after pair, one system a column.
    count : int
        Most contents, and most styles.
    size : int
        Side of the squares that are stylised, see `square`.
    cell : int
        Side of the cells.

    Returns
    -------
    list of Path
        The files written, each whole or not at all.

    Raises
    ------
    ArgumentError
        No system, two of one name, or a number that makes no sheet.
    DataError, FileError
        No pictures; a picture too small or unreadable; the folder can't be written into.

    Examples
    --------
    >>> import tempfile
    >>> from kbstyle_example.peers import as_system
    >>> samples = Path(__file__).parents[1] / "samples"
    >>> contents, styles = ([samples / name] for name in ("content/coffee.jpg", "style/harvest.jpg"))
    >>> with tempfile.TemporaryDirectory() as out:
    ...     [path.name for path in draw_sheets([as_system("teacher")], contents, styles, out, size=64, cell=32)]
    ['sheet_teacher.png', 'side_by_side.png']
    """
    names = [_file_name(system.name) for system in systems]
    if not names or len(set(names)) != len(names):
        raise ArgumentError("systems to draw", got=names, expected="at least one, each of another name")
    if count < 1 or cell < 1 or size < SMALLEST_SIDE:
        raise ArgumentError("a sheet of no pictures", got=f"count {count}, cell {cell}, size {size}")
    rows, columns = spread(contents, count), spread(styles, count)
    folder = writable_folder(out)
    photographs = [_small(square(path, size), cell) for path in rows]
    paintings = [_small(square(path, size), cell) for path in columns]
    drawn: dict[str, list[list[Tensor]]] = {system.name: [] for system in systems}
    with tqdm(total=len(systems) * len(rows) * len(columns), desc="sheets") as bar:
        for row in rows:
            content = square(row, size)
            for system in systems:
                drawn[system.name].append([])
            for column in columns:
                style = square(column, size)
                for system in systems:
                    drawn[system.name][-1].append(_small(system.stylize(content, style), cell))
                    bar.update()
    tops = ["", *(path.stem for path in columns)]
    lefts = ["", *(path.stem for path in rows)]
    written = []
    for system, name in zip(systems, names, strict=True):
        sheet: list[list[Tensor | None]] = [[None, *paintings]]
        sheet += [[photograph, *cells] for photograph, cells in zip(photographs, drawn[system.name], strict=True)]
        written.append(folder / f"sheet_{name}.png")
        save_image(grid(sheet, columns=tops, rows=lefts), written[-1])
    beside: list[list[Tensor]] = []
    for index, photograph in enumerate(photographs):
        other = index % len(columns)  # the diagonal: each content once, with another style each time
        results = [drawn[system.name][index][other] for system in systems]
        beside.append([photograph, paintings[other], *results])
    written.append(folder / "side_by_side.png")
    save_image(grid(beside, columns=["content", "style", *(system.name for system in systems)]), written[-1])
    return written


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """`count` of the paths, spread evenly over the list; all of them where there are fewer.

    Examples
    --------
    >>> [path.name for path in spread([Path(f"{n}.png") for n in range(9)], 3)]
    ['0.png', '4.png', '8.png']
    """
    if not paths:
        raise DataError("no pictures for a sheet")
    if len(paths) <= count:
        return list(paths)
    if count == 1:
        return [paths[0]]
    return [paths[round(k * (len(paths) - 1) / (count - 1))] for k in range(count)]


def _small(picture: Tensor, side: int) -> Tensor:
    """(1, 3, size, size) → (3, side, side); not enlarged."""
    if picture.shape[-1] <= side:
        return picture[0]
    with torch.inference_mode():
        small = F.interpolate(picture, (side, side), mode="bicubic", antialias=True)
    return small.clamp(0, 1)[0]


def _file_name(name: str) -> str:
    """What every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name)
