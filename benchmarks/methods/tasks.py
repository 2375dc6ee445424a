"""The tasks: a teacher, the student's size, data by split, and the measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import skd
from benchmarks.worth.tasks import Setting
from benchmarks.worth.unet import NoisyCrops, trained_teacher, unet_pairing
from kbstyle_example.data import StylePairs, list_pictures
from kbstyle_example.distill import kbstyle_pairing
from kbstyle_example.splits import of_split
from kbstyle_example.weights_file import load_weights

# The same for all methods. A denoising teacher of 20,000 steps takes hours of a CPU.
SETTING = Setting(
    batch=4, held_out=96, unet_bytes=64 * 1024, unet_widths=(24, 48, 96), teacher_steps=20_000, teacher_batch=8
)


@dataclass(frozen=True)
class Task:
    """One task.

    Parameters
    ----------
    name : str
    teacher : nn.Module
    size : int
        Bytes of the student's file.
    pairing : callable
        Of a network of the teacher's architecture.
    samples : callable
        Of a split, a seed and a number: a dataset.
    inputs : callable
        From a batch to what the networks are called with.
    measure : str
        Its name.
    higher_is_better : bool
    truth : callable, optional
        From a batch to what the output should be; None where only the teacher knows.
    setting : Setting
    """

    name: str
    teacher: nn.Module
    size: int
    pairing: Callable[[Any], skd.Pairing]
    samples: Callable[[Any, int, int], Dataset[Any]]
    inputs: Callable[[Any], Any]
    measure: str
    higher_is_better: bool
    truth: Callable[[Any], Tensor] | None
    setting: Setting

    def batches(self, split: str, seed: int, count: int, size: int = 8) -> list[Any]:
        """Batches of a split, the same for whoever asks."""
        return list(DataLoader(self.samples(split, seed, count), batch_size=size))

    def calibration(self) -> list[Any]:
        """Batches for spectra and for the student's start, of a seed that no training has."""
        return [self.inputs(batch) for batch in self.batches("train", 1_000_000, self.setting.calibration)]

    def task_loss(self, output: Tensor, batch: Any) -> Tensor:
        """The squared error from the truth, in units of what the noise alone would leave."""
        assert self.truth is not None
        wanted = self.truth(batch)
        return (output - wanted).square().mean() / (self.inputs(batch) - wanted).square().mean()

    def measured(self, student: nn.Module, split: str) -> float:
        """On held-out crops: PSNR in decibels, the mean of the crops'; or the distance from the teacher's pictures."""
        found = list[Tensor]()
        with torch.no_grad():
            for batch in self.batches(split, 0, self.setting.held_out):
                given = self.inputs(batch)
                given = given if isinstance(given, (tuple, list)) else (given,)
                wanted = self.teacher(*given) if self.truth is None else self.truth(batch)
                ours = student(*given).clamp(0, 1).double()
                found.append((ours - wanted.clamp(0, 1).double()).square().mean((1, 2, 3)))
        squares = torch.cat(found)
        if self.truth is None:
            return 255 * math.sqrt(float(squares.mean()))
        return float(-10 * squares.log10().mean())


def denoising(setting: Setting, data: Path, cache: Path) -> Task:
    """Photographs with noise of deviation 25 of 255; the teacher is trained first, once, and goes on if killed."""
    folders = {part: of_split(list_pictures(data / "content"), part) for part in PARTS}
    teacher = trained_teacher(
        cache,
        setting.unet_widths,
        folders["train"],
        steps=setting.teacher_steps,
        batch=setting.teacher_batch,
        crop=setting.crop,
        seed=2_000_000,
    )

    def samples(split: str, seed: int, length: int) -> NoisyCrops:
        return NoisyCrops(folders[split], crop=setting.crop, length=length, seed=seed)

    return Task(
        "denoising", teacher, setting.unet_bytes, unet_pairing, samples, _first, "PSNR, dB", True, _second, setting
    )


def style(setting: Setting, data: Path, _: Path) -> Task:
    """The bundled teacher of KBStyle on photographs and paintings."""
    folders = {part: [of_split(list_pictures(data / kind), part) for kind in ("content", "style")] for part in PARTS}

    def samples(split: str, seed: int, length: int) -> StylePairs:
        return StylePairs(*folders[split], crop=setting.crop, length=length, seed=seed)

    teacher = load_weights("teacher").eval()
    measure = "RMS difference from the teacher, of 255"
    return Task("style", teacher, setting.style_bytes, kbstyle_pairing, samples, tuple, measure, False, None, setting)


def _first(batch: Sequence[Tensor]) -> Tensor:
    return batch[0]


def _second(batch: Sequence[Tensor]) -> Tensor:
    return batch[1]


PARTS: tuple[Any, ...] = ("train", "validation", "test")
TASKS: dict[str, Callable[[Setting, Path, Path], Task]] = {"denoising": denoising, "style": style}
