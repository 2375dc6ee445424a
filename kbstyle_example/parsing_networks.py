"""Options of the commands that train and measure networks; see `parsing`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbstyle_example.parsing import Parser, add, default_of

if TYPE_CHECKING:
    from skd import Recipe

GOES_ON = "; the same command goes on from the last checkpoint"


def distill(command: Parser) -> None:
    from kbstyle_example.distill import distill as function
    from skd.methods import SKD

    _training(command, function, more='; "compressed": as skd.compress makes it of the teacher')
    command.add_argument("--teacher", default="teacher", help="bundled name or file (%(default)s)")
    command.add_argument(
        "--perceptual",
        type=Path,
        nargs="+",
        help="weights file of a perceptual network to compare outputs under, or several that look by turns (none)",
    )
    _perceptual_options(command)
    _losses(command, function)
    command.add_argument(
        "--basis", help="where channels are compared: one of SKD's bases, or learned (as the pairs' widths say)"
    )
    add(command, "--structure", SKD, "what SKD's features less their means count")
    add(command, "--statistics", SKD, "what their means and deviations count")
    add(command, "--fade", function, "share of the steps over which these two go down to nothing; 0 keeps them")
    command.add_argument(
        "--fit-adapters", action="store_true", help="learned adapters begin as the least squares fit, not at random"
    )
    command.set_defaults(run="distill", interrupted=GOES_ON)


def train(command: Parser) -> None:
    from kbstyle_example.losses import StyleTask
    from kbstyle_example.train import train as function

    _training(command, function)
    command.add_argument(
        "--perceptual",
        type=Path,
        nargs="+",
        required=True,
        help="weights file of a perceptual network, or several that look by turns",
    )
    _perceptual_options(command)
    _guide(command)
    _losses(command, StyleTask)
    add(command, "--pixel-weight", StyleTask, "of the difference from what is imitated, pixel by pixel")
    add(command, "--content-weight", StyleTask, "of the content's loss")
    command.set_defaults(run="train", interrupted=GOES_ON)


def learn(command: Parser) -> None:
    from kbstyle_example.learning import learn as function

    command.add_argument("painting", type=Path, help="the painting to learn")
    command.add_argument("-o", "--out", type=Path, required=True, help="weights file to write: NAME.safetensors")
    command.add_argument("--content", type=Path, help="folder of photographs to practise on (the bundled ones)")
    command.add_argument(
        "--perceptual", type=Path, help="weights file of a perceptual network (the teacher's encoders, which see less)"
    )
    _perceptual_options(command)
    command.add_argument(
        "--start", default=default_of(function, "start"), help="bundled name or file of weights (%(default)s)"
    )
    add(command, "--steps", function, "of the training")
    add(command, "--crop", function, "side of the training crops in pixels")
    add(command, "--seed", function, "of the crops")
    command.set_defaults(run="learn")


def _training(command: Parser, function: Callable[..., Any], *, more: str = "") -> None:
    """What `distill` and `train` have in common."""
    _folders(command)
    _recipe(command, default_of(function, "recipe"))
    add(command, "--batch-size", function, "pairs in a batch")
    add(command, "--workers", function, "processes that load pictures")
    add(command, "--crop", function, "side of the training crops in pixels")
    add(command, "--vary-colours", function, "share of the paintings whose colours are changed")
    add(command, "--vary-strokes", function, "share of the paintings whose strokes are made finer")
    add(command, "--hard-pairs", function, "fixed pairs of crops to draw from, the hard ones oftener; 0: all anew")
    command.add_argument("--start", help=f"bundled name or file of weights to begin with{more} (random first weights)")


def reproduce(command: Parser) -> None:
    from kbstyle_example.distill import RECIPE
    from kbstyle_example.reproduction import Options

    _folders(command)
    command.add_argument(
        "--perceptual",
        type=Path,
        help="weights file of the perceptual network to train under (VGG-19, fetched into OUT: 548 MiB)",
    )
    command.add_argument(
        "--measure", type=Path, nargs="*", default=[], help="weights files of perceptual networks that only measure"
    )
    _guide(command)
    command.add_argument(
        "--start-teacher", help="bundled name or file of weights that the teacher begins with (random first weights)"
    )
    for name in ("teacher", "student"):
        recipe = getattr(Options(), f"{name}_recipe")
        command.add_argument(f"--{name}-steps", type=int, default=recipe.steps, help=f"of the {name} (%(default)s)")
        crop = getattr(Options(), f"{name}_crop")
        command.add_argument(f"--{name}-crop", type=int, default=crop, help="side of its crops in pixels (%(default)s)")
    for option, what in (
        ("batch_size", "pairs in a batch"),
        ("workers", "processes that load pictures"),
        ("size", "side of the squares that are measured and drawn"),
        ("pairs", "pairs that are measured"),
    ):
        default = getattr(Options(), option)
        command.add_argument(f"--{option.replace('_', '-')}", type=int, default=default, help=f"{what} (%(default)s)")
    command.add_argument("--seed", type=int, default=RECIPE.seed, help="of everything (%(default)s)")
    command.add_argument("--data-licence", default=Options().data_licence, help="what your pictures' licences allow")
    command.set_defaults(run="reproduce", interrupted=GOES_ON)


def evaluate(command: Parser) -> None:
    from kbstyle_example.evaluation.evaluate import evaluate as function

    _measured(command)
    command.add_argument("--perceptual", type=Path, nargs="+", required=True, help="weights files that measure")
    command.add_argument("--bfloat16", action="store_true", help="the weights painted with in bfloat16, too")
    add(command, "--size", function, "side of the squares in pixels")
    add(command, "--pairs", function, "how many", kind=int)
    add(command, "--seed", function, "of the choice of pairs")
    command.set_defaults(run="evaluate", interrupted="; the same command goes on with the next pair")


def sheet(command: Parser) -> None:
    from kbstyle_example.evaluation.sheet import draw_sheets

    _measured(command)
    add(command, "--size", draw_sheets, "side of the squares in pixels")
    add(command, "--count", draw_sheets, "most contents, and most styles")
    command.set_defaults(run="sheet")


def _guide(command: Parser) -> None:
    command.add_argument("--imitate", help="published network whose pictures the teacher's shall be like (none)")
    command.add_argument("--peers", type=Path, help="folder with the published weights of other networks")


def _perceptual_options(command: Parser) -> None:
    command.add_argument(
        "--perceptual-precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what it computes in; bfloat16 takes less time where the processor multiplies in it (%(default)s)",
    )
    command.add_argument(
        "--perceptual-lifted", action="store_true", help="its features in VGG-19's widths: Collaborative Distillation's"
    )


def _losses(command: Parser, function: Callable[..., Any]) -> None:
    """What losses under a perceptual network weigh, in all and layer by layer."""
    add(command, "--style-weight", function, "of the style's loss")
    add(command, "--luminance-weight", function, "of the style's loss of pictures in grey")
    add(command, "--similarity-weight", function, "of 1 − SSIM with the photograph: shapes that are kept")
    command.add_argument(
        "--similarity-follows",
        type=float,
        metavar="SSIM",
        help="let that weight follow: shapes kept as in the pictures imitated, and by so much better (it stays)",
    )
    add(command, "--detail-weight", function, "of the finest detail's distance from the painting's")
    add(command, "--feature-weight", function, "of the difference from what is imitated, feature by feature")
    for name, what in (
        ("style", "means and deviations"),
        ("covariance", "covariances"),
        ("feature", "the difference feature by feature"),
    ):
        weights = default_of(function, f"{name}_weights")
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


def _folders(command: Parser) -> None:
    command.add_argument("--content", type=Path, required=True, help="folder of photographs")
    command.add_argument("--style", type=Path, required=True, help="folder of paintings")
    command.add_argument("--out", type=Path, required=True, help="folder to write into; a run there goes on")


def _measured(command: Parser) -> None:
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


def _recipe(command: Parser, recipe: Recipe) -> None:
    for option, kind, what in (
        ("steps", int, "steps of training (%(default)s)"),
        ("seconds", float, "end after so much time (no limit)"),
        ("learning_rate", float, "of the optimizer, at its highest (%(default)s)"),
        ("accumulate", int, "batches a step (%(default)s)"),
        ("average", float, "decay of a moving average of the weights (none)"),
        ("evaluate_every", int, "steps between two looks at the validation pictures (only at the end)"),
        ("save_every", int, "steps between two checkpoints (%(default)s)"),
        ("seed", int, "of first weights and crops (%(default)s)"),
    ):
        command.add_argument(f"--{option.replace('_', '-')}", type=kind, default=getattr(recipe, option), help=what)
    command.add_argument(
        "--optimizer", choices=("adam", "adamw", "sgd", "soap"), default=recipe.optimizer, help="(%(default)s)"
    )
    command.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default=recipe.precision, help="(%(default)s)"
    )
