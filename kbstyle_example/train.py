"""Train a KBStyle teacher on folders of photographs and paintings, under a perceptual network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import skd
from kbstyle_example.beginning import Start, first_weights, training_samples
from kbstyle_example.distill import RECIPE
from kbstyle_example.hard_pairs import drawn
from kbstyle_example.losses import Guide, StyleTask
from kbstyle_example.networks import TEACHER, KBStyle, KBStyleConfig, even_phases
from kbstyle_example.peers import System
from kbstyle_example.perceptual import Perceptual, identity_of
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
    vary_colours: float = 0.0,
    vary_strokes: float = 0.0,
    hard_pairs: int = 0,
    guide: System | None = None,
    start: Start | None = None,
    validation: Folders | None = None,
    **options: Any,
) -> Trained:
    """Train a network, from scratch or from weights that are there.

    Parameters
    ----------
    contents, styles : sequence of Path
        Photographs and paintings.
    perceptual : Perceptual
        See `load_perceptual`; `kbstyle_example.by_turns.ByTurns` makes one of several. It is frozen.
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
    vary_colours : float
        Share of the paintings whose colours are changed (`kbstyle_example.recolouring`).
    vary_strokes : float
        Share of the paintings whose strokes are made finer (`kbstyle_example.sharpening`).
    hard_pairs : int
        How many fixed pairs of crops are measured first, and drawn from in proportion to how far the first weights'
        pictures are from the painting in style; 0: no crop is seen twice.
    guide : System, optional
        Whose pictures the network's shall be like (`kbstyle_example.peers.load_peer`; `as_system` makes one of a
        KBStyle network). It isn't changed.
    start : KBStyle, path or str, optional
        A network, a weights file or the name of bundled weights to begin with, in place of random first weights. It is
        copied.
    validation : (sequence of Path, sequence of Path), optional
        Photographs and paintings to evaluate on, as often as the recipe says.
    **options
        Of `StyleTask`: weights.

    Raises
    ------
    ArgumentError
        A number that can't be, weights for layers that the perceptual network doesn't have, or a start of another
        shape than `config`.
    DataError
        No picture can be used.
    FileError
        The folder can't be written into, or the checkpoints there are another run's or damaged; there are no such
        weights to start from.
    ShapeError, NonFiniteError
        The guide gives something else than pictures; the training diverged (the checkpoint before it is kept).

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
    varied = {"vary_colours": vary_colours, "vary_strokes": vary_strokes}
    samples = training_samples(contents, styles, recipe, crop=crop, batch_size=batch_size, workers=workers, **varied)
    network, begun = first_weights(config, recipe.seed, start)
    task = StyleTask(network, perceptual, guide=None if guide is None else one_by_one(guide), **options)
    pairs = drawn(samples, hard_pairs, network, begun, perceptual, task.style_weights, out) if hard_pairs else samples
    weights: list[Any] = [task.content_weight, task.style_weight, task.style_weights, task.covariance_weights]
    if task.luminance_weight:
        weights.append(task.luminance_weight)
    if task.shapes.begun:
        weights.append(task.shapes.identity())
    if task.detail_weight:
        weights.append(f"detail {task.detail_weight}")
    if guide is not None:
        weights += [task.pixel_weight, task.feature_weight, task.feature_weights]
    run = skd.fit(
        task,
        DataLoader(pairs, batch_size=batch_size, num_workers=workers),
        out,
        recipe=recipe,
        product=task.network,
        evaluate=None if validation is None else style_losses(task, validation, crop=crop, seed=recipe.seed),
        about={
            **pairs.about(),
            "perceptual": identity_of(perceptual),
            "weights": " ".join(map(str, weights)),
            "guide": guide_name(guide),
            "start": begun,
        },
    )
    even_phases(task.network.decoder)  # the checkpoint keeps the weights as they were trained
    return Trained(task.network.eval(), run)


def one_by_one(system: System) -> Guide:
    """A system as a guide: it takes one pair at a time, and works where its weights are.

    Examples
    --------
    >>> negative = System("negative", lambda content, style: 1 - content, "0" * 64, 0, 0, lambda content, style: 0)
    >>> one_by_one(negative)(torch.full((2, 3, 16, 16), 0.25), torch.zeros(1, 3, 16, 16)).unique()
    tensor([0.7500])
    """

    def pictures(content: Tensor, style: Tensor) -> Tensor:
        pairs = zip(content, style.expand(len(content), -1, -1, -1), strict=True)
        return torch.cat([system.stylize(photograph[None], painting[None]) for photograph, painting in pairs])

    return pictures


def guide_name(guide: System | None) -> str:
    """What a guide is called where runs and figures are told apart: its name and digest.

    Examples
    --------
    >>> guide_name(None)
    'none'
    """
    return "none" if guide is None else f"{guide.name} {guide.sha256}"
