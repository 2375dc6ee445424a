"""What a painting is made with, said in one place: the signature of `painting.Painter`, which others take over."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypedDict, TypeVar

from skd.errors import ArgumentError

if TYPE_CHECKING:  # see `strips`
    import torch

    from kbstyle_example.networks import KBStyle
    from kbstyle_example.photograph import Source

SMALLEST_SIDE = 16  # pixels: two positions a side are left at level 3
DEFAULT = "kbstyle"  # the bundled weights that paint where none are named
LONGEST_STYLE_SIDE = 512  # pixels; the training's paintings had strokes of this scale

P = ParamSpec("P")
T = TypeVar("T")


class PainterOptions(TypedDict, total=False):
    """The keywords of `painting.Painter`, for type checkers; defaults and meanings are there."""

    network: KBStyle | str | os.PathLike[str]
    strength: float
    keep_colour: bool
    style_weights: Sequence[float] | None
    masks: Sequence[Source | None] | None
    style_size: int
    paint_size: int | None
    precision: str
    device: str | torch.device | None
    max_pixels: int | None


def check_painting(styles: Sequence[object], strength: float, paint_size: int | None, masks: int | None) -> None:
    """Raises
    ------
    ArgumentError
        No style; a strength or size that can't be; not a mask for each style.
    """
    if not styles:
        raise ArgumentError("no style to paint in", expected="one painting or more")
    if not 0 <= strength <= 1:
        raise ArgumentError("strength of the style", got=strength, expected="a number from 0 to 1")
    if paint_size is not None and (type(paint_size) is not int or paint_size < SMALLEST_SIDE):
        raise ArgumentError("paint size", got=paint_size, expected=f"{SMALLEST_SIDE} pixels or more")
    if masks is not None and masks != len(styles):
        raise ArgumentError("masks", got=f"{masks} masks", expected=f"{len(styles)}, one for each style")


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights that sum to 1; equal ones where none are given.

    Raises
    ------
    ArgumentError
        Not one for each style; negative, not finite, or all 0.

    Examples
    --------
    >>> checked_weights([3, 1], 2), checked_weights(None, 2)
    ([0.75, 0.25], [0.5, 0.5])
    """
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise ArgumentError("weights of styles", got=f"{len(given)} weights", expected=f"{count}, one for each style")
    total = sum(given)
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or not 0 < total < math.inf:
        raise ArgumentError("weights of styles", got=given, expected="numbers from 0 up, not all 0")
    return [weight / total for weight in given]


def with_options_of(source: Callable[..., object]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Show a function's ``**options`` as the keywords they are handed on to, with their defaults.

    `help`, editors at run time and the command line read them there; a wrong name is a TypeError, as everywhere.

    Examples
    --------
    >>> def paint(*, strength=1.0): ...
    >>> @with_options_of(paint)
    ... def stylize(content, **options): ...
    >>> str(inspect.signature(stylize))
    '(content, *, strength=1.0)'
    """
    taken = [p for p in inspect.signature(source).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = signature.replace(parameters=[*own, *(p for p in taken if p.name not in signature.parameters)])

        @functools.wraps(function)
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            shown.bind(*arguments, **options)
            return function(*arguments, **options)

        call.__signature__ = shown  # type: ignore[attr-defined]
        return call

    return decorate
