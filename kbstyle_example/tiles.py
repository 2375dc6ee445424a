"""Photographs of any size: painted tile by tile, and the picture is that of the whole.

What ties distant parts of a picture together are the statistics that the decoder normalises with, one a level. They
are summed up over all tiles first, a pass a level, since each level's features depend on the statistics of the deeper
ones; then one pass paints. Beyond the network's reach a tile can't tell whether the rest is there, so tiles that
overlap by that much fit together to rounding. Memory depends on the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.moments import Moments, Statistics, StyleCode
from kbstyle_example.networks import KBStyle
from skd.errors import ArgumentError

TILE = 1024  # pixels: a compromise between memory and what is painted twice
LEVELS = (8, 4, 2)  # pixels to a position, of the features whose statistics are wanted, deepest first
Photograph = npt.NDArray[np.uint8]


class Tile(NamedTuple):
    """A part of the picture, in pixels: what it is responsible for, and what it has to see for that."""

    top: int
    left: int
    bottom: int
    right: int
    seen: tuple[int, int, int, int]


def tiles(height: int, width: int, *, side: int, margin: int) -> Iterator[Tile]:
    """Tiles of at most `side`, without overlap; each sees `margin` more on every side where there is more.

    Examples
    --------
    >>> [tile[:4] for tile in tiles(24, 40, side=32, margin=8)]
    [(0, 0, 24, 32), (0, 32, 24, 40)]
    >>> next(tiles(24, 40, side=32, margin=8)).seen
    (0, 0, 24, 40)
    """
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(height, top + side), min(width, left + side)
            seen = max(0, top - margin), max(0, left - margin), min(height, bottom + margin), min(width, right + margin)
            yield Tile(top, left, bottom, right, seen)


@torch.no_grad()
def render_tiles(
    network: KBStyle,
    photograph: Photograph,
    code: StyleCode,
    *,
    side: int = TILE,
    progress: Callable[[float], None] | None = None,
) -> Photograph:
    """Paint a photograph of any size; the same picture as `KBStyle.render` gives, to one step of 255.

    Parameters
    ----------
    network : KBStyle
    photograph : array of uint8, (H, W, 3)
        May be a memory map.
    code : StyleCode
        From `KBStyle.encode_style`, of one painting.
    side : int
        Of the tiles, a multiple of 8. Larger ones take more memory and less time.
    progress : callable, optional
        Told the share that is done, from 0 to 1, after each tile.

    Returns
    -------
    array of uint8, (H, W, 3)

    Raises
    ------
    ArgumentError
        A side that isn't a multiple of 8, or not a picture of at least 16×16 in uint8.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> network, photograph = KBStyle(STUDENT).eval(), np.zeros((40, 56, 3), np.uint8)
    >>> render_tiles(network, photograph, network.encode_style(torch.rand(1, 3, 32, 32)), side=32).shape
    (40, 56, 3)
    """
    if side < 8 or side % 8:
        raise ArgumentError("side of the tiles", got=side, expected="a multiple of 8 from 8 up")
    shape = photograph.shape
    if photograph.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < 16:
        got = f"{photograph.dtype} of {shape}"
        raise ArgumentError("no photograph to paint in tiles", got=got, expected="(H, W, 3) in uint8, from 16×16 up")
    height, width = (-(-size // 8) * 8 for size in shape[:2])  # as `padded` makes it
    margin = -(-network.reach // 8) * 8
    parts = list(tiles(height, width, side=side, margin=margin))
    total, done = len(parts) * (len(LEVELS) + 1), 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done / total)

    known: list[Moments] = []
    for scale in LEVELS:
        sums = Statistics()
        for tile in parts:
            content = network.content_encoder(_pixels(photograph, tile, network))
            sums.add(_core(network.decoder.entering(content, code, known), tile, scale))
            tell()
        known.append(sums.moments())
    painted = np.empty_like(photograph, order="C")
    for tile in parts:
        content = network.content_encoder(_pixels(photograph, tile, network))
        out = _core(network.decoder(content, code, known), tile, 1)[0].clamp(0, 1).mul(255).round()
        part = out.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        place = painted[tile.top : tile.bottom, tile.left : tile.right]
        place[:] = part[: place.shape[0], : place.shape[1]]
        tell()
    return painted


def _pixels(photograph: Photograph, tile: Tile, network: KBStyle) -> Tensor:
    """What the tile sees, (1, 3, h, w) in 0..1; what lies beyond the photograph repeats its edge."""
    top, left, bottom, right = tile.seen
    part = photograph[top:bottom, left:right].copy()  # torch wants to be allowed to write
    weight = next(network.parameters())
    seen = torch.from_numpy(part).to(weight.device).permute(2, 0, 1)[None].to(weight.dtype) / 255
    missing = (0, right - left - part.shape[1], 0, bottom - top - part.shape[0])
    return F.pad(seen, missing, mode="replicate").contiguous(memory_format=torch.channels_last)


def _core(feature: Tensor, tile: Tile, scale: int) -> Tensor:
    """What the tile is responsible for, of a feature with one position in `scale` pixels."""
    top, left = (tile.top - tile.seen[0]) // scale, (tile.left - tile.seen[1]) // scale
    return feature[..., top : top + (tile.bottom - tile.top) // scale, left : left + (tile.right - tile.left) // scale]
