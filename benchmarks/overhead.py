"""What skd costs beside the same distillation written by hand: ``python -m benchmarks.overhead``.

One training step (student and teacher forward, SKD's losses, backward, SGD) of a small U-Net, eager, in two ways that
compute the same numbers, which is checked first. The two alternate within one process, in a random order within each
pair, so that whatever else the machine does hits both; the result is the ratio of each pair's times, and its median,
by the CPU time of the process (which other jobs disturb less) and by the wall clock.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skd
from benchmarks.reports import write_report
from skd.methods import SKD

GOAL = 0.03


class UNet(nn.Module):
    """Two levels with skips."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.down1 = nn.Conv2d(width, width, 3, 2, 1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.code = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.head = nn.Conv2d(2 * width, 3, 3, 1, 1)

    def parts(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The image and every layer's feature, as one who writes the distillation by hand returns them."""
        stem = self.stem(x)
        down1 = self.down1(F.relu(stem))
        down2 = self.down2(F.relu(down1))
        code = self.code(F.relu(down2))
        up1 = self.up1(F.relu(code))
        up2 = self.up2(torch.cat([F.relu(up1), F.relu(down1)], 1))
        image = self.head(torch.cat([F.relu(up2), F.relu(stem)], 1))
        return image, {"stem": stem, "down1": down1, "down2": down2, "code": code, "up1": up1, "up2": up2}

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)[0]


def _statistics(feature: Tensor) -> Tensor:
    mean = feature.mean((2, 3))
    deviation = ((feature - mean[:, :, None, None]).square().mean((2, 3)) + 1e-5).sqrt()
    return torch.cat([mean, deviation], 1)


def _relative(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student, teacher) / teacher.square().mean()


def build(width: int, student_width: int, size: int, batch: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """The step by hand and the step through skd; each trains a student of its own and returns its loss."""
    torch.manual_seed(0)
    x, y = torch.randn(2, batch, 3, size, size)
    teacher, twin = UNet(width), UNet(student_width)
    students = UNet(student_width), twin
    students[0].load_state_dict(twin.state_dict())
    pairing = skd.pair(teacher, x)
    spectra = skd.measure(teacher, pairing, [x])
    plan = skd.match(pairing, skd.pair(twin, x))
    distiller = skd.Distiller(teacher, twin, SKD(plan, spectra))
    sides = []
    for theirs, ours in plan:
        basis = spectra[theirs.name].basis(ours.width)
        sides.append((theirs.encoder.layer, ours.encoder.layer, basis.encoder.float()))
        sides.append((theirs.decoder.layer, ours.decoder.layer, basis.decoder.float()))
    optimizers = [torch.optim.SGD(student.parameters(), lr=1e-3) for student in students]

    def update(index: int, image: Tensor, knowledge: Tensor) -> float:
        loss = F.l1_loss(image, y) + knowledge
        optimizers[index].zero_grad()
        loss.backward()
        optimizers[index].step()
        return loss.item()

    def by_hand() -> float:
        with torch.no_grad():
            target, known = teacher.parts(x)
        image, features = students[0].parts(x)
        total = _relative(image, target)
        for theirs, ours, basis in sides:
            goal = (known[theirs].movedim(1, -1) @ basis).movedim(-1, 1)
            feature = features[ours]
            centred = [f - f.mean((2, 3), keepdim=True) for f in (feature, goal)]
            total = total + _relative(*centred) + _relative(_statistics(feature), _statistics(goal))
        return update(0, image, total)

    def through_skd() -> float:
        step = distiller(x)
        return update(1, step.output, step.losses.total)

    return by_hand, through_skd


def compare(by_hand: Callable[[], float], through_skd: Callable[[], float], pairs: int, warm_up: int) -> dict[str, Any]:
    """Times of `pairs` pairs of steps."""
    for _ in range(warm_up):
        one, other = by_hand(), through_skd()
        if abs(one - other) > 1e-5 * abs(one):
            raise SystemExit(f"error: the two steps compute different losses, {one} and {other}")
    order = random.Random(0)
    clocks = {"CPU": time.process_time, "wall": time.perf_counter}
    times: dict[tuple[str, str], list[float]] = {(way, clock): [] for way in ("by hand", "skd") for clock in clocks}
    steps = [("by hand", by_hand), ("skd", through_skd)]
    for _ in range(pairs):
        order.shuffle(steps)
        for way, step in steps:
            starts = {clock: read() for clock, read in clocks.items()}
            step()
            for clock, read in clocks.items():
                times[way, clock].append(read() - starts[clock])
    return {
        "pairs": pairs,
        **{
            clock: {
                "by hand, ms": 1e3 * statistics.median(times["by hand", clock]),
                "skd, ms": 1e3 * statistics.median(times["skd", clock]),
                **paired(times["by hand", clock], times["skd", clock], order),
            }
            for clock in clocks
        },
    }


def paired(base: list[float], other: list[float], order: random.Random) -> dict[str, Any]:
    """By how much `other` takes longer: the median over the pairs, its bootstrap interval, and the pairs' spread."""
    extra = [b / a - 1 for a, b in zip(base, other, strict=True)]
    medians = sorted(statistics.median(order.choices(extra, k=len(extra))) for _ in range(2000))
    quartiles = statistics.quantiles(extra, n=4)
    return {
        "overhead": quartiles[1],
        "95 % interval": [medians[49], medians[1949]],
        "quartiles of the pairs": [quartiles[0], quartiles[2]],
    }


def main() -> None:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = []
    for size in (64, 128):
        steps = build(width=24, student_width=8, size=size, batch=options.batch)
        rows.append({"image": size, "batch": options.batch, **compare(*steps, pairs=options.pairs, warm_up=5)})
    print("image  batch  clock     by hand         skd   overhead   95 % interval     quartiles of the pairs")
    for row in rows:
        for clock in ("CPU", "wall"):
            found = row[clock]
            (low, high), (first, third) = found["95 % interval"], found["quartiles of the pairs"]
            times = f"{found['by hand, ms']:>9.2f} ms{found['skd, ms']:>9.2f} ms{found['overhead']:>10.1%}"
            spread = f"{low:+.1%} … {high:+.1%}   {first:+.1%} … {third:+.1%}"
            print(f"{row['image']:>4}²{row['batch']:>7}  {clock:<5}{times}   {spread}")
    report = {
        "what": "one training step of a small U-Net (widths 24 and 8), SKD by hand and through skd, eager",
        "goal": GOAL,
        "note": "the machine was shared with another job, see its load; pairs alternate, so both ways met it alike",
        "rows": rows,
        "machine": {
            "cpu": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load average at the start": load,
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "skd": skd.__version__},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_report(report, options.out)


if __name__ == "__main__":
    main()
