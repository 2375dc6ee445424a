"""Style transfer: KBStyle and its bundled teacher, the protocol's distances of pictures that nothing is trained on."""

from __future__ import annotations

from functools import cache as once
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.methods.task import Setting, Task
from kbstyle_example.compressed import compressed, settle
from kbstyle_example.data import StylePairs, list_pictures
from kbstyle_example.distill import kbstyle_pairing
from kbstyle_example.evaluation.measures import Judge
from kbstyle_example.networks import STUDENT, KBStyle
from kbstyle_example.perceptual_files import load_perceptual
from kbstyle_example.splits import of_split
from kbstyle_example.weights_file import load_weights
from skd.knowledge import Reread

PERCEPTUAL = "weights/squeezenet1_1_imagenet_ndf.pt"  # it only ever measures
MEASURED = {"style": "style distance", "luminance_style": "luminance style distance", "content": "content distance"}
SETTLED = 96  # pairs that a correction's units are taken from
ENLARGED = 4  # pictures are measured at so many times the side that they are trained on


def style(setting: Setting, data: Path, _: Path) -> Task:
    """On photographs and paintings; `data` holds the perceptual network too."""
    folders = [list_pictures(data / kind) for kind in ("content", "style")]
    teacher, perceptual = load_weights("teacher").eval(), load_perceptual(data / PERCEPTUAL)

    def samples(split: Any, seed: int, length: int, crop: int = setting.crop) -> StylePairs:
        return StylePairs(*(of_split(paths, split) for paths in folders), crop=crop, length=length, seed=seed)

    # Long runs are measured on other pairs than the screening, which chose who runs.
    @once
    def judges(split: str, count: int) -> list[tuple[Tensor, Tensor, Tensor, Judge]]:
        found = []
        for sample in samples(split, 0 if count == setting.held_out else 1, count, ENLARGED * setting.crop):
            content, painting = (x[None] for x in sample)
            with torch.no_grad():
                wanted = teacher(content, painting)
            found.append((content, painting, wanted, Judge(content, painting, [perceptual])))
        return found

    @torch.no_grad()
    def measured(student: nn.Module, split: str, count: int) -> dict[str, float]:
        figures = list[dict[str, float]]()
        for content, painting, wanted, judge in judges(split, count):
            ours = student(content, painting).clamp(0, 1)
            marks = judge(ours)
            named = {title: marks[f"{perceptual.name}/{name}"] for name, title in MEASURED.items()}
            apart = 255 * float((ours - wanted).square().mean().sqrt())
            figures.append(named | {"SSIM": marks["ssim"], "difference from the teacher, of 255": apart})
        return {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}

    def student(start: Any) -> nn.Module:
        training = (of_split(paths, "train") for paths in folders)
        return compressed(teacher, *training, STUDENT, start=start).eval()

    paintings = [batch[1] for batch in DataLoader(samples("train", 1_000_000, SETTLED), batch_size=8)]

    def settled(network: nn.Module) -> None:
        """What its correction begins with is no matter of chance: it changes nothing yet, in units of its codes."""
        for part in network.correction.last.parameters():  # type: ignore[union-attr]
            nn.init.zeros_(part)
        settle(cast(KBStyle, network), paintings)

    reread = Reread(teacher.style_encoder, ["level1", "level2", "level3"])  # of whose statistics styles are made
    return Task(
        "style",
        teacher,
        setting,
        kbstyle_pairing,
        samples,
        tuple,
        measured,
        False,
        reread=reread,
        compressed=student,
        settle=settled,
    )
