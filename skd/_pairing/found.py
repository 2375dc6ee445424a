"""What the search for a mirror gives, and how pairs are named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeVar

from skd._pairing.spots import Node, Spot

Item = TypeVar("Item")
By = Literal["scale", "depth", "width"]
Ignored = Callable[[Node], bool]
Named = tuple[str, Spot, Spot]
Sides = tuple[Spot, Spot]


@dataclass
class Mirror:
    """What was found: (name, encoder, decoder), outermost first; the bottleneck; what to know about it."""

    by: By
    pairs: list[Named]
    bottleneck: Spot | None
    notes: list[str] = field(default_factory=list)


def container(spots: Sequence[Spot]) -> str:
    """The dotted name that all these layers lie under; empty where there is none."""
    first, *others = (spot.record.name.split(".")[:-1] for spot in spots)
    depth = len(first)
    while any(other[:depth] != first[:depth] for other in others):
        depth -= 1
    return ".".join(first[:depth])


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of them, evenly spread, the ends among them; of one the last, which is the innermost.

    Examples
    --------
    >>> spread("abcde", 3), spread("abcde", 1)
    (['a', 'c', 'e'], ['e'])
    """
    if count < 2:
        return list(items[len(items) - count :])
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def shortened(items: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def unique_names(names: Sequence[str]) -> list[str]:
    """Numbers behind the names that come again.

    Examples
    --------
    >>> unique_names(["1/2", "1/4", "1/2"])
    ['1/2', '1/4', '1/2 (2)']
    """
    return [name if name not in names[:k] else f"{name} ({names[:k].count(name) + 1})" for k, name in enumerate(names)]


def scale_label(spot: Spot) -> str:
    """A scale as people say it, odd sizes rounded: 33 of 65 positions are 1/2."""
    if spot.scale is None:
        return "×".join(map(str, spot.positions)) or "code"
    texts = [_ratio_label(ratio) for ratio in spot.scale]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts)


def _ratio_label(ratio: float) -> str:
    power = Fraction(2) ** round(math.log2(ratio))
    return str(power if abs(float(power) / ratio - 1) <= 0.2 else Fraction(ratio).limit_denominator(32))
