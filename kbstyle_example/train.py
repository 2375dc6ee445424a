"""Train a KBStyle teacher on folders of photographs and paintings, under a perceptual network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

import skd
from kbstyle_example.distill import RECIPE, scratch, training_samples
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import TEACHER, KBStyle, KBStyleConfig, even_phases
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.validation import Folders, style_losses


class Trained(NamedTuple):
    """A trained network, in eval mode, and what the training did."""

    network: KBStyle
    run: skd.Run


def train(
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptual: Perceptual,
    out: str | Path,
    *,
    recipe: skd.Recipe = RECIPE,
    config: KBStyleConfig = TEACHER,
    crop: int = 160,
    batch_size: int = 4,
    workers: int = 1,
    validation: Folders | None = None,
    **options: Any,
) -> Trained:
    """Train a network from scratch.

    Parameters
    ----------
    contents, styles : sequence of Path
        Photographs and paintings.
    perceptual : Perceptual
        See `load_perceptual`. It is frozen.
    out : path
        Folder for checkpoints and log; a run found there goes on.
    recipe : skd.Recipe
        Its seed is also that of the first weights and of the crops.
    config : KBStyleConfig
    crop : int
        Side of the training crops in pixels.
    batch_size : int
        Pairs in a batch.
    workers : int
        Processes that load pictures; 0 loads in this one.
    validation : (sequence of Path, sequence of Path), optional
        Photographs and paintings to evaluate on, as often as the recipe says.
    **options
        Of `StyleTask`: weights.

    Raises
    ------
    ArgumentError
        A number that can't be, or weights for layers that the perceptual network doesn't have.
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
    >>> from kbstyle_example.perceptual import VGG
    >>> tiny = VGG("tiny", (4, 4), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.radial_gradient("L").save(path)
    ...     done = train([path], [path], tiny, Path(folder, "run"), recipe=skd.Recipe(steps=2), batch_size=1, crop=16,
    ...                  style_weights={"relu1_1": 1.0}, covariance_weights={})
    >>> done.run.steps, done.network.config == TEACHER
    (2, True)
    """
    samples = training_samples(contents, styles, recipe, crop=crop, batch_size=batch_size, workers=workers)
    task = StyleTask(scratch(config, recipe.seed), perceptual, **options)
    run = skd.fit(
        task,
        DataLoader(samples, batch_size=batch_size, num_workers=workers),
        out,
        recipe=recipe,
        product=task.network,
        evaluate=None if validation is None else style_losses(task, validation, crop=crop, seed=recipe.seed),
        about={
            **samples.about(),
            "perceptual": perceptual.sha256,
            "weights": f"{task.content_weight} {task.style_weight} {task.style_weights} {task.covariance_weights}",
        },
    )
    even_phases(task.network.decoder)  # the checkpoint keeps the weights as they were trained
    return Trained(task.network.eval(), run)
