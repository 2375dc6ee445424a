"""Train a KBStyle teacher on folders of photographs and paintings, under a perceptual network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kbstyle_example.data import StylePairs
from kbstyle_example.distill import scratch
from kbstyle_example.loop import Plan, fit
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import TEACHER, KBStyle, KBStyleConfig
from kbstyle_example.perceptual import Perceptual
from skd.steps import Step


class _OnBatch(nn.Module):
    """Brings a batch into the memory format that convolutions are fastest in."""

    def __init__(self, task: StyleTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Sequence[Tensor]) -> Step:
        content, style = (x.to(memory_format=torch.channels_last) for x in batch)
        step: Step = self.task((content, style))
        return step


def train(
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptual: Perceptual,
    out: str | Path,
    *,
    plan: Plan,
    config: KBStyleConfig = TEACHER,
    crop: int = 160,
    seed: int = 0,
    style_weight: float | None = None,
) -> tuple[KBStyle, int]:
    """Train a network from scratch; returns it and the number of steps.

    Parameters
    ----------
    contents, styles : sequence of Path
    perceptual : Perceptual
        See `load_perceptual`.
    out : path
        Folder for checkpoint and log; a run found there goes on.
    plan : Plan
    config : KBStyleConfig
    crop : int
        Side of the training crops in pixels.
    seed : int
    style_weight : float, optional
        Against content's 1.
    """
    network = scratch(config, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    perceptual = perceptual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = StyleTask(network, perceptual) if style_weight is None else StyleTask(network, perceptual, style_weight=style_weight)
    samples = StylePairs(contents, styles, crop=crop, length=plan.steps * plan.batch_size, seed=seed)
    steps = fit(_OnBatch(task), samples, plan, out, label="train")
    return network.eval(), steps
