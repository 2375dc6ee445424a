"""The formats that `export` writes: each makes the file's content, and reads it again to ask it."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
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
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def as_program(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """A program of torch.export."""
    program = trace(model, call, dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    again = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return Written({"": buffer.getvalue()}, inputs_of(program), lambda call: tensors(again(*call[0], **call[1])))


def as_onnx(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """An ONNX model, all weights inside. ONNX Runtime reads and runs it."""
    runtime = _need_onnx()
    program = trace(model, call, dynamic)
    try:
        with _quiet():
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
    content = proto.SerializeToString(deterministic=True)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def answer(call: Call) -> list[Tensor]:
        given = named(program, call)
        feeds = {name: given[name].detach().cpu().numpy() for name in names}
        return [torch.from_numpy(each) for each in session.run(None, feeds)]

    return Written({"": content}, inputs_of(program), answer)


FORMATS: Mapping[str, Callable[[nn.Module, Call, Any], Written]] = {".onnx": as_onnx, ".pt2": as_program}


def trace(model: nn.Module, call: Call, dynamic: Any) -> ExportedProgram:
    args, kwargs = call
    shapes = None if dynamic is False else dynamic
    if dynamic is True:
        named = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = {name: pytree.tree_map(_free, value) for name, value in named.items()}
    try:
        with _quiet():
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


def _need_onnx() -> Any:
    try:
        import onnx  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
        import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import onnxscript  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", extra="onnx", purpose="exporting ONNX") from None
    return onnxruntime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of torch's exporters about themselves; the logger's level is put back."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
