"""By scale: how the size of features goes down and up again. By width: the same with channels for positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from skd._pairing.found import Ignored, Mirror, Named, Sides, container, scale_label, shortened, unique_names
from skd._pairing.spots import Measure, Node, Size, Spot, volume
from skd._pairing.waist import code_between, near, waist


def by_size(root: Node, measure: Measure, ignored: Ignored) -> Mirror | None:
    """Blocks first; where they give no pair, what is inside them."""
    opened = {id(root)}
    while True:
        pieces, passed = _pieces(root, measure, opened, ignored)
        if found := _Profile(pieces, passed, measure).mirror():
            return found
        closed = {id(piece) for piece in pieces if piece.children}
        if not closed:
            return None
        opened |= closed


def _pieces(node: Node, measure: Measure, opened: set[int], ignored: Ignored) -> tuple[list[Node], list[Node]]:
    """The largest layers that stay in one piece, in call order; single layers where there are no blocks.

    Then those that were cut up only for how they end.
    """
    if ignored(node):
        return [], []
    if not node.children or (id(node) not in opened and measure.is_block(node)):
        return [node], []
    pieces: list[Node] = []
    passed = [node] if id(node) not in opened and measure.stays(node) else []
    for child in node.children:
        inner, also = _pieces(child, measure, opened, ignored)
        pieces, passed = pieces + inner, passed + also
    return pieces, passed


class _Profile:
    """How the size goes down and up again over the pieces of a network."""

    def __init__(self, pieces: Sequence[Node], passed: Sequence[Node], measure: Measure) -> None:
        self.measure, self.by, self.same, self.smaller = measure, measure.name, measure.same, measure.smaller
        self.notes: list[str] = []
        self.nodes = {spot: node for node in (*pieces, *passed) for spot in node.spots}
        self.blocks = {spot for spot, node in self.nodes.items() if node.children}
        active = measure.spots(piece for piece in pieces if piece.is_active)
        if self.by == "scale":
            active.update(dict.fromkeys(_code(pieces), ()))  # a code without positions is smaller than all
        self.end = max((spot.place for spot in active), default=0)
        # What pooling and upsampling return: taken where a scale has nothing else.
        moved = measure.spots(node for node in (*pieces, *passed) if node in passed or not node.is_active)
        self.moved = sorted((spot for spot in moved if spot not in active), key=lambda spot: spot.place)
        self.sizes = {**moved, **active}
        self.spots = sorted({*active, *self.turns(active)}, key=lambda spot: spot.place)

    def turns(self, active: dict[Spot, Size]) -> list[Spot]:
        """What pooling returns at a scale below all others, where the way goes up from."""
        if self.by != "scale":
            return []
        below = [s for s in self.moved if all(self.smaller(self.sizes[s], size) for size in active.values())]
        return [spot for spot in below if volume(self.sizes[spot]) > 1 and not self.is_output(spot)]

    def is_output(self, spot: Spot) -> bool:
        """Whether it is what the network returns."""
        return spot.place >= self.end

    def mirror(self) -> Mirror | None:
        # by width, the network's output may well be narrower than the bottleneck
        body = [spot for spot in self.spots if self.by == "scale" or not self.is_output(spot)]
        if not body:
            return None
        floor = min((self.sizes[spot] for spot in body), key=volume)
        bottom = [spot for spot in body if self.same(self.sizes[spot], floor)]
        down = self.levels([spot for spot in reversed(self.spots) if spot.place <= bottom[0].place], floor)
        up = self.levels([spot for spot in (*self.spots, *self.moved) if spot.place >= bottom[-1].place], floor)
        pairs = self.pair_up(down, up)
        if not pairs:
            return None
        astray = [spot for spot in self.spots if spot not in bottom and self.is_astray(spot)]
        if astray:
            self.notes.append(
                f"the {self.by} goes down and up more than once: {len(astray)} layers from '{astray[0].tap}' to "
                f"'{astray[-1].tap}' are in no pair; if they are a second encoder, declare companions"
            )
        bottleneck, sides = self.at_the_bottom(bottom, astray, pairs)
        if sides is not None:
            pairs.append((self.label(sides[0]), *sides))
        names = unique_names([name for name, _, _ in pairs])
        named = [(name, encoder, decoder) for name, (_, encoder, decoder) in zip(names, pairs, strict=True)]
        return Mirror(self.by, named, bottleneck, self.notes)

    def levels(self, spots: list[Spot], floor: Size) -> list[Size]:
        """The sizes met on the way out from the bottom."""
        found: list[Size] = []
        for size in (self.sizes[spot] for spot in spots):
            if self.smaller(floor, size) and not any(self.same(size, known) for known in found):
                found.append(size)
        return sorted(found, key=volume)

    def before(self, size: Size) -> list[Spot]:
        """Spots of this size before any of a smaller one; a layer may return both."""
        end = min(spot.place for spot in self.spots if self.smaller(self.sizes[spot], size))
        return [spot for spot in self.spots if self.same(self.sizes[spot], size) and spot.place <= end]

    def after(self, size: Size, spots: Sequence[Spot] | None = None) -> list[Spot]:
        """Spots of this size after all of smaller ones."""
        start = max(spot.place for spot in self.spots if self.smaller(self.sizes[spot], size))
        among = self.spots if spots is None else spots
        return [spot for spot in among if self.same(self.sizes[spot], size) and spot.place >= start]

    def is_astray(self, spot: Spot) -> bool:
        """Whether smaller spots are both before and after it."""
        places = [other.place for other in self.spots if self.smaller(self.sizes[other], self.sizes[spot])]
        return any(place < spot.place for place in places) and any(place > spot.place for place in places)

    def pair_up(self, down: list[Size], up: list[Size]) -> list[Named]:
        """A pair for each level that both sides have, outermost first."""
        opposite: list[Size | None] = [next((other for other in up if self.same(other, size)), None) for size in down]
        inner = [
            size
            for size in up
            if any(not self.is_output(s) for s in (*self.after(size), *self.after(size, self.moved)))
        ]
        if None in opposite and len(down) == len(inner) and self.by == "scale":
            self.notes.append("the sizes of the two sides don't line up, so levels are counted from the bottleneck")
            opposite = list(inner)
        pairs = []
        for size, other in zip(reversed(down), reversed(opposite), strict=True):
            candidates = self.before(size)
            if not candidates:
                continue
            encoder = self.last(candidates)
            decoder = None if other is None else self.choose(other, encoder.width)
            name = self.label(encoder)
            if decoder is None:
                self.notes.append(f"{name} is left out: '{encoder.tap}' has no counterpart in the decoder")
                continue
            self.describe(name, encoder, decoder, candidates, self.after(other or size))
            pairs.append((name, encoder, decoder))
        for size in reversed(up):
            beyond = [spot for spot in self.after(size) or self.after(size, self.moved) if not self.is_output(spot)]
            if size not in opposite and beyond and self.by == "scale":
                self.notes.append(f"{self.label(beyond[-1])} is left out: only the decoder has it ('{beyond[-1].tap}')")
        return pairs

    def describe(self, name: str, encoder: Spot, decoder: Spot, *candidates: list[Spot]) -> None:
        for side, chosen, spots in zip(("encoder", "decoder"), (encoder, decoder), candidates, strict=True):
            like = [s for s in spots if s.width == chosen.width and s.record.type == chosen.record.type]
            others = [f"'{spot.tap}'" for spot in like if spot is not chosen]
            if others:
                self.notes.append(
                    f"{name}: of the {side}'s like layers '{chosen.tap}' is the last; {shortened(others)} before"
                )
        if encoder.width != decoder.width:
            self.notes.append(
                f"{name} has unequal widths: '{encoder.tap}' {encoder.width}, '{decoder.tap}' {decoder.width}"
            )
        if encoder.positions != decoder.positions and self.by == "scale":
            sizes = ["×".join(map(str, spot.positions)) or "1" for spot in (encoder, decoder)]
            self.notes.append(f"{name} has unequal sizes: '{encoder.tap}' {sizes[0]}, '{decoder.tap}' {sizes[1]}")
        if self.is_output(decoder):
            self.notes.append(f"{name}: '{decoder.tap}' is the network's own output")

    def choose(self, size: Size, width: int) -> Spot | None:
        """The decoder's side: of the encoder's width where there is one, even if from upsampling; else the last.

        The network's output only for its width.
        """
        own, moved = self.after(size), self.after(size, self.moved)
        inner = [[spot for spot in spots if not self.is_output(spot)] for spots in (own, moved)]
        equal = [[spot for spot in spots if spot.width == width] for spots in (*inner, own, moved)]
        return next((self.last(spots) for spots in (*equal, *inner) if spots), None)

    def last(self, spots: list[Spot]) -> Spot:
        """The last block; the last single layer where there is no block."""
        return ([spot for spot in spots if spot in self.blocks] or spots)[-1]

    def at_the_bottom(self, bottom: list[Spot], astray: list[Spot], pairs: list[Named]) -> tuple[Spot, Sides | None]:
        """The bottleneck, and the pair of its scale where the decoder has a layer for it.

        The decoder's are those that lie in the container which holds the decoder's sides, or in one that ends larger.
        """
        encoders, decoders = [encoder for _, encoder, _ in pairs], [decoder for _, _, decoder in pairs]
        if self.by == "scale" and not astray and (found := waist(bottom)):
            return self.around(found, bottom, encoders, decoders)
        home = container(decoders) + "."
        told = not any(encoder.record.name.startswith(home) for encoder in encoders)
        inner = [s for s in bottom if (told and s.record.name.startswith(home)) or self.rises(s, bottom[0])]
        outer = [spot for spot in bottom if spot not in inner]
        first = [spot for spot in self.spots if astray and spot.place < astray[0].place]
        if first:  # the first way down counts, if no pair lies deeper
            floor = min((self.sizes[spot] for spot in first), key=volume)
            if not any(self.smaller(self.sizes[encoder], floor) for encoder in encoders):
                outer = [spot for spot in first if self.same(self.sizes[spot], floor)]
        if not outer:  # the encoder gets there by pooling
            size = self.sizes[bottom[0]]
            moved = [s for s in self.moved if self.same(self.sizes[s], size) and s.place < bottom[0].place]
            outer = moved or bottom
        is_code = self.sizes[bottom[0]] == ()
        bottleneck = min(outer, key=lambda spot: spot.width) if is_code else self.last(outer)
        others = sorted({spot.width for spot in outer} - {bottleneck.width})
        if others and not is_code:
            self.notes.append(
                f"the bottleneck is taken to be '{bottleneck.tap}' ({bottleneck.width} channels); its scale has layers "
                f"with {', '.join(map(str, others))} channels, too"
            )
        equal = [spot for spot in inner if spot.width == bottleneck.width and spot is not bottleneck]
        if not equal or self.by == "width":
            return bottleneck, None
        # A middle between the two containers is the bottleneck, and the encoder's last layer the decoder's counterpart.
        encoder = self.last(near(encoders, [spot for spot in outer if spot.width == bottleneck.width]))
        return bottleneck, (encoder, self.last(equal))

    def around(
        self, narrow: list[Spot], bottom: list[Spot], encoders: list[Spot], decoders: list[Spot]
    ) -> tuple[Spot, Sides]:
        """The bottleneck in a narrow code, and the pair of what is wide before it and behind it."""
        before = bottom[: bottom.index(narrow[0])]
        after = bottom[bottom.index(narrow[-1]) + 1 :]
        decoder = self.last(near(decoders, after))
        encoder = self.last(near(encoders, [s for s in before if s.width == decoder.width] or before))
        return code_between(narrow, [*encoders, encoder], [*decoders, decoder]), (encoder, decoder)

    def rises(self, spot: Spot, first: Spot) -> bool:
        """Whether a spot at the bottom is in a container that ends at a larger size, without the first spot there."""
        apart = itertools.takewhile(lambda node: node not in self.nodes[first].outer, self.nodes[spot].outer)
        ends = (size for node in apart for size in self.measure.spots([node]).values())
        return any(self.smaller(self.sizes[spot], end) for end in ends)

    def label(self, spot: Spot) -> str:
        return f"width {spot.width}" if self.by == "width" else scale_label(spot)


def _code(pieces: Sequence[Node]) -> list[Spot]:
    """The (B, C) layers of a code that a map is flattened into, as in an autoencoder with a vector for a code."""
    found: list[Spot] = []
    run: list[Spot] = []
    flat = 0  # features of the last map, if it were flattened
    for piece in pieces:
        for spot in piece.spots:
            if spot.positions:
                flat = math.prod(spot.shape[1:])
                found, run = found + run, []  # a run that no map follows is a classifier, not a code
            elif piece.is_active and (run or (piece.record.input_shape or ())[1:] == (flat,)):
                run.append(spot)
    return found
