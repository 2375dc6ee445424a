"""How cost grows with pixels, batch, pairs and steps: ``python -m benchmarks.growth``.

Four rows of measurements, each over its own quantity: KBStyle's painting over the pixels of the photograph, a step of
SKD over the batch, the same over the number of pairs that it compares, and a whole training over its steps. All of a
row take turns in one process; seconds are of the processor, medians over the rounds. Linear is a straight line, seconds
= fixed + slope × quantity, fitted with least squares of relative errors, of which the greatest is reported.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import skd
from benchmarks.reports import write_report
from benchmarks.worth.unet import UNet, unet_pairing
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.inference import Inference
from kbstyle_example.weights_file import load_weights

RESULTS = Path(__file__).parent / "results" / "growth.json"
SIDES, BATCHES, PAIRS, STEPS = (256, 512, 1024, 1448, 2048), (4, 8, 16, 32), (1, 2, 4, 8), (10, 20, 40, 80)
SIZE, TEACHER, STUDENT = 48, (24, 48, 96), (8, 16, 32)
Runs = dict[float, Callable[[], object]]


class Ladder(nn.Module):
    """As many encoder as decoder layers, all of one width and size, so that one pair costs what another does."""

    def __init__(self, rungs: int, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, 2, 1), nn.ConvTranspose2d(width, 3, 2, 2)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(rungs))
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(rungs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides even → the same shape."""
        x = self.first(x)
        for layer in (*self.down, *self.up):
            x = torch.relu(layer(x))
        found: Tensor = self.last(x)
        return found

    def pairing(self, pairs: int, example: Tensor) -> skd.Pairing:
        """The innermost `pairs`."""
        rungs = len(self.down)
        named = {str(k): (f"down.{rungs - 1 - k}", f"up.{k}") for k in range(pairs)}
        return skd.Pairing.declare(named, self, example)


def painting(sides: Sequence[int] = SIDES) -> Runs:
    """The bundled network on a square photograph, the style known; by megapixels."""
    quick, noise = Inference(load_weights("kbstyle").eval()), torch.Generator().manual_seed(0)
    with torch.inference_mode():
        code = quick.encode_style(torch.rand(1, 3, 512, 512, generator=noise))

    def run(picture: Tensor) -> Callable[[], object]:
        @torch.inference_mode()
        def paint() -> object:
            return quick.render(picture, code)

        return paint

    return {side**2 / 1e6: run(torch.rand(1, 3, side, side, generator=noise)) for side in sides}


def batches(sizes: Sequence[int] = BATCHES) -> Runs:
    """A step of SKD on denoising U-Nets."""
    teacher, student, example = UNet(TEACHER).eval(), UNet(STUDENT), torch.rand(2, 3, SIZE, SIZE)
    spectra = skd.measure(teacher, unet_pairing(teacher), [example])
    plan = skd.match(unet_pairing(teacher), unet_pairing(student))
    distiller = skd.Distiller(teacher, student, skd.methods.SKD(plan, spectra)).train()
    return {size: _step(distiller, torch.rand(size, 3, SIZE, SIZE)) for size in sizes}


def pairs(numbers: Sequence[int] = PAIRS) -> Runs:
    """A step of SKD on the same two ladders, of which ever more is compared."""
    rungs, example = max(numbers), torch.rand(4, 3, SIZE, SIZE)
    teacher, student = Ladder(rungs, 32).eval(), Ladder(rungs, 8)
    runs: Runs = {}
    for number in numbers:
        pairing = teacher.pairing(number, example)
        plan, spectra = skd.match(pairing, student.pairing(number, example)), skd.measure(teacher, pairing, [example])
        runs[number] = _step(skd.Distiller(teacher, student, skd.methods.SKD(plan, spectra)).train(), example)
    return runs


def steps(numbers: Sequence[int] = STEPS) -> Runs:
    """`skd.distill` from its start to its end, its calibration, checks and files with it."""
    teacher, student = UNet(TEACHER).eval(), UNet(STUDENT)
    data = [torch.rand(4, 3, SIZE, SIZE) for _ in range(max(numbers))]

    def run(number: int) -> Callable[[], object]:
        def train() -> None:
            recipe = skd.Recipe(steps=number, cpu=True)
            with tempfile.TemporaryDirectory() as folder:
                skd.distill(teacher, data[:number], folder, student=student, recipe=recipe, inputs=_whole)

        return train

    return {number: run(number) for number in numbers}


def _whole(batch: Tensor) -> Tensor:
    return batch


def _step(distiller: skd.Distiller, batch: Tensor) -> Callable[[], object]:
    def step() -> None:
        distiller.zero_grad()
        distiller(batch).losses.total.backward()

    return step


def timed(runs: Runs, rounds: int) -> dict[float, float]:
    """The processor's seconds, medians over the rounds that count: one more runs before them."""
    taken: dict[float, list[float]] = {quantity: [] for quantity in runs}
    for turn in range(rounds + 1):
        for quantity, run in runs.items():
            began = time.process_time()
            run()
            if turn > 0:
                taken[quantity].append(time.process_time() - began)
    return {quantity: statistics.median(each) for quantity, each in taken.items()}


def line(seconds: dict[float, float]) -> dict[str, float]:
    """The straight line with the least squares of relative errors, and the greatest of these."""
    x, y = np.array(list(seconds)), np.array(list(seconds.values()))
    (fixed, slope), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(y)), rcond=None)
    return {"fixed": fixed, "slope": slope, "greatest error": float(np.abs((fixed + slope * x) / y - 1).max())}


ROWS = {
    "megapixels of a photograph": painting,
    "samples of a batch": batches,
    "pairs compared": pairs,
    "steps of a training": steps,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all rows, print and keep them."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, make in ROWS.items():
        seconds = timed(make(), options.rounds)
        found[name] = {"seconds": seconds, **line(seconds)}
        shown = ", ".join(f"{quantity:.3g}: {each:.3g} s" for quantity, each in seconds.items())
        print(f"{name}: {shown}; a line to within {found[name]['greatest error']:.0%}", flush=True)
    report = {"command": "python -m benchmarks.growth", "rounds": options.rounds, **surroundings(), "rows": found}
    write_report(report, options.out)


if __name__ == "__main__":
    main()
