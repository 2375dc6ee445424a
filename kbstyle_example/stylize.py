"""Stylise a picture: files, PIL pictures or arrays in, a PIL picture out."""

from __future__ import annotations

import os

import torch
from PIL import Image
from torch import Tensor

from kbstyle_example.images import Picture, load_image, to_pil
from kbstyle_example.networks import SMALLEST_SIDE, KBStyle, StyleCode
from kbstyle_example.weights_file import load_weights
from skd.errors import ArgumentError, ShapeError

LONGEST_STYLE_SIDE = 512  # pixels; the training's paintings had strokes of this scale


def stylize(
    content: Picture,
    style: Picture,
    *,
    network: KBStyle | str | os.PathLike[str] = "teacher",
    style_size: int = LONGEST_STYLE_SIDE,
) -> Image.Image:
    """The photograph painted like the painting, in the photograph's size.

    Parameters
    ----------
    content, style : path, PIL picture or array
        At least 16 pixels a side.
    network : KBStyle, str or path
        A network, a weights file, or the name of bundled weights.
    style_size : int
        Longest side to which a larger painting is scaled down; a smaller one gives coarser strokes.

    Raises
    ------
    FileError, DataError
        A picture or the weights can't be read.
    ShapeError
        A picture is too small, the painting perhaps once it is scaled down.
    ArgumentError
        The style size is too small for any painting.

    Examples
    --------
    >>> import numpy as np
    >>> from kbstyle_example.networks import STUDENT
    >>> noise = np.random.default_rng(0).random((48, 65, 3)).astype("float32")
    >>> stylize(noise, noise[:32, :32], network=KBStyle(STUDENT)).size
    (65, 48)
    """
    net = network if isinstance(network, KBStyle) else load_weights(network)
    photograph, painting = _usable(load_image(content), "photograph"), style_tensor(style, style_size)
    device = next(net.parameters()).device
    return to_pil(render(net, photograph.to(device), painting.to(device)))


def style_tensor(style: Picture, longest: int = LONGEST_STYLE_SIDE) -> Tensor:
    """A painting as (1, 3, H, W) in 0..1, its longest side at most `longest`.

    Raises
    ------
    FileError, DataError, ShapeError, ArgumentError
        See `stylize`.

    Examples
    --------
    >>> style_tensor(Image.new("RGB", (300, 100)), longest=64).shape
    torch.Size([1, 3, 21, 64])
    """
    if longest < SMALLEST_SIDE:
        raise ArgumentError("style size", got=longest, expected=f"{SMALLEST_SIDE} pixels or more")
    painting = _usable(load_image(style), "painting")
    height, width = painting.shape[-2:]
    scale = longest / max(height, width)
    if scale < 1:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        painting = torch.nn.functional.interpolate(painting, size, mode="bicubic", antialias=True).clamp(0, 1)
    return _usable(painting, f"painting, scaled to {longest} pixels,")


def _usable(picture: Tensor, what: str) -> Tensor:
    height, width = picture.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ShapeError(
            f"the {what} is too small", got=f"{width}×{height}", expected=f"{SMALLEST_SIDE} pixels a side or more"
        )
    return picture


@torch.inference_mode()
def render(network: KBStyle, content: Tensor, style: Tensor | StyleCode) -> Tensor:
    """Stylise tensors; the network's mode doesn't matter.

    Parameters
    ----------
    network : KBStyle
    content : Tensor
        (1, 3, H, W) in 0..1.
    style : Tensor or StyleCode
        (1, 3, H′, W′) in 0..1, or its code, where one painting serves many photographs.

    Returns
    -------
    Tensor
        (1, 3, H, W), clamped to 0..1.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> net, photograph, painting = KBStyle(STUDENT), torch.rand(1, 3, 24, 40), torch.rand(1, 3, 32, 32)
    >>> torch.equal(render(net, photograph, painting), render(net, photograph, net.encode_style(painting)))
    True
    """
    code = network.encode_style(style) if isinstance(style, Tensor) else style
    return network.render(content, code).clamp(0, 1)
