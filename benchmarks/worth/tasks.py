"""The two tasks: a teacher, data to train and to measure on, and the distillation of a student."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import skd
from benchmarks.worth.unet import NoisyCrops, trained_teacher, unet_pairing
from kbstyle_example.data import StylePairs, list_pictures
from kbstyle_example.distill import kbstyle_pairing
from kbstyle_example.splits import of_split
from kbstyle_example.weights_file import load_weights

# Learned adapters compare a student with its teacher whatever channels or directions it has: a basis of the spectra
# would favour the students that were begun in it. The weights are those of the bundled student.
SKD_OPTIONS: dict[str, Any] = {"basis": "learned", "structure": 0.3, "statistics": 0.3, "output": 20.0}
CALIBRATION_BATCH, HELD_OUT_BATCH = 8, 8


@dataclass(frozen=True)
class Setting:
    """Sizes of everything; the defaults are those of the published table."""

    crop: int = 64
    batch: int = 2
    learning_rate: float = 2e-3
    calibration: int = 288
    held_out: int = 48
    style_bytes: int = 200 * 1024
    unet_bytes: int = 40 * 1024
    unet_widths: tuple[int, int, int] = (16, 32, 64)
    teacher_steps: int = 300
    teacher_batch: int = 4


SMOKE = Setting(
    crop=32,
    calibration=160,
    held_out=4,
    style_bytes=400 * 1024,
    unet_bytes=10 * 1024,
    unet_widths=(6, 8, 10),
    teacher_steps=2,
    teacher_batch=2,
)


@dataclass(frozen=True)
class Task:
    """A teacher and its data.

    Parameters
    ----------
    teacher : nn.Module
    size : int
        Bytes of the student's file.
    pairing : callable
        Of a network of the teacher's architecture.
    samples : callable
        Of a seed and a number: training samples, of which `inputs` makes what the networks are called with.
    held_out : sequence of (Tensor, Tensor)
        Batches of pictures that nothing is trained on.
    inputs : callable
        See `samples`.
    clean : bool
        Whether a sample's second tensor is what the output should be.
    setting : Setting
    """

    teacher: nn.Module
    size: int
    pairing: Callable[[Any], skd.Pairing]
    samples: Callable[[int, int], Dataset[tuple[Tensor, Tensor]]]
    held_out: Sequence[Any]
    inputs: Callable[[Any], Any]
    clean: bool
    setting: Setting

    def calibration(self) -> list[Any]:
        """Batches for spectra and projection, of a seed that no training has."""
        samples = self.samples(1_000_000, self.setting.calibration)
        return [self.inputs(batch) for batch in DataLoader(samples, batch_size=CALIBRATION_BATCH)]

    def distilled(self, student: nn.Module, spectra: skd.Spectra, seed: int, steps: int) -> None:
        """Train the student in place: its output and the pairs of layers towards the teacher's."""
        plan = skd.match(self.pairing(self.teacher), self.pairing(student))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rows = skd.methods.SKD(plan, spectra, **SKD_OPTIONS).transfers()
        recipe = skd.Recipe(
            steps=steps,
            learning_rate=self.setting.learning_rate,
            warmup=min(20, steps // 10),
            channels_last=True,
            seed=seed,
            cpu=True,
        )
        samples = self.samples(seed, steps * self.setting.batch)
        loader = DataLoader(samples, batch_size=self.setting.batch)
        with tempfile.TemporaryDirectory() as folder:
            skd.distill(
                self.teacher,
                loader,
                folder,
                student=student,
                recipe=recipe,
                method=rows,
                inputs=self.inputs,
                calibration=self.held_out[:1],  # for the check before and the report after it, which train nothing
            )

    def measured(self, student: nn.Module) -> dict[str, float]:
        """On held-out crops: the root mean squared difference from the teacher, of 255, and the PSNR if there is one.

        The PSNR is the mean of the crops', in decibels.
        """
        squares, signals = list[Tensor](), list[Tensor]()
        with torch.no_grad():
            for batch in self.held_out:
                given = self.inputs(batch)
                given = given if isinstance(given, (tuple, list)) else (given,)
                ours, theirs = student(*given).double(), self.teacher(*given).double()
                squares.append((ours - theirs).square().mean((1, 2, 3)))
                if self.clean:
                    signals.append(-10 * (ours.clamp(0, 1) - batch[1]).square().mean((1, 2, 3)).log10())
        found = {"difference": 255 * math.sqrt(float(torch.cat(squares).mean()))}
        return found | ({"psnr": float(torch.cat(signals).mean())} if signals else {})


def style_task(setting: Setting, data: Path, _: Path, *, teacher: nn.Module | None = None) -> Task:
    """The bundled teacher of KBStyle; photographs and paintings."""
    folders = {part: [of_split(list_pictures(data / kind), part) for kind in ("content", "style")] for part in PARTS}

    def samples(seed: int, length: int, part: str = "train") -> StylePairs:
        return StylePairs(*folders[part], crop=setting.crop, length=length, seed=seed)

    return Task(
        (load_weights("teacher") if teacher is None else teacher).eval(),
        setting.style_bytes,
        kbstyle_pairing,
        samples,
        list(DataLoader(samples(0, setting.held_out, "validation"), batch_size=HELD_OUT_BATCH)),
        tuple,
        clean=False,
        setting=setting,
    )


def denoising_task(setting: Setting, data: Path, cache: Path) -> Task:
    """A U-Net that takes noise off photographs; its teacher is trained first, once."""
    folders = {part: of_split(list_pictures(data / "content"), part) for part in PARTS}

    def samples(seed: int, length: int, part: str = "train") -> NoisyCrops:
        return NoisyCrops(folders[part], crop=setting.crop, length=length, seed=seed)

    teacher = trained_teacher(
        cache,
        setting.unet_widths,
        folders["train"],
        steps=setting.teacher_steps,
        batch=setting.teacher_batch,
        crop=setting.crop,
        seed=2_000_000,
    )
    return Task(
        teacher,
        setting.unet_bytes,
        unet_pairing,
        samples,
        list(DataLoader(samples(0, setting.held_out, "validation"), batch_size=HELD_OUT_BATCH)),
        first,
        clean=True,
        setting=setting,
    )


def first(batch: Any) -> Any:
    """The noisy crops of a batch."""
    return batch[0]


PARTS: tuple[Any, ...] = ("train", "validation")
TASKS: dict[str, Callable[[Setting, Path, Path], Task]] = {"denoising": denoising_task, "style": style_task}
