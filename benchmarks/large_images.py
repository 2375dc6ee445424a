"""Time and memory of the whole tool, from 1 to 100 megapixels: ``python -m benchmarks.large_images``.

For each size a photograph is written as a JPEG, and ``python -m kbstyle_example stylize`` paints it into another: what
is measured is that process, from its start to its end, decoding and encoding with it. CPU seconds are of all threads;
they hardly depend on what else the machine does, as the wall's seconds do. Time linear in pixels is a straight line:
seconds = fixed + slope × megapixels, fitted with least squares of relative errors, whose greatest is reported.

The tool paints them whole; beyond 134 megapixels it does in tiles (`kbstyle_example.tiles`). What those take is
measured beside it on one size, without files.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.reports import write_report
from kbstyle_example import STUDENT, KBStyle, weights_file
from kbstyle_example.inference import Inference
from kbstyle_example.painting import style_tensor
from kbstyle_example.tiles import TILE, render_tiles
from kbstyle_example.weights_file import load_weights, save_weights

SIZES = ((1024, 1024), (2048, 2048), (4096, 2560), (6144, 4096), (10240, 4096), (12288, 8192))
GOAL = {"size": [10240, 4096], "peak_mib": 1536}
SAMPLES = Path(weights_file.__file__).parent / "samples"


def one(photograph: Path, weights: str, threads: int) -> dict[str, float]:
    """Paint one photograph in a process of its own."""
    command = [sys.executable, "-m", "kbstyle_example", "stylize", str(photograph), "--weights", weights]
    command += ["--style", str(SAMPLES / "style" / "cafe_terrace_at_night.jpg")]
    command += ["-o", str(photograph.with_name("painted.jpg"))]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    _, status, used = os.wait4(process.pid, 0)  # of this process alone; `resource` knows the largest child only
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the tool ended with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


def in_tiles(weights: str, size: tuple[int, int], threads: int) -> dict[str, Any]:
    """Seconds in tiles and whole, and how far apart the pictures are, in steps of 255."""
    torch.set_num_threads(threads)
    network = load_weights(weights).eval()
    with Image.open(SAMPLES / "content" / "taj_mahal.jpg") as picture:
        photograph = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    style = style_tensor(SAMPLES / "style" / "cafe_terrace_at_night.jpg")
    with torch.inference_mode():
        code, started = network.encode_style(style), time.perf_counter()
        tiled, between = render_tiles(network, photograph, code), time.perf_counter()
        whole, ended = Inference(network).paint(photograph, code), time.perf_counter()
    apart = int(np.abs(tiled.astype(np.int16) - whole).max())
    return {"size": list(size), "tiles": between - started, "whole": ended - between, "apart": apart}


def line(rows: list[dict[str, Any]], what: str) -> dict[str, float]:
    """A straight line through the rows, each of which counts by its relative error."""
    size, seconds = (np.array([row[key] for row in rows]) for key in ("megapixels", what))
    columns = np.stack([np.ones_like(size), size], 1)
    (fixed, slope), *_ = np.linalg.lstsq(columns / seconds[:, None], np.ones_like(size), rcond=None)
    error = np.abs((fixed + slope * size) / seconds - 1)
    found = {"fixed": fixed, "a_megapixel": slope, "greatest_relative_error": error.max()}
    return {key: round(float(value), 4) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", help="bundled name or file; random weights of the student's shape without")
    parser.add_argument("--largest", type=float, default=101.0, help="megapixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each size; medians are reported (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="write the results there as JSON, too")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size[0] * size[1] <= options.largest * 1e6]
    rows = []
    print("       size  megapixels  seconds  CPU seconds  CPU s/megapixel  peak MiB   load")
    with tempfile.TemporaryDirectory() as folder:
        weights = _weights(options.weights, Path(folder))
        for width, height in sizes:
            with Image.open(SAMPLES / "content" / "taj_mahal.jpg") as picture:
                large = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
            large.save(Path(folder, "photograph.jpg"), quality=92)
            del large
            load = os.getloadavg()[0]
            found = [one(Path(folder, "photograph.jpg"), weights, options.threads) for _ in range(options.rounds)]
            row: dict[str, Any] = {key: round(statistics.median(run[key] for run in found), 2) for key in found[0]}
            row["peak_mib"] = round(max(run["peak_mib"] for run in found))
            row = {"size": [width, height], "megapixels": round(width * height / 1e6, 2), **row, "load": round(load, 1)}
            rows.append(row)
            each = row["cpu_seconds"] / row["megapixels"]
            print(
                f"{width:>6}×{height:<5}{row['megapixels']:>10}{row['seconds']:>9}{row['cpu_seconds']:>13}"
                f"{each:>17.3f}{row['peak_mib']:>10}{row['load']:>7}",
                flush=True,
            )
    lines = {what: line(rows, what) for what in ("seconds", "cpu_seconds")} if len(rows) > 2 else {}
    for what, fitted in lines.items():
        print(
            f"{what}: {fitted['fixed']:.2f} + {fitted['a_megapixel']:.3f} a megapixel; "
            f"off by {100 * fitted['greatest_relative_error']:.0f} % at most"
        )
    with tempfile.TemporaryDirectory() as folder:
        weights = _weights(options.weights, Path(folder))
        beside = in_tiles(weights, SIZES[2], options.threads)
    print(f"in tiles {beside['tiles']:.1f} s, whole {beside['whole']:.1f} s, at most {beside['apart']} of 255 apart")
    if options.out:
        results = {
            "command": "python -m benchmarks.large_images",
            "measured": "python -m kbstyle_example stylize, JPEG to JPEG, the whole process",
            "tile": TILE,
            "in_tiles": beside,
            "weights": options.weights or "random, the student's shape",
            "goal": GOAL,
            "rounds": options.rounds,
            "rows": rows,
            "lines": lines,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "threads": options.threads,
            "cpus": os.cpu_count(),
            "processor": _processor(),
        }
        write_report(results, options.out)


def _weights(given: str | None, folder: Path) -> str:
    """Random ones without: they change neither time nor memory."""
    if given is not None:
        return given
    torch.manual_seed(0)
    path = folder / "random.safetensors"
    save_weights(KBStyle(STUDENT), path)
    return str(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
