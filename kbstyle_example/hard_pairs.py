"""Fixed pairs of crops, drawn in proportion to how far a network's pictures are from the painting's style."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from kbstyle_example.data import StylePairs
from kbstyle_example.distances import moment_distance, weighted
from kbstyle_example.files import writable_folder, write_atomically
from kbstyle_example.networks import KBStyle
from kbstyle_example.perceptual import Perceptual, identity_of
from skd.errors import ArgumentError, FileError

FILE = "hard_pairs.json"
LEAST, MOST = 0.2, 4.0  # of the mean: easy pairs come, too, and no freak comes all the time


class HardPairs(Dataset[tuple[Tensor, Tensor]]):
    """As many samples as asked for, each one of the pairs: the further off, the oftener.

    Parameters
    ----------
    pairs : StylePairs
    distances : sequence of float
        How far off each is; they count from a fifth of their mean to four times it.
    length : int
        How many samples there are (steps × batch size).
    seed : int
        Sample i depends on the seed, the distances and i alone.

    Raises
    ------
    ArgumentError
        Not a distance for each pair, all finite, none negative, and not all 0.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.radial_gradient("L").save(path)
    ...     pairs = StylePairs([path], [path], crop=16, length=3)
    ...     drawn = HardPairs(pairs, [0.1, 0.1, 0.6], length=100)
    ...     [int((drawn.order == each).sum()) for each in range(3)]
    [12, 11, 77]
    """

    def __init__(self, pairs: StylePairs, distances: Sequence[float], *, length: int, seed: int = 0) -> None:
        found = np.asarray(distances, np.float64)
        if found.shape != (len(pairs),) or not np.isfinite(found).all() or found.min() < 0 or not found.any():
            expected = f"{len(pairs)} finite numbers from 0, one above"
            raise ArgumentError("distances of pairs", got=f"{found.shape} {found[:3]}…", expected=expected)
        shares = found.clip(LEAST * found.mean(), MOST * found.mean())
        self.pairs, self.distances, self.length = pairs, found, length
        self.order = np.random.default_rng([seed, len(pairs)]).choice(len(pairs), length, p=shares / shares.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Sample `index`: a photograph and a painting, (3, crop, crop) in 0..1 each."""
        return self.pairs[int(self.order[index])]

    def about(self) -> dict[str, str | int | float]:
        """What the samples depend on beside their number, for `skd.fit`: a run goes on with the same alone."""
        digest = sha256(self.distances.tobytes()).hexdigest()[:16]
        return {**self.pairs.about(), "hard_pairs": len(self.pairs), "hard_pairs_distances": digest}


def drawn(
    samples: StylePairs,
    count: int,
    network: KBStyle,
    begun: str,
    perceptual: Perceptual,
    weights: Mapping[str, float],
    folder: str | Path,
) -> HardPairs:
    """As many samples as there are, of `count` fixed pairs of the same pictures, measured first; see `measured`.

    Raises
    ------
    ArgumentError
        Less than one pair.
    """
    if count < 1:
        raise ArgumentError("pairs to draw from", got=count, expected="1 or more")
    pairs = copy.copy(samples)
    pairs.length = count
    distances = measured(network, begun, pairs, perceptual, weights, folder)
    return HardPairs(pairs, distances, length=len(samples), seed=samples.seed)


@torch.no_grad()
def measured(
    network: KBStyle,
    begun: str,
    pairs: StylePairs,
    perceptual: Perceptual,
    weights: Mapping[str, float],
    folder: str | Path,
) -> list[float]:
    """How far a network's pictures are from each pair's painting in style; kept in the folder, and read from there.

    Parameters
    ----------
    network : KBStyle
    begun : str
        What tells it from another (`kbstyle_example.beginning.first_weights`).
    pairs : StylePairs
    perceptual : Perceptual
    weights : mapping of str to float
        Of its layers, w_l of `kbstyle_example.losses`.
    folder : path
        Where ``hard_pairs.json`` stands, or will.

    Raises
    ------
    FileError
        The file there is of other pairs or another network, or can't be read; it can't be written.
    """
    facts = [begun, identity_of(perceptual), dict(weights), pairs.about(), len(pairs)]
    identity = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path = writable_folder(folder) / FILE
    if path.exists():
        return _kept(path, identity)
    found = [
        float(weighted(moment_distance, perceptual(network(content, style)), perceptual(style), weights))
        for content, style in tqdm(DataLoader(pairs, batch_size=1), desc="pairs measured", leave=False)
    ]
    write_atomically(json.dumps({"of": identity, "distances": found}), path, what="the distances of pairs")
    return found


def _kept(path: Path, identity: str) -> list[float]:
    remedy = f"name another output folder, or remove {path}"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        of, found = kept["of"], [float(each) for each in kept["distances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{path} ({type(error).__name__})"
        raise FileError("the distances of pairs can't be read", got=got, remedy=remedy) from None
    if of != identity:
        raise FileError("the distances there are of other pairs, or of another network", got=str(path), remedy=remedy)
    return found
