"""What makes two runs the same: the code, the networks, the losses. Compared before a run goes on."""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skd.distiller import Distiller

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def identity_of(module: nn.Module) -> dict[str, Any]:
    """Plain values that tell this module and its losses from another; random first weights aren't among them."""
    found: dict[str, Any] = {
        "shapes": digest_of_text(f"{name} {tuple(p.shape)} {p.dtype}" for name, p in module.named_parameters()),
        "code": code_of_classes(type(part) for part in module.modules()),
    }
    for name, part in module.named_modules():
        if isinstance(part, Distiller):
            found[f"distiller {name}".strip()] = _of_distiller(part)
    return found


def _of_distiller(distiller: Distiller) -> dict[str, Any]:
    # A weight is plain, or a schedule that says what it is; a function is known by its code.
    rows = {}
    for row in distiller.transfers:
        weight = row.weight if isinstance(row.weight, (int, float)) else _schedule(row.weight)
        said = _ADDRESS.sub("", str(row))
        rows[row.name] = f"{said} | {weight} | {code_of(row.distance)} | {code_of(row.knowledge)}"
    teachers = {
        name: {"weights": digest_of_tensors(t.state_dict()), "code": code_of_classes(type(m) for m in t.modules())}
        for name, t in distiller.teachers.items()
    }
    return {"rows": rows, "stages": [repr(stage) for stage in distiller.stages], "teachers": teachers}


def _schedule(schedule: Any) -> str:
    return f"{_ADDRESS.sub('', repr(schedule))} {code_of(schedule)}"


def digest_of_tensors(tensors: dict[str, Any]) -> str:
    """Of names, shapes, types and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def digest_of_text(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def code_of_classes(kinds: Iterable[type]) -> dict[str, str]:
    """A digest of each class that isn't torch's own. Comments, docstrings and line numbers don't count."""
    found: dict[str, set[str]] = {}
    for kind in set(kinds):
        if not kind.__module__.startswith("torch."):  # by name alone: a script's module is __main__ at times
            found.setdefault(kind.__qualname__, set()).add(code_of(kind))
    return {name: " ".join(sorted(codes)) for name, codes in sorted(found.items())}


def code_of(thing: Any) -> str:
    """A digest of the code of a function, of a class' own methods, or of what a partial or an object calls."""
    found = hashlib.sha256()
    for function in _functions(thing):
        for text in _words(function.__code__, function.__doc__):
            found.update(text.encode())
        found.update(repr([d for d in function.__defaults__ or () if isinstance(d, (int, float, str))]).encode())
    return found.hexdigest()[:12]


def _functions(thing: Any) -> Iterator[types.FunctionType]:
    if isinstance(thing, types.FunctionType):
        yield thing
    elif isinstance(thing, types.MethodType):
        yield from _functions(thing.__func__)
    elif isinstance(thing, type):
        for _, member in sorted(vars(thing).items()):
            inner: Callable[..., Any] | None = getattr(member, "__func__", None) or getattr(member, "fget", None)
            if isinstance(member, types.FunctionType) or inner is not None:
                yield from _functions(inner or member)
    elif hasattr(thing, "func"):
        yield from _functions(thing.func)
    elif not isinstance(thing, types.BuiltinFunctionType):
        yield from _functions(type(thing))


def _words(code: types.CodeType, doc: str | None) -> Iterator[str]:
    yield code.co_code.hex()
    yield " ".join(code.co_names)
    first, *others = code.co_consts or (None,)
    for constant in others if first is None or first == doc else code.co_consts:  # a docstring, or its absence
        if isinstance(constant, types.CodeType):
            yield from _words(constant, None)
        elif isinstance(constant, frozenset):
            yield repr(sorted(constant, key=repr))  # its own order changes from process to process
        else:
            yield repr(constant)
