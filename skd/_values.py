"""The tensors inside what a layer is given or returns: list them, pick one, replace one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from skd._tap import Path, Tap, brackets
from skd.errors import FeatureError


def _children(value: object) -> list[tuple[Any, Any]]:
    """Keys and members of a container; empty for everything else."""
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if isinstance(value, Mapping):  # before dataclasses: a ModelOutput is both
        return [(key, member) for key, member in value.items() if type(key) in (str, int)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return []


def inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
    """What a layer is given, as one value: positional arguments by place, keyword arguments by name."""
    return {**dict(enumerate(args)), **kwargs}


def tensors(value: object, prefix: Path = ()) -> list[tuple[Path, Tensor]]:
    """Every tensor of a layer's value with its path.

    Examples
    --------
    >>> import torch
    >>> [path for path, _ in tensors({"map": torch.zeros(1), "rest": (None, torch.zeros(1))})]
    [('map',), ('rest', 1)]
    """
    if isinstance(value, Tensor):
        return [(prefix, value)]
    return [found for key, member in _children(value) for found in tensors(member, (*prefix, key))]


def locate(value: object, tap: Tap) -> tuple[Path, Tensor]:
    """The tensor that the tap means and its full path, or a FeatureError that lists the paths there are."""
    inner = value
    for key in tap.path:
        members = dict(_children(inner))
        if key not in members and type(key) is int and isinstance(inner, (tuple, list)):
            key += len(inner)
        if key in members:
            inner = members[key]
        elif type(key) is str and hasattr(inner, key):  # a named tuple's field, a property
            inner = getattr(inner, key)
        else:
            raise _path_error(f"tap '{tap}' has a path that isn't there", value)
    if isinstance(inner, Tensor):
        return tap.path, inner
    found = tensors(inner, tap.path)
    if len(found) != 1:
        what = f"tap '{tap}' holds " + ("several tensors" if found else f"no tensor but {type(inner).__name__}")
        raise _path_error(what, value)
    return found[0]


def _path_error(what: str, value: object) -> FeatureError:
    paths = [f"{brackets(path) or 'the value itself'} {tuple(tensor.shape)}" for path, tensor in tensors(value)]
    return FeatureError(
        what,
        got="no tensor at all" if not paths else "these tensors: " + ", ".join(paths),
        remedy="state the path of one of them, as in 'layer[0]'" if paths else "tap a layer that returns a tensor",
    )


def replaced(value: Any, path: Path, tensor: Tensor) -> Any:
    """A shallow copy of the container with the tensor at the path replaced; the original is left alone."""
    if not path:
        return tensor
    key: Any = path[0]
    if isinstance(value, tuple):
        if isinstance(key, str):
            key = value._fields.index(key)  # type: ignore[attr-defined]
        members = list(value)
        members[key] = replaced(members[key], path[1:], tensor)
        return type(value)(*members) if hasattr(value, "_fields") else tuple(members)
    new = dict(value) if type(value) is dict else copy.copy(value)  # dynamo can't trace the copy of a dict
    if isinstance(new, (list, Mapping)):
        new[key] = replaced(value[key], path[1:], tensor)  # type: ignore[index]
    else:
        object.__setattr__(new, key, replaced(getattr(value, key), path[1:], tensor))  # also where it's frozen
    return new
