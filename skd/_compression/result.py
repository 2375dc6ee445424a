"""What compress() returns: the student, its widths, and what was kept."""

from __future__ import annotations

import io
import json
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skd._compression.budget import size_text, to_file
from skd._files import read_bytes, write_atomically
from skd._tables import format_table
from skd.errors import FileError

FORMAT, VERSION = "skd.widths", 1


@dataclass(frozen=True)
class Row:
    """One channel group: its layers, its width before and after, and the energy that its basis keeps."""

    group: str
    layers: tuple[str, ...]
    width: int
    kept: int
    energy: float
    basis: str
    bytes: int
    whole: str | None = None


@dataclass(frozen=True)
class Compressed:
    """A student made from its teacher, by `compress`. ``str()`` is a table.

    Attributes
    ----------
    student : nn.Module
        A plain module, in eval mode. What is frozen in the teacher is frozen in it, unless all of the teacher is.
    widths : dict of str to int
        Of the groups that could be narrowed, by name; `compress(widths=…)` makes the same network again.
    rows : tuple of Row
        One a group.
    bytes : int
        Of the student's file in `dtype`.
    budget : int
        What it was allowed.
    teacher_bytes : int
        Of the teacher's file.
    next_bytes : int or None
        The smallest file above this one, one step wider in a single group; None where all are whole.
    output_energy : float
        Share of the variance of the teacher's output that the student's has before any training:
        1 − Σ(y_T − y_S)² / Σ(y_T − ȳ_T)². It is below 0 where the student's output is worse than a constant.
    dtype : torch.dtype
        Of the file.
    notes : tuple of str
        What to know about it.
    built : tuple or dict of int, or None
        With `build`, what it was called with: together with the state dict, the student again.

    Examples
    --------
    >>> from skd import compress
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3))
    >>> done = compress(net, None, data=[torch.randn(4, 1, 32)], widths={"0": 3})
    >>> done.widths, done.student[0].out_channels
    ({'0': 3}, 3)
    """

    student: nn.Module
    widths: dict[str, int]
    rows: tuple[Row, ...]
    bytes: int
    budget: int
    teacher_bytes: int
    next_bytes: int | None
    output_energy: float
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = field(default=())
    built: tuple[int, ...] | dict[str, int] | None = None

    @property
    def unused(self) -> float:
        """Share of the budget that is left."""
        return 1 - self.bytes / self.budget

    def __str__(self) -> str:
        header = ["group", "layers", "width", "kept", "basis", "energy kept", "bytes"]
        rows = [
            [
                row.group,
                str(len(row.layers)),
                str(row.width),
                str(row.kept) if row.whole is None else "whole",
                row.basis,
                "-" if row.whole is not None else f"{row.energy:.1%}",
                f"{row.bytes:,}",
            ]
            for row in self.rows
        ]
        whole = [f"{row.group} is whole: {row.whole}" for row in self.rows if row.whole is not None]
        title = (
            f"Compressed {self.teacher_bytes / self.bytes:.1f} times: {self.bytes:,} of {self.budget:,} bytes "
            f"({size_text(self.bytes)} in {str(self.dtype).removeprefix('torch.')}, {self.unused:.1%} unused), "
            f"output energy kept {self.output_energy:.1%}"
        )
        return format_table(title, header, rows, (*self.notes, *whole))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the student's weights in `dtype` as a safetensors file, of `bytes` bytes; whole or not at all.

        Raises
        ------
        FileError
            It can't be written.
        """
        write_atomically(path, to_file(self.student, self.dtype))

    def export(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the student as a program of `torch.export`, which runs where neither skd nor its class is.

        Parameters
        ----------
        path : path
            Mostly ``….pt2``.
        *args, **kwargs
            An example of what the student is called with; the program takes these shapes.

        Raises
        ------
        FileError
            It can't be written.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # recurrent layers put their weights in place, which export remarks upon
            program = torch.export.export(self.student, args, kwargs)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write_atomically(path, buffer.getvalue())

    def save_widths(self, path: str | os.PathLike[str]) -> None:
        """Write the widths as JSON: with the teacher's class, enough to make the student's shape again.

        Raises
        ------
        FileError
            It can't be written.
        """
        content = {"format": FORMAT, "version": VERSION, "widths": self.widths}
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())

    @staticmethod
    def load_widths(path: str | os.PathLike[str]) -> dict[str, int]:
        """Read what `save_widths` wrote.

        Raises
        ------
        FileError
            The file is missing, or not such a file.
        """
        data = read_bytes(path)
        try:
            content = json.loads(data)
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            return {str(name): int(width) for name, width in content["widths"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{str(path)!r} is no widths file, or a damaged one", got=error) from error
