"""Structural similarity: how well a picture keeps the shapes of another."""

from __future__ import annotations

import torch
from torch import Tensor

from kbstyle_example.luminance import luminance
from skd.errors import ShapeError

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III.C


def ssim(result: Tensor, content: Tensor) -> Tensor:
    """Structural similarity of the luminance: how well shapes are kept.

    Wang, Bovik, Sheikh & Simoncelli 2004, eq. 13: a Gaussian window of 11×11 and σ = 1.5, K₁ = 0.01, K₂ = 0.03, a range
    of 1, where the window lies within the picture; the mean of the map. The picture isn't scaled down first.

    Parameters
    ----------
    result, content : Tensor
        (B, 3, H, W) in 0..1, the same shape, at least 11 pixels a side.

    Returns
    -------
    Tensor
        A scalar, at most 1.

    Raises
    ------
    ShapeError
        They differ in shape, or are smaller than the window.

    Examples
    --------
    >>> picture = torch.rand(1, 3, 16, 20)
    >>> round(ssim(picture, picture).item(), 4), ssim(1 - picture, picture).item() < 0
    (1.0, True)
    """
    if result.shape != content.shape:
        raise ShapeError("pictures to compare", got=tuple(result.shape), expected=tuple(content.shape))
    # E[x²] − E[x]² loses digits in float32, which is all that Apple's GPUs have.
    precision = torch.float32 if result.device.type == "mps" else torch.float64
    x, y = luminance(result.to(precision)), luminance(content.to(precision))
    if min(x.shape[-2:]) < WINDOW:
        raise ShapeError("a picture smaller than the window", got=tuple(result.shape), expected=f"{WINDOW} a side")
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    maps = _averages(x.shape[2], x) @ maps @ _averages(x.shape[3], x).mT
    mean_x, mean_y, xx, yy, xy = maps.unbind(1)
    c1, c2 = K1**2, K2**2
    luminances = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structures = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x.square() + yy - mean_y.square() + c2)
    return (luminances * structures).mean()


def _averages(side: int, like: Tensor) -> Tensor:
    """(side − 10, side): row i is the window at i; a product is quick to go back through."""
    steps = torch.arange(side, dtype=like.dtype, device=like.device)
    first = steps[: side - WINDOW + 1, None]
    gauss = torch.exp(-(steps - first - WINDOW // 2).square() / (2 * SIGMA**2))
    gauss = gauss * ((steps >= first) & (steps < first + WINDOW))
    return gauss / gauss.sum(1, keepdim=True)
