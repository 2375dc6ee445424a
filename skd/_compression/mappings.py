"""Index maps that torch-pruning 1.6 hasn't or gets wrong: pixel shuffle, gates, concatenation of all kinds, split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

IndexMap = Callable[[Sequence[Any]], list[Any]]


def correct(graph: Any, joins: Mapping[Any, tuple[int, list[tuple[int, ...]]]]) -> None:
    """Set the index maps of a dependency graph that need it.

    Parameters
    ----------
    graph : torch_pruning.DependencyGraph
        Built.
    joins : mapping
        Gradient function of each concatenation → its dimension and the shapes it joins.
    """
    nodes = list(graph.module2node.values())
    splits = [node for node in nodes if _name(node).startswith("Split")]
    for node in splits:
        for target in node.outputs:
            for dependency in (*node.dependencies, *target.dependencies):
                if (dependency.source, dependency.target) in ((node, target), (target, node)):
                    dependency.index_mapping[0] = None
    for node in nodes:
        if _name(node).startswith("PixelShuffle"):
            _blocks(node, node.grad_fn._saved_upscale_factor**2, growing=False)
        elif _name(node).startswith("PixelUnshuffle"):
            _blocks(node, node.grad_fn._saved_downscale_factor**2, growing=True)
        elif _name(node).startswith("Glu"):
            _halves(node, node.grad_fn._saved_self.shape, node.grad_fn._saved_dim)
        elif node.grad_fn in joins:
            _join(node, *joins[node.grad_fn])
    for node in splits:  # after the joins, whose maps come first on the way back
        _split(node)


def _name(node: Any) -> str:
    return str(node.grad_fn.name()) if hasattr(node.grad_fn, "name") else ""


def _blocks(node: Any, count: int, *, growing: bool) -> None:
    """`count` channels on one side of a node are one on the other: channel c is c·count … (c + 1)·count − 1."""

    def many(pairs: Sequence[Any]) -> list[Any]:
        return [pair._replace(idx=pair.idx * count + k) for pair in pairs for k in range(count)]

    def one(pairs: Sequence[Any]) -> list[Any]:
        return [pair._replace(idx=pair.idx // count) for pair in pairs]

    _between(node, into=many if growing else one, back=one if growing else many)


def _halves(node: Any, shape: Sequence[int], dim: int) -> None:
    """A gate: channel c of the result is made of channels c and c + half of what goes in."""
    dim = dim if dim < len(shape) else dim - 2**64 + len(shape)  # as autograd keeps a negative one
    if not _along_channels(node, len(shape), dim):
        return
    half = shape[dim] // 2

    def both(pairs: Sequence[Any]) -> list[Any]:
        return [pair._replace(idx=pair.idx + k) for pair in pairs for k in (0, half)]

    def one(pairs: Sequence[Any]) -> list[Any]:
        return [pair._replace(idx=pair.idx % half) for pair in pairs]

    _between(node, into=one, back=both)


def _between(node: Any, into: IndexMap, back: IndexMap) -> None:
    """Set the maps from a node's inputs into it, and back."""
    for source in node.inputs:
        for dependency in source.dependencies:
            if dependency.target is node:
                dependency.index_mapping[1] = into
        for dependency in node.dependencies:
            if dependency.target is source:
                dependency.index_mapping[0] = back


def _along_channels(node: Any, ndim: int, dim: int) -> bool:
    """Whether a dimension is the channels': the second, or the last beside layers that have them there.

    Of three dimensions the layers behind tell (patches of a map become tokens), of more those before (a map is pooled).
    """
    for way in ("outputs", "inputs") if ndim == 3 else ("inputs", "outputs"):
        seen, queue = {id(node)}, list(getattr(node, way))
        while queue and len(seen) < 100:
            each = queue.pop(0)
            kind = type(each.module).__name__
            if kind in ("Linear", "LayerNorm", "Embedding"):
                return dim == ndim - 1
            if kind.startswith(("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")):
                return dim == 1
            queue.extend(other for other in getattr(each, way) if id(other) not in seen)
            seen.update(map(id, getattr(each, way)))
    return dim == 1


def _join(node: Any, dim: int, shapes: Sequence[tuple[int, ...]]) -> None:
    sizes = [shape[dim] for shape in shapes]
    node.enable_index_mapping = False  # torch-pruning's own guess isn't asked any more
    channels = len(node.inputs) == len(sizes) and _along_channels(node, len(shapes[0]), dim)
    taken: list[Any] = []
    start = 0
    for source, size in zip(node.inputs, sizes, strict=False):
        into, back = (_shifted(start, size), _cut(start, size)) if channels else (None, None)
        for dependency in source.dependencies:
            if dependency.target is node and not any(dependency is other for other in taken):
                dependency.index_mapping[1] = into
                taken.append(dependency)
                break
        for dependency in node.dependencies:
            if dependency.target is source and not any(dependency is other for other in taken):
                dependency.index_mapping[1] = None
                dependency.index_mapping[0] = back
                taken.append(dependency)
                break
        start += size


def _split(node: Any) -> None:
    function = node.grad_fn
    shape = function._saved_self_sym_sizes
    dim = function._saved_dim if function._saved_dim < len(shape) else function._saved_dim - 2**64 + len(shape)
    if not _along_channels(node, len(shape), dim):
        return
    if hasattr(function, "_saved_split_sizes"):
        sizes = list(function._saved_split_sizes)
    else:
        size = function._saved_split_size
        sizes = [min(size, shape[dim] - start) for start in range(0, shape[dim], size)]
    taken: list[Any] = []
    for target in dict.fromkeys(node.outputs):
        for source, number in target.grad_fn.next_functions:
            if source is not function:
                continue
            start = sum(sizes[:number])
            for dependency in node.dependencies:
                if dependency.target is target and not any(dependency is other for other in taken):
                    dependency.index_mapping[0] = _cut(start, sizes[number])
                    taken.append(dependency)
                    break
            for dependency in target.dependencies:
                if dependency.target is node and not any(dependency is other for other in taken):
                    dependency.index_mapping[1] = _shifted(start, sizes[number])
                    taken.append(dependency)
                    break


def _shifted(start: int, size: int) -> IndexMap:
    return lambda pairs: [pair._replace(idx=pair.idx + start) for pair in pairs if pair.idx < size]


def _cut(start: int, size: int) -> IndexMap:
    return lambda pairs: [pair._replace(idx=pair.idx - start) for pair in pairs if start <= pair.idx < start + size]
