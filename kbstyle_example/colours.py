"""The photograph's colours on a painting's strokes, in Oklab."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kbstyle_example.strips import Pixels, as_numbers, as_pixels, strips

# Björn Ottosson, "A perceptual color space for image processing" (2020): linear sRGB → cone responses → Oklab.
_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OPPONENTS = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
RAISED = 1.5  # times the painting's contrast, at most


def with_colours_of(photograph: Pixels, painted: Pixels) -> Pixels:
    """The painting's strokes in the photograph's colours.

    Lightness is the painting's, brought to the mean and deviation of the photograph's (its contrast raised 1.5 times at
    most: more shows the network's own pattern in even places); hue and chroma are the photograph's, pixel by pixel. Of
    what was tried this looked best: lightness as it was painted leaves a dark photograph washed out under a pale
    painting; a painting whose colours are matched before the network sees it (Gatys
    et al. 2016, "Preserving color in neural artistic style transfer") keeps the picture's colours as a whole, but not
    those of its parts, and pictures of many colours turn towards one.

    Parameters
    ----------
    photograph, painted : array of uint8
        (H, W, 3), sRGB.

    Returns
    -------
    array of uint8
        (H, W, 3), sRGB.

    Examples
    --------
    >>> photograph = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    >>> bool((with_colours_of(photograph, photograph) == photograph).all())
    True
    """
    rows = list(strips(*photograph.shape[:2]))
    goal_mean, goal_deviation = _mean_and_deviation(_lightness(photograph[part]) for part in rows)
    mean, deviation = _mean_and_deviation(_lightness(painted[part]) for part in rows)
    scale = min(RAISED, goal_deviation / max(deviation, 1e-6))
    out = np.empty_like(painted, order="C")
    for part in rows:
        lightness = (_lightness(painted[part]) - mean) * scale + goal_mean
        colours = to_oklab(as_numbers(photograph[part]))[:, 1:]
        out[part] = as_pixels(from_oklab(torch.cat([lightness, colours], dim=1)))
    return out


def _lightness(pixels: Pixels) -> Tensor:
    return to_oklab(as_numbers(pixels))[:, :1]


def _mean_and_deviation(parts: Iterable[Tensor]) -> tuple[float, float]:
    """Of numbers in 0..1 that come in parts."""
    count, total, squares = 0, 0.0, 0.0
    for part in parts:
        numbers = part.double()
        count += numbers.numel()
        total += float(numbers.sum())
        squares += float(numbers.square().sum())
    mean = total / count
    return mean, max(0.0, squares / count - mean**2) ** 0.5


def to_oklab(image: Tensor) -> Tensor:
    """sRGB in 0..1 → Oklab: lightness in 0..1, then green to red and blue to yellow; (B, 3, H, W).

    Examples
    --------
    >>> to_oklab(torch.ones(1, 3, 1, 1)).flatten().abs().round(decimals=3)
    tensor([1., 0., 0.])
    """
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    return _mapped(_OPPONENTS, _mapped(_CONES, linear).clamp(min=0) ** (1 / 3))


def from_oklab(image: Tensor) -> Tensor:
    """Oklab → sRGB, clamped to 0..1; (B, 3, H, W).

    Examples
    --------
    >>> colours = torch.rand(1, 3, 4, 4)
    >>> bool((from_oklab(to_oklab(colours)) - colours).abs().max() < 1e-3)
    True
    """
    linear = _mapped(torch.linalg.inv(_CONES), _mapped(torch.linalg.inv(_OPPONENTS), image) ** 3).clamp(0, 1)
    steep = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, steep).clamp(0, 1)


def _mapped(matrix: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(image), image)
