"""Command line: ``python -m kbstyle_example demo | stylize | distill | train | info``."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from skd.errors import ArgumentError, MissingExtraError, SkdError

if TYPE_CHECKING:
    from kbstyle_example.loop import Plan

PACKAGES = {"PIL": "pillow", "safetensors": "safetensors", "tqdm": "tqdm", "matplotlib": "matplotlib"}
GOES_ON = "; the same command goes on from the last checkpoint"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process where not given.

    Returns
    -------
    int
        The exit code: 0; 2 for an error that is the input's, after one line on stderr; 130 when interrupted.

    Examples
    --------
    >>> main(["info"])  # doctest: +ELLIPSIS
    skd ...
    0
    """
    options = argparse.Namespace(interrupted="")
    try:
        _need_extra()
        _parser().parse_args(arguments, options)
        options.run(options)
    except (SkdError, OSError) as error:  # the system's errors are the input's, too: a full disk, a pipe that is closed
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted{options.interrupted}", file=sys.stderr)
        return 130
    return 0


def _need_extra() -> None:
    """Name the extra that is missing, before an import somewhere deep does."""
    for module, package in PACKAGES.items():
        if module in sys.modules:
            continue
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        if found is None:
            raise MissingExtraError(package, extra="kbstyle", purpose="kbstyle_example")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors are said here."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message, remedy=f"{self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    from kbstyle_example.demo import run_demo
    from kbstyle_example.distill import distill
    from kbstyle_example.losses import StyleTask
    from kbstyle_example.stylize import stylize
    from kbstyle_example.train import train

    parser = _Parser(prog="python -m kbstyle_example", description="KBStyle: style transfer in 200 KB.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="distil the bundled teacher into 200 KB on the bundled pictures")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write into (%(default)s)")
    _add(demo, "--seconds", run_demo, "the training ends after so much time,")
    _add(demo, "--steps", run_demo, "or after so many steps")
    _add(demo, "--batch-size", run_demo, "pairs a step")
    _add(demo, "--crop", run_demo, "side of the training crops in pixels")
    _add(demo, "--seed", run_demo, "of first weights and crops")
    demo.set_defaults(run=_demo)

    one = commands.add_parser("stylize", help="paint a photograph like a painting")
    one.add_argument("content", type=Path, help="the photograph")
    one.add_argument("--style", type=Path, required=True, help="the painting")
    one.add_argument("-o", "--out", type=Path, required=True, help="the picture to write")
    _add(one, "--weights", stylize, "bundled name or file", parameter="network")
    _add(one, "--style-size", stylize, "longest side of the painting in pixels; smaller for coarser strokes")
    one.set_defaults(run=_stylize)

    for name, function, text in (
        ("distill", distill, "distil a teacher into 200 KB"),
        ("train", train, "train a teacher"),
    ):
        command = commands.add_parser(name, help=f"{text} on your own folders of pictures")
        command.add_argument("--content", type=Path, required=True, help="folder of photographs")
        command.add_argument("--style", type=Path, required=True, help="folder of paintings")
        command.add_argument("--out", type=Path, required=True, help="folder to write into; a run there goes on")
        plan = vars(_default(function, "plan"))
        for option, kind, what in (
            ("steps", int, "steps of training (%(default)s)"),
            ("seconds", float, "end after so much time (no limit)"),
            ("batch_size", int, "pairs a step (%(default)s)"),
            ("learning_rate", float, "of Adam, at its highest (%(default)s)"),
            ("workers", int, "processes that load pictures (%(default)s)"),
        ):
            command.add_argument(f"--{option.replace('_', '-')}", type=kind, default=plan[option], help=what)
        _add(command, "--crop", function, "side of the training crops in pixels")
        _add(command, "--seed", function, "of first weights and crops")
        if name == "distill":
            command.add_argument("--teacher", default="teacher", help="bundled name or file (%(default)s)")
            command.set_defaults(run=_distill, interrupted=GOES_ON)
        else:
            command.add_argument("--perceptual", type=Path, required=True, help="weights file of a perceptual network")
            _add(command, "--style-weight", StyleTask, "of the style's loss")
            _add(command, "--content-weight", StyleTask, "of the content's loss")
            command.set_defaults(run=_train, interrupted=GOES_ON)

    info = commands.add_parser("info", help="what is bundled, and the versions")
    info.set_defaults(run=_info)
    return parser


def _add(
    parser: argparse.ArgumentParser, option: str, function: Callable[..., Any], text: str, *, parameter: str = ""
) -> None:
    """An option whose default and type are those of a function's parameter."""
    default = _default(function, parameter or option.removeprefix("--").replace("-", "_"))
    parser.add_argument(option, type=type(default), default=default, help=f"{text} (%(default)s)")


def _default(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def _demo(options: argparse.Namespace) -> None:
    from kbstyle_example.demo import run_demo

    run_demo(
        options.out,
        seconds=options.seconds,
        steps=options.steps,
        batch_size=options.batch_size,
        crop=options.crop,
        seed=options.seed,
    )


def _stylize(options: argparse.Namespace) -> None:
    from kbstyle_example.images import FORMATS, load_image, save_image
    from kbstyle_example.stylize import stylize
    from kbstyle_example.weights_file import writable_folder

    if options.out.suffix.lower() not in FORMATS:  # before the work, and before a folder is made for nothing
        raise ArgumentError("no format for this file", got=options.out, expected=f"an ending of {', '.join(FORMATS)}")
    picture = stylize(options.content, options.style, network=options.weights, style_size=options.style_size)
    writable_folder(options.out.parent)
    save_image(load_image(picture), options.out)
    print(options.out)


def _plan(options: argparse.Namespace) -> Plan:
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

    plan = _plan(options)
    contents, styles = list_pictures(options.content), list_pictures(options.style)
    teacher = load_weights(options.teacher)
    done = distill(teacher, contents, styles, options.out, plan=plan, crop=options.crop, seed=options.seed)
    path = options.out / "student.safetensors"
    size = save_weights(done.student, path, about={"distilled": f"{done.steps} steps, seed {options.seed}"})
    print(f"{done.report}\n{path}: {size:,} bytes")


def _train(options: argparse.Namespace) -> None:
    from kbstyle_example.data import list_pictures
    from kbstyle_example.perceptual import load_perceptual
    from kbstyle_example.train import train
    from kbstyle_example.weights_file import save_weights

    plan = _plan(options)
    contents, styles = list_pictures(options.content), list_pictures(options.style)
    perceptual = load_perceptual(options.perceptual)
    network, steps = train(
        contents,
        styles,
        perceptual,
        options.out,
        plan=plan,
        crop=options.crop,
        seed=options.seed,
        content_weight=options.content_weight,
        style_weight=options.style_weight,
    )
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
