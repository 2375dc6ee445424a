"""Pictures without their colours: what is left of a style are strokes and texture."""

from __future__ import annotations

import torch
from torch import Tensor

from kbstyle_example.moments import modulated, moments
from skd.errors import ArgumentError, NonFiniteError, ShapeError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in the reference code of SSIM


def luminance(image: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 1, H, W), in the range of the picture.

    Raises
    ------
    ShapeError, ArgumentError, NonFiniteError
        Not pictures of floating point numbers.

    Examples
    --------
    >>> round(luminance(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).item(), 3)
    0.299
    """
    if not image.is_floating_point():
        raise ArgumentError("a picture of the wrong type", got=image.dtype, expected="floating point, RGB in 0..1")
    if image.dim() != 4 or image.shape[1] != 3 or not image.numel():
        raise ShapeError("not pictures", got=tuple(image.shape), expected="(B, 3, H, W)")
    if not torch.isfinite(image).all():
        raise NonFiniteError("a picture holds NaN or infinite values")
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def matched_luminance(image: Tensor, style: Tensor) -> Tensor:
    """The picture in grey, its luminance brought to the mean and deviation of the painting's: (B, 3, H, W).

    It may leave 0..1: clamping would undo the match.

    Examples
    --------
    >>> grey = matched_luminance(torch.rand(1, 3, 8, 8), torch.full((1, 3, 4, 4), 0.25))
    >>> round(grey.mean().item(), 3)
    0.25
    """
    return modulated(luminance(image), moments(luminance(style))).expand(-1, 3, -1, -1)
