"""Train an arm for a short while, then measure it."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import skd
from benchmarks.ablations.arms import Arm
from benchmarks.ablations.variants import build
from kbstyle_example.data import StylePairs
from kbstyle_example.evaluation.costs import latencies
from kbstyle_example.evaluation.measures import Judge
from kbstyle_example.images import grid, save_image
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import KBStyle, KBStyleConfig, even_phases
from kbstyle_example.peers import System, as_system
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.train import one_by_one

TIMED = (2048, 1080)
SHOWN = 4  # pairs on an arm's sheet


@dataclass(frozen=True)
class Setting:
    """What is the same for all arms.

    Parameters
    ----------
    config : KBStyleConfig
        Of the base.
    contents, styles : sequence of Path
        To train on.
    perceptual : Perceptual
        To train under.
    guide : System
        Whose pictures the base imitates.
    steps, batch, crop : int
    smallest_zoom : float
        See `StylePairs`.
    learning_rate : float
    """

    config: KBStyleConfig
    contents: Sequence[Path]
    styles: Sequence[Path]
    perceptual: Perceptual
    guide: System
    steps: int
    batch: int
    crop: int
    smallest_zoom: float
    learning_rate: float


class Remembered:
    """A function of pictures that is run once for each batch: all arms see the same ones."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.known: dict[bytes, Any] = {}

    def __call__(self, *pictures: Tensor) -> Any:
        content = b"".join(picture.contiguous().numpy().tobytes() for picture in pictures)
        key = hashlib.blake2b(content).digest()
        if key not in self.known:
            self.known[key] = self.function(*pictures)
        return self.known[key]


class Crops:
    """The training pairs of one seed, what the guide makes of them, and what the perceptual network sees in them."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.seed = seed
        samples = StylePairs(
            setting.contents,
            setting.styles,
            crop=setting.crop,
            length=setting.steps * setting.batch,
            seed=seed,
            smallest_zoom=setting.smallest_zoom,
        )
        self.samples = [samples[index] for index in range(len(samples))]
        self.guide = Remembered(one_by_one(setting.guide))
        self.perceptual = copy.deepcopy(setting.perceptual)
        forward, seen = self.perceptual.forward, Remembered(self.perceptual.forward)
        # Where there are gradients it is the network's own picture, which is another one each time.
        self.perceptual.forward = lambda image: forward(image) if torch.is_grad_enabled() else seen(image)


def train(arm: Arm, config: KBStyleConfig, crops: Crops, setting: Setting) -> tuple[KBStyle, float]:
    """The trained network, in eval mode, and the seconds of CPU time that it took.

    The crops' seed is that of the first weights, too.
    """
    options = arm.loss()
    guides = {None: None, "microast": crops.guide, "content": lambda content, _: content}
    network = build(config, arm.change, crops.seed)
    task = StyleTask(network, crops.perceptual, guide=guides[options.pop("guide")], **options)
    recipe = skd.Recipe(
        steps=setting.steps,
        learning_rate=setting.learning_rate,
        warmup=min(20, setting.steps // 10),
        channels_last=True,
        seed=crops.seed,
        cpu=True,
    )
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        skd.fit(task, DataLoader(crops.samples, batch_size=setting.batch), folder, recipe=recipe, product=network)
    even_phases(network.decoder)
    return network.eval(), time.process_time() - started


class Pairs:
    """Pairs to measure on; what depends on them alone is computed once."""

    def __init__(self, pictures: Sequence[tuple[Tensor, Tensor]], perceptual: Perceptual) -> None:
        self.pictures, self.prefix = pictures, f"{perceptual.name}/"
        self.judges = [Judge(content, style, [perceptual]) for content, style in pictures]

    def measure(self, network: KBStyle, sheet: Path | None = None) -> dict[str, list[float]]:
        """Each measure's value for each pair, in the pairs' order; optionally a sheet of the first pairs."""
        system, values, shown = as_system(network), [], []
        for (content, style), judge in zip(self.pictures, self.judges, strict=True):
            result = system.stylize(content, style)
            values.append(judge(result))
            shown.append([content[0], style[0], result[0]])
        if sheet is not None:
            save_image(grid(shown[:SHOWN]), sheet)
        return {name.removeprefix(self.prefix): [float(f"{value[name]:.6g}") for value in values] for name in values[0]}


def time_beside(base: KBStyle, network: KBStyle, rounds: int) -> dict[str, float]:
    """Milliseconds of both at 2048×1080, in turns, and their ratio: median and quartiles."""
    found = latencies([as_system(base, name="base"), as_system(network, name="arm")], TIMED, rounds=rounds)
    mine = found["arm"]
    return {
        "base, ms": round(found["base"].milliseconds, 1),
        "ms": round(mine.milliseconds, 1),
        "ratio": round(mine.ratio, 3),
        "lower quartile": round(mine.low, 3),
        "upper quartile": round(mine.high, 3),
    }
