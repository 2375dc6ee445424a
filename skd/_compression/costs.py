"""What a choice of widths takes on disk, without making the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from skd._compression.budget import Size, file_bytes, sizes_of
from skd._compression.groups import Group
from skd._compression.layers import Port, blocks_of, is_depthwise, ports_of
from skd._compression.narrowing import parameter_dim, width_of
from skd.errors import CompressionError

Numbers = npt.NDArray[np.int64]


class Costs:
    """Shapes and bytes of a network's tensors by the widths of its groups.

    Parameters
    ----------
    model : nn.Module
    groups : sequence of Group
    dtype : torch.dtype
        Floating point numbers are saved in this one.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], dtype: torch.dtype) -> None:
        self.groups = groups
        modules = dict(model.named_modules())
        self.sizes = sizes_of(model, dtype)
        self.full: dict[Port, int] = {}
        self.blocks: dict[Port, int] = {}
        self.parts: dict[Port, list[tuple[int, int]]] = defaultdict(list)  # of a side: groups and their places an atom
        for k, group in enumerate(groups):
            for port, positions in group.ports.items():
                self.full.setdefault(port, width_of(port, model))
                self.blocks[port] = blocks_of(modules[port.layer], port.side) if port.layer in modules else 1
                self.parts[port].append((k, positions.shape[1]))
        self.axes = {name: self._axes(model, name) for name in self.sizes}
        self.touched: dict[int, list[str]] = defaultdict(list)
        for name, axes in self.axes.items():
            for k in {k for port, _ in axes.values() for k, _ in self.parts[port]}:
                self.touched[k].append(name)

    def _axes(self, model: nn.Module, name: str) -> dict[int, tuple[Port, int]]:
        """Dimension of a tensor → the side that it counts, and by what its channels are divided."""
        layer, _, tensor = name.rpartition(".")
        module = model.get_submodule(layer)
        sides = {side: Port(layer, side) for side in ports_of(module) if Port(layer, side) in self.full}
        if Port(name, "both") in self.full:
            return {parameter_dim(model.get_parameter(name)): (Port(name, "both"), 1)}
        if not sides or not self.sizes[name][0]:
            return {}
        if "both" in sides:
            last = isinstance(module, (nn.Embedding, nn.LayerNorm))
            return {len(self.sizes[name][0]) - 1 if last else 0: (sides["both"], 1)}
        if tensor != "weight":
            return {0: (sides["out"], 1)} if "out" in sides else {}
        transposed = getattr(module, "transposed", False)
        groups = getattr(module, "groups", 1) if not is_depthwise(module) else 1
        axes = {}
        if "in" in sides:
            axes[0 if transposed else 1] = (sides["in"], 1 if transposed else groups)
        if "out" in sides:
            axes[1 if transposed else 0] = (sides["out"], groups if transposed else 1)
        return axes

    def kept(self, port: Port, widths: Mapping[int, int]) -> int:
        """Channels of a side at these widths; groups that aren't named are whole."""
        lost = sum((self.groups[k].width - widths.get(k, self.groups[k].width)) * m for k, m in self.parts[port])
        return self.full[port] - lost

    def shape(self, name: str, widths: Mapping[int, int]) -> tuple[int, ...]:
        """Of a tensor."""
        shape = list(self.sizes[name][0])
        for dim, (port, divisor) in self.axes[name].items():
            shape[dim] = self.kept(port, widths) // divisor
        return tuple(shape)

    def all_sizes(self, widths: Mapping[int, int]) -> dict[str, Size]:
        """Of the whole state dict."""
        return {name: (self.shape(name, widths), dtype) for name, (_, dtype) in self.sizes.items()}

    def total(self, widths: Mapping[int, int]) -> int:
        """Bytes of the file."""
        return file_bytes(self.all_sizes(widths))

    def of(self, groups: Sequence[int], widths: Mapping[int, int], levels: Sequence[Sequence[int]]) -> Numbers:
        """(L,) bytes of all tensors that these groups have a part in, at each of L choices of their widths."""
        own = {k: np.array([level[place] for level in levels], dtype=np.int64) for place, k in enumerate(groups)}
        total: Numbers = np.zeros(len(levels), dtype=np.int64)
        for name in {name for k in groups for name in self.touched[k]}:
            shape, dtype = self.sizes[name]
            part: Numbers = np.full(len(levels), dtype.itemsize, dtype=np.int64)
            for dim, size in enumerate(shape):
                axis = self.axes[name].get(dim)
                part *= size if axis is None else self._kept(axis[0], widths, own) // axis[1]
            total += part
        return total

    def _kept(self, port: Port, widths: Mapping[int, int], own: Mapping[int, Numbers]) -> Numbers:
        lost: Numbers = np.zeros(1, dtype=np.int64)
        for k, m in self.parts[port]:
            full = self.groups[k].width
            lost = lost + (full - own.get(k, widths.get(k, full))) * m
        return self.full[port] - lost

    def infer(self, sizes: Mapping[str, Size]) -> dict[int, int]:
        """The widths of all groups in a network of these shapes.

        Raises
        ------
        CompressionError
            It isn't this network with fewer channels; says which tensor is the first that doesn't fit.
        """
        odd = sorted({*sizes} ^ {*self.sizes})
        if odd:
            raise CompressionError("the built network has other tensors than the teacher", got=", ".join(odd[:5]))
        kept = {
            port: sizes[name][0][dim] * divisor
            for name, axes in self.axes.items()
            for dim, (port, divisor) in axes.items()
            if len(sizes[name][0]) == len(self.sizes[name][0])
        }
        widths: dict[int, int] = {}
        while True:  # sides with one unknown group each; a concatenation's are known after its parts'
            known = len(widths)
            for port, count in kept.items():
                unknown = [(k, m) for k, m in self.parts[port] if k not in widths]
                if len(unknown) == 1:
                    k, m = unknown[0]
                    widths[k] = (count - self.kept(port, {**widths, k: 0})) // m
            if len(widths) == known:
                break
        widths |= {k: group.width for k, group in enumerate(self.groups) if k not in widths}
        for name, (shape, _) in sizes.items():
            if self.shape(name, widths) != shape:
                raise CompressionError(
                    f"the built network isn't the teacher with fewer channels: {name!r} doesn't fit",
                    got=shape,
                    expected=f"{self.shape(name, widths)}, as its neighbours are",
                )
        for k, width in widths.items():
            group = self.groups[k]
            fixed = group.whole is not None and width != group.width
            if fixed or not 1 <= width <= group.width:
                raise CompressionError(
                    f"the built network has another number of channels in {group.name!r}",
                    got=width,
                    expected=f"{group.width}, as they are {group.whole}" if fixed else f"1 to {group.width}",
                    remedy="they are computed from the input, not by a layer: keep this width in build"
                    if fixed
                    else None,
                )
        return widths

    def allowed(self, widths: Mapping[int, int]) -> bool:
        """Whether norms and grouped layers can cut what is left into their blocks."""
        ports = {port for k in widths for port in self.groups[k].ports}
        return all(self.kept(port, widths) % self.blocks[port] == 0 for port in ports)
