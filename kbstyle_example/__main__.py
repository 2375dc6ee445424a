"""Command line: ``python -m kbstyle_example demo | stylize | distill | train | info``."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skd.errors import MissingExtraError, SkdError

PACKAGES = {"PIL": "pillow", "safetensors": "safetensors", "tqdm": "tqdm", "matplotlib": "matplotlib"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for an error that is the input's, 130 when interrupted."""
    try:
        _need_extra()
        options = _parser().parse_args(arguments)
        options.run(options)
    except SkdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _need_extra() -> None:
    """Name the extra that is missing, before an import somewhere deep does."""
    for module, package in PACKAGES.items():
        try:
            __import__(module)
        except ImportError:
            raise MissingExtraError(package, extra="kbstyle", purpose="kbstyle_example") from None


def _parser() -> argparse.ArgumentParser:
    from kbstyle_example.demo import run_demo
    from kbstyle_example.stylize import stylize

    parser = argparse.ArgumentParser(prog="python -m kbstyle_example", description="KBStyle: style transfer in 200 KB.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="distil the bundled teacher into 200 KB on the bundled pictures")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write into (%(default)s)")
    for name in ("seconds", "steps", "seed"):
        default = _default(run_demo, name)
        demo.add_argument(f"--{name}", type=type(default), default=default, help="(%(default)s)")
    demo.set_defaults(run=_demo)

    one = commands.add_parser("stylize", help="paint a photograph like a painting")
    one.add_argument("content", type=Path, help="the photograph")
    one.add_argument("--style", type=Path, required=True, help="the painting")
    one.add_argument("-o", "--out", type=Path, required=True, help="the picture to write")
    one.add_argument("--weights", default=_default(stylize, "network"), help="bundled name or file (%(default)s)")
    one.add_argument("--style-size", type=int, default=_default(stylize, "style_size"), help="pixels (%(default)s)")
    one.set_defaults(run=_stylize)

    for name, text in (("distill", "distil a teacher into 200 KB"), ("train", "train a teacher")):
        command = commands.add_parser(name, help=f"{text} on your own folders of pictures")
        command.add_argument("--content", type=Path, required=True, help="folder of photographs")
        command.add_argument("--style", type=Path, required=True, help="folder of paintings")
        command.add_argument("--out", type=Path, required=True, help="folder to write into; a run there goes on")
        command.add_argument("--steps", type=int, default=20_000, help="(%(default)s)")
        command.add_argument("--seconds", type=float, default=None, help="end after so much time (no limit)")
        command.add_argument("--batch-size", type=int, default=4, help="(%(default)s)")
        command.add_argument("--crop", type=int, default=160, help="pixels (%(default)s)")
        command.add_argument("--learning-rate", type=float, default=1e-3, help="(%(default)s)")
        command.add_argument("--workers", type=int, default=1, help="processes that load pictures (%(default)s)")
        command.add_argument("--seed", type=int, default=0, help="(%(default)s)")
        command.set_defaults(run=_distill if name == "distill" else _train)
        if name == "distill":
            command.add_argument("--teacher", default="teacher", help="bundled name or file (%(default)s)")
        else:
            command.add_argument("--perceptual", type=Path, required=True, help="weights file of a perceptual network")
            command.add_argument("--style-weight", type=float, default=None, help="against content's 1")

    info = commands.add_parser("info", help="what is bundled, and the versions")
    info.set_defaults(run=_info)
    return parser


def _default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def _demo(options: argparse.Namespace) -> None:
    from kbstyle_example.demo import run_demo

    run_demo(options.out, seconds=options.seconds, steps=options.steps, seed=options.seed)


def _stylize(options: argparse.Namespace) -> None:
    from kbstyle_example.images import load_image, save_image
    from kbstyle_example.stylize import stylize

    picture = stylize(options.content, options.style, network=options.weights, style_size=options.style_size)
    save_image(load_image(picture), options.out)
    print(options.out)


def _plan(options: argparse.Namespace) -> Any:
    from kbstyle_example.loop import Plan

    return Plan(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seconds=options.seconds,
        workers=options.workers,
    )


def _distill(options: argparse.Namespace) -> None:
    from kbstyle_example.data import list_pictures
    from kbstyle_example.distill import distill
    from kbstyle_example.weights_file import load_weights, save_weights

    contents, styles = list_pictures(options.content), list_pictures(options.style)
    teacher = load_weights(options.teacher)
    done = distill(teacher, contents, styles, options.out, plan=_plan(options), crop=options.crop, seed=options.seed)
    path = options.out / "student.safetensors"
    size = save_weights(done.student, path, about={"distilled": f"{done.steps} steps, seed {options.seed}"})
    print(f"{done.report}\n{path}: {size:,} bytes")


def _train(options: argparse.Namespace) -> None:
    from kbstyle_example.data import list_pictures
    from kbstyle_example.perceptual import load_perceptual
    from kbstyle_example.train import train
    from kbstyle_example.weights_file import save_weights

    contents, styles = list_pictures(options.content), list_pictures(options.style)
    perceptual = load_perceptual(options.perceptual)
    network, steps = train(
        contents, styles, perceptual, options.out,
        plan=_plan(options), crop=options.crop, seed=options.seed, style_weight=options.style_weight,
    )  # fmt: skip
    path = options.out / "teacher.safetensors"
    facts = {"trained": f"{steps} steps, seed {options.seed}", "perceptual": f"{perceptual.name} {perceptual.sha256}"}
    print(f"{path}: {save_weights(network, path, about=facts):,} bytes")


def _info(_: argparse.Namespace) -> None:
    import torch

    import skd
    from kbstyle_example.weights_file import about, bundled

    print(f"skd {skd.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    for name, path in bundled().items():
        facts = ", ".join(f"{key} {value}" for key, value in sorted(about(name).items()))
        print(f"{name}: {path.stat().st_size:,} bytes; {facts}")


if __name__ == "__main__":
    raise SystemExit(main())
