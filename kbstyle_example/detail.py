"""What happens from one pixel to the next: how strong a picture's finest detail is, and whether it hangs on a lattice.

A network that draws four pixels at once can feign a painting's fine detail with a pattern of two pixels. Features of
VGG hardly tell one from the other, eyes and other networks do. With high-pass filters h and their deviations σ_h, of
each colour::

    D = mean_h,c (σ_o − σ_s)² / (σ_s² + ε_h²)            detail of the result and of the painting
    U = 2 · Var_p(e_p) / Mean_p(e_p)²                    unevenness of the result

where e_p is the energy that the result's luminance, less its mean over 3×3 pixels, has at the four positions p of every
2×2 pixels. The filters are three along columns and three along rows (binomial differences of order 6 and 4, and a
second difference of every other pixel), a second difference along each of the diagonals, and second differences along
both sides at once, of every pixel or of every other. Where rows and columns count alone, a network hatches along them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.luminance import luminance
from skd.errors import ShapeError

# Each sums to 0; at two pixels a period the first two pass all, the third nothing: it is strongest at four.
FILTERS = (
    (1 / 64, -6 / 64, 15 / 64, -20 / 64, 15 / 64, -6 / 64, 1 / 64),
    (0, 1 / 16, -4 / 16, 6 / 16, -4 / 16, 1 / 16, 0),
    (0, -1 / 4, 0, 2 / 4, 0, -1 / 4, 0),
)
FLOORS = (0.003, 0.005, 0.006)  # below them nobody sees anything
STEPS = ((1, 1), (1, 2), (2, 1), (2, 2))  # pixels along columns and along rows, of differences along both
FLOORS_ACROSS = (0.006, 0.006, 0.003, 0.004, 0.004, 0.005)
WIDTH = len(FILTERS[0])


def detail_distance(result: Tensor, style: Tensor) -> Tensor:
    """D + U of the module, a scalar: how far a result's finest detail is from a painting's in strength, and uneven.

    Parameters
    ----------
    result, style : Tensor
        (B, 3, H, W) and (B or 1, 3, H′, W′) in 0..1, at least 7 pixels a side.

    Raises
    ------
    ShapeError
        A picture is smaller than that.

    Examples
    --------
    >>> painting = F.interpolate(torch.rand(1, 3, 32, 32), scale_factor=2, mode="bilinear")
    >>> lattice = 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(32, 32)
    >>> bool(detail_distance(painting + lattice, painting) > 10 * detail_distance(painting, painting))
    True
    """
    for image in (result, style):
        if min(image.shape[-2:]) < WIDTH:
            raise ShapeError("a picture too small for its detail", got=tuple(image.shape), expected=f"{WIDTH} a side")
    found, wanted = strengths(result), strengths(style)
    floors = found.new_tensor((*FLOORS, *FLOORS, *FLOORS_ACROSS))[:, None]
    apart = (found - wanted).square() / (wanted.square() + floors.square())
    return apart.mean() + unevenness(result)


def strengths(image: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 12, 3): deviations of what the filters pass, in the module's order, of each colour.

    Examples
    --------
    >>> rows = torch.tensor([0.0, 1.0]).repeat(8).view(1, 1, 16, 1).expand(1, 3, 16, 16)  # changes with every row
    >>> strengths(rows)[0, :, 0].round(decimals=2).abs().tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    image = image.float()
    found = []
    for dimension in (2, 3):
        steps = image.shape[dimension] - WIDTH + 1
        shifted = [image.narrow(dimension, start, steps) for start in range(WIDTH)]
        for weights in FILTERS:
            parts = [weight * part for weight, part in zip(weights, shifted, strict=True) if weight]
            found.append(torch.stack(parts).sum(0))
    inner = 2 * image[..., 1:-1, 1:-1]
    found.append((inner - image[..., :-2, :-2] - image[..., 2:, 2:]) / 4)
    found.append((inner - image[..., :-2, 2:] - image[..., 2:, :-2]) / 4)
    found += [_second(_second(image, 2, down), 3, along) for down, along in STEPS]
    # The root has a slope at 0.
    return torch.stack([(passed.square().mean((2, 3)) + 1e-7).sqrt() for passed in found], 1)


def _second(image: Tensor, dimension: int, step: int) -> Tensor:
    """The second difference of pixels that are `step` apart, over 4: a wave of two steps passes whole."""
    size = image.shape[dimension] - 2 * step
    before, here, after = (image.narrow(dimension, start, size) for start in (0, step, 2 * step))
    return (2 * here - before - after) / 4


def unevenness(image: Tensor) -> Tensor:
    """U of the module for (B, 3, H, W), a scalar; 0 where all pixels of a 2×2 block have as much detail.

    Examples
    --------
    >>> bool(unevenness(torch.rand(1, 3, 64, 64)) < 0.1)
    True
    """
    grey = luminance(image.float())
    detail = grey - F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="reflect"), 3, 1)
    energies = [detail[..., row::2, column::2].square().mean((1, 2, 3)) for row in (0, 1) for column in (0, 1)]
    energy = torch.stack(energies, 1)
    uneven: Tensor = (2 * energy.var(1, correction=0) / (energy.mean(1).square() + 1e-8)).mean()
    return uneven
