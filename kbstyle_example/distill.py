"""Distil a KBStyle network into a smaller one with SKD, through the public face of skd alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import skd
from kbstyle_example.data import StylePairs
from kbstyle_example.networks import STUDENT, KBStyle, KBStyleConfig, even_phases
from kbstyle_example.validation import Folders, differences
from skd.errors import ArgumentError

EXAMPLE = (torch.zeros(1, 3, 64, 80), torch.zeros(1, 3, 64, 64))
# The decoder's features end where the output is drawn from them: SKD's terms guide, the output's decides.
OUTPUT_WEIGHT = 20.0
CALIBRATION_BATCHES = 16
RECIPE = skd.Recipe(steps=20_000, channels_last=True)


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


def distill(
    teacher: KBStyle,
    contents: Sequence[Path],
    styles: Sequence[Path],
    out: str | Path,
    *,
    recipe: skd.Recipe = RECIPE,
    config: KBStyleConfig = STUDENT,
    crop: int = 128,
    batch_size: int = 4,
    workers: int = 1,
    validation: Folders | None = None,
    **options: Any,
) -> skd.Distilled[KBStyle]:
    """Train a narrower KBStyle network, from scratch, to do what the teacher does.

    Parameters
    ----------
    teacher : KBStyle
        It is copied: nothing about it changes.
    contents, styles : sequence of Path
        Photographs and paintings.
    out : path
        Folder for checkpoints and log; a run found there goes on.
    recipe : skd.Recipe
        Its seed is also that of the student's first weights and of the crops.
    config : KBStyleConfig
        The student's.
    crop : int
        Side of the training crops in pixels.
    batch_size : int
        Pairs in a batch.
    workers : int
        Processes that load pictures; 0 loads in this one.
    validation : (sequence of Path, sequence of Path), optional
        Photographs and paintings to evaluate on, as often as the recipe says.
    **options
        Of `skd.methods.SKD`.

    Returns
    -------
    skd.Distilled
        The student in eval mode.

    Raises
    ------
    ArgumentError, ShapeError
        A number that can't be, or a student wider than its teacher.
    DataError
        No picture can be used.
    FileError
        The folder can't be written into, or the checkpoints there are another run's or damaged.
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
    ...     done = distill(teacher, [path], [path], Path(folder, "run"), recipe=skd.Recipe(steps=2),
    ...                    batch_size=2, crop=16, config=KBStyleConfig(widths=(2, 3, 4)))
    >>> done.run.steps, len(done.report.rows), done.student.config.widths
    (2, 19, (2, 3, 4))
    """
    samples = training_samples(contents, styles, recipe, crop=crop, batch_size=batch_size, workers=workers)
    # Calibration pictures of the same kind, and never the same crops.
    calibration = StylePairs(contents, styles, crop=crop, length=CALIBRATION_BATCHES * batch_size, seed=recipe.seed + 1)
    student = scratch(config, recipe.seed)
    teacher = copy.deepcopy(teacher)

    def method(plan: skd.Plan, spectra: skd.Spectra) -> skd.methods.SKD:
        return skd.methods.SKD(plan, spectra, **{"output": OUTPUT_WEIGHT, **options})

    done = skd.distill(
        teacher,
        DataLoader(samples, batch_size=batch_size, num_workers=workers),
        out,
        student=student,
        recipe=recipe,
        method=method,
        pairings=(kbstyle_pairing(teacher), kbstyle_pairing(student)),
        calibration=DataLoader(calibration, batch_size=batch_size),
        evaluate=None if validation is None else differences(teacher, validation, crop=crop, seed=recipe.seed),
        about=samples.about(),
    )
    even_phases(student.decoder)  # the checkpoint keeps the weights as they were trained
    return done


def training_samples(
    contents: Sequence[Path],
    styles: Sequence[Path],
    recipe: skd.Recipe,
    *,
    crop: int,
    batch_size: int,
    workers: int = 0,
) -> StylePairs:
    """As many pairs of crops as a process uses up: no crop is seen twice.

    Raises
    ------
    ArgumentError, DataError
        A number that can't be; none of the pictures can be used, which is better met here than in a loading process.

    Examples
    --------
    >>> from PIL import Image
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.radial_gradient("L").save(path)
    ...     len(training_samples([path], [path], skd.Recipe(steps=10), crop=16, batch_size=4))
    40
    """
    if batch_size < 1:
        raise ArgumentError("pairs in a batch", got=batch_size, expected="1 or more")
    if workers < 0:
        raise ArgumentError("processes that load pictures", got=workers, expected="0 or more")
    samples = StylePairs(
        contents, styles, crop=crop, length=recipe.steps * recipe.accumulate * batch_size, seed=recipe.seed
    )
    samples[0]
    return samples


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
