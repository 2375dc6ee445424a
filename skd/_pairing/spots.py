"""From the trace of a network to the spots where a pair may sit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.modules.activation as activations

from skd.taps import Layout, Tap
from skd.trace import LayerRecord, Trace

Size = tuple[int, ...]

_LAYOUT_OF_NDIM: dict[int, Layout] = {2: "BC", 4: "BCHW", 5: "BCDHW"}


@dataclass(frozen=True)
class Spot:
    """One tensor that one call of a layer returns. `place` orders spots by when the call is over."""

    record: LayerRecord
    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    layout: Layout
    place: int
    scale: tuple[float, ...] | None = None
    sequence_first: bool = False  # or it isn't known
    samples_second: bool = False  # it is known
    channels_last: bool = False  # of a map; `shape` is the one it is read in

    @property
    def tap(self) -> Tap:
        """The layout is stated for all but plain maps, so that it is known where there is no feature to look at."""
        stated = self.layout if len(self.shape) != 4 else None
        clone = self.record.changed_in_place
        tap = Tap(self.record.name, call=self.record.call, path=self.path, layout=stated, clone=clone)
        return dataclasses.replace(tap, channels_last=self.channels_last)

    @property
    def width(self) -> int:
        return self.shape[2 if self.layout == "BNC" else 1]

    @property
    def positions(self) -> Size:
        """Spatial size; () for (B, C)."""
        return self.shape[1:2] if self.layout == "BNC" else self.shape[2:]


@dataclass(eq=False)
class Node:
    """One call of a layer with the calls inside it."""

    record: LayerRecord
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    spots: tuple[Spot, ...] = ()

    def inside(self) -> Iterator[Node]:
        """All calls inside, in call order."""
        for child in self.children:
            yield child
            yield from child.inside()

    @property
    def outer(self) -> list[Node]:
        """The calls around it, the innermost first; not the network's own."""
        if self.parent is None or self.parent.parent is None:
            return []
        return [self.parent, *self.parent.outer]

    @property
    def inputs(self) -> list[tuple[int, ...]]:
        """The inputs' shapes; the channels of a map are second, if they are in the output."""
        if not any(spot.channels_last for spot in self.spots):
            return [*self.record.inputs]
        return [(x[0], x[-1], *x[1:-1]) if len(x) >= 4 else x for x in self.record.inputs]

    @property
    def given(self) -> tuple[int, ...] | None:
        """The first input's shape."""
        return next(iter(self.inputs), None)

    @property
    def appends(self) -> bool:
        """Whether it does nothing but append its input to what its only layer makes of it."""
        if len(self.children) != 1 or len(self.spots) != 1 or len(self.children[0].spots) != 1:
            return False
        given, inner = self.given, self.children[0]
        layout, width = self.spots[0].layout, self.spots[0].width - inner.spots[0].width
        if given is None or inner.given != given or len(given) != len(self.spots[0].shape):
            return False
        return given[2 if layout == "BNC" else 1] == width

    @property
    def is_active(self) -> bool:
        """Whether it makes features of its own, as convolutions, norms and pixel shuffles do.

        Activations, pooling, upsampling, padding, dropout and the like don't (no parameters, and as many channels out
        as in), nor do embeddings of tokens.
        """
        record = self.record
        if not self.children:
            if hasattr(activations, record.type) and record.type != "MultiheadAttention":  # PReLU has a parameter
                return False
            given = self.given
            shuffles = given is not None and any(
                len(spot.shape) == len(given) >= 4 and spot.shape[1] != given[1] for spot in self.spots
            )
            return (record.parameters > 0 and record.type != "Embedding") or "Norm" in record.type or shuffles
        return any(child.is_active for child in self.children)


def build(trace: Trace) -> Node:
    """The calls of a trace as a tree."""
    records = trace.records
    ends = _ends(records)
    # a call is over after those inside it
    places = {order: place for place, order in enumerate(sorted(range(len(records)), key=lambda i: (ends[i], -i)))}
    axes, samples = _input_axes(records), (records[0].input_shape or (0,))[0]
    root = Node(records[0])
    path = [(root, ends[0])]
    for index, record in enumerate(records[1:], start=1):
        while path[-1][1] < index:
            path.pop()
        node = Node(record, parent=path[-1][0])
        path[-1][0].children.append(node)
        path.append((node, min(ends[index], path[-1][1])))
    for node in (root, *root.inside()):
        node.spots = tuple(_spots(node, places[node.record.order], axes, samples))
    return root


def _input_axes(records: tuple[LayerRecord, ...]) -> tuple[int, ...] | None:
    """Spatial size of the network's input, from any layer whose scale is known."""
    for record in records:
        if record.scale and record.output_shape:
            sizes = record.output_shape[1:2] if record.layout == "BNC" else record.output_shape[2:]
            return tuple(round(size / ratio) for size, ratio in zip(sizes, record.scale, strict=True))
    return None


def _ends(records: tuple[LayerRecord, ...]) -> list[int]:
    """For each call the index of the last call inside it.

    A call inside bears the outer one's name as its prefix; layers registered elsewhere may be called in between.
    """
    ends = list(range(len(records)))
    running: dict[str, int] = {}
    for index, record in enumerate(records):
        parts = record.name.split(".") if record.name else []
        for prefix in ("", *(".".join(parts[:k]) for k in range(1, len(parts)))):
            if prefix in running:
                ends[running[prefix]] = index
        running[record.name] = index
    return ends


def _spots(node: Node, place: int, axes: tuple[int, ...] | None, samples: int) -> Iterator[Spot]:
    record = node.record
    found = record.paths if record.output_shape is None else (((), record.output_shape),)
    if record.type in ("RNN", "LSTM", "GRU"):  # their states are no features
        found = found[:1]
    lengths = {shape[1] for _, shape in found if len(shape) == 3}
    for path, shape in found:
        if len(shape) == 4 and shape[2] in lengths:  # (B, heads, N, M) beside tokens (B, N, C): an attention map
            continue
        layout = record.layout if record.output_shape is not None else _LAYOUT_OF_NDIM.get(len(shape))
        sequence_first = False
        if record.channels_last:
            shape, layout = (shape[0], shape[-1], *shape[1:-1]), _LAYOUT_OF_NDIM[len(shape)]
        if layout is None and len(shape) == 3:
            alike = [inner.record.layout for inner in node.inside() if inner.record.output_shape == shape]
            layout = next((each for each in reversed(alike) if each is not None), None)
            if layout is None:  # the trace leaves it open where positions come before samples
                layout, sequence_first = "BNC", True
        if layout is not None and len(shape) >= 2 and math.prod(shape) > 0:
            spot = Spot(record, path, shape, layout, place, sequence_first=sequence_first)
            if sequence_first and shape[0] != samples == shape[1]:
                spot = dataclasses.replace(spot, samples_second=True)
            if record.channels_last:
                spot = dataclasses.replace(spot, channels_last=True)
            if axes is not None and len(axes) == len(spot.positions):
                scale = tuple(size / of for size, of in zip(spot.positions, axes, strict=True))
                spot = dataclasses.replace(spot, scale=scale)
            yield spot


@dataclass(frozen=True)
class Measure:
    """What goes down and up again in a network: the number of positions, or of channels where there is no scale."""

    name: Literal["scale", "width"]

    def of(self, shape: tuple[int, ...], layout: Layout | None) -> Size | None:
        """The size; None for (B, C) by scale, and where the layout isn't known."""
        if len(shape) == 3 and layout not in ("BNC", "BCL"):
            return None
        channels_last = layout == "BNC"
        if self.name == "width":
            return shape[2:] if channels_last else shape[1:2]
        return (shape[1:2] if channels_last else shape[2:]) or None

    def spots(self, nodes: Iterable[Node]) -> dict[Spot, Size]:
        """The sizes of what these calls return."""
        return {spot: size for node in nodes for spot in node.spots if (size := self.of_spot(spot))}

    def of_spot(self, spot: Spot) -> Size | None:
        """The size of a spot, whose positions may come before its samples."""
        if spot.samples_second and self.name == "scale":
            return spot.shape[:1]
        return self.of(spot.shape, spot.layout)

    def same(self, one: Size, other: Size) -> bool:
        """Equal widths; or equal positions up to padding and rounding, within a factor of 1.25 on every axis.

        Examples
        --------
        >>> Measure("scale").same((65, 33), (66, 34)), Measure("scale").same((65, 33), (33, 17))
        (True, False)
        """
        if self.name == "width":
            return one == other
        if len(one) != len(other):  # tokens and a map
            one, other = (math.prod(one),), (math.prod(other),)
        return all(max(a, b) <= 1.25 * min(a, b) for a, b in zip(one, other, strict=True))

    def smaller(self, one: Size, other: Size) -> bool:
        """Clearly fewer."""
        return volume(one) < volume(other) and not self.same(one, other)

    def stays(self, node: Node) -> bool:
        """Whether all inside a layer works at the size it starts from or at the one it ends at.

        Global pooling inside (squeeze and excitation) doesn't count, nor do tokens inside a layer that returns maps:
        they may be windows, or words that are attended to.
        """
        outs = list(self.spots([node]).values())
        inner = [
            size
            for spot, size in self.spots(child for child in node.inside() if child.is_active).items()
            if len(size) > 1 or spot.layout != "BNC" or any(len(out) < 2 for out in outs)
        ]
        ends = outs + [size for start in (node, *node.children[:1]) if (size := self._start(start))]
        if self.name == "scale" and all(volume(end) > 1 for end in ends):
            inner = [size for size in inner if volume(size) > 1]
        if sum(not any(self.same(out, other) for other in outs[:k]) for k, out in enumerate(outs)) > 2:
            return False  # it returns the features of several scales
        return bool(outs) and all(any(self.same(size, end) for end in ends) for size in inner)

    def is_block(self, node: Node) -> bool:
        """Whether a layer stays in one piece: it `stays`, and ends with features of its own.

        It doesn't where it ends with pooling or upsampling, which moves its features to another size, or only appends
        its input to them.
        """
        if not self.stays(node) or node.appends or self._ends_moving(node):
            return False
        inner = list(self.spots(child for child in node.inside() if child.is_active).values())
        if self.name == "scale":
            inner = [size for size in inner if volume(size) > 1] or inner
        return not inner or any(self.same(inner[-1], out) for out in self.spots([node]).values())

    def _ends_moving(self, node: Node) -> bool:
        """Whether its last layer only pools or upsamples what those before it made, though by learned weights.

        It keeps the width, and the layer around it returns nothing of the size before.
        """
        if self.name == "width":
            return False
        made = [child for child in node.children if child.is_active and any(map(volume, self.spots([child]).values()))]
        if len(made) < 2 or not made[-1].spots:
            return False
        last, start = made[-1], self._start(made[-1])
        out = self.spots([last]).get(last.spots[0])
        if start is None or out is None or self.same(start, out):
            return False
        before = [spot for spot, size in self.spots(made[:-1]).items() if self.same(size, start)]
        kept = any(self.same(size, start) for size in self.spots([node]).values())
        return bool(before) and before[-1].width == last.spots[0].width and not kept

    def _start(self, node: Node) -> Size | None:
        shape = node.given
        if shape is None or len(shape) < 2:
            return None
        layout = next((spot.layout for spot in node.spots if len(spot.shape) == len(shape)), None)
        first, outs = self.of(shape, layout), self.spots([node]).values()
        if first is None or len(shape) < 4 or any(self.smaller(out, first) for out in outs):
            return first
        # What doesn't go down may go up, and be given features of an encoder first: it starts from the smallest map.
        sizes = (self.of(each, layout) for each in node.inputs if len(each) == len(shape))
        return min((size for size in sizes if size and volume(size) > 1), key=volume, default=first)


def volume(size: Size) -> int:
    """Positions in all; 0 for a code without any."""
    return math.prod(size) if size else 0
