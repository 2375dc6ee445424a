"""One small distillation that each engine trains, and the loop by hand that says what its weights have to be."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd import Distiller
from skd.adapters import ChannelAdapter
from skd.distances import mse
from skd.knowledge import centred, mean_std
from skd.methods import Method, Stage, Transfer
from skd.schedules import Ramp

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, width, 3, 2, 1)
        self.code = nn.Conv2d(width, width, 3, 1, 1)
        self.up = nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.code(self.down(x).relu()).relu())


class Rows(Method):
    """All means over samples, with a schedule and an adapter that two rows share."""

    def transfers(self) -> list[Transfer]:
        shared = ChannelAdapter(4, 6)
        return [
            Transfer("down", "down", "down", centred, mse, student_adapters=shared),
            Transfer("code", "code", "code", mean_std, mse, Ramp(2.0, 0.5, steps=3), student_adapters=shared),
            Transfer("output", "", "", weight=2.0),
        ]


class Staged(Rows):
    """Two steps of the encoder with the decoder frozen, then the other rows with the entrance frozen."""

    def __init__(self, *, freeze: bool = True) -> None:
        self.frozen = (("up",), ("down",)) if freeze else ((), ())

    def stages(self) -> list[Stage]:
        first, then = self.frozen
        return [Stage(2, ("down", "code"), first), Stage(None, ("code", "output"), then)]


def make(method: Method | None = None) -> Distiller:
    torch.manual_seed(0)
    return Distiller(Net(6), Net(4), method or Rows())


def batches(count: int) -> list[Batch]:
    """Of four samples each."""
    x, y = torch.randn(2, count, 4, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    return list(zip(x, y, strict=True))


def by_hand(distiller: Distiller, steps: Iterable[list[Batch]], *, task: bool = True) -> dict[str, Tensor]:
    """The trained weights; each step takes the mean of the losses of its batches."""
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9)
    for parts in steps:
        optimizer.zero_grad()
        for x, y in parts:
            step = distiller(x)
            loss = step.losses.total + (F.mse_loss(step.output, y) if task else 0.0)
            (loss / len(parts)).backward()
        optimizer.step()
        distiller.advance()
    return weights(distiller)


def weights(distiller: Distiller) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in distiller.named_parameters()}


def half(given: Iterable[Batch], rank: int) -> list[Batch]:
    """The share of one of two processes."""
    return [(x[2 * rank : 2 * rank + 2], y[2 * rank : 2 * rank + 2]) for x, y in given]
