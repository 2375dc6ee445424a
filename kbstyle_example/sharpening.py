"""Paintings with finer strokes than small scans of them have, so that a network knows large scans when it sees them.

Scans of 200 to 290 pixels are soft: their finest octave has two thirds of the energy that large scans have at the same
size, and a network that was trained on the soft ones is twice as far from a sharp painting as from a soft one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

AMOUNT = 1.5  # at most; 0.7 gives the finest octave of small scans the energy that it has in large ones

Pixels = npt.NDArray[np.float32]


def sharpened(pixels: Pixels, amount: float) -> Pixels:
    """Unsharp masking: what a mean of 3×3 takes away is added `amount` times.

    Parameters
    ----------
    pixels : array of float32
        (H, W, 3) in 0..1; what lies beyond the border is mirrored.
    amount : float
        0 or more.

    Returns
    -------
    array of float32
        (H, W, 3) in 0..1.

    Examples
    --------
    >>> edge = np.zeros((4, 6, 3), np.float32)
    >>> edge[:, 3:] = 0.6
    >>> [f"{value:.1f}" for value in sharpened(edge + np.float32(0.2), 0.5)[0, :, 0]]
    ['0.2', '0.2', '0.1', '0.9', '0.8', '0.8']
    """
    height, width, _ = pixels.shape
    framed = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="symmetric")
    rows = framed[:-2] + framed[1:-1] + framed[2:]
    mean = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
    found: Pixels = np.clip(pixels + np.float32(amount) * (pixels - mean[:height, :width]), 0, 1)
    return found


def mirrored(pixels: Pixels) -> Pixels:
    """The picture and its mirror images, two by two: what was cropped at half the size, without a seam.

    Parameters
    ----------
    pixels : array of float32
        (H, W, 3).

    Returns
    -------
    array of float32
        (2H, 2W, 3).

    Examples
    --------
    >>> mirrored(np.array([[[1.0], [2.0]]], np.float32))[:, :, 0].tolist()
    [[1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0]]
    """
    wide = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]], axis=0)
