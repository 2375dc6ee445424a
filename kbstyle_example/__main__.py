"""Command line: ``python -m kbstyle_example COMMAND``; each command is a function of `commands`."""

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
    from skd import Recipe

PACKAGES = {
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "accelerate": "accelerate",
    "filelock": "filelock",
}
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
        from kbstyle_example import commands

        getattr(commands, options.run)(options)
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
    from kbstyle_example.distill import RECIPE, distill
    from kbstyle_example.evaluation.evaluate import evaluate
    from kbstyle_example.evaluation.sheet import draw_sheets
    from kbstyle_example.exporting import FORMATS, export_kbstyle
    from kbstyle_example.losses import StyleTask
    from kbstyle_example.reproduction import Options
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
    demo.set_defaults(run="demo")

    _add_stylize(commands)
    _add_video(commands)

    for name, function, text in (
        ("distill", distill, "distil a teacher into 200 KB"),
        ("train", train, "train a teacher"),
    ):
        command = commands.add_parser(name, help=f"{text} on your own folders of pictures")
        _folders(command)
        _add_recipe(command, _default(function, "recipe"))
        _add(command, "--batch-size", function, "pairs in a batch")
        _add(command, "--workers", function, "processes that load pictures")
        _add(command, "--crop", function, "side of the training crops in pixels")
        _add(command, "--vary-colours", function, "share of the paintings whose colours are changed")
        command.add_argument("--start", help="bundled name or file of weights to begin with (random first weights)")
        command.set_defaults(run=name, interrupted=GOES_ON)
        if name == "distill":
            command.add_argument("--teacher", default="teacher", help="bundled name or file (%(default)s)")
            command.add_argument(
                "--perceptual", type=Path, help="weights file of a perceptual network to compare outputs under (none)"
            )
            _add_losses(command, distill)
            _add_knowledge(command)
        else:
            command.add_argument("--perceptual", type=Path, required=True, help="weights file of a perceptual network")
            _add_guide(command)
            _add_losses(command, StyleTask)
            _add(command, "--pixel-weight", StyleTask, "of the difference from what is imitated, pixel by pixel")
            _add(command, "--content-weight", StyleTask, "of the content's loss")

    again = commands.add_parser(
        "reproduce", help="all of it from your own folders: train, distil, evaluate, draw sheets, write the model card"
    )
    _folders(again)
    again.add_argument(
        "--perceptual",
        type=Path,
        help="weights file of the perceptual network to train under (VGG-19, fetched into OUT: 548 MiB)",
    )
    again.add_argument(
        "--measure", type=Path, nargs="*", default=[], help="weights files of perceptual networks that only measure"
    )
    _add_guide(again)
    again.add_argument(
        "--start-teacher", help="bundled name or file of weights that the teacher begins with (random first weights)"
    )
    for name in ("teacher", "student"):
        recipe = getattr(Options(), f"{name}_recipe")
        again.add_argument(f"--{name}-steps", type=int, default=recipe.steps, help=f"of the {name} (%(default)s)")
        crop = getattr(Options(), f"{name}_crop")
        again.add_argument(f"--{name}-crop", type=int, default=crop, help="side of its crops in pixels (%(default)s)")
    for option, what in (
        ("batch_size", "pairs in a batch"),
        ("workers", "processes that load pictures"),
        ("size", "side of the squares that are measured and drawn"),
        ("pairs", "pairs that are measured"),
    ):
        default = getattr(Options(), option)
        again.add_argument(f"--{option.replace('_', '-')}", type=int, default=default, help=f"{what} (%(default)s)")
    again.add_argument("--seed", type=int, default=RECIPE.seed, help="of everything (%(default)s)")
    again.add_argument("--data-licence", default=Options().data_licence, help="what your pictures' licences allow")
    again.set_defaults(run="reproduce", interrupted=GOES_ON)

    measure = commands.add_parser("evaluate", help="measure networks on pictures that none was trained on")
    _measured(measure)
    measure.add_argument("--perceptual", type=Path, nargs="+", required=True, help="weights files that measure")
    measure.add_argument("--bfloat16", action="store_true", help="the weights painted with in bfloat16, too")
    _add(measure, "--size", evaluate, "side of the squares in pixels")
    _add(measure, "--pairs", evaluate, "how many", kind=int)
    _add(measure, "--seed", evaluate, "of the choice of pairs")
    measure.set_defaults(run="evaluate", interrupted="; the same command goes on with the next pair")

    sheet = commands.add_parser("sheet", help="contact sheets: contents × styles, for each network")
    _measured(sheet)
    _add(sheet, "--size", draw_sheets, "side of the squares in pixels")
    _add(sheet, "--count", draw_sheets, "most contents, and most styles")
    sheet.set_defaults(run="sheet")

    other = commands.add_parser("export", help="write the network for other runtimes, whole and in its two halves")
    other.add_argument("--weights", default="kbstyle", help="bundled name or file (%(default)s)")
    other.add_argument("-o", "--out", type=Path, required=True, help="folder to write into")
    _add(other, "--format", export_kbstyle, f"one of {', '.join(FORMATS)}")
    other.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("WIDTH", "HEIGHT"),
        default=_default(export_kbstyle, "size"),
        help="of the pictures, for executorch and coreml, which have one (512 512)",
    )
    other.add_argument("--photographs", type=Path, help="folder to calibrate eight bits on (the samples)")
    other.add_argument("--paintings", type=Path, help="folder to calibrate eight bits on (the samples)")
    other.set_defaults(run="export")

    page = commands.add_parser("web", help="open the page that paints in the browser, or write it as a static site")
    # Not 8000: the browser keeps the page of an address, and would show it in place of what others serve there.
    page.add_argument("--port", type=int, default=8417, help="to serve it at (%(default)s); 0 is any that is free")
    page.add_argument("--no-open", action="store_true", help="serve it, and leave the browser alone")
    page.add_argument("--to", type=Path, help="write the static site into this folder, and serve nothing")
    page.add_argument("--runtime", type=Path, help="folder of onnxruntime-web's dist files (npm fetches them, once)")
    page.add_argument("--rebuild", action="store_true", help="make the page's networks again from the bundled weights")
    page.set_defaults(run="web")

    info = commands.add_parser("info", help="what is bundled, and the versions")
    info.set_defaults(run="info")
    return parser


def _add_stylize(commands: argparse._SubParsersAction[_Parser]) -> None:
    from kbstyle_example.folders import stylize_files
    from kbstyle_example.photograph import ENDINGS

    one = commands.add_parser("stylize", help="paint photographs like paintings")
    one.add_argument("content", nargs="+", help="photographs, folders of them, or - for stdin")
    one.add_argument(
        "-o", "--out", required=True, help="the picture to write, - for stdout, or a folder for several photographs"
    )
    _painting(one, "photograph")
    one.add_argument(
        "--format",
        choices=[kind.lower() for kind in ENDINGS],
        help="of the pictures written (OUT's ending, or as it was)",
    )
    _add(one, "--quality", stylize_files, "of JPEG and WebP, 1 to 100")
    one.add_argument("--json", action="store_true", help="a line of JSON on stdout for each photograph")
    one.set_defaults(run="stylize")


def _add_video(commands: argparse._SubParsersAction[_Parser]) -> None:
    from kbstyle_example.video import stylize_video

    clip = commands.add_parser("video", help="paint a clip like a painting, its sound kept")
    clip.add_argument("clip", help="whatever PyAV reads")
    clip.add_argument("-o", "--out", required=True, help="the clip to write: .mp4, .m4v, .mov, .mkv or .webm")
    _painting(clip, "clip")
    _add(clip, "--stability", stylize_video, "from 0, every frame by itself, to below 1, hardly any flicker")
    _add(clip, "--quality", stylize_video, "of the encoder, 1 to 100")
    clip.add_argument("--lossless", action="store_true", help="in RGB as it was painted: .mkv only, very large")
    clip.add_argument("--json", action="store_true", help="a line of JSON on stdout")
    clip.set_defaults(run="video")


def _painting(command: _Parser, what: str) -> None:
    """What a painting is made with: the options of `Painter`."""
    from kbstyle_example.commands import NO_MASK
    from kbstyle_example.painting import Painter

    command.add_argument("--style", nargs="+", required=True, help="the painting, or several")
    _add(command, "--weights", Painter, "bundled name or file", parameter="network")
    _add(command, "--strength", Painter, f"from 0, the {what}, to 1, the painting")
    command.add_argument(
        "--keep-colour", "--keep-color", action="store_true", help=f"the {what}'s colours on the painting's strokes"
    )
    command.add_argument("--style-weights", type=float, nargs="+", metavar="WEIGHT", help="one for each style (equal)")
    command.add_argument(
        "--mask",
        nargs="+",
        help=f"for each style a picture, white where it paints, or {NO_MASK} for what the others leave (everywhere)",
    )
    _add(command, "--style-size", Painter, "longest side of the painting in pixels, as the network sees it")
    _add_unset(
        command,
        "--paint-size",
        Painter,
        int,
        f"longest side to paint at, for strokes of one share of any picture (the {what}'s)",
    )
    _add(command, "--precision", Painter, "float32, or bfloat16: quicker on processors that multiply in it")
    _add_unset(command, "--device", Painter, str, "cpu, cuda, cuda:1 or mps (cpu)")
    _add_unset(command, "--max-pixels", Painter, int, "refuse larger pictures (PIL's limit, 178956970)")


def _add_unset(parser: _Parser, option: str, function: Callable[..., Any], kind: type, text: str) -> None:
    """An option whose default is that nothing is said; the text tells what comes of it."""
    default = _default(function, option.removeprefix("--").replace("-", "_"))
    parser.add_argument(option, type=kind, default=default, help=text)


def _add_knowledge(command: _Parser) -> None:
    from skd.methods import SKD

    command.add_argument(
        "--basis", help="where channels are compared: one of SKD's bases, or learned (as the pairs' widths say)"
    )
    _add(command, "--structure", SKD, "what SKD's features less their means count")
    _add(command, "--statistics", SKD, "what their means and deviations count")


def _add_guide(command: _Parser) -> None:
    command.add_argument("--imitate", help="published network whose pictures the teacher's shall be like (none)")
    command.add_argument("--peers", type=Path, help="folder with the published weights of other networks")


def _add_losses(command: _Parser, function: Callable[..., Any]) -> None:
    """What losses under a perceptual network weigh, in all and layer by layer."""
    _add(command, "--style-weight", function, "of the style's loss")
    _add(command, "--luminance-weight", function, "of the style's loss of pictures in grey")
    _add(command, "--feature-weight", function, "of the difference from what is imitated, feature by feature")
    for name, what in (
        ("style", "means and deviations"),
        ("covariance", "covariances"),
        ("feature", "the difference feature by feature"),
    ):
        weights = _default(function, f"{name}_weights")
        default = " ".join(f"{layer}={weight:g}" for layer, weight in weights.items())
        command.add_argument(
            f"--{name}-weights",
            type=_layer_weight,
            nargs="*",
            metavar="LAYER=WEIGHT",
            default=weights,
            help=f"what each layer counts in {what} ({default})",
        )


def _layer_weight(text: str) -> tuple[str, float]:
    layer, _, weight = text.rpartition("=")
    try:
        return layer, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid weight of a layer: {text!r}, expected such as relu3_1=0.5") from None


def _folders(command: argparse.ArgumentParser) -> None:
    command.add_argument("--content", type=Path, required=True, help="folder of photographs")
    command.add_argument("--style", type=Path, required=True, help="folder of paintings")
    command.add_argument("--out", type=Path, required=True, help="folder to write into; a run there goes on")


def _measured(command: argparse.ArgumentParser) -> None:
    _folders(command)
    command.add_argument(
        "--weights", nargs="+", default=["teacher", "kbstyle"], help="bundled names or files (%(default)s)"
    )
    command.add_argument("--peers", type=Path, help="folder with the published weights of other networks")
    command.add_argument(
        "--part", choices=("validation", "test"), help="which pictures (validation; all, where none was trained on)"
    )
    command.add_argument(
        "--never-trained-on", action="store_true", help="no network was trained on any picture of these folders"
    )


def _add_recipe(command: argparse.ArgumentParser, recipe: Recipe) -> None:
    for option, kind, what in (
        ("steps", int, "steps of training (%(default)s)"),
        ("seconds", float, "end after so much time (no limit)"),
        ("learning_rate", float, "of Adam, at its highest (%(default)s)"),
        ("accumulate", int, "batches a step (%(default)s)"),
        ("average", float, "decay of a moving average of the weights (none)"),
        ("evaluate_every", int, "steps between two looks at the validation pictures (only at the end)"),
        ("save_every", int, "steps between two checkpoints (%(default)s)"),
        ("seed", int, "of first weights and crops (%(default)s)"),
    ):
        command.add_argument(f"--{option.replace('_', '-')}", type=kind, default=getattr(recipe, option), help=what)
    command.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default=recipe.precision, help="(%(default)s)"
    )


def _add(
    parser: argparse.ArgumentParser,
    option: str,
    function: Callable[..., Any],
    text: str,
    *,
    parameter: str = "",
    kind: type | None = None,
) -> None:
    """An option whose default and type are those of a function's parameter."""
    default = _default(function, parameter or option.removeprefix("--").replace("-", "_"))
    parser.add_argument(option, type=kind or type(default), default=default, help=f"{text} (%(default)s)")


def _default(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


if __name__ == "__main__":
    raise SystemExit(main())
