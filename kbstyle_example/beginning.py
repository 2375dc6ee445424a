"""What a training of KBStyle begins with: the pairs of pictures, and the first weights."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch

import skd
from kbstyle_example.data import StylePairs
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.weights_file import encoded, load_weights
from skd.errors import ArgumentError

Start: TypeAlias = KBStyle | str | os.PathLike[str]


def training_samples(
    contents: Sequence[Path],
    styles: Sequence[Path],
    recipe: skd.Recipe,
    *,
    crop: int,
    batch_size: int,
    workers: int = 0,
    vary_colours: float = 0.0,
    vary_strokes: float = 0.0,
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
    length = recipe.steps * recipe.accumulate * batch_size
    varied = {"vary_colours": vary_colours, "vary_strokes": vary_strokes}
    samples = StylePairs(contents, styles, crop=crop, length=length, seed=recipe.seed, **varied)
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
    >>> from kbstyle_example.networks import STUDENT
    >>> first, second = (scratch(STUDENT, seed=3).state_dict().values() for _ in range(2))
    >>> all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    True
    """
    if not 0 <= seed < 2**63:
        raise ArgumentError("seed of the first weights", got=seed, expected="0 to 2⁶³ − 1")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return KBStyle(config)


def first_weights(config: KBStyleConfig, seed: int, start: Start | None = None) -> tuple[KBStyle, str]:
    """The network that a training begins with, and what tells it from another, for the run's identity.

    Parameters
    ----------
    config : KBStyleConfig
    seed : int
        Of random first weights, where there is no start.
    start : KBStyle, path or str, optional
        A network, a weights file or the name of bundled weights. It is copied.

    Raises
    ------
    ArgumentError
        The start has another shape, or see `scratch`.
    FileError
        There are no such weights, or they aren't KBStyle's.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> begun = scratch(STUDENT, seed=3)
    >>> network, said = first_weights(STUDENT, 0, begun)
    >>> torch.equal(network.decoder.up1.weight, begun.decoder.up1.weight), first_weights(STUDENT, 0)[1]
    (True, 'random')
    """
    if start is None:
        return scratch(config, seed), "random"
    network = copy.deepcopy(start).float().requires_grad_() if isinstance(start, KBStyle) else load_weights(start)
    if network.config != config:
        raise ArgumentError(
            "the weights to start from are of a network of another shape",
            got=_shape(network.config),
            expected=_shape(config),
            remedy="start from weights of this shape, or train that one",
        )
    return network, weights_digest(network)


def weights_digest(network: KBStyle) -> str:
    """SHA-256 of the weights file without any facts that a network would have, its first 16 digits.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> len(weights_digest(scratch(STUDENT, seed=3)))
    16
    """
    return hashlib.sha256(encoded(network)).hexdigest()[:16]


def _shape(config: KBStyleConfig) -> str:
    return ", ".join(f"{key} {value}" for key, value in config.as_dict().items())
