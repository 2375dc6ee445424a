"""Distil a KBStyle network into a smaller one with SKD, through the public face of skd alone."""

from __future__ import annotations

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

EXAMPLE = (torch.zeros(1, 3, 64, 80), torch.zeros(1, 3, 64, 64))
# The decoder's features end where the output is drawn from them: SKD's terms guide, the output's decides.
OUTPUT_WEIGHT = 20.0
CALIBRATION_BATCHES = 16


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
    """Calls the distiller with the two tensors of a batch."""

    def __init__(self, distiller: skd.Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, batch: Sequence[Tensor]) -> skd.Step:
        content, style = (_channels_last(x) for x in batch)
        step: skd.Step = self.distiller(content, style)
        return step


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)  # about a quarter faster on a CPU


@dataclass(frozen=True)
class Distilled:
    """A finished distillation: the student, what is left of its loss, and how long it took."""

    student: KBStyle
    report: skd.Report
    steps: int


def distill(
    teacher: KBStyle,
    contents: Sequence[Path],
    styles: Sequence[Path],
    out: str | Path,
    *,
    plan: Plan,
    config: KBStyleConfig = STUDENT,
    crop: int = 128,
    seed: int = 0,
    **options: Any,
) -> Distilled:
    """Train a narrower KBStyle network, from scratch, to do what the teacher does.

    Parameters
    ----------
    teacher : KBStyle
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
    """
    student = scratch(config, seed)
    samples = StylePairs(contents, styles, crop=crop, length=plan.steps * plan.batch_size, seed=seed)
    # Calibration pictures of the same kind, and never the same crops.
    calibration = StylePairs(contents, styles, crop=crop, length=CALIBRATION_BATCHES * 4, seed=seed + 1)
    loader = DataLoader(calibration, batch_size=4)
    teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pairing = kbstyle_pairing(teacher)
    spectra = skd.measure(teacher, pairing, loader)
    method = skd.methods.SKD(
        skd.match(pairing, kbstyle_pairing(student)), spectra, **{"output": OUTPUT_WEIGHT, **options}
    )
    distiller = skd.Distiller(teacher, student, method)
    skd.check(distiller, next(iter(loader)))
    steps = fit(_OnBatch(distiller), samples, plan, out, label="distil", each=lambda *_: distiller.advance())
    student.eval()
    return Distilled(student, skd.report(distiller, loader, batches=8), steps)


def scratch(config: KBStyleConfig, seed: int) -> KBStyle:
    """A network with random first weights: what the seed says, and nothing pretrained."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return KBStyle(config)
