"""What a step of distillation costs with the teacher's features on disk: ``python -m benchmarks.caching``.

A denoising U-Net and a student of a fourth of its widths, 64×64 pixels, as in `benchmarks.methods`. "student alone"
is a training step on the student's own loss; the others add the teacher and the method, once running the teacher each
time and once reading what it said. Seconds of the processor, one thread, ratios within a round, medians over the
rounds; each round has another batch, all of which have been seen before.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import skd
from benchmarks.methods.denoising import loss
from benchmarks.reports import write_report
from benchmarks.worth.unet import UNet, unet_pairing
from kbstyle_example.evaluation.costs import surroundings

RESULTS = Path(__file__).parent / "results" / "caching.json"
TEACHER, STUDENT, SIDE, BATCH = (32, 64, 128), (8, 16, 32), 64, 4
OWN = "student alone"
METHODS: dict[str, Callable[..., Any]] = {
    "output only": lambda plan, spectra: skd.methods.OutputOnly(plan, spectra),
    "SKD": lambda plan, spectra: skd.methods.SKD(plan, spectra),
    "SKD, learned adapters": lambda plan, spectra: skd.methods.SKD(plan, spectra, basis="learned"),
    "FitNets": lambda plan, spectra: skd.methods.FitNets(plan, spectra),
}
Step = Callable[[torch.Tensor, torch.Tensor], Any]


def steps_of(folder: Path, pictures: Sequence[torch.Tensor]) -> dict[str, Step]:
    """A training step each, by name; the caches know all the pictures."""
    torch.manual_seed(0)
    teacher, student = UNet(TEACHER).eval(), UNet(STUDENT)
    pairing = unet_pairing(teacher)
    spectra = skd.measure(teacher, pairing, pictures)
    plan = skd.match(pairing, unet_pairing(student))
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)

    def step(total: torch.Tensor) -> None:
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    made: dict[str, Step] = {OWN: lambda noisy, clean: step(loss(student(noisy), (noisy, clean)))}
    for name, make in METHODS.items():
        for cached in (False, True):
            cache = skd.TeacherCache(folder / name) if cached else None
            distiller = skd.Distiller(teacher, student, make(plan, spectra), cache=cache)

            def run(noisy: torch.Tensor, clean: torch.Tensor, distiller: skd.Distiller = distiller) -> None:
                found = distiller(noisy)
                step(found.losses.total + loss(found.output, (noisy, clean)))

            made[f"{name}, cached" if cached else name] = run
            if cached:
                for picture in pictures:
                    distiller(picture)
    return made


def timed(
    steps: Mapping[str, Step], batches: Sequence[tuple[torch.Tensor, torch.Tensor]], rounds: int
) -> dict[str, dict[str, float]]:
    """Ratios to the first, within rounds: median, least and greatest; and the first one's seconds."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 1):
        noisy, clean = batches[turn % len(batches)]
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            began = time.process_time()
            steps[name](noisy, clean)
            if turn > 0:  # the first warms up
                taken[name].append(time.process_time() - began)
    own = taken[names[0]]
    found = {}
    for name, each in taken.items():
        ratios = [one / other for one, other in zip(each, own, strict=True)]
        found[name] = {"ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
    return found | {names[0]: {**found[names[0]], "seconds": statistics.median(own)}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.caching", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument("--batches", type=int, default=64, help="of different pictures (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    noise = torch.Generator().manual_seed(0)
    clean = [torch.rand(BATCH, 3, SIDE, SIDE, generator=noise) for _ in range(options.batches)]
    batches = [
        (
            (each + 0.1 * torch.randn(each.shape, generator=noise)).contiguous(memory_format=torch.channels_last),
            each.contiguous(memory_format=torch.channels_last),
        )
        for each in clean
    ]
    with tempfile.TemporaryDirectory() as folder:
        steps = steps_of(Path(folder), [noisy for noisy, _ in batches])
        found = timed(steps, batches, options.rounds)
        used = sum(path.stat().st_size for path in Path(folder, "SKD").rglob("*.features"))
    report = {
        "command": "python -m benchmarks.caching",
        "rounds": options.rounds,
        **surroundings(),
        "bytes a sample": used // (options.batches * BATCH),
        "steps": found,
    }
    write_report(report, options.out)
    for name, row in found.items():
        print(f"{name:22}{row['ratio']:7.2f}  ({row['least']:.2f} to {row['greatest']:.2f})")
    print(f"{report['bytes a sample']:,} bytes a sample")


if __name__ == "__main__":
    main()
