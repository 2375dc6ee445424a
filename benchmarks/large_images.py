"""Time and memory of painting in tiles, from 1 to 100 megapixels: ``python -m benchmarks.large_images``.

Each size runs in a process of its own, so that its peak memory is its own: from a bundled photograph, enlarged, to the
painted picture, both whole in memory at 3 bytes a pixel. The weights are random where none are named; they change
neither time nor memory. Linear in pixels means that seconds a megapixel stay what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIZES = ((1024, 1024), (2048, 2048), (4096, 2560), (6144, 4096), (10240, 4096), (12288, 8192))
GOAL = {"size": [10240, 4096], "peak_mib": 1536}


def one(width: int, height: int, side: int, weights: str | None) -> dict[str, Any]:
    """Paint one size in this process."""
    import resource

    import numpy as np
    import torch
    from PIL import Image

    from kbstyle_example.networks import STUDENT, KBStyle
    from kbstyle_example.painting import style_tensor
    from kbstyle_example.tiles import render_tiles
    from kbstyle_example.weights_file import load_weights

    torch.manual_seed(0)
    network = (load_weights(weights) if weights else KBStyle(STUDENT).eval()).to(memory_format=torch.channels_last)
    samples = Path(sys.modules[KBStyle.__module__].__file__ or "").parent / "samples"
    with Image.open(samples / "content" / "taj_mahal.jpg") as picture:
        photograph = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    with torch.no_grad():
        code = network.encode_style(style_tensor(samples / "style" / "cafe_terrace_at_night.jpg"))
    before = _peak(resource)
    started = time.perf_counter()
    painted = render_tiles(network, photograph, code, side=side)
    seconds = time.perf_counter() - started
    megapixels = width * height / 1e6
    return {
        "size": [width, height],
        "megapixels": round(megapixels, 2),
        "seconds": round(seconds, 2),
        "seconds_a_megapixel": round(seconds / megapixels, 3),
        "peak_mib": round(_peak(resource)),
        "before_painting_mib": round(before),
        "painted": list(painted.shape),
    }


def _peak(resource: Any) -> float:
    """The largest memory that this process has had, in MiB (ru_maxrss is in KiB on Linux, in bytes on macOS)."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    from kbstyle_example.tiles import TILE

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, default=TILE, help="of the tiles in pixels (%(default)s)")
    parser.add_argument("--weights", help="bundled name or file; random weights of the student's shape without")
    parser.add_argument("--largest", type=float, default=101.0, help="megapixels (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the results there as JSON, too")
    parser.add_argument("--one", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one, options.side, options.weights)))
        return
    rows = []
    print("      size  megapixels  seconds  s/megapixel  peak MiB")
    for width, height in SIZES:
        if width * height > options.largest * 1e6:
            continue
        command = [sys.executable, "-m", "benchmarks.large_images", "--side", str(options.side)]
        command += ["--one", str(width), str(height)] + (["--weights", options.weights] if options.weights else [])
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        print(
            f"{width:>5}×{height:<5} {row['megapixels']:>9} {row['seconds']:>8} {row['seconds_a_megapixel']:>12} "
            f"{row['peak_mib']:>9}",
            flush=True,
        )
    if options.out:
        import torch

        results = {
            "command": "python -m benchmarks.large_images",
            "side": options.side,
            "weights": options.weights or "random, the student's shape",
            "goal": GOAL,
            "rows": rows,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "threads": torch.get_num_threads(),
            "cpus": os.cpu_count(),
            "processor": _processor(),
        }
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
