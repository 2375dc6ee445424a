"""A wider network that begins as a narrower one which is trained already (Chen et al. 2016, Net2Net)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONCATENATED = ("back1.0", "back2.0")  # read what came up, then the skip


def widen(narrow: nn.Module, wide: nn.Module) -> None:
    """Give `wide` the narrower network's weights, so that it computes the same; its further channels stay as drawn.

    What the narrower network's channels read of the further ones is zero. Net2Net repeats trained channels instead,
    which then need noise to part; drawn ones have parted already.

    Parameters
    ----------
    narrow, wide : nn.Module
        `benchmarks.worth.unet.UNet` of two widths; the second is written to.
    """
    layers = dict(wide.named_modules())
    with torch.no_grad():
        for name, old in narrow.named_parameters():
            layer, _, kind = name.rpartition(".")
            new = wide.get_parameter(name)
            if kind == "bias":
                new[: len(old)] = old
                continue
            if isinstance(layers[layer], nn.ConvTranspose2d):  # its weight's first two axes are inputs and outputs
                old, new = old.transpose(0, 1), new.transpose(0, 1)
            new[: old.shape[0]] = 0
            new[: old.shape[0], _inputs(old, new, 2 if layer in CONCATENATED else 1)] = old


def _inputs(old: Tensor, new: Tensor, parts: int) -> Tensor:
    """Where among the wide layer's inputs the narrow one's are."""
    each, apart = old.shape[1] // parts, new.shape[1] // parts
    return torch.cat([torch.arange(each) + part * apart for part in range(parts)])
