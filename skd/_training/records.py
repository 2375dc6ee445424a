"""What a person sees of a run: the progress bar, the log of JSON lines, TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skd._training.checkpoints import writing
from skd.errors import MissingExtraError

LOG, BOARD = "log.jsonl", "tensorboard"


class Records:
    """The records of the main process; in the others everything does nothing.

    Parameters
    ----------
    out : Path
    first, total : int
        The step that training goes on from, and its last.
    """

    def __init__(self, out: Path, *, first: int, total: int, label: str, tensorboard: bool, main: bool) -> None:
        self.log, self.main, self.first = out / LOG, main, first
        self.board: Any = None
        self.bar: Any = None
        if not main:
            return
        try:
            from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise MissingExtraError("tqdm", extra="train", purpose="the progress bar of training") from None
        with writing("the log", self.log):
            _cut(self.log, first)
        if tensorboard:
            self.board = _board(out / BOARD, first)
        self.bar = tqdm(total=total, initial=first, desc=label, dynamic_ncols=True)

    def step(self, *, expected: int) -> None:
        """One step more is done, of `expected` in all."""
        if self.bar is not None:
            self.bar.total = expected
            self.bar.update()

    def line(self, step: int, values: dict[str, Any]) -> None:
        """A line of the log; numbers go to TensorBoard, too."""
        if not self.main:
            return
        # Opened for each line: a file kept open tries to write the rest once more when it is closed.
        with writing("the log", self.log), self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, step)

    def show(self, values: dict[str, float], count: int = 4) -> None:
        """The largest values, beside the bar."""
        if self.bar is not None:
            shown = sorted(values.items(), key=lambda item: -item[1])[:count]
            self.bar.set_postfix({name.split("/")[-1]: f"{value:.3f}" for name, value in shown})

    def say(self, text: str) -> None:
        """A line for the person, above the bar."""
        if self.bar is not None:
            self.bar.write(text)

    def close(self) -> None:
        for one in (self.bar, self.board):
            if one is not None:
                one.close()


def _board(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", extra="tensorboard", purpose="Recipe(tensorboard=True)") from None
    with writing("TensorBoard's log", folder):
        return SummaryWriter(str(folder), purge_step=first)


def _cut(log: Path, last: int) -> None:
    """Drop the lines after the step that training goes on from, and the half line of a run that was killed."""
    if not log.exists():
        log.touch()  # what can't be written shows before the first step
        return
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):  # bytes: what a crash left need not be UTF-8
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > last:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    beside = log.with_name(f".{log.name}.part")
    beside.write_bytes(b"".join(kept))
    beside.replace(log)
