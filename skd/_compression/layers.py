"""What the sides of a layer are, and how a layer is narrowed: one place for all kinds of layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skd.errors import CompressionError


class Port(NamedTuple):
    """One side of one layer: `in`, `out`, or `both` where a layer leaves its channels what they are."""

    layer: str
    side: str


def ports_of(module: nn.Module | nn.Parameter, dim: int = -1) -> dict[str, int]:
    """The sides of a layer with their channels; empty for a kind of layer that isn't known.

    Examples
    --------
    >>> ports_of(nn.Conv2d(4, 8, 3)), ports_of(nn.Conv2d(4, 4, 3, groups=4)), ports_of(nn.ReLU())
    ({'in': 4, 'out': 8}, {'both': 4}, {})
    """
    if isinstance(module, nn.Parameter):
        return {"both": module.shape[dim]}
    if isinstance(module, nn.modules.conv._ConvNd):
        if is_depthwise(module):
            return {"both": module.out_channels}
        return {"in": module.in_channels, "out": module.out_channels}
    if isinstance(module, nn.Linear):
        return {"in": module.in_features, "out": module.out_features}
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return {"both": module.num_features}
    if isinstance(module, nn.GroupNorm):
        return {"both": module.num_channels}
    if isinstance(module, nn.LayerNorm):
        return {"both": module.normalized_shape[-1]}
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return {"both": module.num_parameters}
    if isinstance(module, nn.Embedding):
        return {"both": module.embedding_dim}
    return {}


def is_depthwise(module: nn.Module) -> bool:
    """Whether a convolution has a kernel of its own for each channel."""
    return (
        isinstance(module, nn.modules.conv._ConvNd)
        and module.groups == module.in_channels == module.out_channels
        and module.groups > 1
    )


def blocks_of(module: nn.Module, side: str) -> int:
    """Blocks of consecutive channels that must stay equally wide: 1 where there is no such rule."""
    if isinstance(module, nn.GroupNorm):
        return 1 if module.num_groups == module.num_channels else module.num_groups
    if isinstance(module, nn.modules.conv._ConvNd) and side != "both":
        return module.groups
    return 1


def narrow(module: nn.Module, kept: dict[str, Tensor]) -> None:
    """Keep only these channels of a layer's sides, in place: its weights, and what it says of its size.

    Raises
    ------
    CompressionError
        The layer's weights aren't plain parameters.
    """
    if isinstance(module, nn.modules.conv._ConvNd):
        _narrow_conv(module, kept)
    elif isinstance(module, nn.Linear):
        if (out := kept.get("out")) is not None:
            _cut(module, "weight", 0, out)
            _cut(module, "bias", 0, out)
            module.out_features = len(out)
        if (into := kept.get("in")) is not None:
            _cut(module, "weight", 1, into)
            module.in_features = len(into)
    elif isinstance(module, nn.Embedding):
        _cut(module, "weight", 1, kept["both"])
        module.embedding_dim = len(kept["both"])
    else:
        dim = -1 if isinstance(module, nn.LayerNorm) else 0
        for name in ("weight", "bias", "running_mean", "running_var"):
            _cut(module, name, dim, kept["both"])
        _resize(module, len(kept["both"]))


def _resize(module: Any, width: int) -> None:
    if isinstance(module, nn.GroupNorm):
        module.num_groups = width if module.num_groups == module.num_channels else module.num_groups
        module.num_channels = width
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], width)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = width
    else:
        module.num_features = width


def _narrow_conv(module: Any, kept: dict[str, Tensor]) -> None:
    if is_depthwise(module):
        both = kept["both"]
        _cut(module, "weight", 0, both)
        _cut(module, "bias", 0, both)
        module.in_channels = module.out_channels = module.groups = len(both)
        return
    into = kept.get("in", torch.arange(module.in_channels))
    out = kept.get("out", torch.arange(module.out_channels))
    _set(module, "weight", conv_weight(module, into, out))
    _cut(module, "bias", 0, out)
    module.in_channels, module.out_channels = len(into), len(out)


def conv_weight(module: Any, into: Tensor, out: Tensor) -> Tensor:
    """A convolution's weight for some of its channels; of each block of a grouped one as many."""
    groups, transposed = module.groups, module.transposed
    first, second = (into, out) if transposed else (out, into)
    weight: Tensor = module.weight.detach()
    if groups == 1:
        return weight[first][:, second]
    size = {"in": module.in_channels // groups, "out": module.out_channels // groups}
    rows, columns = (size["in"], size["out"]) if transposed else (size["out"], size["in"])
    parts = []
    for block in range(groups):
        mine = first[first // rows == block]
        other = second[second // columns == block] - block * columns
        parts.append(weight[mine][:, other])
    return torch.cat(parts)


def _cut(module: nn.Module, name: str, dim: int, kept: Tensor) -> None:
    tensor = getattr(module, name, None)
    if isinstance(tensor, Tensor):
        _set(module, name, tensor.detach().index_select(dim, kept.to(tensor.device)))


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in a parameter's or a buffer's place; whether it is trained stays as it was."""
    if name in module._buffers:
        module._buffers[name] = value
        return
    old = module._parameters.get(name)
    if old is None:
        raise CompressionError(
            f"the weights of a {type(module).__name__} aren't plain parameters",
            got=f"{name!r} is made by something else",
            remedy="take weight norm, spectral norm and other parametrisations off first",
        )
    module._parameters[name] = nn.Parameter(value.clone(), requires_grad=old.requires_grad)
