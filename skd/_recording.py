"""Hooks on every layer for one run: what each call was given and returned, and in which layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from skd._tap import Path
from skd._values import inputs, tensors
from skd.taps import Layout, channels

Shape = tuple[int, ...]

_LAYOUT_OF_NDIM: dict[int, Layout] = {2: "BC", 4: "BCHW", 5: "BCDHW"}
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.GroupNorm,
    nn.Upsample,
    nn.Dropout1d,
    nn.ConstantPad1d,
    nn.ReflectionPad1d,
    nn.ReplicationPad1d,
    nn.CircularPad1d,
)
_CHANNELS_LAST = (
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RNNBase,
)


class Call:
    """A call of a layer while the run goes on."""

    def __init__(self, module: nn.Module, name: str, call: int, order: int, given: Sequence[Tensor]) -> None:
        self.module, self.name, self.call, self.order = module, name, call, order
        self.given = given[0] if given else None
        self.inputs: tuple[Shape, ...] = tuple(tuple(tensor.shape) for tensor in given)
        self.input_shape = self.inputs[0] if given else None
        self.output: Tensor | None = None  # where it's the only one
        self.output_shape: Shape | None = None
        self.paths: tuple[tuple[Path, Shape], ...] = ()
        self.versions: list[tuple[Tensor, int]] = []
        self.layout: Layout | None = None
        self.channels: int | None = None
        self.last: Call | None = None  # of the calls inside
        self.sequence_first = False
        self.channels_last = False


class Recorder:
    """Hooks on all layers of a model, and the calls that they have seen."""

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[nn.Module, str] = {}
        for name, module in model.named_modules():
            self.names[module] = name
        self.calls: list[Call] = []
        self.open: list[Call] = []
        self.count: dict[nn.Module, int] = {}
        # By the identity of tensors, which the calls keep alive. None is a map whose channels are last.
        self.layouts: dict[int, Layout | None] = {}
        self.claims: dict[int, set[bool]] = {}  # of the layers that are given a tensor: whether its channels are last

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        handles = []
        try:
            for module in self.names:
                handles.append(module.register_forward_pre_hook(self.enter, with_kwargs=True))
                handles.append(module.register_forward_hook(self.leave))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = tensors(inputs(args, kwargs))
        count = self.count.get(module, 0)
        self.count[module] = count + 1
        call = Call(module, self.names[module], count, len(self.calls), [tensor for _, tensor in given])
        self.calls.append(call)
        self.open.append(call)
        last = _channels_last(module)
        if call.given is not None and last is not None:
            self.claims.setdefault(id(call.given), set()).add(last)

    def leave(self, module: nn.Module, args: tuple[Any, ...], value: Any) -> None:
        while self.open[-1].module is not module:  # calls that failed inside, and were caught by the model
            self.open.pop()
        call = self.open.pop()
        found = tensors(value)
        call.versions = [(tensor, tensor._version) for _, tensor in found]
        if len(found) == 1:
            call.output = found[0][1]
            call.output_shape = tuple(call.output.shape)  # now, as it may be reshaped in place
            call.layout = self.layout(call, call.output)
            if call.layout is not None or call.output.ndim in (4, 5):
                self.layouts[id(call.output)] = call.layout
        if not isinstance(value, Tensor):
            call.paths = tuple((path, tuple(tensor.shape)) for path, tensor in found)
        if self.open:
            self.open[-1].last = call

    def layout(self, call: Call, output: Tensor) -> Layout | None:
        module, ndim = call.module, output.ndim
        if ndim not in (3, 4, 5):
            return _LAYOUT_OF_NDIM.get(ndim)
        call.sequence_first = ndim == 3 and any(_sequence_first(outer.module) for outer in (*self.open, call))
        if call.sequence_first:  # one that turns its input round for them, and its output back, stays channels first
            given, own = call.given, getattr(module, "batch_first", None) is None
            like = own and given is not None and given.shape == output.shape and self.layouts.get(id(given)) == "BCL"
            return "BCL" if like else None
        last = _channels_last(module)
        if last is not None:
            return _of(ndim, last=last)
        # The output itself comes first, as it's known where a layer passes its input on or works in place.
        sources = [output, call.given if call.last is None else call.last.output]
        if call.last is None and self.open and self.open[-1].last is not None:
            sources.append(self.open[-1].last.output)
        if call.last is None and ndim == 3 and not type(module).__module__.startswith("torch.nn."):
            return self.kept(call, output)
        if isinstance(module, nn.GLU) and call.given is not None:  # it halves the channels, or the positions
            return self.layouts.get(id(call.given))
        for source in sources:
            if source is not None and source.shape == output.shape and id(source) in self.layouts:
                return self.layouts[id(source)]
        return _LAYOUT_OF_NDIM.get(ndim)

    def kept(self, call: Call, output: Tensor) -> Layout | None:
        """The input's layout, for a layer of the user's own whose weights change the channels and nothing else.

        torch's own layers without parameters are activations and the like; others may do anything.
        """
        given = call.given
        if given is None or given.ndim != 3 or not any(True for _ in call.module.parameters()):
            return None
        layout = self.layouts.get(id(given))
        place = 2 if layout == "BNC" else 1
        same = all(output.shape[k] == given.shape[k] for k in range(3) if k != place)
        return layout if same and given.shape[1] != given.shape[2] else None

    def finish(self) -> None:
        """What the layers that are given a tensor say of it, where the one that returned it doesn't; then channels."""
        for call in self.calls:
            if call.output is None or call.output_shape is None:
                continue
            claims = self.claims.get(id(call.output), set())
            if len(claims) == 1 and len(call.output_shape) in (3, 4, 5) and _channels_last(call.module) is None:
                last = claims == {True}
                if not (call.sequence_first and last):
                    call.layout = _of(len(call.output_shape), last=last)
            call.channels = None if call.layout is None else channels(call.output, call.layout)
            call.channels_last = call.layout is None and len(call.output_shape) in (4, 5)

    def explain(self, error: Exception) -> None:
        """Name the layer in which the error was raised, by the innermost frame that is a layer's method."""
        module, trace = None, error.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and owner in self.names:
                module = owner
            trace = trace.tb_next
        calls = [call for call in self.open if call.module is module]
        if module is None or not calls:
            return
        place = f"layer {calls[-1].name!r}" if calls[-1].name else "the network itself"
        shape = "no tensor" if calls[-1].input_shape is None else str(calls[-1].input_shape)
        error.add_note(f"The dry run failed in {place} ({type(module).__name__}), which was given {shape}.")

    def input_axes(self, given: Tensor) -> Shape | None:
        """Spatial sizes, or the length, of the network's input."""
        if given.ndim in (4, 5):
            return tuple(given.shape[2:])
        if given.ndim == 2 and not given.is_floating_point():  # token numbers
            return tuple(given.shape[1:])
        if given.ndim == 3:
            for call in self.calls:
                if call.given is given and isinstance(call.module, _CHANNELS_FIRST):
                    return (given.shape[2],)
                if call.given is given and isinstance(call.module, _CHANNELS_LAST):
                    return (given.shape[1],)
        return None


def _channels_last(module: nn.Module) -> bool | None:
    """Whether a layer works on the last dimension, and not on the second; None where its type doesn't tell."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) > 1:
        return None
    return True if isinstance(module, _CHANNELS_LAST) else False if isinstance(module, _CHANNELS_FIRST) else None


def _of(ndim: int, *, last: bool) -> Layout | None:
    """The layout of three dimensions or more; None for a map whose channels are last."""
    if ndim == 3:
        return "BNC" if last else "BCL"
    return None if last else _LAYOUT_OF_NDIM[ndim]


def _sequence_first(module: nn.Module) -> bool:
    """Whether a module works on (N, B, C), as recurrent and attention layers do by default."""
    return any(getattr(each, "batch_first", True) is False for each in (module, *module.children()))
