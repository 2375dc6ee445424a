"""Stylise a picture: files, PIL pictures or arrays in, a PIL picture out."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from kbstyle_example.images import Picture, load_image, to_pil
from kbstyle_example.networks import SMALLEST_SIDE, KBStyle, StyleCode
from kbstyle_example.weights_file import load_weights
from skd.errors import ShapeError

LONGEST_STYLE_SIDE = 512  # pixels; the training's paintings had strokes of this scale


def stylize(
    content: Picture, style: Picture, *, network: KBStyle | str = "teacher", style_size: int = LONGEST_STYLE_SIDE
) -> Image.Image:
    """The photograph painted like the painting, in the photograph's size.

    Parameters
    ----------
    content, style : path, PIL picture or array
        At least 16 pixels a side.
    network : KBStyle or str
        A network, a weights file, or the name of bundled weights.
    style_size : int
        Longest side to which a larger painting is scaled down; a smaller one gives coarser strokes.

    Raises
    ------
    FileError, DataError, ShapeError
        A picture can't be read, or is too small.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).random((48, 64, 3)).astype("float32")
    >>> stylize(noise, noise[:32, :32]).size
    (64, 48)
    """
    net = load_weights(network) if isinstance(network, str) else network
    picture, painting = load_image(content), style_tensor(style, style_size)
    if min(picture.shape[-2:]) < SMALLEST_SIDE:
        raise ShapeError("the photograph is too small", got=tuple(picture.shape[-2:]), expected=f"{SMALLEST_SIDE} pixels a side")
    return to_pil(render(net, picture, painting))


def style_tensor(style: Picture, longest: int) -> Tensor:
    """A painting as (1, 3, H, W) in 0..1, its longest side at most `longest`."""
    painting = load_image(style)
    scale = longest / max(painting.shape[-2:])
    if scale < 1:
        painting = torch.nn.functional.interpolate(
            painting, scale_factor=scale, mode="bicubic", antialias=True, recompute_scale_factor=True
        ).clamp(0, 1)
    return painting


@torch.inference_mode()
def render(network: KBStyle, content: Tensor, style: Tensor | StyleCode) -> Tensor:
    """(1, 3, H, W) in 0..1 and a painting or its code → (1, 3, H, W) in 0..1; the network's mode doesn't matter."""
    code = network.encode_style(style) if isinstance(style, Tensor) else style
    return network.render(content, code).clamp(0, 1)
