"""What makes two runs the same: the code, the networks, the losses. Compared before a run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from skd._code import code_of, without_addresses
from skd.distiller import Distiller


def identity_of(module: nn.Module) -> dict[str, Any]:
    """Plain values that tell this module and its losses from another; random first weights aren't among them."""
    found: dict[str, Any] = {
        "shapes": digest_of_text(f"{name} {tuple(p.shape)} {p.dtype}" for name, p in module.named_parameters()),
        "layers": _layers(module),
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
        said = without_addresses(str(row))
        rows[row.name] = f"{said} | {weight} | {code_of(row.distance)} | {code_of(row.knowledge)}"
    teachers = {
        name: {
            "weights": digest_of_tensors(t.state_dict()),
            "layers": _layers(t),
            "code": code_of_classes(type(m) for m in t.modules()),
        }
        for name, t in distiller.teachers.items()
    }
    return {"rows": rows, "stages": [repr(stage) for stage in distiller.stages], "teachers": teachers}


def _layers(module: nn.Module) -> str:
    """A digest of what every layer says of itself: its type, a dropout's share, a convolution's stride."""
    said = ((name, type(part).__qualname__, part.extra_repr()) for name, part in module.named_modules())
    return digest_of_text(without_addresses(" ".join(words)) for words in said)


def _schedule(schedule: Any) -> str:
    return f"{without_addresses(repr(schedule))} {code_of(schedule)}"


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
