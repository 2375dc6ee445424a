"""Distil a KBStyle network into a smaller one with SKD, through the public face of skd alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import skd
from kbstyle_example.data import StylePairs
from kbstyle_example.loop import Plan, fit
from kbstyle_example.networks import STUDENT, KBStyle, KBStyleConfig
from kbstyle_example.weights_file import writable_folder
from skd.errors import ArgumentError

EXAMPLE = (torch.zeros(1, 3, 64, 80), torch.zeros(1, 3, 64, 64))
# The decoder's features end where the output is drawn from them: SKD's terms guide, the output's decides.
OUTPUT_WEIGHT = 20.0
CALIBRATION_BATCHES, CALIBRATION_BATCH, REPORT_BATCHES = 16, 4, 8
PLAN = Plan(steps=20_000, batch_size=4, workers=1)


def kbstyle_pairing(network: KBStyle) -> skd.Pairing:
    """The three symmetric pairs of a KBStyle network, each with the style encoder's layer for a companion.

    All are read where features are signed, as coordinates in a basis are: before a nonlinearity, or after the blocks
    of a level, which end in a sum.

    Examples
    --------
    >>> print(kbstyle_pairing(KBStyle(STUDENT)))
    Pairing, 3 pairs, bottleneck content_encoder.level3
      pair  encoder                   decoder               channels  scale  companions
      1/2   content_encoder.level1.1  decoder.level1:input  8         0.5    style_encoder.level1.1
      1/4   content_encoder.level2    decoder.level2        16        0.25   style_encoder.level2.0
      1/8   content_encoder.level3    decoder.level3        28        0.125  style_encoder.level3
    """
    return skd.Pairing.declare(
        {
            "1/2": ("content_encoder.level1.1", "decoder.level1:input"),
            "1/4": ("content_encoder.level2", "decoder.level2"),
            "1/8": ("content_encoder.level3", "decoder.level3"),
        },
        network,
        EXAMPLE,
        companions={
            "1/2": ["style_encoder.level1.1"],
            "1/4": ["style_encoder.level2.0"],
            "1/8": ["style_encoder.level3"],
        },
        bottleneck="content_encoder.level3",
    )


class _OnBatch(nn.Module):
    """Calls the distiller with the two tensors of a batch, and keeps its step in the checkpoint."""

    steps: Tensor

    def __init__(self, distiller: skd.Distiller) -> None:
        super().__init__()
        self.distiller = distiller
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, batch: Sequence[Tensor]) -> skd.Step:
        self.distiller.advance(int(self.steps) - self.distiller.steps_done)  # a resumed run's schedules go on, too
        content, style = (x.to(memory_format=torch.channels_last) for x in batch)  # about a quarter faster on a CPU
        step: skd.Step = self.distiller(content, style)
        return step

    def count(self, *_: object) -> None:
        """The optimizer made a step."""
        self.steps += 1


@dataclass(frozen=True)
class Distilled:
    """A finished distillation.

    Attributes
    ----------
    student : KBStyle
        In eval mode.
    report : skd.Report
        What is left of each loss, on crops of the pictures that were trained on.
    steps : int
        How many it took in all, those before a resumption among them.
    """

    student: KBStyle
    report: skd.Report
    steps: int


def distill(
    teacher: KBStyle,
    contents: Sequence[Path],
    styles: Sequence[Path],
    out: str | Path,
    *,
    plan: Plan = PLAN,
    config: KBStyleConfig = STUDENT,
    crop: int = 128,
    seed: int = 0,
    **options: Any,
) -> Distilled:
    """Train a narrower KBStyle network, from scratch, to do what the teacher does.

    Parameters
    ----------
    teacher : KBStyle
        It is copied: nothing about it changes.
    contents, styles : sequence of Path
        Photographs and paintings.
    out : path
        Folder for checkpoint and log; a run found there goes on.
    plan : Plan
    config : KBStyleConfig
        The student's.
    crop : int
        Side of the training crops in pixels.
    seed : int
        Of the student's first weights and of the crops.
    **options
        Of `skd.methods.SKD`.

    Returns
    -------
    Distilled

    Raises
    ------
    ArgumentError, ShapeError
        A number that can't be, or a student wider than its teacher.
    DataError
        No picture can be used.
    FileError
        The folder can't be written into, or the checkpoint there is another network's or damaged.
    NonFiniteError
        The training diverged; the checkpoint before it is kept.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> teacher = scratch(KBStyleConfig(widths=(4, 5, 6)), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.radial_gradient("L").save(path)
    ...     done = distill(teacher, [path], [path], Path(folder, "run"), plan=Plan(steps=2, batch_size=2), crop=16,
    ...                    config=KBStyleConfig(widths=(2, 3, 4)))
    >>> done.steps, len(done.report.rows), done.student.config.widths
    (2, 19, (2, 3, 4))
    """
    samples = StylePairs(contents, styles, crop=crop, length=plan.steps * plan.batch_size, seed=seed)
    # Calibration pictures of the same kind, and never the same crops.
    calibration = StylePairs(contents, styles, crop=crop, length=CALIBRATION_BATCHES * CALIBRATION_BATCH, seed=seed + 1)
    loader = DataLoader(calibration, batch_size=CALIBRATION_BATCH)
    student = scratch(config, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = copy.deepcopy(teacher).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    out = writable_folder(out)
    pairing = kbstyle_pairing(teacher)
    spectra = skd.measure(teacher, pairing, loader)
    method = skd.methods.SKD(
        skd.match(pairing, kbstyle_pairing(student)), spectra, **{"output": OUTPUT_WEIGHT, **options}
    )
    distiller = skd.Distiller(teacher, student, method)
    skd.check(distiller, next(iter(loader)))
    run = _OnBatch(distiller)
    steps = fit(run, samples, plan, out, label="distil", each=run.count)
    student.eval()
    return Distilled(student, skd.report(distiller, loader, batches=REPORT_BATCHES), steps)


def scratch(config: KBStyleConfig, seed: int) -> KBStyle:
    """A network with random first weights: what the seed says, and nothing pretrained.

    Raises
    ------
    ArgumentError
        The seed is negative, or above 2⁶³ − 1.

    Examples
    --------
    >>> first, second = (scratch(STUDENT, seed=3).state_dict().values() for _ in range(2))
    >>> all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    True
    """
    if not 0 <= seed < 2**63:
        raise ArgumentError("seed of the first weights", got=seed, expected="0 to 2⁶³ − 1")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return KBStyle(config)
