"""Loss weights over time: callables from the number of optimizer steps done to a factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from skd.errors import ArgumentError

Schedule = Callable[[int], float]
Weight = float | Schedule


@dataclass(frozen=True)
class Ramp:
    """From `start` to `end` between two steps, constant outside them.

    Parameters
    ----------
    start, end : float
        Weights before and after.
    steps : int
        How many steps the way from one to the other takes; 0 is a jump.
    delay : int
        Steps before it begins.
    shape : {"linear", "cosine"}
        A straight line, or half a cosine that starts and ends gently.

    Raises
    ------
    ArgumentError
        `steps` or `delay` is negative, or the shape isn't known.

    Examples
    --------
    >>> fade = Ramp(1.0, 0.0, steps=10, delay=5)
    >>> [fade(step) for step in (0, 5, 10, 15, 99)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int
    delay: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        if self.steps < 0 or self.delay < 0:
            raise ArgumentError("a ramp goes forward in time", got=f"steps={self.steps}, delay={self.delay}")
        if self.shape not in ("linear", "cosine"):
            raise ArgumentError("there is no such ramp", got=repr(self.shape), expected="linear or cosine")

    def __call__(self, step: int) -> float:
        done = step - self.delay
        share = min(1.0, max(0.0, done / self.steps)) if self.steps else float(done >= 0)
        if self.shape == "cosine":
            share = 0.5 - 0.5 * math.cos(math.pi * share)
        return self.start * (1 - share) + self.end * share  # exact at both ends


@dataclass(frozen=True)
class Window:
    """`weight` from step `first` up to, but not including, step `last`; 0 outside. Without `last` it stays.

    Raises
    ------
    ArgumentError
        `last` isn't behind `first`.

    Examples
    --------
    >>> late = Window(2.0, first=100)
    >>> late(99), late(100)
    (0.0, 2.0)
    """

    weight: float
    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None and self.last <= self.first:
            raise ArgumentError("a window ends after it begins", got=f"first={self.first}, last={self.last}")

    def __call__(self, step: int) -> float:
        return self.weight if self.first <= step and (self.last is None or step < self.last) else 0.0


@dataclass(frozen=True)
class Scaled:
    """A schedule times a number.

    Examples
    --------
    >>> Scaled(Window(2.0, first=100), 0.5)(100)
    1.0
    """

    schedule: Schedule
    factor: float

    def __call__(self, step: int) -> float:
        return self.factor * self.schedule(step)


def weight_at(weight: Weight, step: int) -> float:
    """The weight at a step, whether it is a number or a schedule.

    Raises
    ------
    ArgumentError
        It is negative or isn't finite.

    Examples
    --------
    >>> weight_at(0.5, 7), weight_at(Ramp(0.0, 1.0, steps=10), 7)
    (0.5, 0.7)
    """
    value = float(weight(step) if callable(weight) else weight)
    if not math.isfinite(value) or value < 0:
        raise ArgumentError("a loss can't have this weight", got=value, expected="a finite number from 0 up")
    return value
