"""Linear layers and convolutions as one matrix product: what each output is made of, and the weights to match."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def patches(module: Any, given: Tensor) -> Tensor:
    """(P, G, n): for each output position and block of channels, the n numbers that are multiplied with the weights.

    `kernel` orders them alike: the output is ``einsum("pgn,gon->pgo", patches, kernel)`` plus the bias.

    Examples
    --------
    >>> layer, x = nn.Conv2d(2, 4, 3, padding=1, groups=2), torch.randn(2, 2, 5, 6)
    >>> product = torch.einsum("pgn,gon->pgo", patches(layer, x), kernel(layer)).flatten(1) + layer.bias
    >>> bool((product - layer(x).flatten(2).mT.flatten(0, 1)).abs().max() < 1e-5)
    True
    """
    if isinstance(module, nn.Linear):
        return given.reshape(-1, 1, given.shape[-1])
    x = given if given.ndim == module.weight.ndim else given[None]
    sizes, dilation, stride = module.kernel_size, module.dilation, module.stride
    if module.transposed:  # an ordinary convolution over the input with zeros between, its kernel turned round
        spread = [(side - 1) * step + 1 for side, step in zip(x.shape[2:], stride, strict=True)]
        wide = x.new_zeros(*x.shape[:2], *spread)
        wide[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = x
        ends = [
            (d * (k - 1) - p, d * (k - 1) - p + more)
            for d, k, p, more in zip(dilation, sizes, module.padding, module.output_padding, strict=True)
        ]
        x, stride = F.pad(wide, [side for both in reversed(ends) for side in both]), (1,) * len(sizes)
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (k, d, step) in enumerate(zip(sizes, dilation, stride, strict=True), start=2):
        x = x.unfold(axis, d * (k - 1) + 1, step)[..., ::d]
    rank = len(sizes)
    blocks: Tensor = x.reshape(len(x), module.groups, -1, *x.shape[2:])  # (B, G, in/G, *positions, *kernel)
    order = (0, *range(3, 3 + rank), 1, 2, *range(3 + rank, 3 + 2 * rank))
    return blocks.permute(order).flatten(rank + 2).flatten(0, rank)


def kernel(module: Any) -> Tensor:
    """(G, o, n) of a layer's weights, o outputs a block."""
    weight: Tensor = module.weight.detach()
    if isinstance(module, nn.Linear):
        return weight[None]
    if module.transposed:  # (in, out/G, …)
        turned = weight.flip(*range(2, weight.ndim))
        return turned.reshape(module.groups, -1, *turned.shape[1:]).transpose(1, 2).flatten(2)
    return weight.reshape(module.groups, -1, weight[0].numel())


def bias_of(module: Any) -> Tensor:
    """(G, o, 1) of a layer's bias."""
    bias: Tensor = module.bias.detach()
    return bias.view(getattr(module, "groups", 1), -1, 1)


@torch.no_grad()
def put(module: Any, weight: Tensor) -> None:
    """Write (G, o, n), behind which stands the bias where the layer has one, into the layer."""
    if module.bias is not None:
        module.bias.copy_(weight[..., -1].flatten())
        weight = weight[..., :-1]
    if getattr(module, "transposed", False):
        rank = len(module.kernel_size)
        shaped = weight.reshape(*weight.shape[:2], -1, *module.kernel_size).transpose(1, 2).flatten(0, 1)
        module.weight.copy_(shaped.flip(*range(2, 2 + rank)))
    else:
        module.weight.copy_(weight.flatten(0, 1).view_as(module.weight))
