"""Means with 95 % intervals, for values of pairs that share their pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from skd.errors import ArgumentError, DataError, NonFiniteError

Pair: TypeAlias = tuple[str, str]  # names of the content and the style


class Interval(NamedTuple):
    """A mean, and half the width of its 95 % interval: None where there is too little to tell it."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half_width is None else f" ± {self.half_width:.4f}")

    @property
    def sign(self) -> int:
        """1 or −1 where the whole interval lies above or below 0, else 0."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def t95(freedom: int) -> float:
    """The value that Student's t stays below in size with a probability of 95 %.

    Abramowitz & Stegun 26.7.3 and 26.7.4 give that probability in closed form; bisection inverts it.

    Examples
    --------
    >>> [round(t95(freedom), 3) for freedom in (1, 10, 100)]
    [12.706, 2.228, 1.984]
    """
    if freedom < 1:
        raise ArgumentError("degrees of freedom", got=freedom, expected="1 or more")

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        if freedom % 2:
            term = total = math.cos(angle) if freedom > 1 else 0.0
            for k in range(3, freedom - 1, 2):
                term *= math.cos(angle) ** 2 * (k - 1) / k
                total += term
            return 2 / math.pi * (angle + math.sin(angle) * total)
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= math.cos(angle) ** 2 * (k - 1) / k
            total += term
        return math.sin(angle) * total

    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < 0.95 else (low, middle)
    return high


def interval(values: Mapping[Pair, float]) -> Interval:
    """The mean over pairs, with an interval that knows that pairs share contents and styles.

    Ten results of one painting tell less than ten paintings. So the variance of the mean is that of errors clustered by
    content and by style (Cameron, Gelbach & Miller 2011: by content + by style − by pair; at least as large as each of
    the three), and Student's t has as many degrees of freedom as the rarer kind of picture, less one. Where every
    picture appears once, this is the usual interval of a mean.

    Parameters
    ----------
    values : mapping of (content, style) to float

    Raises
    ------
    DataError
        There are no values.
    NonFiniteError
        One is NaN or infinite.

    Examples
    --------
    >>> print(interval({("a", "x"): 1.0, ("b", "y"): 2.0, ("c", "z"): 3.0}))
    2.0000 ± 2.4841
    """
    if not values:
        raise DataError("no values to take the mean of")
    numbers = np.array(list(values.values()), dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise NonFiniteError("a value isn't finite", got=next(p for p, v in values.items() if not math.isfinite(v)))
    mean = float(numbers.mean())
    apart = numbers - mean
    contents, styles = (np.unique([pair[side] for pair in values], return_inverse=True)[1] for side in (0, 1))
    groups = [int(side.max()) + 1 for side in (contents, styles)]
    if min(groups) < 2:
        return Interval(mean, None)

    def clustered(members: np.ndarray[Any, Any], count: int) -> float:
        sums = np.bincount(members, weights=apart, minlength=count)
        return float((sums**2).sum()) * count / (count - 1) / len(numbers) ** 2

    by_content, by_style = clustered(contents, groups[0]), clustered(styles, groups[1])
    by_pair = clustered(np.arange(len(numbers)), len(numbers))
    variance = max(by_content + by_style - by_pair, by_content, by_style, by_pair)
    return Interval(mean, t95(min(groups) - 1) * math.sqrt(variance))
