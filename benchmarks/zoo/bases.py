"""Channels against leading directions, ``compress(bases=…)``, at one size: ``python -m benchmarks.zoo.bases``.

A rotated basis is possible where nothing but linear operations that treat all channels alike lie between layers:
"groups" says of how many that holds. The plain networks of the zoo have random weights; "stream" is a small residual
network without activations on its stream, first with random weights and then trained to remove noise from waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import skd
from benchmarks.reports import write_report
from benchmarks.zoo.entries import ENTRIES
from kbstyle_example.evaluation.costs import surroundings

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bases.json"
RATIO, MINIMUM, SEEDS = 3.0, 2, (0, 1, 2)


class Stream(nn.Module):
    """Residual blocks on a stream that no activation touches, as in an EDSR or a transformer without norms."""

    def __init__(self, width: int = 24, blocks: int = 3) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(1, width, 3, 1, 1), nn.Conv2d(width, 1, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 3, 1, 1), nn.ReLU(), nn.Conv2d(2 * width, width, 3, 1, 1))
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) → the same."""
        stream = self.head(x)
        for block in self.blocks:
            stream = stream + block(stream)
        out: Tensor = self.tail(stream)
        return out


def waves(count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 24, 24) plane waves of random direction, length and phase."""
    place = torch.arange(24.0)
    shape = (count, 1, 1, 1)
    angle, length, phase = (torch.rand(shape, generator=generator) for _ in range(3))
    along = place[:, None] * (6.3 * angle).cos() + place * (6.3 * angle).sin()
    return (along / (1 + 3 * length) + 6.3 * phase).sin()


def trained(network: nn.Module, seed: int, steps: int = 300) -> nn.Module:
    """To take noise of deviation 0.3 off waves."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        clean = waves(8, generator)
        noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
        optimizer.zero_grad()
        (network(noisy) - clean).square().mean().backward()
        optimizer.step()
    return network


def compared(network: nn.Module, data: Sequence[Any]) -> dict[str, Any]:
    """The output's energy kept with either basis, at one ratio."""
    network.eval()
    found: dict[str, Any] = {}
    for bases in ("subset", "rotated"):
        done = skd.compress(network, None, data=data, ratio=RATIO, bases=bases, minimum=MINIMUM)
        found[bases] = done.output_energy
        found["groups"] = [sum(row.basis == "rotated" for row in done.rows), len(done.rows)]
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS:
        for entry in ENTRIES:
            if entry.package or entry.ratio < RATIO:
                continue
            torch.manual_seed(seed)
            network = entry.build(2)
            rows.setdefault(entry.name, []).append(compared(network, [entry.inputs() for _ in range(8)]))
        torch.manual_seed(seed)
        stream, generator = Stream(), torch.Generator().manual_seed(100 + seed)
        data = [(clean := waves(8, generator)) + 0.3 * torch.randn(clean.shape, generator=generator) for _ in range(8)]
        rows.setdefault("stream, random", []).append(compared(stream, data))
        rows.setdefault("stream, trained", []).append(compared(trained(stream, seed), data))
    report = {"command": "python -m benchmarks.zoo.bases", "ratio": RATIO, **surroundings(), "networks": rows}
    write_report(report, RESULTS)
    for name, runs in rows.items():
        pairs = ", ".join(f"{run['subset']:.3f} → {run['rotated']:.3f}" for run in runs)
        print(f"{name:18} rotated {runs[0]['groups'][0]} of {runs[0]['groups'][1]} groups: {pairs}")


if __name__ == "__main__":
    main()
