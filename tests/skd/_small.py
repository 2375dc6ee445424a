"""What the tests of compress() share: small networks, and the groups that are found in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skd._compression.groups import find_groups, tied
from skd._compression.narrowing import find_breaking
from skd._compression.tracing import trace_channels


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def noise(*shape: int, count: int = 4) -> list[Tensor]:
    return [torch.randn(shape) for _ in range(count)]


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.norm(self.first(x))))
        return out


class UNet(nn.Module):
    """Concatenations, transposed convolutions, group and batch norm, a depthwise and a grouped convolution."""

    def __init__(self, widths: Sequence[int] = (8, 16, 24)) -> None:
        super().__init__()
        one, two, three = widths
        self.down1 = nn.Sequential(nn.Conv2d(1, one, 3, padding=1), nn.GroupNorm(2, one), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(one, two, 3, 2, 1), nn.BatchNorm2d(two), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(two, three, 3, 2, 1), nn.ReLU(), Residual(three))
        self.up2 = nn.ConvTranspose2d(three, two, 2, 2)
        self.merge2 = nn.Sequential(
            nn.Conv2d(2 * two, two, 3, padding=1), nn.ReLU(), nn.Conv2d(two, two, 3, padding=1, groups=two)
        )
        self.up1 = nn.ConvTranspose2d(two, one, 2, 2)
        self.merge1 = nn.Sequential(nn.Conv2d(2 * one, one, 3, padding=1, groups=2), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(one, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        up = self.merge2(torch.cat([self.up2(self.middle(two)), two], 1))
        out: Tensor = self.out(self.merge1(torch.cat([self.up1(up), one], 1)))
        return out


class SRResNet(nn.Module):
    """A residual stream and pixel shuffle."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 5, padding=2)
        self.body = nn.Sequential(Residual(width), Residual(width))
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(width))
        self.tail = nn.Conv2d(width, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        out: Tensor = self.tail(self.up(head + self.body(head)))
        return out


def groups_of(model: nn.Module, *args: Any) -> dict[str, tuple[int, str | None]]:
    """Width of every group by name and number, and why it is whole; after the proof by running."""
    groups = find_groups(trace_channels(model, args, {}), model)
    units = tied(groups, model, [])
    with torch.no_grad():
        broken = find_breaking(model.eval(), groups, units, lambda net: net(*args))
    reasons = {k: reason for number, reason in broken.items() for k in units[number]}
    return {f"{group.name}/{k}": (group.width, group.whole or reasons.get(k)) for k, group in enumerate(groups)}


def open_widths(found: dict[str, tuple[int, str | None]]) -> list[int]:
    return sorted(width for width, whole in found.values() if whole is None)
