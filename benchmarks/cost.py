"""What each method costs a step, as a ratio to the student's own step: ``python -m benchmarks.cost``.

The student's own step is its forward, a squared error and its backward. A distillation's step has the teacher's forward
besides, which "teacher" shows by itself, then what the method compares. All take turns in one process on the same
batch; each ratio is taken within a round. Memory is what a step adds to the process at its peak (Linux alone). Teacher
and student are denoising U-Nets with random weights, which take the same time as trained ones.

Growth: the exponent b of time ~ pixels^b and of memory, from the smallest picture to the largest, and the same over the
batch. 1 is linear; a method that compared all positions with all others would show 2.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import skd
from benchmarks.methods.arms import ARMS, METHODS
from benchmarks.reports import write_report
from benchmarks.worth.unet import UNet, unet_pairing
from kbstyle_example.evaluation.costs import surroundings
from skd.errors import SkdError
from skd.knowledge import Reread

RESULTS = Path(__file__).parent / "results" / "cost.json"
TEACHER, STUDENT = (24, 48, 96), (8, 16, 32)
SIZES, BATCHES = (32, 48, 96), (4, 8, 16)
SIZE, BATCH = 48, 4
OWN, TAUGHT = "student alone", "teacher"
Step = Callable[[], object]


def steps_of(size: int, batch: int, names: Sequence[str]) -> tuple[dict[str, Step], dict[str, str]]:
    """A step of the student alone, of the teacher, and of each method; and why some have none."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(batch, 3, size, size, generator=generator)
    torch.manual_seed(0)
    teacher, student = UNet(TEACHER).eval(), UNet(STUDENT).train()
    pairing = unet_pairing(teacher)
    spectra = skd.measure(teacher, pairing, [torch.rand(4, 3, 32, 32, generator=generator)])
    plan = skd.match(pairing, unet_pairing(student))
    reread = Reread(teacher, [pair.encoder for pair in pairing])

    def alone() -> None:
        student.zero_grad()
        (student(picture) - picture).square().mean().backward()

    def taught() -> Tensor:
        with torch.no_grad():
            found: Tensor = teacher(picture)
        return found

    made: dict[str, Step] = {OWN: alone, TAUGHT: taught}
    without: dict[str, str] = {}
    for name in names:
        arm = ARMS[name]
        assert arm.make is not None
        try:
            method = arm.make(plan, spectra, 1.0, 1_000_000, reread)
            distiller = skd.Distiller(teacher, student, method)
            distiller.train()
            _step(distiller, picture)
        except SkdError as error:
            without[name] = " ".join(str(error).split())
            continue
        made[name] = lambda distiller=distiller: _step(distiller, picture)  # type: ignore[misc]
    return made, without


def _step(distiller: skd.Distiller, picture: Tensor) -> None:
    distiller.zero_grad()
    distiller(picture).losses.total.backward()


def timed(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Ratios to the student alone, of the processor's seconds, medians over the rounds."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 1):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            began = time.process_time()
            steps[name]()
            if turn > 0:
                taken[name].append(time.process_time() - began)
    own = taken[OWN]
    return {
        name: statistics.median(one / other for one, other in zip(each, own, strict=True))
        for name, each in taken.items()
    } | {"seconds": statistics.median(own)}


def peak(step: Step) -> float | None:
    """MiB that a step adds to the process at its peak; None where the system doesn't tell."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status("VmRSS")
        step()
        return max(0, _status("VmHWM") - before) / 1024
    except (OSError, KeyError):
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0])


def exponent(first: float | None, last: float | None, times: float) -> float | None:
    """b of last / first = times^b."""
    return None if not first or not last else math.log(last / first) / math.log(times)


def measured(size: int, batch: int, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """All steps at one size and batch."""
    steps, without = steps_of(size, batch, names)
    ratios = timed(steps, rounds)
    seconds = ratios.pop("seconds")
    memory = {name: peak(step) for name, step in steps.items()}
    return {"size": size, "batch": batch, "seconds": seconds, "ratio": ratios, "mib": memory, "without": without}


def growth(rows: Sequence[dict[str, Any]], times: float) -> dict[str, Any]:
    """Exponents from the first row to the last, of time and of memory."""
    first, last = rows[0], rows[-1]
    found = {}
    for name in first["ratio"].keys() & last["ratio"].keys():
        seconds = [row["ratio"][name] * row["seconds"] for row in (first, last)]
        memory = [row["mib"][name] for row in (first, last)]
        found[name] = {"time": exponent(*seconds, times), "memory": exponent(*memory, times)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument(
        "--methods", nargs="+", default=[*METHODS, "SKD's loss, random start", "output only"], metavar="METHOD"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_size = [measured(size, BATCH, options.methods, options.rounds) for size in SIZES]
    by_batch = [measured(SIZE, batch, options.methods, options.rounds) for batch in BATCHES]
    pixels = growth(by_size, (SIZES[-1] / SIZES[0]) ** 2)
    batches = growth(by_batch, BATCHES[-1] / BATCHES[0])
    middle = by_size[SIZES.index(SIZE)]
    report = {
        "command": "python -m benchmarks.cost",
        "rounds": options.rounds,
        **surroundings(),
        "rows": [*by_size, *by_batch],
        "growth": {"pixels": pixels, "batch": batches},
    }
    write_report(report, options.out)
    print(
        f"{'at ' + str(SIZE) + '², batch ' + str(BATCH):22}  time ×   MiB  time~pixels^  memory~  time~batch^  memory~"
    )
    for name, ratio in sorted(middle["ratio"].items(), key=lambda item: item[1]):
        cells = [pixels[name]["time"], pixels[name]["memory"], batches[name]["time"], batches[name]["memory"]]
        shown = "".join(f"{'–' if each is None else f'{each:.2f}':>11}" for each in cells)
        print(f"{name:22}{ratio:8.2f}{middle['mib'][name] or 0:7.0f}{shown}")
    for name, reason in middle["without"].items():
        print(f"{name}: n/a, {reason}")


if __name__ == "__main__":
    main()
