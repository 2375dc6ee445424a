"""The network's channels as a graph: which channels of which layers are one and the same."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from skd._compression.layers import Port, ports_of
from skd.taps import Tap

# Operations that treat all channels alike and linearly, so that channels may be mixed before or after them.
MOST = 200  # links followed for each channel of a layer; networks whose channels can be told have about ten
LINEAR = (
    "Add",
    "AdaptiveAvgPool",
    "Alias",
    "AsStrided",
    "AvgPool",
    "Cat",
    "Clone",
    "ConstantPadNd",
    "Contiguous",
    "Copy",
    "Mean",
    "Permute",
    "ReflectionPad",
    "ReplicationPad",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "TBackward",
    "ToCopy",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "UnsafeView",
    "View",
)


@dataclass
class Atom:
    """Channels of several layers that are one: kept together, or dropped together.

    Attributes
    ----------
    places : dict of Port to list of int
        Where it is, by layer and side.
    operations : set of str
        The operations that it passes, by the name of their gradient.
    inner, outer : bool
        It is the network's input, its output.
    lost : bool
        It couldn't be followed through an operation.
    """

    places: dict[Port, list[int]] = field(default_factory=lambda: defaultdict(list))
    operations: set[str] = field(default_factory=set)
    inner: bool = False
    outer: bool = False
    lost: bool = False


@dataclass(frozen=True)
class Graph:
    """The atoms of a network, and which of them each tap reads."""

    atoms: tuple[Atom, ...]
    tapped: Mapping[Tap, tuple[int, ...]]
    unseen: tuple[str, ...]  # layers with weights that no gradient passes


class Flood:
    """Follows all channels over the dependencies, and joins those that are linked."""

    def __init__(self, graph: Any, model: nn.Module, given: Set[Any]) -> None:
        self.source, self.model, self.given = graph, model, given
        names = {module: name for name, module in model.named_modules()}
        self.names = {**names, **{parameter: name for name, parameter in model.named_parameters()}}
        self.parent: dict[tuple[int, str, int], tuple[int, str, int]] = {}
        self.lost: set[tuple[int, str, int]] = set()
        self.nodes = {id(node): node for node in graph.module2node.values()}
        self.seeds: dict[tuple[int, str], int] = {}
        for node in self.nodes.values():
            for side, width in ports_of(node.module, node.pruning_dim).items():
                self.seeds[id(node), side] = width
        self._flow()
        self._share()

    def side(self, node: Any, function: Any) -> str:
        """The side of a node's layer that a pruning function stands for."""
        pruner = self.source.get_pruner_of_module(node.module)
        if pruner.prune_in_channels == pruner.prune_out_channels:
            return "both"
        return "in" if function == pruner.prune_in_channels else "out"

    def find(self, key: tuple[int, str, int]) -> tuple[int, str, int]:
        """The representative of a channel's class."""
        root = key
        while (up := self.parent.setdefault(root, root)) != root:
            root = up
        while self.parent[key] != root:
            self.parent[key], key = root, self.parent[key]
        return root

    def _flow(self) -> None:
        """Push the channels of all layers through the dependencies, those of layers with a single channel last.

        One channel that meets many is broadcast over them, and not the first of them: there the way ends.
        """
        seen: dict[tuple[int, str], set[int]] = defaultdict(set)
        left = most = MOST * sum(self.seeds.values())
        for single in (False, True):
            work = [(key, list(range(width))) for key, width in self.seeds.items() if (width == 1) is single]
            for key, channels in work:
                seen[key].update(channels)
            while work:
                key, channels = work.pop()
                for target, linked in self._step(key, channels):
                    left -= len(linked)
                    if left < 0:
                        raise RecursionError(f"channels that lead to ever more channels, over {most:,} steps")
                    if {1} == {self.seeds.get(target)} != {len(seen[key])} or (single and len(seen[target]) > 1):
                        continue
                    for one, other in linked:
                        if other is None or other >= self.seeds.get(target, other + 1):
                            self.lost.update((*key, index) for index in channels)
                        else:
                            self.parent[self.find((*key, one))] = self.find((*target, other))
                    new = {other for _, other in linked if other is not None} - seen[target]
                    new &= set(range(self.seeds[target])) if target in self.seeds else new
                    if new:
                        seen[target] |= new
                        work.append((target, sorted(new)))

    def _step(
        self, key: tuple[int, str], channels: Sequence[int]
    ) -> Iterator[tuple[tuple[int, str], list[tuple[int, int | None]]]]:
        """Where channels lead next: the sides of other nodes, and the pairs of linked channels."""
        from torch_pruning._helpers import _HybridIndex

        place, side = key
        for dependency in self.nodes[place].dependencies:
            if self.side(self.nodes[place], dependency.trigger) != side:
                continue
            moved: Any = [_HybridIndex(idx=index, root_idx=index) for index in channels]
            for mapping in dependency.index_mapping:
                moved = moved if mapping is None else mapping(moved)
            target = id(dependency.target), self.side(dependency.target, dependency.handler)
            linked = [(k, None) if pair.root_idx is None else (pair.root_idx, pair.idx) for k, pair in enumerate(moved)]
            yield target, linked

    def _share(self) -> None:
        """Layers that share a parameter share the channels of its dimensions."""
        owners: dict[tuple[int, int], list[tuple[int, str]]] = defaultdict(list)
        for place, side in self.seeds:
            module = self.nodes[place].module
            if isinstance(module, nn.Parameter):
                continue
            for name, dim in _axes(module, side):
                parameter = getattr(module, name, None)
                if parameter is not None:
                    owners[id(parameter), dim].append((place, side))
        for places in owners.values():
            for one, other in itertools.pairwise(places):
                for index in range(min(self.seeds[one], self.seeds[other])):
                    self.parent[self.find((*one, index))] = self.find((*other, index))

    def _atoms(self) -> dict[tuple[int, str, int], Atom]:
        atoms: dict[tuple[int, str, int], Atom] = defaultdict(Atom)
        for key in list(self.parent):
            place, side, index = key
            atom, node = atoms[self.find(key)], self.nodes[place]
            atom.lost |= key in self.lost
            if (place, side) in self.seeds:
                atom.places[Port(self.names[node.module], side)].append(index)
                continue
            kind = type(node.module).__name__
            atom.outer |= kind == "_OutputOp"
            atom.inner |= node.grad_fn in self.given
            name = node.grad_fn.name() if hasattr(node.grad_fn, "name") else kind
            scaled = name.startswith(("MulBackward", "DivBackward")) and _is_scalar(node.grad_fn)
            if not scaled and kind != "_OutputOp":
                atom.operations.add(name)
        return atoms

    def graph(self, features: Mapping[Tap, Tensor]) -> Graph:
        """The atoms with a place in some layer, and the taps' ones."""
        found = self._atoms()
        roots = [root for root, atom in found.items() if atom.places]
        number = {root: k for k, root in enumerate(roots)}
        by_function = {node.grad_fn: node for node in self.nodes.values() if node.grad_fn is not None}
        tapped = {tap: self._read(feature, by_function, number) for tap, feature in features.items()}
        seen = {self.names[self.nodes[place].module] for place, _ in self.seeds}
        unseen = [
            name
            for name, module in self.model.named_modules()
            if name not in seen and any(True for _ in module.parameters(recurse=False)) and ports_of(module)
        ]
        for name in list(unseen):
            for root in roots:
                for port in list(found[root].places):
                    if self._is_alias(name, port.layer):  # it never runs, and shares its weights with one that does
                        found[root].places[Port(name, port.side)] = list(found[root].places[port])
                        unseen = [other for other in unseen if other != name]
        for root in roots:
            found[root].places = {port: sorted(places) for port, places in sorted(found[root].places.items())}
        return Graph(tuple(found[root] for root in roots), tapped, tuple(unseen))

    def _is_alias(self, one: str, other: str) -> bool:
        modules = self.model.get_submodule(one), dict(self.model.named_modules()).get(other)
        weights = [getattr(module, "weight", None) for module in modules]
        return type(modules[0]) is type(modules[1]) and weights[0] is weights[1] is not None

    def _read(self, feature: Tensor, by_function: Mapping[Any, Any], number: Mapping[Any, int]) -> tuple[int, ...]:
        """Atoms of a feature's channels, in their order; none where the feature isn't part of the graph."""
        function: Any = feature.grad_fn
        while function is not None and function not in by_function:
            function = function.next_functions[0][0] if function.next_functions else None
        if function is None:
            return ()
        place = id(by_function[function])
        keys = sorted(key for key in self.parent if key[0] == place and key[1] in ("out", "both"))
        return tuple(number[self.find(key)] for key in keys if self.find(key) in number)


def _axes(module: nn.Module, side: str) -> list[tuple[str, int]]:
    """The parameters of a layer and their dimensions that a side stands for, as far as they can be shared."""
    if isinstance(module, nn.Embedding):
        return [("weight", 1)]
    if isinstance(module, nn.Linear):
        return [("weight", 0), ("bias", 0)] if side == "out" else [("weight", 1)]
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        return [("weight", 0)] if side == "both" else []
    if isinstance(module, nn.modules.conv._ConvNd):
        out, into = (1, 0) if module.transposed else (0, 1)
        return [("weight", out), ("bias", 0)] if side == "out" else [("weight", into)]
    return [("weight", 0)]


def _is_scalar(function: Any) -> bool:
    other = getattr(function, "_saved_other", None)
    return isinstance(other, Tensor) and other.ndim == 0 and len([f for f, _ in function.next_functions if f]) == 1
