"""By depth: stacks of like layers, one mirrored by the other."""

from __future__ import annotations

import itertools
import math

from skd._pairing.found import Ignored, Mirror, Named, spread
from skd._pairing.spots import Node, Spot


def by_depth(root: Node, ignored: Ignored) -> Mirror | None:
    """Two stacks of like layers, encoder.layers.0 … n−1 and decoder.layers.0 … m−1, the second one turned round."""
    several = _several(root, ignored)
    if len(several) < 2 or _stack_name(several[0]) == _stack_name(several[-1]):
        return None
    first, last = several[0], several[-1]
    if first[0].positions and not any(spot.positions for spot in root.spots):
        return None  # a classifier's stages are no encoder and decoder
    if len(first[0].shape) != 3 and first[0].positions != last[0].positions:
        return None  # maps of several scales, which nothing mirrors
    count = min(len(first), len(last))
    notes = ["there is no scale, so layers are mirrored by depth"]
    if len(several) > 2:
        notes.append(f"{len(several)} stacks of layers were seen; the first and the last are paired")
    if len(first) != len(last):
        notes.append(f"{len(first)} encoder and {len(last)} decoder layers: {count} of each, evenly spread, are paired")
    if first[0].width != last[0].width:
        notes.append(f"the two have unequal widths: {first[0].width} and {last[0].width}")
    encoders, decoders = spread(first, count), spread(last[::-1], count)
    pairs = [(f"depth {k}", e, d) for k, (e, d) in enumerate(zip(encoders, decoders, strict=True), start=1)]
    return Mirror("depth", pairs, _end_of(root, first, last), notes + _sequence_first(pairs))


def are_tokens(root: Node, ignored: Ignored) -> bool:
    """Whether a network is two stacks over tokens, one the encoder and one the decoder, whatever their lengths.

    Then scale tells nothing: sentences differ in length, masked patches are left out. But it does where there is
    something smaller between two stacks of one length.
    """
    several = _several(root, ignored)
    if len(several) != 2 or any(spot.layout != "BNC" for stack in several for spot in stack):
        return False
    first, last = several
    if first[0].positions != last[-1].positions:
        return True
    between = [s for node in root.inside() for s in node.spots if first[-1].place < s.place < last[0].place]
    return not any(spot.layout == "BNC" and spot.positions < first[0].positions for spot in between)


def folded(root: Node, ignored: Ignored) -> Mirror | None:
    """One stack of like layers, folded in its middle."""
    stacks = [stack for stack in _stacks(root, ignored) if len(stack) > 1]
    if len(stacks) != 1:
        return None
    stack = stacks[0]
    # of a network that gives a map back; a classifier has no decoder to fold
    if not root.spots or root.spots[0].layout in ("BC", "BNC"):
        return None
    if math.prod(root.spots[0].positions) < math.prod(stack[0].positions):
        return None
    half = len(stack) // 2
    pairs = [(f"depth {k + 1}", stack[k], stack[-1 - k]) for k in range(half)]
    notes = [
        f"there is neither a scale nor a decoder, so the {len(stack)} layers of '{_stack_name(stack)}' are folded in "
        "their middle, the first mirrored by the last; if that isn't meant, declare the pairs: "
        f'Pairing.declare([("{pairs[0][1].tap}", "{pairs[0][2].tap}"), …], model, example)'
    ]
    return Mirror("depth", pairs, stack[half] if len(stack) % 2 else None, notes + _sequence_first(pairs))


def _several(root: Node, ignored: Ignored) -> list[list[Spot]]:
    """The stacks of more than one layer; those of one where another of its width bears the same last name."""
    stacks = _stacks(root, ignored)
    several = [stack for stack in stacks if len(stack) > 1]
    if len(several) > 1:
        return several
    names = [(_stack_name(stack).rpartition(".")[2], stack[0].width) for stack in stacks]
    alone = [sum(_stack_name(other) == _stack_name(stack) for other in stacks) == 1 for stack in stacks]
    return [s for s, name, one in zip(stacks, names, alone, strict=True) if one and names.count(name) > 1]


def _stacks(node: Node, ignored: Ignored) -> list[list[Spot]]:
    """Numbered layers under one name, of one type and width, that hold layers; the outermost ones."""
    children = [child for child in node.children if not ignored(child)]
    stacks: list[list[Spot]] = []
    for (parent, _, _), group in itertools.groupby(children, key=_kind):
        members = list(group)
        if parent:
            stacks.append([member.spots[0] for member in members])
        else:
            stacks += [stack for member in members for stack in _stacks(member, ignored)]
    return stacks


def _kind(node: Node) -> tuple[str, str, int]:
    """Equal for the members of a stack; empty for what can't be one."""
    parent, _, number = node.record.name.rpartition(".")
    if not (number.isdigit() and node.spots and node.is_active and not node.record.leaf):
        return "", "", 0
    return parent, node.record.type, node.spots[0].width


def _end_of(root: Node, first: list[Spot], last: list[Spot]) -> Spot:
    """What the encoder as a whole returns, its last norm included; else what its last layer returns."""
    for node in root.inside():
        holds = {inner.record for inner in node.inside()}
        if first[-1].record in holds and last[0].record not in holds and node.spots:
            if node.spots[0].width == first[-1].width:
                return node.spots[0]
            break
    return first[-1]


def _sequence_first(pairs: list[Named]) -> list[str]:
    if not any(spot.sequence_first for _, *sides in pairs for spot in sides):
        return []
    return [
        "some layers work on (positions, samples, channels), which is read as BNC: statistics over all positions are "
        "right, those per sample aren't; build the network with batch_first=True"
    ]


def _stack_name(stack: list[Spot]) -> str:
    return stack[0].record.name.rpartition(".")[0]
