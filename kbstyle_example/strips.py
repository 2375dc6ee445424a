"""Pictures of 8 bits a channel, worked on in strips of rows.

As floating point numbers a picture takes four times its bytes, and each step of a computation as much again; in strips
only a few rows of it are ever numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from skd.errors import NonFiniteError

# PyTorch is imported where it computes: reading and writing pictures, and painting by ONNX Runtime, do without it.
if TYPE_CHECKING:
    from torch import Tensor

Pixels: TypeAlias = npt.NDArray[np.uint8]
STRIP = 2**19  # pixels of a strip; more is no faster


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows of about `STRIP` pixels; an even number of them, but perhaps in the last.

    Examples
    --------
    >>> list(strips(1000, 2048))
    [slice(0, 256, None), slice(256, 512, None), slice(512, 768, None), slice(768, 1000, None)]
    """
    rows = max(2, STRIP // width // 2 * 2)
    for top in range(0, height, rows):
        yield slice(top, min(height, top + rows))


def as_numbers(pixels: Pixels) -> Tensor:
    """(H, W) or (H, W, C) of 8 bits → (1, 1 or C, H, W), float32 in 0..1.

    Examples
    --------
    >>> as_numbers(np.full((2, 3), 51, np.uint8)).shape
    torch.Size([1, 1, 2, 3])
    """
    import torch

    copied = torch.from_numpy(np.array(np.atleast_3d(pixels), order="C"))  # torch wants to be allowed to write
    return copied[None].permute(0, 3, 1, 2).float().div_(255)  # as it lies in memory: channels last


def as_pixels(image: Tensor) -> Pixels:
    """(1, C, H, W) → (H, W, C) of 8 bits: clamped to 0..1 and rounded.

    Raises
    ------
    NonFiniteError
        It holds NaN or infinite values.

    Examples
    --------
    >>> import torch
    >>> as_pixels(torch.tensor([-1.0, 0.499, 2.0]).view(1, 3, 1, 1))
    array([[[  0, 127, 255]]], dtype=uint8)
    """
    import torch

    channels, height, width = image.shape[1:]
    pixels = np.empty((height, width, channels), np.uint8)
    for rows in strips(height, width):
        part = image[0, :, rows].detach().float()
        if not torch.isfinite(part).all():
            raise NonFiniteError("a picture holds NaN or infinite values")
        rounded = (part * 255).clamp_(0, 255).round_().to("cpu", torch.uint8)
        pixels[rows] = rounded.permute(1, 2, 0).numpy()
    return pixels


def blended(below: Pixels, above: Pixels, share: Callable[[slice], Tensor | float]) -> Pixels:
    """One picture over another: `share` tells for a strip's rows how much of it is seen.

    Parameters
    ----------
    below, above : array of uint8, (H, W, C)
    share : callable
        Rows → a number in 0..1, or one for each pixel, (1, 1, rows, W).

    Examples
    --------
    >>> black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    >>> int(blended(black, white, lambda rows: 0.2)[0, 0, 0])
    51
    """
    import torch

    out = np.empty_like(below, order="C")
    for rows in strips(*below.shape[:2]):
        weight = share(rows)
        out[rows] = as_pixels(torch.lerp(as_numbers(below[rows]), as_numbers(above[rows]), weight))
    return out


def resized(pixels: Pixels, size: tuple[int, int], *, mode: str = "bicubic") -> Pixels:
    """(H, W) or (H, W, C) in another height and width, without aliasing.

    Examples
    --------
    >>> resized(np.zeros((4, 6, 3), np.uint8), (2, 3)).shape
    (2, 3, 3)
    """
    import torch
    from torch.nn import functional as F

    if pixels.shape[:2] == tuple(size):
        return pixels
    given = np.require(np.atleast_3d(pixels), requirements=["C", "W"])  # torch wants to be allowed to write
    planes = torch.from_numpy(given).permute(2, 0, 1)[None]
    out = F.interpolate(planes, size, mode=mode, antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
    return np.asarray(out.reshape(*size, *pixels.shape[2:]))
