"""What is trained of a module, its moving average, and how flags are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from skd.distiller import Distiller
from skd.errors import ArgumentError


def distillers(module: nn.Module) -> list[Distiller]:
    """Every distiller in a module, itself among them."""
    return [part for part in module.modules() if isinstance(part, Distiller)]


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained now, or in another stage, by name."""
    later = {id(p) for part in distillers(module) for p in part.thawed_later()}
    found = {name: p for name, p in module.named_parameters() if p.requires_grad or id(p) in later}
    if not found:
        raise ArgumentError("the module has nothing to train", remedy="leave some of its parameters requires_grad")
    return found


class Average:
    """An exponential moving average of parameters; weights change places with it while they are evaluated."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.values = {name: p.detach().clone() for name, p in parameters.items()}
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Take in the weights after a step."""
        self._update(list(self.values.values()), [p.detach() for p in self.parameters.values()], None)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights with their average."""
        for name, p in self.parameters.items():
            kept = p.detach().clone()
            p.copy_(self.values[name])
            self.values[name].copy_(kept)

    def load(self, values: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])


@contextlib.contextmanager
def averaged(average: Average | None) -> Iterator[None]:
    """Inside, the module has the averaged weights, where there is an average."""
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()


@contextlib.contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Train and eval flags are put back as they were, module by module."""
    flags = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag
