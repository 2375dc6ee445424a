"""A student that learns one painting by heart: some minutes of training, and a file of the same size.

The bundled student paints any style, and each by what two small encoders say of it. For one painting its other layers
can do better (docs: KBStyle, one painting by heart).
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import skd
from kbstyle_example.beginning import Start
from kbstyle_example.data import StylePairs, list_pictures
from kbstyle_example.distances import moment_distance, weighted
from kbstyle_example.distill import STARTED, distill
from kbstyle_example.files import writable_folder
from kbstyle_example.moments import Moments, moments
from kbstyle_example.networks import KBStyle, padded
from kbstyle_example.options import SMALLEST_SIDE
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.weights_file import load_weights, save_weights
from skd.errors import FileError

SAMPLES = Path(__file__).parent / "samples" / "content"
RECIPE = skd.Recipe(steps=300, warmup=20, channels_last=True, log_every=20)
FEATURE_WEIGHT, STYLE_WEIGHT, LUMINANCE_WEIGHT = 4.0, 16.0, 0.8
MEASURED = 16  # pairs of crops, for calibration and for the figures


class Learned(NamedTuple):
    """What was learned, and how near to the painting's style pictures are, under the network that was trained with.

    Attributes
    ----------
    network : KBStyle
        In eval mode.
    steps, size : int
        Of the training; bytes of the file.
    before, after, teacher : float
        The style's loss (`kbstyle_example.distances.moment_distance`) of the pictures that the start, the learned
        network and the teacher paint; lower is nearer.
    """

    network: KBStyle
    steps: int
    size: int
    before: float
    after: float
    teacher: float


class Encoders(Perceptual):
    """A KBStyle network's own encoders as what looks at pictures, where no perceptual network is at hand.

    Features have each channel's mean over some pictures taken off, and are over its deviation: as they are, those of
    the deepest level are nearly constants.

    Parameters
    ----------
    network : KBStyle
    pictures : Tensor
        (B, 3, H, W) in 0..1.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> eyes = Encoders(KBStyle(STUDENT), torch.rand(2, 3, 32, 32))
    >>> {name: tuple(feature.shape) for name, feature in eyes(torch.rand(1, 3, 32, 32)).items()}["content2"]
    (1, 20, 8, 8)
    """

    name, content_layer, smallest_side = "encoders of the teacher", "content3", SMALLEST_SIDE
    layers = tuple(f"{encoder}{level}" for encoder in ("content", "style") for level in (1, 2, 3))

    def __init__(self, network: KBStyle, pictures: Tensor) -> None:
        super().__init__()
        self.content, self.style = map(copy.deepcopy, (network.content_encoder, network.style_encoder))  # to be frozen
        with torch.no_grad():
            self.known: dict[str, Moments] = {}
            for name, feature in self(pictures).items():
                mean, deviation = moments(feature)
                self.known[name] = Moments(mean.mean(0, keepdim=True), deviation.mean(0, keepdim=True) + 1e-3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in 0..1 → the six features, at 1/2, 1/4 and 1/8 of the size."""
        found = dict(
            zip(self.layers, (*self.content(padded(self.checked(image))), *self.style(padded(image))), strict=True)
        )
        return {
            name: (feature - self.known[name].mean) / self.known[name].deviation if name in self.known else feature
            for name, feature in found.items()
        }


def learn(
    painting: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    contents: Sequence[Path] | None = None,
    start: Start = "kbstyle",
    teacher: KBStyle | str | os.PathLike[str] = "teacher",
    perceptual: Perceptual | None = None,
    steps: int = 300,
    crop: int = 256,
    batch_size: int = 2,
    seed: int = 0,
) -> Learned:
    """Teach a student one painting, from what the teacher makes of it, and write its weights.

    Parameters
    ----------
    painting : path
        Whatever it is called: what is learned is this painting, and figures of it say nothing of others.
    out : path
        The weights file to write.
    contents : sequence of Path, optional
        Photographs to practise on; the bundled ones otherwise.
    start : KBStyle, path or str
        The student to begin with: a network, its file, or the name of bundled weights.
    teacher : KBStyle, path or str
    perceptual : Perceptual, optional
        Under which pictures are compared with the teacher's and with the painting; the teacher's own encoders
        otherwise, which see less.
    steps, crop, batch_size, seed : int

    Raises
    ------
    ArgumentError, DataError, FileError
        As `distill`; a file that can't be written is met before the training.

    Examples
    --------
    >>> done = learn("painting.jpg", "painting.safetensors")  # doctest: +SKIP
    >>> done.before > done.after  # doctest: +SKIP
    True
    """
    path = Path(out)
    if path.is_dir():  # better met now than after the training
        raise FileError("the weights can't be written", got=f"{path}, a folder", remedy="name a file in it")
    before, master = (each if isinstance(each, KBStyle) else load_weights(each) for each in (start, teacher))
    folder = writable_folder(path.parent)
    photographs = list_pictures(SAMPLES) if contents is None else list(contents)
    shown = StylePairs(photographs, [Path(painting)], crop=crop, length=MEASURED, seed=seed + 1)
    pairs = [tuple(batch) for batch in DataLoader(shown, batch_size=1)]
    eyes = perceptual or Encoders(master, torch.cat([part for pair in pairs for part in pair]))
    weights = dict.fromkeys(eyes.layers, 1.0)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".learn-") as run:
        done = distill(
            master,
            photographs,
            [Path(painting)],
            run,
            recipe=replace(RECIPE, steps=steps, seed=seed),
            config=before.config,
            crop=crop,
            batch_size=batch_size,
            workers=0,
            start=before,
            perceptual=eyes,
            feature_weight=FEATURE_WEIGHT,
            style_weight=STYLE_WEIGHT,
            luminance_weight=LUMINANCE_WEIGHT,
            feature_weights=weights,
            style_weights=weights,
            covariance_weights={},
            fade=0.5,
            **STARTED,
        )
    facts = {"learned": f"{Path(painting).name}, {done.run.steps} steps, seed {seed}"}
    size = save_weights(done.student, path, about=facts)
    distances = [_distance(network, eyes, pairs) for network in (before, done.student, master)]
    return Learned(done.student, done.run.steps, size, *distances)


@torch.no_grad()
def _distance(network: KBStyle, eyes: Perceptual, pairs: Sequence[Sequence[Tensor]]) -> float:
    weights = dict.fromkeys(eyes.layers, 1 / len(eyes.layers))
    found = []
    for content, style in pairs:
        painted = eyes(network(content, style).clamp(0, 1))
        found.append(weighted(moment_distance, painted, eyes(style), weights))
    return float(torch.stack(found).mean())
