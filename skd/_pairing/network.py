"""Looking up taps in the trace of a network, and what of it takes part in the search for pairs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from skd._pairing.found import scale_label
from skd._pairing.spots import Node, Spot, build
from skd.errors import LayerNotFoundError, PairingError, closest
from skd.taps import Layout, Tap
from skd.trace import Trace

_LAYOUT_OF_NDIM: dict[int, Layout] = {2: "BC", 3: "BNC", 4: "BCHW", 5: "BCDHW"}


class Network:
    """A trace, as a tree and by name."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.root = build(trace)
        self.nodes = {node.record: node for node in (self.root, *self.root.inside())}
        self.names = {record.name for record in trace}

    def spot(self, tap: Tap) -> Spot:
        """The feature that a tap means.

        Raises
        ------
        LayerNotFoundError
            There is no such layer, or no such call of it.
        PairingError
            It returns no feature there.
        """
        record = self.trace.find(tap.layer, tap.call)
        spots = self.nodes[record].spots
        if tap.side == "input" and record.input_shape is not None and len(record.input_shape) in _LAYOUT_OF_NDIM:
            shape = record.input_shape
            alike = [spot.layout for spot in spots if len(spot.shape) == len(shape)]
            return Spot(record, tap.path, shape, tap.layout or [*alike, _LAYOUT_OF_NDIM[len(shape)]][0], -1)
        if tap.side == "output":
            if not tap.path and len(spots) == 1:
                return spots[0]
            if found := [spot for spot in spots if spot.path == tap.path]:
                return found[0]
            if len(spots) == 1 and any(path == tap.path for path, _ in record.paths):
                return dataclasses.replace(spots[0], path=tap.path)
        there = ", ".join(f"{Tap(record.name, path=spot.path)} {spot.shape}" for spot in spots)
        raise PairingError(
            f"tap '{tap}' holds no one feature",
            got=f"these: {there}" if there else "nothing with samples and channels",
            remedy="state the path of one of them" if len(spots) > 1 else "name a layer that returns a feature",
        )

    def complete(self, tap: Tap) -> Tap:
        """The tap with the layout of all but plain maps, and a copy where it is changed in place later."""
        found = self.spot(tap).tap
        clone = tap.clone or (found.clone and tap.side == "output")
        last = tap.channels_last or (found.channels_last and tap.side == "output")
        return dataclasses.replace(tap, layout=tap.layout or found.layout, clone=clone, channels_last=last)

    def ignored(self, ignore: Iterable[str], companions: Mapping[str, Sequence[str | Tap]]) -> Callable[[Node], bool]:
        """Whether a layer takes no part in the search: left out by name, or of the network that companions are of."""
        prefixes = set(ignore)
        for prefix in prefixes:
            if not any(_lies_at(name, prefix) for name in self.names):
                raise LayerNotFoundError(
                    "there is no layer to ignore", got=repr(prefix), remedy=closest(prefix, self.names)
                )
        mains = [tap.layer for tap in map(Tap.of, companions) if tap.layer in self.names]
        calls: set[tuple[str, int, int]] = set()  # container, call, calls in all
        for tap in (Tap.of(each) for layers in companions.values() for each in layers):
            record = self.trace.find(tap.layer, tap.call)
            if record.calls > 1:  # an encoder that runs once for each input: the companions' run is left out
                calls.add((tap.layer.rpartition(".")[0] or tap.layer, record.call, record.calls))
                continue
            # the largest container that has no main layer in it: the style encoder, say
            parts = tap.layer.split(".")
            names = [".".join(parts[:k]) for k in range(1, len(parts) + 1)] if mains else []
            apart = (name for name in names if not any(_lies_at(main, name) for main in mains))
            prefixes.add(next(apart, tap.layer))

        def is_ignored(node: Node) -> bool:
            record = node.record
            return any(_lies_at(record.name, prefix) for prefix in prefixes) or any(
                _lies_at(record.name, container) and (record.call, record.calls) == (call, count)
                for container, call, count in calls
            )

        return is_ignored

    def seen(self) -> str:
        """What there is, for an error: layers, and how the scale goes."""
        spots = [node.spots[0] for node in self.nodes.values() if not node.children and node.is_active and node.spots]
        scales = [label for label, _ in itertools.groupby(scale_label(spot) for spot in spots if spot.scale)]
        text = f"{len(self.trace)} calls of {len(self.names)} layers"
        if scales:
            return f"{text}, at scales {', '.join(scales[:12])}" + (", …" if len(scales) > 12 else "")
        widths = [str(width) for width, _ in itertools.groupby(spot.width for spot in spots)]
        return f"{text}, {', '.join(widths[:12])} channels wide" + (", …" if len(widths) > 12 else "")


def _lies_at(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
