"""Whether the teachers are worth learning from: ``python -m benchmarks.methods.teachers --data DIR``.

The denoiser beside BM3D (Dabov et al. 2007; the package `bm3d`, ``pip install --group benchmarks``) on the same
pictures of the test split, with the same noise; the speller's phoneme error rate on all words of the test split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.methods.denoising import psnr
from benchmarks.methods.tasks import SETTINGS, task_of
from benchmarks.reports import write_report
from benchmarks.worth.unet import SIGMA, NoisyCrops
from kbstyle_example.data import list_pictures
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.splits import of_split

RESULTS = Path(__file__).parents[1] / "results" / "teachers.json"


def bm3d(noisy: Tensor) -> Tensor:
    """Of a batch of pictures (B, 3, H, W) with the task's noise."""
    from bm3d import bm3d_rgb

    found = [bm3d_rgb(picture.permute(1, 2, 0).numpy().astype(np.float64), SIGMA / 255) for picture in noisy]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float()


def denoising(data: Path, cache: Path, *, pictures: int, side: int) -> dict[str, Any]:
    """PSNR of the noise itself, of BM3D and of the teacher."""
    task = task_of("denoising", data, cache)
    crops = NoisyCrops(of_split(list_pictures(data / "content"), "test"), crop=side, length=pictures, seed=0)
    batches = list(DataLoader(crops, batch_size=1))
    found = {"noisy": psnr(lambda x: x, batches), "BM3D": psnr(bm3d, batches), "teacher": psnr(task.teacher, batches)}
    return {"pictures": pictures, "side": side, "PSNR, dB": found}


def pronunciation(data: Path, cache: Path) -> dict[str, Any]:
    """The phoneme error rate on the whole test split."""
    from benchmarks.methods import pronunciation as task

    made = task.pronunciation(SETTINGS["pronunciation"], data, cache)
    words = len(task.words_by_split()["test"])
    return {"words": words, **made.measured(made.teacher, "test", words)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.methods.teachers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="holds content/")
    parser.add_argument("--tasks", nargs="+", choices=("denoising", "pronunciation"), help="(both)")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--cache", type=Path, default=Path("runs/methods"), help="where teachers are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in options.tasks or ("denoising", "pronunciation"):
        if name == "denoising":
            found = denoising(options.data, options.cache, pictures=options.pictures, side=options.side)
        else:
            found = pronunciation(options.data, options.cache)
        print(name, json.dumps(found))
        report[name] = {**found, "surroundings": surroundings()}
        write_report(report, options.out)


if __name__ == "__main__":
    main()
