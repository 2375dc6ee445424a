"""What a task is: a teacher, the student's size, data by split, a loss of its own and the measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import skd
from skd.knowledge import Reread
from skd.recipes import Precision


@dataclass(frozen=True)
class Setting:
    """Sizes of a task.

    Parameters
    ----------
    batch : int
        Samples a step of a student.
    learning_rate : float
    calibration : int
        Samples for spectra and for the student's start.
    held_out, long_held_out : int
        Samples that a student is measured on; after a training of `final` steps and more, by the second.
    screen, final : int
        Optimizer steps of a student in the two stages.
    size : int
        Bytes of the student's file.
    widths : tuple of int
        Of the teacher; empty where it is bundled.
    teacher_steps, teacher_batch : int
        Of the first round of the teacher's training.
    teacher_rounds : int
        Each is twice as long as the one before.
    begins_as : str
        A bundled, narrower teacher that this one begins as (`widening`).
    long_precision : str
        Of trainings of `final` steps and more, where the processor has it; shorter ones are in float32.
    crop : int
        Side of pictures in pixels; 0 where there are none.
    """

    batch: int
    learning_rate: float
    calibration: int
    held_out: int
    long_held_out: int
    size: int
    screen: int
    final: int
    widths: tuple[int, ...] = ()
    teacher_steps: int = 0
    teacher_batch: int = 0
    crop: int = 0
    teacher_rounds: int = 1
    begins_as: str = ""
    long_precision: Precision = "float32"


@dataclass(frozen=True)
class Task:
    """One task.

    Parameters
    ----------
    name : str
    teacher : nn.Module
    setting : Setting
    pairing : callable
        Of a network of the teacher's architecture.
    samples : callable
        Of a split, a seed and a number: a dataset.
    inputs : callable
        From a batch to what the networks are called with.
    measured : callable
        A student's figures on so many samples of a split by name; the first figure is the one that counts.
    higher_is_better : bool
        Whether of that one more is better.
    loss : callable, optional
        From an output and its batch to the error from the truth; None where only the teacher knows it.
    reread : Reread, optional
        The teacher's encoder, where it can read an output.
    begin : callable, optional
        Draws a network's weights anew, where that isn't what its layers' own `reset_parameters` do.
    collate : callable, optional
        From samples to a batch.
    build, full : optional
        As in `skd.compress`.
    compressed : callable, optional
        In the place of these, from a start of `skd.compress` to the student: for one that isn't only narrower.
    settle : callable, optional
        Done to every student before it is trained, whatever it begins as.
    """

    name: str
    teacher: nn.Module
    setting: Setting
    pairing: Callable[[Any], skd.Pairing]
    samples: Callable[[Any, int, int], Dataset[Any]]
    inputs: Callable[[Any], Any]
    measured: Callable[[nn.Module, Any, int], Mapping[str, float]]
    higher_is_better: bool
    loss: Callable[[Any, Any], Tensor] | None = None
    reread: Reread | None = None
    begin: Callable[[nn.Module], None] | None = None
    collate: Callable[[Any], Any] | None = None
    build: Callable[[Any], nn.Module] | None = None
    full: Any = None
    compressed: Callable[[Any], nn.Module] | None = None
    settle: Callable[[nn.Module], None] | None = None

    def batches(self, split: str, seed: int, count: int, size: int = 8) -> list[Any]:
        """Batches of a split, the same for whoever asks."""
        return list(DataLoader(self.samples(split, seed, count), batch_size=size, collate_fn=self.collate))

    def calibration(self) -> list[Any]:
        """Batches for spectra and for the student's start, of a seed that no training has."""
        return [self.inputs(batch) for batch in self.batches("train", 1_000_000, self.setting.calibration)]
