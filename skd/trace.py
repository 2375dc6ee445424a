"""One dry run of a network: the record of all its layers."""

from __future__ import annotations

import contextlib
import math
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from skd._recording import Recorder, Shape
from skd._tap import Path, brackets
from skd._values import inputs, tensors
from skd.errors import ArgumentError, LayerNotFoundError, closest
from skd.taps import Layout, Tap

__all__ = ["LayerRecord", "Trace", "dry_run"]


@dataclass(frozen=True)
class LayerRecord:
    """One call of one layer.

    Attributes
    ----------
    name : str
        Dotted module name; ``""`` is the whole network.
    call : int
        Which of its calls, from 0.
    type : str
        Name of the module's class.
    order : int
        Place in the order in which calls begin, from 0, so that a container comes before its layers.
    leaf : bool
        It has no layers of its own.
    input_shape : tuple of int or None
        Shape of the first tensor it is given.
    output_shape : tuple of int or None
        Shape of what it returns; None where that isn't exactly one tensor.
    layout : Layout or None
        What the output's dimensions mean. Three dimensions are read from the layer's type, else from that of the layers
        that are given them, else from an elementwise layer's input or a container's last layer. None where it can't be
        told, and where channels are last in a map.
    channels : int or None
        Channels of the output, where the layout is known.
    scale : tuple of float or None
        Output size / network input size for each spatial axis, or the ratio of the lengths of sequences. The
        network's input is the first tensor of the example. None where the two can't be compared.
    calls : int
        How often the layer ran.
    changed_in_place : bool
        Its output was changed in place later, so that a tap there needs ``clone=True``.
    parameters : int
        Number of parameters in it, those of its layers included.
    paths : tuple of (path, shape)
        Every tensor in the output, where that is a container.
    inputs : tuple of shapes
        Of every tensor it is given.
    channels_last : bool
        The output is a map whose channels are last, (B, H, W, C) or (B, D, H, W, C).
    """

    name: str
    call: int
    type: str
    order: int
    leaf: bool
    input_shape: Shape | None
    output_shape: Shape | None
    layout: Layout | None
    channels: int | None
    scale: tuple[float, ...] | None
    calls: int
    changed_in_place: bool
    parameters: int
    paths: tuple[tuple[Path, Shape], ...] = ()
    channels_last: bool = False
    inputs: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Trace:
    """The record of one dry run: every call of every layer, in call order. ``str()`` is a table of it.

    Attributes
    ----------
    records : tuple of LayerRecord
        The calls, in the order in which they begin.
    never_ran : tuple of str
        Layers that weren't called. Lists and dicts of layers never are, and aren't among them.
    """

    records: tuple[LayerRecord, ...]
    never_ran: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[LayerRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def find(self, name: str, call: int = 0) -> LayerRecord:
        """The record of a layer's call; a negative call counts from the last.

        Raises
        ------
        LayerNotFoundError
            There is no such layer, it didn't run, or not so often.

        Examples
        --------
        >>> dry_run(nn.Sequential(nn.Linear(3, 4)), torch.zeros(2, 3)).find("0").channels
        4
        """
        calls = [record for record in self.records if record.name == name]
        if -len(calls) <= call < len(calls):
            return calls[call]
        if calls:
            raise LayerNotFoundError(f"layer {name!r} has no call {call}", got=f"{len(calls)} calls")
        if name in self.never_ran:
            raise LayerNotFoundError(f"layer {name!r} didn't run", remedy="see Trace.records for the layers that did")
        known = dict.fromkeys(record.name for record in self.records if record.name)
        raise LayerNotFoundError(f"the trace has no layer {name!r}", remedy=closest(name, known))

    def __str__(self) -> str:
        head = ("layer", "type", "output", "layout", "channels", "scale", "parameters", "notes")
        names = {record.name for record in self.records}
        rows = [head, *(_row(record, _depth(record.name, names)) for record in self.records)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        right = {"channels", "scale", "parameters"}
        lines = [
            "  ".join(
                cell.rjust(width) if title in right else cell.ljust(width)
                for title, cell, width in zip(head, row, widths, strict=True)
            ).rstrip()
            for row in rows
        ]
        if self.never_ran:
            lines.append("never ran: " + ", ".join(self.never_ran))
        return "\n".join(lines)


def _depth(name: str, names: set[str]) -> int:
    """How many of the layers that ran hold this one; lists of layers don't run, and don't count."""
    parts = name.split(".")
    return sum(".".join(parts[:length]) in names for length in range(len(parts))) if name else 0


def _row(record: LayerRecord, depth: int) -> tuple[str, ...]:
    several = ", ".join(f"{brackets(path)} {shape}" for path, shape in record.paths)
    notes = (
        f"call {record.call} of {record.calls}" if record.calls > 1 else "",
        "changed in place" if record.changed_in_place else "",
        several if record.output_shape is None else "",
    )
    return (
        "  " * depth + (str(Tap(record.name, call=record.call)) if record.name else "(network)"),
        record.type,
        "-" if record.output_shape is None else str(record.output_shape),
        record.layout or "-",
        "-" if record.channels is None else str(record.channels),
        "-" if record.scale is None else _scale_text(record.scale),
        f"{record.parameters:,}",
        "; ".join(note for note in notes if note),
    )


def _scale_text(scale: tuple[float, ...]) -> str:
    texts = []
    for ratio in scale:
        simple = Fraction(ratio).limit_denominator(64)
        texts.append(str(simple) if math.isclose(simple, ratio, rel_tol=1e-9) else f"{ratio:.3f}")
    return texts[0] if len(set(texts)) == 1 else " × ".join(texts)


def dry_run(model: nn.Module, example: Tensor | tuple[Any, ...] | dict[str, Any]) -> Trace:
    """Run a network once and record every call of every layer.

    The run is without gradients and in eval mode, on a copy of the example. Afterwards the network is as it was, also
    if the run fails: the mode of each module, what its attributes are, the values of its buffers, hooks, and the state
    of Python's and torch's random numbers. The features are held until the run is over, as in a training step, so a
    small example is a good one.

    Parameters
    ----------
    model : nn.Module
        The network.
    example : Tensor, tuple or dict
        One input: a tensor, a tuple of positional arguments or a dict of keyword arguments. Scales refer to its first
        tensor: (B, C, H, W), (B, C, D, H, W), (B, C, L), (B, N, C), or (B, N) of token numbers.

    Returns
    -------
    Trace
        The records in call order.

    Raises
    ------
    ArgumentError
        The example is of another kind, or the model has parameters whose shapes aren't known yet.
    Exception
        Whatever the model raises, with a note that names the layer.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    >>> print(dry_run(model, torch.zeros(1, 3, 16, 16)))
    layer      type        output        layout  channels  scale  parameters  notes
    (network)  Sequential  (1, 8, 8, 8)  BCHW           8    1/2         224
      0        Conv2d      (1, 8, 8, 8)  BCHW           8    1/2         224
      1        ReLU        (1, 8, 8, 8)  BCHW           8    1/2           0
    """
    if not isinstance(example, (Tensor, tuple, dict)):
        raise ArgumentError(
            "this isn't an example input",
            got=type(example).__name__,
            expected="a tensor, a tuple of positional arguments or a dict of keyword arguments",
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ArgumentError(
                f"parameter {name!r} has no shape yet", remedy="run the network once, which sets up its lazy layers"
            )
    recorder = Recorder(model)
    with torch.inference_mode(False), torch.no_grad(), _restored(model):
        given = _copied(example, {})
        args = given if isinstance(given, tuple) else () if isinstance(given, dict) else (given,)
        kwargs = given if isinstance(given, dict) else {}
        found = tensors(inputs(args, kwargs))
        with recorder.attached(), _uncompiled():
            try:
                model(*args, **kwargs)
            except Exception as error:
                recorder.explain(error)
                raise
        recorder.finish()
    return _trace(recorder, found[0][1] if found else None)


def _trace(recorder: Recorder, given: Tensor | None) -> Trace:
    axes = None if given is None else recorder.input_axes(given)
    records = []
    for call in recorder.calls:
        records.append(
            LayerRecord(
                name=call.name,
                call=call.call,
                type=type(call.module).__name__,
                order=call.order,
                leaf=not any(True for _ in call.module.children()),
                input_shape=call.input_shape,
                output_shape=call.output_shape,
                layout=call.layout,
                channels=call.channels,
                scale=_scale(call.output_shape, call.layout, axes),
                calls=recorder.count[call.module],
                changed_in_place=any(tensor._version != version for tensor, version in call.versions),
                parameters=sum(parameter.numel() for parameter in call.module.parameters()),
                paths=call.paths,
                channels_last=call.channels_last,
                inputs=call.inputs,
            )
        )
    lists = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    never = [
        name
        for module, name in recorder.names.items()
        if module not in recorder.count and not isinstance(module, lists)
    ]
    return Trace(tuple(records), tuple(never))


def _scale(shape: Shape | None, layout: Layout | None, axes: Shape | None) -> tuple[float, ...] | None:
    if shape is None or layout is None or axes is None or layout == "BC":
        return None
    sizes = shape[1:2] if layout == "BNC" else shape[2:]
    if len(sizes) != len(axes) or 0 in axes:
        return None
    return tuple(size / of for size, of in zip(sizes, axes, strict=True))


def _copied(value: Any, done: dict[int, Tensor]) -> Any:
    """The example with its tensors copied, so that in-place layers can't change it."""
    if isinstance(value, Tensor):
        return done.setdefault(id(value), value.detach().clone())
    if isinstance(value, dict):
        return {key: _copied(member, done) for key, member in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_copied(member, done) for member in value)
    return value


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards the modules' attributes, hooks, buffers and the random numbers are as they were.

    The mode is set flag by flag: `eval()` and `train()` may be overridden, and do more than that. Networks that attach
    hooks in their first run note that in an attribute: both go, or the next run would attach them twice.
    """
    states = [
        (module, dict(module.__dict__), {name: dict(module.__dict__[name]) for name in _tables(module)})
        for module in model.modules()
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]
    devices = {tensor.device.index or 0 for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    numbers = random.getstate()
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            for module, _, _ in states:
                module.training = False
            yield
    finally:
        random.setstate(numbers)
        for module, attributes, contents in states:
            _reset(module.__dict__, attributes)
            for name, content in contents.items():
                _reset(module.__dict__[name], content)
        for buffer, copy in buffers:
            if not torch.equal(buffer, copy):  # by value: batch normalisation doesn't raise its buffers' versions
                buffer.copy_(copy)


def _tables(module: nn.Module) -> list[str]:
    """The attributes that are dicts of a module's own: what it consists of, and its hooks."""
    own = ("_parameters", "_buffers", "_modules")
    return [name for name, value in module.__dict__.items() if name in own or ("_hooks" in name and _is_dict(value))]


def _is_dict(value: Any) -> bool:
    return type(value) in (dict, OrderedDict)


def _reset(table: dict[str, Any], content: dict[str, Any]) -> None:
    if [(key, id(value)) for key, value in table.items()] != [(key, id(value)) for key, value in content.items()]:
        table.clear()
        table.update(content)


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Modules that are compiled run as they are written, since hooks aren't seen in a compiled one."""
    if "torch._dynamo.eval_frame" not in sys.modules:  # nothing is compiled, and importing it takes a second
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
