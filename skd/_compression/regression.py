"""What layers of two networks are given and say at the same positions, and the sums that a regression needs of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.unfolding import kernel, patches

LARGEST = 4608  # numbers that an output is made of, above which a layer stays as it is: their products are 170 MB
PLENTY, ENOUGH = 64, 4  # positions for each of these numbers: as many as are taken, and below which a layer stays
WORK = 2e11  # products a layer beyond which fewer positions are taken


class _Enough(Exception):
    """The layer has run; what comes after it needn't."""


class Sample:
    """Which positions of a layer's outputs are looked at, the same in teacher and student."""

    def __init__(self, layer: Any, outputs: Sequence[Sequence[int]], number: int) -> None:
        self.unknown = kernel(layer).shape[-1] + (layer.bias is not None)
        self.calls = len(outputs[0])
        total = sum(map(sum, outputs))
        wanted = max(ENOUGH * self.unknown, min(PLENTY * self.unknown, int(WORK / self.unknown**2)))
        self.share = min(1.0, wanted / max(total, 1))
        self.usable = self.unknown <= LARGEST and total >= ENOUGH * self.unknown and len({*map(len, outputs)}) == 1
        self.number = number

    def rows(self, batch: int, call: int, count: int) -> Tensor | slice:
        """Of `count` positions; one at least."""
        if self.share >= 1:
            return slice(None)
        seed = (self.number * 65537 + batch) * 257 + call
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(count, generator=generator)[: max(1, round(count * self.share))]


@dataclass
class Sums:
    """Products of what a layer is given (groups, n) and of what it should say (groups, o), summed in float64."""

    count: int
    given: Tensor  # (G, n, n)
    crossed: Tensor  # (G, n, o)
    squares: Tensor  # (G, o)


def _fits(module: Any) -> bool:
    """A plain layer of known kind: one whose weight is something else's product has nothing to be put into."""
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if not isinstance(module, transposed):
            return False
    return "weight" in module._parameters and module.weight.is_floating_point()


def outputs_of(model: nn.Module, calls: Sequence[Any]) -> dict[str, list[list[int]]]:
    """Layers in the order in which they first run, with the number of output positions by batch and call."""
    found: dict[str, list[list[int]]] = {}
    batch = 0

    def take(layer: str, module: Any, _: Tensor, output: Tensor) -> None:
        rows = found.setdefault(layer, [])
        while len(rows) <= batch:
            rows.append([])
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        rows[batch].append(output.numel() // width)

    with _watched(model, [name for name, module in model.named_modules() if _fits(module)], take):
        for call in calls:
            _run(model, call, batch)
            batch += 1
    return found


def targets_of(
    teacher: nn.Module,
    calls: Sequence[Any],
    samples: Mapping[str, Sample],
    kept: Mapping[str, Tensor],
    scales: Mapping[str, float],
) -> dict[str, list[list[Tensor]]]:
    """(P, c) by layer, batch and call: what the teacher says at the sampled positions, in the student's channels."""
    found: dict[str, list[list[Tensor]]] = {layer: [[] for _ in calls] for layer in samples}
    batch = 0

    def take(layer: str, module: Any, _: Tensor, output: Tensor) -> None:
        said = output.reshape(-1, output.shape[-1]) if isinstance(module, nn.Linear) else _rows(module, output)
        mine = found[layer][batch]
        said = said[samples[layer].rows(batch, len(mine), len(said))].double()
        if layer in kept:
            said = said @ kept[layer].to(said.device)
        mine.append((said * scales.get(layer, 1.0)).to(output.dtype))

    with _watched(teacher, [layer for layer, sample in samples.items() if sample.usable], take):
        for call in calls:
            _run(teacher, call, batch)
            batch += 1
    return found


def _rows(module: Any, output: Tensor) -> Tensor:
    """(B, C, …) or (C, …) → (positions, C)."""
    batched = output if output.ndim == module.weight.ndim else output[None]
    return batched.flatten(2).transpose(1, 2).flatten(0, 1)


def sums_of(
    student: nn.Module, layer: str, calls: Sequence[Any], sample: Sample, targets: Sequence[Sequence[Tensor]]
) -> Sums | None:
    """None where there are too few positions, or not the same ones."""
    if not sample.usable or any(len(each) != sample.calls for each in targets):
        return None
    sums: Sums | None = None
    batch = call = 0

    def take(_: str, module: Any, given: Tensor, __: Tensor) -> None:
        nonlocal sums, call
        said = targets[batch][call].double()
        x = patches(module, given)
        x = x[sample.rows(batch, call, len(x))].double()
        if module.bias is not None:
            x = torch.cat((x, torch.ones_like(x[..., :1])), -1)
        x, y = x.transpose(0, 1), said.view(len(said), x.shape[1], -1).transpose(0, 1)
        found = Sums(x.shape[1], x.mT @ x, x.mT @ y, y.square().sum(1))
        if sums is not None:
            sums.count += found.count
            for name in ("given", "crossed", "squares"):
                getattr(sums, name).add_(getattr(found, name))
        else:
            sums = found
        call += 1
        if call == sample.calls:
            raise _Enough

    with _watched(student, [layer], take):
        for item in calls:
            call = 0
            with suppress(_Enough):
                _run(student, item, batch)
            batch += 1
    return sums


def _run(model: nn.Module, call: Any, batch: int) -> None:
    """With the same random numbers for teacher and student, where they draw any."""
    args, kwargs = call
    torch.manual_seed(batch)
    model(*args, **kwargs)


@contextmanager
def _watched(
    model: nn.Module, layers: Sequence[str], take: Callable[[str, Any, Tensor, Tensor], None]
) -> Iterator[None]:
    """Inside, `take` is given what these layers are given and what they say, at every call."""

    def hook_for(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            take(layer, module, given.detach(), output.detach())

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_for(name), with_kwargs=True) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
