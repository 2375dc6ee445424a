"""Several paintings in one: codes mixed by weights, and masks that say where each of them paints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kbstyle_example.moments import Moments, StyleCode
from kbstyle_example.options import checked_weights
from kbstyle_example.photograph import Photograph, Source
from kbstyle_example.strips import Pixels, as_numbers, as_pixels, strips

LIGHTNESS = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def mixed(codes: Sequence[StyleCode], weights: Sequence[float]) -> StyleCode:
    """The weighted mean of style codes, level by level, of means and of deviations.

    Parameters
    ----------
    codes : sequence of StyleCode
        Of one network.
    weights : sequence of float
        One for each; only their ratios count.

    Raises
    ------
    ArgumentError
        See `checked_weights`.

    Examples
    --------
    >>> def code(value):
    ...     level = Moments(torch.full((1, 2, 1, 1), value), torch.ones(1, 2, 1, 1))
    ...     return StyleCode(level, level, level)
    >>> mixed([code(1.0), code(5.0)], [3, 1]).level1.mean.flatten()
    tensor([2., 2.])
    """
    shares = checked_weights(weights, len(codes))
    if len(codes) == 1:
        return codes[0]
    levels = []
    for moments in zip(*codes, strict=True):
        mean, deviation = (
            sum((share * part for share, part in zip(shares, parts, strict=True)), torch.zeros(()).to(parts[0]))
            for parts in zip(*moments, strict=True)
        )
        levels.append(Moments(mean, deviation))
    return StyleCode(*levels)


def mask_pixels(mask: Source, *, max_pixels: int | None = None) -> Pixels:
    """A mask picture as (H, W) of 8 bits: its lightness (ITU-R 601), and 0 where it is transparent.

    Raises
    ------
    FileError, ShapeError, DataError, ArgumentError
        See `Photograph.of`.

    Examples
    --------
    >>> mask_pixels(np.ones((1, 2)))
    array([[255, 255]], dtype=uint8)
    """
    found = Photograph.of(mask, max_pixels=max_pixels)
    out = np.empty(found.pixels.shape[:2], np.uint8)
    for rows in strips(*found.pixels.shape[:2]):
        lightness = (as_numbers(found.pixels[rows]) * LIGHTNESS).sum(1, keepdim=True)
        seen = lightness if found.alpha is None else lightness * as_numbers(found.alpha[rows])
        out[rows] = as_pixels(seen)[..., 0]
    return out


def layers(masks: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    """How much each mask's picture covers of what lies beneath, where they are laid one over the other in order.

    In the end each has its share of each pixel: where masks overlap, their weights decide; where they reach 1 together
    they leave nothing of what lies beneath all; where they sum to less, the rest is left, so that soft edges fade.

    Parameters
    ----------
    masks : sequence of Tensor
        Of one shape, in 0..1.
    weights : sequence of float
        One for each, from 0 up.

    Examples
    --------
    >>> half = torch.tensor(0.5)
    >>> sky, wood = layers([half, half / 2], [1, 1])  # shares of 1/2 and 1/4; 1/4 is left
    >>> print(f"{sky:.3f} {wood:.3f}")
    0.667 0.250
    """
    covered = torch.stack(list(masks)).sum(0).clamp(max=1)
    weighted = [weight * mask for weight, mask in zip(weights, masks, strict=True)]
    total = torch.stack(weighted).sum(0)
    tiny = torch.finfo(total.dtype).tiny
    shares = [covered * mask / total.clamp(min=tiny) for mask in weighted]
    below = (1 - torch.stack(shares).sum(0)).clamp(min=0)
    found = []
    for share in shares:
        below = below + share
        found.append((share / below.clamp(min=tiny)).clamp(0, 1))
    return found
