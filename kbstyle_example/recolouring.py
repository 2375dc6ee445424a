"""Paintings in other colours, so that a network sees more palettes than its folder of paintings has."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

INVERTED = 0.15  # share of negatives: light strokes on dark ground
GAIN = (0.8, 1.15)  # of each channel
GAMMA = 0.35  # largest logarithm of it
GREY = np.full(3, 1 / math.sqrt(3))

Pixels = npt.NDArray[np.float32]


def turned(angle: float) -> npt.NDArray[np.float64]:
    """Rotation of colours about the axis of greys, (3, 3): greys stay, and so does the mean of the three channels.

    Parameters
    ----------
    angle : float
        In radians (Rodrigues' formula); a third of a turn takes red to green, green to blue and blue to red.

    Examples
    --------
    >>> (turned(2 * math.pi / 3) @ [1.0, 0.0, 0.0]).round(3) + 0.0
    array([0., 1., 0.])
    """
    x, y, z = GREY
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: npt.NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation


def recoloured(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Colours turned by any angle, sometimes inverted, each channel a little stronger or weaker, lighter or darker.

    Parameters
    ----------
    pixels : array of float32
        (H, W, 3) in 0..1.
    random : numpy.random.Generator

    Returns
    -------
    array of float32
        (H, W, 3) in 0..1.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> recoloured(np.full((2, 3, 3), 0.5, np.float32), random).shape
    (2, 3, 3)
    """
    if random.random() < INVERTED:
        pixels = 1 - pixels
    rotation = turned(random.uniform(-math.pi, math.pi)) * random.uniform(*GAIN, (3, 1))
    found = np.clip(pixels @ rotation.T.astype(np.float32), 0, 1)
    changed: Pixels = found ** np.float32(math.exp(random.uniform(-GAMMA, GAMMA)))
    return changed
