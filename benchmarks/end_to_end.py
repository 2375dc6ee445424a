"""What painting costs besides the network: ``python -m benchmarks.end_to_end``.

The stages of one photograph of 2048×1080 (a JPEG decoded, painted with a style that is known, encoded as a JPEG); a
folder of such photographs, in which reading, painting and writing overlap, beside one after the other; and how long the
whole tool takes for a picture of 512×512, beside Python alone and an import of torch. Seconds of the wall, as a user
waits; what is compared takes turns, ratios are taken within a round, medians over the rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.reports import write_report
from kbstyle_example import Painter, weights_file
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.folders import plan, stylize_files
from kbstyle_example.photograph import Photograph

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"
SAMPLES = Path(weights_file.__file__).parent / "samples"
STYLE = SAMPLES / "style" / "cafe_terrace_at_night.jpg"
SIZE, SMALL = (2048, 1080), (512, 512)
PYTHON, TORCH, TOOL, ONNX = "Python alone", "import torch", "stylize", "stylize --backend onnx"
Run = Callable[[], object]


def photographs(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """The samples, enlarged, as JPEG."""
    folder.mkdir()
    paths = []
    samples = sorted((SAMPLES / "content").glob("*.jpg"))
    for n in range(count):
        paths.append(folder / f"{n:03}.jpg")
        with Image.open(samples[n % len(samples)]) as image:
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(paths[-1], quality=92)
    return paths


def compared(runs: Mapping[str, Run], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each, and ratios to the first: medians over the rounds after one that doesn't count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    names, order = list(runs), random.Random(0)
    for turn in range(rounds + 1):
        for name in order.sample(names, len(names)):
            begun = time.perf_counter()
            runs[name]()
            if turn > 0:
                taken[name].append(time.perf_counter() - begun)
    own = taken[names[0]]
    found = {}
    for name, each in taken.items():
        ratios = [one / other for one, other in zip(each, own, strict=True)]
        found[name] = {
            "seconds": round(statistics.median(each), 4),
            "ratio": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "greatest": round(max(ratios), 3),
        }
    return found


def stages(photograph: Path, painter: Painter) -> dict[str, Run]:
    """The network first, then what stands before and after it."""
    content = photograph.read_bytes()
    read = Photograph.of(content)
    painted = painter(read.pixels)
    return {
        "paint": lambda: painter(read.pixels),
        "decode": lambda: Photograph.of(content),
        "encode": lambda: read.encoded(painted, "JPEG"),
    }


def folders(paths: Sequence[Path], out: Path, painter: Painter) -> dict[str, Run]:
    """Overlapping, and one photograph after the other."""
    jobs = plan(paths, out)

    def apart() -> None:
        for job in jobs:
            stylize_files([job], painter)

    return {"overlapping": lambda: stylize_files(jobs, painter), "one after the other": apart}


def starts(photograph: Path, out: Path, threads: int) -> dict[str, Run]:
    """Whole processes."""

    def process(*arguments: str) -> Run:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    tool = ["stylize", str(photograph), "--style", str(STYLE), "-o", str(out)]
    return {
        TORCH: process("-c", "import torch"),
        PYTHON: process("-c", "pass"),
        TOOL: process("-m", "kbstyle_example", *tool),
        ONNX: process("-m", "kbstyle_example", *tool, "--backend", "onnx"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.end_to_end", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument("--photographs", type=int, default=12, help="of the folder (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        painter = Painter(STYLE)
        paths = photographs(folder / "photographs", options.photographs, SIZE)
        (small,) = photographs(folder / "small", 1, SMALL)
        found: dict[str, Any] = {
            "stages": compared(stages(paths[0], painter), options.rounds),
            "folder": compared(folders(paths, folder / "painted", painter), options.rounds),
            "starts": compared(starts(small, folder / "small.jpg", options.threads), options.rounds),
        }
    report = {"command": "python -m benchmarks.end_to_end", "rounds": options.rounds, **surroundings()}
    report |= {"photographs": options.photographs, **found}
    write_report(report, options.out)
    for title, rows in found.items():
        print(title)
        for name, row in rows.items():
            spread = f"{row['ratio']:.2f} ({row['least']:.2f} to {row['greatest']:.2f})"
            print(f"  {name:22}{1000 * row['seconds']:9.0f} ms  {spread}")


if __name__ == "__main__":
    main()
