"""The main job on the bundled pictures: distil the teacher into 200 KB, and look at what came out."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kbstyle_example.compressed import compressed
from kbstyle_example.data import list_pictures
from kbstyle_example.distill import OUTPUT_WEIGHT, STARTED, distill
from kbstyle_example.files import writable_folder
from kbstyle_example.images import grid, load_image, save_image
from kbstyle_example.networks import STUDENT, KBStyle
from kbstyle_example.painting import render, style_tensor
from kbstyle_example.weights_file import BUDGET, encoded, load_weights, save_weights
from skd import Distilled, Recipe

SAMPLES = Path(__file__).parent / "samples"
# Shown and never distilled on, so that the picture says what the student does with pictures it hasn't met.
SHOWN = (
    ("taj_mahal", "cafe_terrace_at_night"),
    ("chelsea_cat", "portrait_of_pere_tanguy"),
    ("eilean_donan", "cafe_terrace_at_night"),
    ("astronaut", "portrait_of_pere_tanguy"),
)
HEIGHT = 288  # pixels of a picture in the sheet
STYLE_SIDE = 384  # longest side of its paintings, before they are scaled to the sheet
FILES = {
    "side_by_side": "side_by_side.png",
    "student": "student.safetensors",
    "loss_curve": "loss_curve.png",
    "report": "report.txt",
    "report_json": "report.json",
    "log": "log.jsonl",
}


@dataclass(frozen=True)
class Outcome:
    """What the demo wrote, and the figures it prints.

    Attributes
    ----------
    files : dict of str to Path
        The files written, by what they hold: the keys of `FILES`.
    student : KBStyle
    steps : int
    seconds : float
        Of the whole demo.
    student_bytes, teacher_bytes : int
        Of the whole weights files.
    error_before, error_after : float
        Root mean squared difference of the student's pictures from the teacher's, of 255, over the pairs shown.
    """

    files: dict[str, Path]
    student: KBStyle
    steps: int
    seconds: float
    student_bytes: int
    teacher_bytes: int
    error_before: float
    error_after: float


def run_demo(
    out: str | Path,
    *,
    seconds: float = 240.0,
    steps: int = 4000,
    batch_size: int = 4,
    crop: int = 128,
    seed: int = 0,
    teacher: KBStyle | str = "teacher",
    say: Callable[[str], None] = print,
) -> Outcome:
    """Distil the bundled teacher into a student of at most 200 KB, and write what came of it.

    The student begins as `skd.compress` makes it of the teacher, and nothing of the bundled student is used.

    Parameters
    ----------
    out : path
        Folder for all that is written. What an earlier demo wrote there is replaced, once this one is done.
    seconds, steps : float, int
        The training ends with whichever comes first.
    batch_size, crop, seed : int
    teacher : KBStyle or str
        A network, a weights file, or the name of bundled weights.
    say : callable
        Told each line that a person should read.

    Returns
    -------
    Outcome

    Raises
    ------
    ArgumentError
        A number that can't be.
    FileError
        There are no such weights, or the folder can't be written into.

    Examples
    --------
    >>> done = run_demo("out/demo", seconds=60)  # doctest: +SKIP
    >>> sorted(path.name for path in done.files.values())  # doctest: +SKIP
    ['log.jsonl', 'loss_curve.png', 'report.json', 'report.txt', 'side_by_side.png', 'student.safetensors']
    """
    started = time.monotonic()
    recipe = Recipe(steps=steps, learning_rate=2e-3, seconds=seconds, log_every=5, seed=seed, channels_last=True)
    network = teacher if isinstance(teacher, KBStyle) else load_weights(teacher)
    photographs, paintings = training_pictures()
    out = writable_folder(out)
    before = compressed(network, photographs, paintings, STUDENT, seed=seed)
    say(f"Teacher: {_size(network)}.")
    say(f"Student: {_size(before)}, begun as skd.compress narrows the teacher.")
    say(
        f"Distilling with SKD on {len(photographs)} photographs and {len(set(paintings) - set(photographs))} paintings "
        f"(photographs serve as paintings, too) until {steps:,} steps or {seconds:g} s have passed; "
        f"{len(SHOWN)} other pairs are kept to look at."
    )
    say(
        "Loss: structure and statistics of encoders and decoder at 1/2, 1/4 and 1/8 of the size, "
        f"{STARTED['structure']:g} each, and the output's, {OUTPUT_WEIGHT:g}, all relative to the teacher's own "
        "energy; the bar shows the four largest."
    )
    # All of it is made here, so that a demo that is stopped leaves the one before it whole.
    with tempfile.TemporaryDirectory(dir=out, prefix=".demo-") as folder:
        run = Path(folder)
        done = distill(
            network,
            photographs,
            paintings,
            run,
            recipe=recipe,
            batch_size=batch_size,
            crop=crop,
            start=before,
            **STARTED,
        )
        outcome = _write(run, network, before, done, seed, started)
        for kind, path in outcome.files.items():
            (run / FILES[kind]).replace(path)
    _tell(outcome, done, say)
    return outcome


def training_pictures() -> tuple[list[Path], list[Path]]:
    """Photographs and paintings to distil on: the bundled ones but for those that are shown.

    Examples
    --------
    >>> photographs, paintings = training_pictures()
    >>> any(path.stem in pair for path in photographs + paintings for pair in SHOWN)
    False
    """
    shown = {name for pair in SHOWN for name in pair}
    photographs, paintings = (
        [path for path in list_pictures(SAMPLES / kind) if path.stem not in shown] for kind in ("content", "style")
    )
    # Any picture has a style: with the photographs among them there are more than six to learn from.
    return photographs, paintings * 2 + photographs


def _write(
    run: Path, teacher: KBStyle, before: KBStyle, done: Distilled[KBStyle], seed: int, started: float
) -> Outcome:
    """Write all of `FILES` into the folder `run` (the log is there); the outcome names them in the folder above."""
    facts = {"distilled": f"{done.run.steps} steps, seed {seed}, bundled samples"}
    student_bytes = save_weights(done.student, run / FILES["student"], about=facts)
    teacher_bytes = len(encoded(teacher))
    captions = (
        "photograph",
        "painting",
        f"teacher, {_kilobytes(teacher_bytes)}",
        "student before",
        f"student after, {_kilobytes(student_bytes)}",
    )
    rows, (error_before, error_after) = compare(teacher, before, done.student)
    save_image(grid(rows, columns=captions), run / FILES["side_by_side"])
    loss_curve(done.run.log, run / FILES["loss_curve"])
    (run / FILES["report"]).write_text(f"{done.report}\n", encoding="utf-8")
    done.report.save(run / FILES["report_json"])
    return Outcome(
        {kind: run.parent / name for kind, name in FILES.items()},
        done.student,
        done.run.steps,
        time.monotonic() - started,
        student_bytes,
        teacher_bytes,
        error_before,
        error_after,
    )


def _tell(outcome: Outcome, done: Distilled[KBStyle], say: Callable[[str], None]) -> None:
    say(f"\n{done.report}\n")
    say(
        f"{outcome.steps:,} steps, {outcome.seconds:.0f} s in all. Root mean squared difference from the teacher's "
        f"pictures, of 255, on {len(SHOWN)} pairs never distilled on: "
        f"{outcome.error_before:.1f} before, {outcome.error_after:.1f} after."
    )
    share = outcome.teacher_bytes / outcome.student_bytes
    say(
        f"Student: {outcome.student_bytes:,} bytes, the whole file (budget {BUDGET:,}); "
        f"the teacher's has {outcome.teacher_bytes:,}, {share:.1f} times as many."
    )
    say("Written:")
    for path in outcome.files.values():
        say(f"  {path}")


def compare(teacher: KBStyle, before: KBStyle, after: KBStyle) -> tuple[list[list[Tensor | None]], tuple[float, float]]:
    """The pairs of `SHOWN` as the three networks paint them.

    Returns
    -------
    rows
        Photograph, painting, teacher's picture, student's before and after, (1, 3, H, W) in 0..1 each.
    errors
        Root mean squared difference of the student's pictures from the teacher's, of 255, before and after.

    Examples
    --------
    >>> from kbstyle_example.beginning import scratch
    >>> net = scratch(STUDENT, seed=0)
    >>> rows, errors = compare(net, net, net)
    >>> len(rows), len(rows[0]), errors
    (4, 5, (0.0, 0.0))
    """
    rows: list[list[Tensor | None]] = []
    errors = torch.zeros(2, dtype=torch.float64)
    for content, style in SHOWN:
        photograph = _scaled(load_image(SAMPLES / "content" / f"{content}.jpg"))
        painting = style_tensor(SAMPLES / "style" / f"{style}.jpg", STYLE_SIDE)
        wanted, *painted = (render(network, photograph, painting) for network in (teacher, before, after))
        errors += torch.stack([(picture - wanted).double().square().mean() for picture in painted]) / len(SHOWN)
        rows.append([photograph, _scaled(painting), wanted, *painted])
    error_before, error_after = (255 * errors.sqrt()).tolist()
    return rows, (error_before, error_after)


def _scaled(picture: Tensor) -> Tensor:
    width = round(picture.shape[3] * HEIGHT / picture.shape[2])
    scaled = torch.nn.functional.interpolate(picture, (HEIGHT, width), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1)


def loss_curve(log: Path, path: Path) -> None:
    """Draw the losses of a distillation's log against its steps: their total, and the sum of each kind.

    Parameters
    ----------
    log : Path
        Lines of JSON, as `fit` writes them; none where the time was up before the first.
    path : Path
        The picture to write.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Path(folder, "log.jsonl")
    ...     _ = log.write_text('{"step": 5, "total": 3.0, "output": 2.0, "1/2/encoder/structure": 1.0}\\n')
    ...     loss_curve(log, Path(folder, "curve.png"))
    ...     load_image(Path(folder, "curve.png")).shape
    torch.Size([1, 3, 540, 960])
    """
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[float]] = {"total": [line["total"] for line in lines]}
    for kind in ("output", "structure", "statistics"):  # 19 terms are a tangle: their sums say the same
        groups[kind] = [sum(v for k, v in line.items() if k.split("/")[-1] == kind) for line in lines]
    for name, values in groups.items():
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, values, label=name, linewidth=2.0 if name == "total" else 1.2, marker=marker)
    axes.set(xlabel="step", ylabel="weighted loss", title="Distillation of KBStyle with SKD")
    if lines:
        axes.set_yscale("log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _size(network: KBStyle) -> str:
    count = sum(p.numel() for p in network.parameters())
    return (
        f"widths {'-'.join(map(str, network.config.widths))}, {count:,} parameters, {_kilobytes(len(encoded(network)))}"
    )


def _kilobytes(size: int) -> str:
    return f"{size / 1024:,.0f} KB"
