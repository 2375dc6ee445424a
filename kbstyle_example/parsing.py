"""What the command line understands: a command's options are filled in when it is asked for.

Filling them all in would import what trains and measures before a single photograph is painted.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from skd.errors import ArgumentError

# Command, the module that knows its options by a function of its name, and what it does.
COMMANDS = {
    "demo": ("parsing", "distil the bundled teacher into 200 KB on the bundled pictures"),
    "stylize": ("parsing", "paint photographs like paintings"),
    "video": ("parsing", "paint a clip like a painting, its sound kept"),
    "distill": ("parsing_networks", "distil a teacher into 200 KB on your own folders of pictures"),
    "train": ("parsing_networks", "train a teacher on your own folders of pictures"),
    "learn": ("parsing_networks", "teach the 200 KB one painting, in some minutes"),
    "reproduce": (
        "parsing_networks",
        "all of it from your own folders: train, distil, evaluate, draw sheets, write the model card",
    ),
    "evaluate": ("parsing_networks", "measure networks on pictures that none was trained on"),
    "sheet": ("parsing_networks", "contact sheets: contents × styles, for each network"),
    "export": ("parsing", "write the network for other runtimes, whole and in its two halves"),
    "web": ("parsing", "open the page that paints in the browser, or write it as a static site"),
    "info": ("parsing", "what is bundled, and the versions"),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors are said here."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message, remedy=f"{self.prog} --help")


def parser(wanted: str | None = None) -> Parser:
    """The parser, with the options of all commands, or of the one that is wanted."""
    made = Parser(prog="python -m kbstyle_example", description="KBStyle: style transfer in 200 KB.")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for name, (home, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if wanted in (None, name):
            command.set_defaults(home="commands")
            getattr(importlib.import_module(f"kbstyle_example.{home}"), name)(command)
    return made


def demo(command: Parser) -> None:
    from kbstyle_example.demo import run_demo

    command.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write into (%(default)s)")
    add(command, "--seconds", run_demo, "the training ends after so much time,")
    add(command, "--steps", run_demo, "or after so many steps")
    add(command, "--batch-size", run_demo, "pairs a step")
    add(command, "--crop", run_demo, "side of the training crops in pixels")
    add(command, "--seed", run_demo, "of first weights and crops")
    command.set_defaults(run="demo")


def stylize(command: Parser) -> None:
    from kbstyle_example.folders import stylize_files
    from kbstyle_example.painting_commands import BACKENDS
    from kbstyle_example.photograph import ENDINGS

    command.add_argument("content", nargs="+", help="photographs, folders of them, or - for stdin")
    command.add_argument(
        "-o", "--out", required=True, help="the picture to write, - for stdout, or a folder for several photographs"
    )
    _painting(command, "photograph")
    command.add_argument(
        "--format",
        choices=[kind.lower() for kind in ENDINGS],
        help="of the pictures written (OUT's ending, or as it was)",
    )
    add(command, "--quality", stylize_files, "of JPEG and WebP, 1 to 100")
    command.add_argument("--json", action="store_true", help="a line of JSON on stdout for each photograph")
    command.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="onnx paints by ONNX Runtime, which starts sooner, and has fewer options (%(default)s)",
    )
    command.set_defaults(run="stylize", home="painting_commands")


def video(command: Parser) -> None:
    from kbstyle_example.video import stylize_video

    command.add_argument("clip", help="whatever PyAV reads")
    command.add_argument("-o", "--out", required=True, help="the clip to write: .mp4, .m4v, .mov, .mkv or .webm")
    _painting(command, "clip")
    add(command, "--stability", stylize_video, "from 0, every frame by itself, to below 1, hardly any flicker")
    add(command, "--quality", stylize_video, "of the encoder, 1 to 100")
    command.add_argument("--lossless", action="store_true", help="in RGB as it was painted: .mkv only, very large")
    command.add_argument("--json", action="store_true", help="a line of JSON on stdout")
    command.set_defaults(run="video", home="painting_commands")


def export(command: Parser) -> None:
    from kbstyle_example.exporting import FORMATS, export_kbstyle

    command.add_argument("--weights", default="kbstyle", help="bundled name or file (%(default)s)")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder to write into")
    add(command, "--format", export_kbstyle, f"one of {', '.join(FORMATS)}")
    command.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("WIDTH", "HEIGHT"),
        default=default_of(export_kbstyle, "size"),
        help="of the pictures, for executorch and coreml, which have one (512 512)",
    )
    command.add_argument("--photographs", type=Path, help="folder to calibrate eight bits on (the samples)")
    command.add_argument("--paintings", type=Path, help="folder to calibrate eight bits on (the samples)")
    command.set_defaults(run="export")


def web(command: Parser) -> None:
    # Not 8000: the browser keeps the page of an address, and would show it in place of what others serve there.
    command.add_argument("--port", type=int, default=8417, help="to serve it at (%(default)s); 0 is any that is free")
    command.add_argument("--no-open", action="store_true", help="serve it, and leave the browser alone")
    command.add_argument("--to", type=Path, help="write the static site into this folder, and serve nothing")
    command.add_argument("--runtime", type=Path, help="folder of onnxruntime-web's dist files (npm fetches them, once)")
    command.add_argument(
        "--rebuild", action="store_true", help="make the page's networks again from the bundled weights"
    )
    command.set_defaults(run="web")


def info(command: Parser) -> None:
    command.set_defaults(run="info")


def _painting(command: Parser, what: str) -> None:
    """What a painting is made with: the options of `Painter`, read off its twin, which doesn't import PyTorch."""
    from kbstyle_example.onnx_painter import OnnxPainter as Painter
    from kbstyle_example.painting_commands import NO_MASK

    command.add_argument("--style", nargs="+", required=True, help="the painting, or several")
    add(command, "--weights", Painter, "bundled name or file", parameter="network")
    add(command, "--strength", Painter, f"from 0, the {what}, to 1, the painting")
    command.add_argument(
        "--keep-colour", "--keep-color", action="store_true", help=f"the {what}'s colours on the painting's strokes"
    )
    command.add_argument("--style-weights", type=float, nargs="+", metavar="WEIGHT", help="one for each style (equal)")
    command.add_argument(
        "--mask",
        nargs="+",
        help=f"for each style a picture, white where it paints, or {NO_MASK} for what the others leave (everywhere)",
    )
    add(command, "--style-size", Painter, "longest side of the painting in pixels, as the network sees it")
    _unset(
        command,
        "--paint-size",
        Painter,
        int,
        f"longest side to paint at, for strokes of one share of any picture (the {what}'s)",
    )
    add(command, "--precision", Painter, "float32, or bfloat16: quicker on processors that multiply in it")
    _unset(command, "--device", Painter, str, "cpu, cuda, cuda:1 or mps (cpu)")
    _unset(command, "--max-pixels", Painter, int, "refuse larger pictures (PIL's limit, 178956970)")


def _unset(parser: Parser, option: str, function: Callable[..., Any], kind: type, text: str) -> None:
    """An option whose default is that nothing is said; the text tells what comes of it."""
    default = default_of(function, option.removeprefix("--").replace("-", "_"))
    parser.add_argument(option, type=kind, default=default, help=text)


def add(
    parser: Parser,
    option: str,
    function: Callable[..., Any],
    text: str,
    *,
    parameter: str = "",
    kind: type | None = None,
) -> None:
    """An option whose default and type are those of a function's parameter."""
    default = default_of(function, parameter or option.removeprefix("--").replace("-", "_"))
    parser.add_argument(option, type=kind or type(default), default=default, help=f"{text} (%(default)s)")


def default_of(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default
