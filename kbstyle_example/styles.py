"""Several paintings in one: codes mixed by weights, and masks that say where each of them paints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.networks import Moments, StyleCode
from kbstyle_example.photograph import Photograph, Source
from skd.errors import ArgumentError


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


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights that sum to 1; equal ones where none are given.

    Raises
    ------
    ArgumentError
        Not one for each style; negative, not finite, or all 0.

    Examples
    --------
    >>> checked_weights([3, 1], 2), checked_weights(None, 2)
    ([0.75, 0.25], [0.5, 0.5])
    """
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise ArgumentError("weights of styles", got=f"{len(given)} weights", expected=f"{count}, one for each style")
    total = sum(given)
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or not 0 < total < math.inf:
        raise ArgumentError("weights of styles", got=given, expected="numbers from 0 up, not all 0")
    return [weight / total for weight in given]


def mask_tensor(mask: Source, *, max_pixels: int | None = None) -> Tensor:
    """A mask picture as (1, 1, H, W) in 0..1: its lightness (ITU-R 601), and 0 where it is transparent.

    Raises
    ------
    FileError, ShapeError, DataError, ArgumentError
        See `Photograph.of`.

    Examples
    --------
    >>> mask_tensor(np.ones((2, 3))).shape
    torch.Size([1, 1, 2, 3])
    """
    found = Photograph.of(mask, max_pixels=max_pixels)
    weights = torch.tensor(np.array([299, 587, 114]) / 1000, dtype=torch.float32).view(1, 3, 1, 1)
    lightness = (found.colour * weights).sum(1, keepdim=True)
    return lightness if found.alpha is None else lightness * found.alpha


def shares(masks: Sequence[Tensor], weights: Sequence[float], size: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
    """What share each mask has of each pixel, and what they leave.

    Where masks overlap, their weights decide; where they reach 1 together they leave nothing; where they sum to less,
    the rest is left, so that soft edges fade.

    Parameters
    ----------
    masks : sequence of Tensor
        (1, 1, h, w) in 0..1, each of any size: stretched to the picture's, smoothly.
    weights : sequence of float
        One for each, from 0 up.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    list of Tensor, Tensor
        (1, 1, H, W) each; all of them with the rest sum to 1.

    Examples
    --------
    >>> half = torch.full((1, 1, 1, 1), 0.5)
    >>> [sky, wood], rest = shares([half, half / 2], [1, 1], (2, 2))
    >>> sky[0, 0, 0, 0].item(), wood[0, 0, 0, 0].item(), rest[0, 0, 0, 0].item()
    (0.5, 0.25, 0.25)
    """
    stretched = [stretch(mask, size) for mask in masks]
    covered = torch.stack(stretched).sum(0).clamp(max=1)
    weighted = [weight * mask for weight, mask in zip(weights, stretched, strict=True)]
    total = torch.stack(weighted).sum(0)
    parts = [covered * mask / total.clamp(min=torch.finfo(total.dtype).tiny) for mask in weighted]
    return parts, 1 - torch.stack(parts).sum(0)


def stretch(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture or mask in another size, without overshoot; fine structure isn't aliased.

    Examples
    --------
    >>> stretch(torch.rand(1, 1, 3, 5), (4, 9)).shape
    torch.Size([1, 1, 4, 9])
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)
