"""What all formats begin with, and two of them: each makes a file's content, and reads it again to ask it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from skd.errors import ExportError, MissingExtraError

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Answer: TypeAlias = Callable[[Call], list[Tensor]]  # what a written file says to a call
Shapes: TypeAlias = dict[str, tuple[int | str, ...]]


class Written(NamedTuple):
    """What is to be written, the shapes of its inputs, and what it answers when it is read; None where nothing can.

    The names say where: "" is the file itself, ".bin" one beside it, "a/b" one in it, which is then a folder.
    """

    files: Mapping[str, bytes]
    inputs: Shapes
    answer: Answer | None


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in its order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def short(error: BaseException) -> str:
    """An error in a line, without colours for a terminal."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return f"{type(error).__name__}: {' '.join(said.split())[:300]}"


def as_program(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """A program of torch.export."""
    program = trace(model, call, dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    again = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return Written({"": buffer.getvalue()}, inputs_of(program), lambda call: tensors(again(*call[0], **call[1])))


def as_onnx(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """An ONNX model, all weights inside. ONNX Runtime reads and runs it."""
    runtime = need("onnxruntime", "onnx", "exporting ONNX")
    program = trace(model, call, dynamic)
    content = onnx_of(program)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def answer(call: Call) -> list[Tensor]:
        given = named(program, call)
        feeds = {name: given[name].detach().cpu().numpy() for name in names}
        return [torch.from_numpy(each) for each in session.run(None, feeds)]

    return Written({"": content}, inputs_of(program), answer)


def onnx_of(program: ExportedProgram, extra: str = "onnx", purpose: str = "exporting ONNX") -> bytes:
    """The program as an ONNX file's content."""
    for package in ("onnx", "onnxscript"):
        need(package, extra, purpose)
    try:
        with quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
            if made is None:
                raise RuntimeError("torch.onnx.export gave no program")
            proto = made.model_proto
    except Exception as error:  # an operator without a translation, mostly
        raise ExportError("the network can't be translated to ONNX", got=short(error)) from error
    # Where each node came from, in words: more bytes than a small network's weights.
    for part in (proto.graph, *proto.functions):
        for thing in (part, *part.node):
            del thing.metadata_props[:]
            thing.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.metadata_props[:]
    del proto.graph.value_info[:]  # shapes between the layers: a runtime infers them
    return bytes(proto.SerializeToString(deterministic=True))


def trace(model: nn.Module, call: Call, dynamic: Any) -> ExportedProgram:
    args, kwargs = call
    shapes = None if dynamic is False else dynamic
    if dynamic is True:
        named = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = {name: pytree.tree_map(_free, value) for name, value in named.items()}
    try:
        with quiet():
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:  # whatever the network's code does under tracing
        raise ExportError(
            "the network can't be exported",
            got=short(error),
            remedy="see what torch.export.export says; code that branches on values can't be traced",
        ) from error


def _free(leaf: Any) -> Any:
    """A tensor's dimensions that may vary: torch takes sizes of 0 and 1 for constants."""
    return {k: Dim.AUTO for k, size in enumerate(leaf.shape) if size > 1} if isinstance(leaf, Tensor) else None


def inputs_of(program: ExportedProgram) -> Shapes:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    found: Shapes = {}
    for name in program.graph_signature.user_inputs:
        value = values.get(str(name))
        if isinstance(value, Tensor):
            found[str(name)] = tuple(int(text) if (text := str(size)).isdigit() else text for size in value.shape)
    return found


def named(program: ExportedProgram, call: Call) -> dict[str, Tensor]:
    """A call's tensors by the names of the program's inputs. What isn't a tensor is in the program."""
    given = zip(program.graph_signature.user_inputs, pytree.tree_leaves(call), strict=True)
    return {str(name): value for name, value in given if isinstance(value, Tensor)}


def need(package: str, extra: str, purpose: str) -> Any:
    """An optional package, or the error that names its extra."""
    try:
        with quiet():
            return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(error.name or package, extra=extra, purpose=purpose) from None


def plain(program: ExportedProgram) -> ExportedProgram:
    """The program in operators that every runtime knows: some have neither variances nor fused products."""
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.var_mean.correction: var_mean,
        torch.ops.aten.addcmul.default: addcmul,
    }
    with quiet():
        made: ExportedProgram = program.run_decompositions(table)
    return made


def var_mean(
    x: Tensor, dim: Any = None, *, correction: float | None = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """As `torch.var_mean`, by two means."""
    dims = [k % x.dim() for k in (range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim)]
    mean = x.mean(dims, True)
    variance = (x - mean).square().mean(dims, keepdim)
    less = 1 if correction is None else correction
    if less:
        count = math.prod(x.shape[k] for k in dims)
        variance = variance * (count / (count - less))
    return variance, mean if keepdim else x.mean(dims)


def addcmul(shift: Tensor, one: Tensor, two: Tensor, *, value: float = 1) -> Tensor:
    """As `torch.addcmul`."""
    return shift + (one * two if value == 1 else value * one * two)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the exporters about themselves; the loggers' levels are put back."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torchao", "coremltools", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
