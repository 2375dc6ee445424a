"""A forward that is watched, and the graph of channels that comes of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skd._compression.graph import Flood, Graph
from skd._compression.mappings import correct
from skd._values import tensors
from skd.errors import CompressionError, MissingExtraError
from skd.taps import Tap, Taps
from skd.trace import dry_run


def trace_channels(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], taps: Sequence[Tap] = ()
) -> Graph:
    """Follow every channel through the network, by torch-pruning's dependency graph of one forward.

    torch-pruning says what follows what and by which map of indices; here the maps are followed channel by channel, and
    channels that are linked are joined. The model isn't changed: a copy runs.

    Raises
    ------
    MissingExtraError
        torch-pruning isn't installed.
    CompressionError
        The network can't be traced; says where.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_pruning
    except ImportError:
        raise MissingExtraError("torch-pruning", extra="compress", purpose="compress()") from None
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.training = False
        if getattr(module, "inplace", None) is True:  # autograd would write the graph before it anew, without its layer
            module.inplace = False  # type: ignore[assignment]
    for parameter in twin.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    watch = _Watch()
    reader = Taps(twin, [Tap(tap.layer, tap.call, tap.side, tap.path, tap.layout, clone=True) for tap in taps])
    features: dict[Tap, Tensor] = {}

    def run(_model: nn.Module, _example: Any) -> Any:
        given, named = watch.followed(args), {key: watch.followed(value) for key, value in kwargs.items()}
        with watch:
            output, found = reader(*given, **named)
        features.update(found)
        return output

    class Dependencies(torch_pruning.DependencyGraph):  # type: ignore[misc]
        """Knows what is concatenated before its index maps are made, which a guess that fails would end."""

        def _build_dependency(self, module2node: Any) -> None:
            super()._build_dependency(module2node)
            for node in module2node.values():
                if node.grad_fn in watch.joins and hasattr(node.module, "concat_sizes"):
                    dim, shapes = watch.joins[node.grad_fn]
                    node.module.concat_sizes = [shape[dim] for shape in shapes]

    graph = Dependencies()
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph.build_dependency(twin, None, forward_fn=run, output_transform=_outputs, verbose=False)
            correct(graph, watch.joins)
            flood = Flood(graph, twin, watch.given)
        except Exception as error:
            dry_run(model, args if not kwargs else dict(kwargs))  # which names the layer where the forward itself fails
            raise CompressionError(
                "the network's channels can't be traced",
                got=f"{type(error).__name__}: {error}",
                remedy="give build=…, a function from widths to a narrower network",
            ) from error
    return flood.graph({tap: features[key] for tap, key in zip(taps, reader.taps, strict=True)})


class _Watch(TorchFunctionMode):
    """Notes the sizes that concatenations join, which their gradient doesn't know, and keeps constants visible."""

    def __init__(self) -> None:
        super().__init__()
        self.joins: dict[Any, tuple[int, list[tuple[int, ...]]]] = {}
        self.given: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (torch.cat, torch.concat, torch.concatenate):
            return _with_gradient(func, args, kwargs)
        parts = [self.followed(part) for part in (args[0] if args else kwargs.pop("tensors"))]
        joined = func(parts, *args[1:], **kwargs)
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        if isinstance(dim, int):
            none = (0,) * joined.ndim  # an empty cache of no dimensions may be joined, too
            shapes = [tuple(part.shape) if part.ndim == joined.ndim else none for part in parts]
            self.joins[joined.grad_fn] = (dim % joined.ndim, shapes)
        return joined

    def followed(self, value: Any) -> Any:
        """A float tensor from outside, with a gradient's function, so that the graph shows it; others as they are."""
        if isinstance(value, Tensor) and value.is_floating_point() and value.grad_fn is None:
            seen = value.detach().clone().requires_grad_() * 1.0
            if value.numel() > 0:  # an empty cache brings no channels
                self.given.add(seen.grad_fn)
            return seen
        if type(value) in (tuple, list):
            return type(value)(self.followed(member) for member in value)
        if type(value) is dict:
            return {key: self.followed(member) for key, member in value.items()}
        return value


def _with_gradient(func: Any, args: Any, kwargs: Any) -> Any:
    """The function, followed also where the network itself says no_grad, as tables of positions do."""
    if torch.is_grad_enabled() or func is torch._C._set_grad_enabled:  # the end of no_grad has to last
        return func(*args, **kwargs)
    try:
        with torch.enable_grad():
            return func(*args, **kwargs)
    except RuntimeError:  # it changes a parameter in place
        return func(*args, **kwargs)


def _outputs(output: Any) -> list[Tensor]:
    """What the network returns, each behind an operation of its own, so that an output is seen as one."""
    return [value * 1.0 for _, value in tensors(output) if value.grad_fn is not None]
