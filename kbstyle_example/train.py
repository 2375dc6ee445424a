"""Train a KBStyle teacher on folders of photographs and paintings, under a perceptual network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kbstyle_example.data import StylePairs
from kbstyle_example.distill import PLAN, scratch
from kbstyle_example.loop import Plan, fit
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import TEACHER, KBStyle, KBStyleConfig, even_phases
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.weights_file import writable_folder
from skd import Step


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
    plan: Plan = PLAN,
    config: KBStyleConfig = TEACHER,
    crop: int = 160,
    seed: int = 0,
    **options: Any,
) -> tuple[KBStyle, int]:
    """Train a network from scratch; returns it in eval mode, and the number of steps.

    Parameters
    ----------
    contents, styles : sequence of Path
        Photographs and paintings.
    perceptual : Perceptual
        See `load_perceptual`. It is frozen.
    out : path
        Folder for checkpoint and log; a run found there goes on.
    plan : Plan
    config : KBStyleConfig
    crop : int
        Side of the training crops in pixels.
    seed : int
        Of the first weights and of the crops.
    **options
        Of `StyleTask`: weights.

    Raises
    ------
    ArgumentError
        A number that can't be, or weights for layers that the perceptual network doesn't have.
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
    >>> from kbstyle_example.perceptual import VGG
    >>> tiny = VGG("tiny", (4, 4), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.radial_gradient("L").save(path)
    ...     network, steps = train([path], [path], tiny, Path(folder, "run"), plan=Plan(steps=2, batch_size=1), crop=16,
    ...                            style_weights={"relu1_1": 1.0}, covariance_weights={})
    ...     steps, sorted(file.name for file in Path(folder, "run").iterdir())
    (2, ['checkpoint.pt', 'log.jsonl'])
    """
    samples = StylePairs(contents, styles, crop=crop, length=plan.steps * plan.batch_size, seed=seed)
    samples[0]  # pictures of which none can be used are better met here than in a process that loads data
    network = scratch(config, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    perceptual = perceptual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = StyleTask(network, perceptual, **options)
    steps = fit(_OnBatch(task), samples, plan, writable_folder(out), label="train")
    even_phases(network.decoder)  # the checkpoint keeps the weights as they were trained
    return network.eval(), steps
