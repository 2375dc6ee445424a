"""A narrow code between encoder and decoder, at the smallest scale: where it is, and whose the layers around it are."""

from __future__ import annotations

from collections.abc import Sequence

from skd._pairing.found import container
from skd._pairing.spots import Spot


def waist(bottom: Sequence[Spot]) -> list[Spot]:
    """The narrowest layers in a row, where there are wider ones before and behind; else none."""
    widths = [spot.width for spot in bottom]
    first = last = widths.index(min(widths))
    edge = min(max(widths[:first], default=0), max(widths[last + 1 :], default=0))
    if edge <= widths[first]:
        return []
    while widths[first - 1] < edge:  # ends at the widest before, which is there
        first -= 1
    while widths[last + 1] < edge:
        last += 1
    return list(bottom[first : last + 1])


def near(sides: Sequence[Spot], among: Sequence[Spot]) -> list[Spot]:
    """Those in the innermost container around the sides of the pairs that holds any."""
    prefix = container(sides)
    while prefix:
        if found := [spot for spot in among if _lies_in(spot, prefix)]:
            return found
        prefix = prefix.rpartition(".")[0]
    return list(among)


def code_between(narrow: Sequence[Spot], encoders: Sequence[Spot], decoders: Sequence[Spot]) -> Spot:
    """The first narrow layer outside the containers of both sides; else the last in the encoder's."""
    ways = [container(spots).split(".") for spots in (encoders, decoders)]
    depth = next((k for k, keys in enumerate(zip(*ways, strict=False)) if len({*keys}) > 1), None)
    if depth is None:  # one container holds both
        return narrow[0]
    encoder, decoder = (".".join(way[: depth + 1]) for way in ways)
    between = [spot for spot in narrow if not _lies_in(spot, encoder) and not _lies_in(spot, decoder)]
    inside = [spot for spot in narrow if _lies_in(spot, encoder)]
    return between[0] if between else (inside or narrow)[-1]


def _lies_in(spot: Spot, prefix: str) -> bool:
    return spot.record.name.startswith(prefix + ".")
