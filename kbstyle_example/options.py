"""What a painting is made with, said in one place: the signature of `painting.Painter`, which others take over."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypedDict, TypeVar

import torch

from kbstyle_example.networks import KBStyle
from kbstyle_example.photograph import Source

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
