"""Norms over channels that are fewer: their scales and shifts fitted to what the teacher's norms say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.analysis import Data
from skd._compression.layers import Port
from skd._compression.narrowing import is_norm
from skd._measuring import arguments, quiet


def renorm(teacher: nn.Module, student: nn.Module, positions: Mapping[Port, Tensor], data: Data) -> list[str]:
    """Give the student's narrowed norms the scales and shifts of least squares, in place; the norms' names.

    A norm over channels (`LayerNorm`, `GroupNorm`, RMS norms by any name) divides by what all of them do together. Of
    those that are kept the strongest are more than their share, so what the narrow norm says is too small: of a third
    of the channels, by half. For every channel the scale (and the shift, where there is one) becomes that which brings
    the narrow norm of the teacher's kept channels nearest to what the teacher's norm says there.
    """
    kept = {
        name: where for name, where in _narrowed(teacher, positions).items() if _scale_of(student, name) is not None
    }
    sums: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[..., None]:
        narrow: Any = student.get_submodule(name)
        axis = 1 if isinstance(narrow, nn.GroupNorm) else -1
        where = kept[name]

        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            place = where.to(output.device)
            ours = narrow(args[0].index_select(axis, place)).movedim(axis, -1).flatten(0, -2).double()
            theirs = output.index_select(axis, place).movedim(axis, -1).flatten(0, -2).double()
            found = torch.stack(
                (torch.ones_like(ours).sum(0), ours.sum(0), theirs.sum(0), ours.square().sum(0), (ours * theirs).sum(0))
            )
            sums[name] = sums[name] + found if name in sums else found

        return hook

    handles = [teacher.get_submodule(name).register_forward_hook(hook_for(name)) for name in kept]
    try:
        with quiet(teacher), quiet(student):
            for number, item in enumerate(data):
                args, kwargs = arguments(teacher, item if data.inputs is None else data.inputs(item), number)
                teacher(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for name, found in sums.items():
        _put(student.get_submodule(name), found)
    return list(sums)


def _narrowed(model: nn.Module, positions: Mapping[Port, Tensor]) -> dict[str, Tensor]:
    """By the name of a norm over channels that has lost some: those it has kept."""
    found = {}
    for name, module in model.named_modules():
        if not is_norm(module) or isinstance(module, nn.modules.batchnorm._NormBase):  # these know no other channels
            continue
        for port in (Port(name, "both"), Port(f"{name}.weight", "both")):  # of a known kind, or a weight of its own
            if port in positions:
                found[name] = positions[port]
    return found


def _scale_of(model: nn.Module, name: str) -> Tensor | None:
    weight = model.get_submodule(name)._parameters.get("weight")
    return weight if weight is not None and weight.ndim == 1 else None


@torch.no_grad()
def _put(norm: Any, sums: Tensor) -> None:
    """The least squares scale and shift, behind those that are there; those of channels that don't vary stay."""
    count, ours, theirs, squares, products = sums
    bias = norm._parameters.get("bias")
    if bias is not None:
        squares, products = squares - ours.square() / count, products - ours * theirs / count
    varies = squares > 1e-9 * sums[3]
    scale = torch.where(varies, products / squares.where(varies, torch.ones_like(squares)), 1.0)
    norm.weight.mul_(scale)
    if bias is not None:
        bias.copy_(scale * bias + (theirs - scale * ours) / count)
