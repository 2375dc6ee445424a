"""Structural similarity: how well a picture keeps the shapes of another, and the loss that holds it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kbstyle_example.luminance import luminance
from skd.errors import ArgumentError, ShapeError

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III.C
# Of a weight that follows: how fast, and between what. A hundredth of SSIM missed for a hundred steps is a sixth more.
RATE, LEAST, MOST = 0.15, 0.05, 50.0


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


class Shapes(nn.Module):
    """λ (1 − SSIM) of pictures and photographs: the loss that keeps shapes. Its weight λ can follow.

    What a λ keeps depends on everything it stands against, and on how far the training is. One that follows goes up
    while shapes are kept worse than in a reference, and down while better: after each step

        λ ← λ · exp(0.15 (SSIM of the reference + follows − SSIM of the picture)),

    the multiplier's ascent of Platt & Barr 1987 (*Constrained differential optimization*, section 3), of log λ. It is a
    buffer, so that a run goes on with it. Where no gradient is asked for it stays.

    Parameters
    ----------
    weight : float
        λ, or what it begins with.
    follows : float, optional
        By how much of SSIM shapes shall be kept better than in the reference (less than 0: worse); None: λ stays.

    Raises
    ------
    ArgumentError
        A λ that follows and begins at 0, or follows by what isn't a finite number.

    Examples
    --------
    >>> photograph = torch.rand(1, 3, 16, 20)
    >>> picture = (1 - photograph).requires_grad_()
    >>> shapes = Shapes(2.0, follows=0.0)
    >>> bool(shapes(picture, photograph, reference=photograph) > 2), bool(shapes.weight > 2)
    (True, True)
    """

    weight: Tensor

    def __init__(self, weight: float, follows: float | None = None) -> None:
        super().__init__()
        if follows is not None and not weight > 0:
            remedy = "a weight to begin with, such as 2"
            raise ArgumentError("a weight of shapes that follows begins", got=weight, expected="above 0", remedy=remedy)
        if follows is not None and not math.isfinite(follows):
            raise ArgumentError(
                "by how much of SSIM shapes shall be kept better", got=follows, expected="a finite number"
            )
        self.begun, self.follows = float(weight), follows
        self.register_buffer("weight", torch.tensor(float(weight)), persistent=follows is not None)

    def forward(self, output: Tensor, content: Tensor, reference: Tensor | None = None) -> Tensor:
        """The loss, a scalar; `reference` are pictures of the same photographs.

        Raises
        ------
        ArgumentError
            λ is to follow, and there is no reference.
        ShapeError
            See `ssim`.
        """
        weight, found = self.weight, ssim(output, content)
        if self.follows is not None and found.requires_grad:
            if reference is None:
                raise ArgumentError("the weight of shapes follows pictures", got="none")
            with torch.no_grad():
                missing = ssim(reference, content) + self.follows - found
                # A new tensor: the backward may still need the old one.
                self.weight = (weight * (RATE * missing).exp().to(weight)).clamp(LEAST, MOST)
        return weight.float() * (1 - found).float()

    def identity(self) -> str:
        """What tells one run from another: the weight, and what it follows."""
        return f"similarity {self.begun}" + ("" if self.follows is None else f" follows {self.follows}")
