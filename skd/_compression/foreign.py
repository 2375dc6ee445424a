"""Layers of others that are a plain layer under another name: compressed as the plain one, and given back as theirs."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


class AsLinear(nn.Linear):
    """A linear layer that stands for one whose weight lies the other way round: GPT-2's `Conv1D`, (in, out)."""

    origin: type[nn.Module]


def has_foreign(model: nn.Module) -> bool:
    """Whether a network has such layers."""
    return any(_is_conv1d(module) for module in model.modules())


def plain(model: nn.Module) -> nn.Module:
    """The network with plain layers: itself where it has none of these, otherwise a copy."""
    return replace(copy.deepcopy(model)) if has_foreign(model) else model


def replace(model: nn.Module) -> nn.Module:
    """Put plain layers in, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _is_conv1d(child):
                parent.add_module(name, _linear(child))
    return model


def restore(model: nn.Module) -> nn.Module:
    """Put the foreign layers back, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AsLinear):
                parent.add_module(name, _foreign(child))
    return model


def _is_conv1d(module: Any) -> bool:
    """By its name and what it has, since transformers needn't be installed."""
    shape = getattr(getattr(module, "weight", None), "shape", ())
    return type(module).__name__ == "Conv1D" and tuple(shape) == (getattr(module, "nx", 0), getattr(module, "nf", 0))


def _linear(module: Any) -> AsLinear:
    made = AsLinear(module.nx, module.nf, bias=True, device="meta")
    made.origin, made.training = type(module), module.training
    trained = module.weight.requires_grad
    made.weight = nn.Parameter(module.weight.detach().t().contiguous(), requires_grad=trained)
    made.bias = module.bias
    return made


def _foreign(module: AsLinear) -> nn.Module:
    made: Any = module.origin(module.out_features, module.in_features)
    made.training = module.training
    trained = module.weight.requires_grad
    made.weight = nn.Parameter(module.weight.detach().t().contiguous(), requires_grad=trained)
    made.bias = module.bias
    return made  # type: ignore[no-any-return]
