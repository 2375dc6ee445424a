"""The commands that paint. Nothing here imports PyTorch before it is known that it is needed."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from kbstyle_example.files import writable_folder
from kbstyle_example.folders import Outcome, Paint, plan, stylize_files
from skd.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from kbstyle_example.options import PainterOptions

NO_MASK = "none"  # a style that paints what the masks of the others leave
BACKENDS = ("torch", "onnx")


def stylize(options: argparse.Namespace) -> None:
    """Paint photographs: one that fails doesn't keep the rest."""
    kind = None if options.format is None else options.format.upper()
    painting = _painting(options)
    masks = [mask for mask in options.mask or () if mask != NO_MASK]
    jobs = plan(options.content, options.out, kind=kind, keep=[*options.style, *masks])
    if options.json and any(job.out is None for job in jobs):
        raise ArgumentError("--json and the picture both on stdout", remedy="name a file for the picture")
    painter = _painter(options, painting)
    many = len(jobs) > 1
    if many:
        writable_folder(options.out)  # or each of them would be painted for nothing
    with tqdm(total=len(jobs), desc="stylize", disable=None if many else True) as bar:

        def done(outcome: Outcome) -> None:
            bar.update()
            if options.json:
                bar.write(json.dumps(outcome.as_dict()))
            if many and outcome.error is not None:
                bar.write(f"error: {' '.join(str(outcome.error).split())}", file=sys.stderr)

        outcomes = stylize_files(
            jobs, painter, kind=kind, quality=options.quality, max_pixels=options.max_pixels, done=done
        )
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        total = f"{len(failed)} of {len(jobs)} photographs couldn't be painted, each for the reason above"
        raise DataError(total) if many else failed[0]
    if not options.json and jobs[0].out is not None:
        _say(f"{len(jobs)} photographs painted into {options.out}" if many else jobs[0].names[1])


def video(options: argparse.Namespace) -> None:
    """Paint a clip."""
    from kbstyle_example.video import stylize_video

    report = stylize_video(
        options.clip,
        options.style,
        options.out,
        stability=options.stability,
        quality=options.quality,
        lossless=options.lossless,
        **_painting(options),
    )
    if options.json:
        print(json.dumps({"clip": options.clip, "out": options.out, **report.as_dict()}))
    else:
        _say(f"{options.out}: {report}")


def _painter(options: argparse.Namespace, painting: PainterOptions) -> Paint:
    if options.backend == "onnx":
        from kbstyle_example.onnx_painter import OnnxPainter

        return OnnxPainter(options.style, **painting)
    from kbstyle_example.painting import Painter

    return Painter(options.style, **painting)


def _painting(options: argparse.Namespace) -> PainterOptions:
    """What `Painter` is told, of `stylize` and `video`."""
    masks = None if options.mask is None else [None if mask == NO_MASK else mask for mask in options.mask]
    return {
        "network": options.weights,
        "strength": options.strength,
        "keep_colour": options.keep_colour,
        "style_weights": options.style_weights,
        "masks": masks,
        "style_size": options.style_size,
        "paint_size": options.paint_size,
        "precision": options.precision,
        "device": options.device,
        "max_pixels": options.max_pixels,
    }


def _say(text: str) -> None:
    """Print, also what the terminal has no letter for: on Windows above all, of a file's name."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
