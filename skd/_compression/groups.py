"""Channel groups: the atoms of a network that are chosen among each other, and what must be as wide as what."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skd._compression.attention import cells_of, heads_of
from skd._compression.graph import LINEAR, Atom, Graph
from skd._compression.layers import Port, blocks_of, ports_of

# Operations of attention: what goes in is cut into heads, and its number of channels sets a temperature.
ATTENTION = ("ScaledDotProduct", "Softmax", "Bmm", "Baddbmm")

INPUT, OUTPUT = "the network's input", "the network's output"
MADE_BY_NONE = "no layer makes it"  # positions' or times' sines, say
UNSEEN = "no gradient passes it"  # no output depends on its layer


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that share one choice: n atoms, of which the student keeps some.

    Attributes
    ----------
    name : str
        The layer that makes them, the first of several.
    width : int
        Atoms n.
    ports : dict of Port to Tensor
        (n, m) positions of every atom in a layer's channels; m is 1 but for flattened or shuffled positions.
    cells : Tensor
        (n,) numbers of the cells that must stay equally wide (blocks of norms and grouped convolutions).
    atoms : tuple of int
        Their numbers in the graph.
    heads : bool
        They are queries, keys or values of an attention.
    head_count : int
        Of how many heads; 0 where no attribute of their module says.
    scaled : bool
        Their products are divided by the root of a head's dimension as it is then: the queries make up for that.
    rotatable : bool
        All between its layers is linear and alike for all channels, so that a basis may mix them.
    whole : str or None
        Why it can't be narrowed.
    """

    name: str
    width: int
    ports: dict[Port, Tensor]
    cells: Tensor
    atoms: tuple[int, ...] = ()
    heads: bool = False
    head_count: int = 0
    scaled: bool = False
    rotatable: bool = False
    whole: str | None = None

    @property
    def step(self) -> int:
        """Widths are multiples of this."""
        return int(self.cells.max()) + 1

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it concerns."""
        return tuple(dict.fromkeys(port.layer for port in self.ports))


def find_groups(graph: Graph, model: nn.Module) -> tuple[Group, ...]:
    """The groups of a network, those that must stay whole included."""
    modules = dict(model.named_modules())
    shared = _shared(model)
    together: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, atom in enumerate(graph.atoms):
        shape = tuple((port, len(places)) for port, places in atom.places.items())
        together[(shape, atom.inner, atom.outer, atom.lost)].append(number)
    groups = []
    places = {name: k for k, name in enumerate((*modules, *(name for name, _ in model.named_parameters())))}
    for numbers in together.values():
        ports = sorted(
            graph.atoms[numbers[0]].places,
            key=lambda port: (("out", "both", "in").index(port.side), places[port.layer]),
        )
        first = {number: graph.atoms[number].places[ports[0]] for number in numbers}
        numbers.sort(key=first.__getitem__)
        atoms = [graph.atoms[number] for number in numbers]
        group = Group(
            name=ports[0].layer,
            width=len(atoms),
            ports={port: torch.tensor([atom.places[port] for atom in atoms]) for port in ports},
            cells=torch.zeros(len(atoms), dtype=torch.long),
            atoms=tuple(numbers),
        )
        group = dataclasses.replace(group, whole=_why_whole(group, atoms[0], modules))
        if group.whole is None:
            group = celled(group, modules)
        operations = set().union(*(atom.operations for atom in atoms))
        if group.whole is None and any(word in name for name in operations for word in ATTENTION):
            group = dataclasses.replace(group, heads=True)
            count = heads_of(model, group.layers, group.width)
            if count and group.step == 1 and all(places.shape[1] == 1 for places in group.ports.values()):
                group = dataclasses.replace(group, head_count=count, cells=cells_of(group.width, count))
        rotatable = all(name.startswith(LINEAR) for name in operations) and not any(
            port.side == "both" or blocks_of(modules[port.layer], port.side) > 1 or port.layer in shared
            for port in group.ports
        )
        groups.append(dataclasses.replace(group, rotatable=rotatable and group.whole is None))
    return tuple(groups)


def unseen_groups(graph: Graph, model: nn.Module) -> tuple[Group, ...]:
    """The sides of layers that no output depends on, each a group: a factory may make them narrower all the same."""
    return tuple(
        Group(
            layer,
            width,
            {Port(layer, side): torch.arange(width)[:, None]},
            torch.zeros(width, dtype=torch.long),
            whole=UNSEEN,
        )
        for layer in graph.unseen
        for side, width in ports_of(model.get_submodule(layer)).items()
    )


def _why_whole(group: Group, atom: Atom, modules: Mapping[str, nn.Module]) -> str | None:
    if atom.outer:
        return OUTPUT
    if atom.lost:
        return "its channels can't be followed through the operations after it"
    if atom.inner:
        return INPUT
    if all(port.side == "in" for port in group.ports):
        return MADE_BY_NONE
    if group.width == 1:
        return "a single channel"
    for port in group.ports:
        module = modules.get(port.layer)
        if module is not None and getattr(module, "parametrizations", None):
            return f"the weights of '{port.layer}' are parametrised"
        if (
            isinstance(module, nn.modules.conv._ConvNd)
            and 1 < module.groups == module.in_channels != module.out_channels
        ):
            return f"'{port.layer}' makes several channels of each"
    return None


def celled(group: Group, modules: Mapping[str, nn.Module]) -> Group:
    """The group with the cells that the blocks of its layers cut it into."""
    keys = [tuple[int, ...]() for _ in range(group.width)]
    for port, positions in group.ports.items():
        module = modules.get(port.layer)
        blocks = 1 if module is None else blocks_of(module, port.side)
        if blocks > 1 and module is not None:
            size = _channels(module, port.side) // blocks
            found = positions[:, 0] // size
            if isinstance(module, nn.GroupNorm) and len(set(torch.bincount(found).tolist()) - {0}) > 1:
                continue  # the norm's blocks go across groups: only the whole number counts
            keys = [(*key, int(block)) for key, block in zip(keys, found, strict=True)]
    numbers = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    cells = torch.tensor([numbers[key] for key in keys])
    sizes = set(torch.bincount(cells).tolist())
    if len(sizes) > 1:
        return dataclasses.replace(group, whole="norms and grouped layers cut its channels into unequal blocks")
    if sizes == {1} and len(numbers) > 1:
        return dataclasses.replace(group, whole="every block of a norm or a grouped layer has one channel of it")
    return dataclasses.replace(group, cells=cells)


def _channels(module: nn.Module, side: str) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    value = getattr(module, {"in": "in_channels", "out": "out_channels"}[side])
    return int(value)


def _shared(model: nn.Module) -> set[str]:
    """Layers with a parameter that another layer has, too."""
    owners: dict[int, set[str]] = defaultdict(set)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def tied(groups: Sequence[Group], model: nn.Module, ties: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of the groups that can be narrowed, together where they keep the same share.

    Tied are those given (a pair's two sides), and those that one norm or grouped layer cuts into blocks.
    """
    modules = dict(model.named_modules())
    parent = list(range(len(groups)))

    def find(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    by_port: dict[Port, list[int]] = defaultdict(list)
    for k, group in enumerate(groups):
        for port in group.ports:
            if port.layer in modules and blocks_of(modules[port.layer], port.side) > 1:
                by_port[port].append(k)
    for together in (*by_port.values(), *ties):
        open_ones = [k for k in together if groups[k].whole is None]
        for other in open_ones[1:]:
            parent[find(open_ones[0])] = find(other)
    units: dict[int, list[int]] = defaultdict(list)
    for k, group in enumerate(groups):
        if group.whole is None:
            units[find(k)].append(k)
    return list(units.values())
