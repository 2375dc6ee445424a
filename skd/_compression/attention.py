"""Heads of attentions: their number stays, and what is narrowed is their dimension, alike in all heads of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# What modules call the number of heads, the dimension of one, and that of all together; and what scales the products.
COUNTS = ("num_heads", "n_heads", "num_attention_heads", "heads", "n_head", "nhead")
SINGLE = ("head_dim", "key_value_proj_dim", "attention_head_size", "dim_head", "head_size", "d_k", "d_kv")
TOGETHER = ("inner_dim", "inner_kv_dim", "all_head_size", "embed_dim", "split_size")
SCALES = ("scaling", "scale")
QUERIES = ("q", "q_proj", "query", "to_q", "q_lin", "wq")


def owner(model: nn.Module, layers: Sequence[str]) -> tuple[str, int] | None:
    """The module that these layers are of and that knows a number of heads, and that number; None where none does.

    Examples
    --------
    >>> block = nn.Sequential(nn.Linear(8, 8))
    >>> block.num_heads = 2
    >>> owner(nn.Sequential(block), ["0.0"])
    ('0', 2)
    """
    parents = {layer.rpartition(".")[0] for layer in layers}
    while len(parents) == 1:
        name = parents.pop()
        module = model.get_submodule(name)
        for key in COUNTS:
            count = getattr(module, key, None)
            if type(count) is int and count > 0:
                return name, count
        if not name:
            return None
        parents = {name.rpartition(".")[0]}
    return None


def heads_of(model: nn.Module, layers: Sequence[str], width: int) -> int:
    """Into how many heads these layers' channels are cut; 0 where no attribute of their module says."""
    found = owner(model, layers)
    return found[1] if found is not None and width % found[1] == 0 else 0


def cells_of(width: int, heads: int) -> Tensor:
    """(width,) number of the head of every channel."""
    return torch.arange(width) // (width // heads)


def resize(model: nn.Module, layers: Sequence[str], old: int, new: int) -> None:
    """Set what the module of these layers says of the dimension of its heads, in place."""
    found = owner(model, layers)
    if found is None:
        return
    module: Any = model.get_submodule(found[0])
    for names, before, after in ((SINGLE, old // found[1], new // found[1]), (TOGETHER, old, new)):
        for name in names:
            if getattr(module, name, None) == before:
                setattr(module, name, after)


def has_queries(model: nn.Module, layers: Sequence[str]) -> bool:
    """Whether one of these layers makes queries, as far as its name tells."""
    return any(_makes_queries(model, layer) for layer in layers)


def scale_queries(model: nn.Module, layers: Sequence[str], share: float) -> None:
    """Queries times the root of the share of a head's dimension that is left, in place.

    Products are divided by the root of the dimension; what is narrower would be divided by less.
    """
    with torch.no_grad():
        for layer, factor in query_scales(model, layers, share).items():
            for parameter in model.get_submodule(layer).parameters():
                parameter.mul_(factor)


def _makes_queries(model: nn.Module, layer: str) -> bool:
    return layer.rpartition(".")[2] in QUERIES and isinstance(model.get_submodule(layer), nn.Linear)


def even_scales(teacher: nn.Module, student: nn.Module) -> None:
    """Queries of the student times what its own scale of the products lacks of the teacher's, as heads are narrower."""
    with torch.no_grad():
        for layer, factor in uneven_scales(teacher, student).items():
            for parameter in student.get_submodule(layer).parameters():
                parameter.mul_(factor)


def uneven_scales(teacher: nn.Module, student: nn.Module) -> dict[str, float]:
    """By layer that makes queries: how much larger the teacher's own scale of the products is."""
    theirs, found = dict(teacher.named_modules()), {}
    for name, module in student.named_modules():
        for key in SCALES:
            ours, before = getattr(module, key, None), getattr(theirs.get(name), key, None)
            if isinstance(ours, float) and isinstance(before, float) and ours != before:
                for child, layer in module.named_children():
                    if child in QUERIES and isinstance(layer, nn.Linear):
                        found[f"{name}.{child}" if name else child] = before / ours
    return found


def query_scales(model: nn.Module, layers: Sequence[str], share: float) -> dict[str, float]:
    """What `scale_queries` multiplies, and with what."""
    return {layer: share**0.5 for layer in layers if _makes_queries(model, layer)}
