"""Which decoder layer mirrors which encoder layer: by scale, by depth or by width."""

from __future__ import annotations

from collections.abc import Callable

from skd._pairing.found import By, Ignored, Mirror
from skd._pairing.profile import by_size
from skd._pairing.spots import Measure, Node
from skd._pairing.stacks import are_tokens, by_depth, folded


def find_mirror(root: Node, by: By | None, ignored: Ignored) -> Mirror | None:
    """The first of scale, depth and width that gives a pair; only the one asked for, if one is.

    Depth comes first where encoder and decoder are stacks over tokens.
    """
    ways: dict[By, Callable[[], Mirror | None]] = {
        "scale": lambda: by_size(root, Measure("scale"), ignored),
        "depth": lambda: by_depth(root, ignored),
        "width": lambda: by_size(root, Measure("width"), ignored),
    }
    order: tuple[By, ...] = ("depth", "scale", "width") if are_tokens(root, ignored) else tuple(ways)
    for way in (by,) if by else order:
        if found := ways[way]():
            return found
    return folded(root, ignored) if by in (None, "depth") else None
