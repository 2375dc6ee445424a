"""The main job on the bundled pictures: distil the teacher into 200 KB, and look at what came out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kbstyle_example.data import list_pictures
from kbstyle_example.distill import Distilled, distill, scratch
from kbstyle_example.images import grid, load_image, save_image
from kbstyle_example.loop import CHECKPOINT, LOG, Plan
from kbstyle_example.networks import STUDENT, KBStyle
from kbstyle_example.stylize import render, style_tensor
from kbstyle_example.weights_file import BUDGET, load_weights, save_weights

SAMPLES = Path(__file__).parent / "samples"
# Shown and never distilled on, so that the picture says what the student does with pictures it hasn't met.
SHOWN = (
    ("taj_mahal", "cafe_terrace_at_night"),
    ("chelsea_cat", "portrait_of_pere_tanguy"),
    ("eilean_donan", "cafe_terrace_at_night"),
    ("astronaut", "portrait_of_pere_tanguy"),
)
HEIGHT = 288  # pixels of a picture in the sheet


@dataclass(frozen=True)
class Outcome:
    """What the demo wrote, and the figures it prints."""

    files: dict[str, Path]
    steps: int
    seconds: float
    student_bytes: int
    teacher_bytes: int
    error_before: float
    error_after: float


def run_demo(
    out: str | Path,
    *,
    seconds: float = 300.0,
    steps: int = 4000,
    batch_size: int = 4,
    crop: int = 128,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Distil the bundled teacher into a student of at most 200 KB, from scratch, and write what came of it.

    Parameters
    ----------
    out : path
        Folder for all that is written; a demo found there is replaced.
    seconds, steps : float, int
        The training ends with whichever comes first.
    batch_size, crop, seed : int
    say : callable
        Told each line that a person should read.

    Returns
    -------
    Outcome
    """
    started = time.monotonic()
    out = Path(out)
    run = out / "run"
    shutil.rmtree(run, ignore_errors=True)  # only what an earlier demo left
    run.mkdir(parents=True)
    teacher = load_weights("teacher")
    contents, styles = (list_pictures(SAMPLES / kind) for kind in ("content", "style"))
    held_out = {name for pair in SHOWN for name in pair}
    photographs = [path for path in contents if path.stem not in held_out]
    # Any picture has a style: with the photographs among them there are more than six to learn from.
    paintings = [path for path in styles if path.stem not in held_out] * 2 + photographs
    say(f"Teacher: {_size(teacher)}. Student: {_size(scratch(STUDENT, seed))}, random weights, nothing pretrained.")
    say(f"Distilling on {len(photographs)} photographs and {len(set(paintings)) - len(photographs)} paintings "
        f"for up to {seconds:.0f} s; {len(SHOWN)} other pairs are kept to look at.")  # fmt: skip
    plan = Plan(
        steps=steps, batch_size=batch_size, learning_rate=2e-3, seconds=seconds, save_every=500, log_every=5, workers=1
    )
    done = distill(teacher, photographs, paintings, run, plan=plan, crop=crop, seed=seed)
    return _write(out, run, teacher, done, seed, time.monotonic() - started, say)


def _write(
    out: Path, run: Path, teacher: KBStyle, done: Distilled, seed: int, seconds: float, say: Callable[[str], None]
) -> Outcome:
    names = ("side_by_side.png", "student.safetensors", "loss_curve.png", "report.txt", "report.json", "log.jsonl")
    files = {Path(name).stem if name != "report.json" else "report_json": out / name for name in names}
    before = scratch(STUDENT, seed)
    pictures, errors = _sheet(teacher, before, done.student)
    save_image(pictures, files["side_by_side"])
    size = save_weights(
        done.student, files["student"], about={"distilled": f"{done.steps} steps, seed {seed}, bundled samples"}
    )
    loss_curve(run / LOG, files["loss_curve"])
    files["report"].write_text(f"{done.report}\n", encoding="utf-8")
    done.report.save(files["report_json"])
    (run / LOG).replace(files["log"])
    (run / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    teacher_bytes = 4 * sum(p.numel() for p in teacher.parameters())
    say("")
    say(str(done.report))
    say("")
    say(f"{done.steps} steps in {seconds:.0f} s. Root mean squared difference from the teacher's pictures, of 255: "
        f"{errors[0]:.1f} before, {errors[1]:.1f} after, on pairs never distilled on.")  # fmt: skip
    say(f"student.safetensors: {size:,} bytes, the whole file (budget {BUDGET:,}).")
    for path in files.values():
        say(f"  {path}")
    return Outcome(files, done.steps, seconds, size, teacher_bytes, *errors)


def _sheet(teacher: KBStyle, before: KBStyle, after: KBStyle) -> tuple[Tensor, tuple[float, float]]:
    """Rows of content, style, teacher, student before and after; and the students' distances from the teacher."""
    rows, errors = [], torch.zeros(2)
    for content, style in SHOWN:
        photograph = _scaled(load_image(SAMPLES / "content" / f"{content}.jpg"))
        painting = style_tensor(SAMPLES / "style" / f"{style}.jpg", 384)
        wanted, first, last = (render(network, photograph, painting) for network in (teacher, before, after))
        errors += torch.stack([(first - wanted).square().mean(), (last - wanted).square().mean()]) / len(SHOWN)
        rows.append([photograph, _scaled(painting), wanted, first, last])
    captions = ["photograph", "painting", "teacher, 2.7 MB", "student before", "student after, 200 KB"]
    first_error, last_error = (255 * errors.sqrt()).tolist()
    return grid(rows, columns=captions), (first_error, last_error)


def _scaled(picture: Tensor) -> Tensor:
    width = round(picture.shape[3] * HEIGHT / picture.shape[2])
    scaled = torch.nn.functional.interpolate(picture, (HEIGHT, width), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1)


def loss_curve(log: Path, path: Path) -> None:
    """Draw each loss of a training's log against its steps."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[float]] = {"total": [line["total"] for line in lines]}
    for kind in ("output", "structure", "statistics"):  # 18 terms are a tangle: their sums say the same
        groups[kind] = [sum(v for k, v in line.items() if k.split("/")[-1] == kind) for line in lines]
    for name, values in groups.items():
        axes.plot(steps, values, label=name, linewidth=2.0 if name == "total" else 1.2)
    axes.set(xlabel="step", ylabel="weighted loss", yscale="log", title="Distillation of KBStyle with SKD")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _size(network: KBStyle) -> str:
    count = sum(p.numel() for p in network.parameters())
    return f"widths {'-'.join(map(str, network.config.widths))}, {count:,} parameters, {count * 4 / 1024:,.0f} KB"
