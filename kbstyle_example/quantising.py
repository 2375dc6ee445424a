"""An ONNX file with weights of eight bits, and, where asked for, activations of eight bits.

Weights are rounded channel by channel (symmetric, the largest is 127). What each layer loses so is measured one by one,
on pictures; those that lose the most by the byte stay float32, as long as the file stays within its budget.

Activations (static, QDQ) are rounded with ranges that ONNX Runtime collects on the same pictures. Each layer's loss is
measured again, and those whose activations lose the most keep them in float32.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from skd.errors import ArgumentError, MissingExtraError

Array: TypeAlias = npt.NDArray[np.float32]
Feeds: TypeAlias = Mapping[str, Array]
LAYERS = ("Conv", "Gemm")


@dataclass(frozen=True)
class Quantised:
    """An ONNX file's content, and what was found on the way.

    Attributes
    ----------
    content : bytes
    losses : mapping of str to float
        By the name of a layer's weight: the mean squared difference of the answers when it alone is rounded.
    kept : tuple of str
        Layers whose weights stay float32.
    activation_losses : mapping of str to float
        The same for activations; empty where they weren't asked for.
    rounded : tuple of str
        Layers whose activations have eight bits.
    """

    content: bytes
    losses: Mapping[str, float]
    kept: tuple[str, ...]
    activation_losses: Mapping[str, float]
    rounded: tuple[str, ...]


def quantised(content: bytes, pictures: Sequence[Feeds], *, budget: int, activations: float | None = None) -> Quantised:
    """Round an ONNX file to eight bits.

    Parameters
    ----------
    content : bytes
        The file's, in float32.
    pictures : sequence of feeds
        Inputs by name, to calibrate on.
    budget : int
        Bytes that the file may have. Its smallest is written where that is more.
    activations : float, optional
        The signal-to-noise ratio in dB, on the pictures, down to which layers take activations of eight bits, those
        that lose the least first. None: none of them does.

    Raises
    ------
    MissingExtraError
        onnx or onnxruntime isn't installed.
    ArgumentError
        No pictures.
    """
    onnx = _onnx()
    if not pictures:
        raise ArgumentError("no pictures to calibrate on")
    float_model = onnx.load_from_string(content)
    wanted = _answers(content, pictures)
    weights = _weights(float_model)
    losses = {name: _apart(wanted, _answers(_bytes(_rounded(float_model, [name])), pictures)) for name in weights}
    found: dict[str, float] = {}
    chosen: list[str] = []
    model = float_model
    if activations is not None:
        ranges = _ranges(content, pictures)
        names = {node.input[1]: node.name for node in float_model.graph.node if node.op_type == "Conv"}
        for weight, node in names.items():
            alone = _with_activations(float_model, ranges, [node])
            found[weight] = _apart(wanted, _answers(_bytes(alone), pictures))
        left = 10 ** (-activations / 10) - sum(losses.values())
        for weight in sorted(found, key=found.__getitem__):  # rounding errors of layers add up, about
            if (left := left - max(0.0, found[weight] - losses[weight])) < 0:
                break
            chosen.append(weight)
        model = _with_activations(float_model, ranges, [names[weight] for weight in chosen])
    # By what a byte saves; a layer rounded with its activations stays so.
    free = [name for name in weights if name not in chosen]
    kept: list[str] = []
    size = len(_short(_rounded(model, free)))
    for name in sorted(free, key=lambda name: -losses[name] / weights[name]):
        if size + 3 * weights[name] <= budget:
            kept.append(name)
            size += 3 * weights[name]
    made = _short(_rounded(model, [name for name in free if name not in kept]))
    return Quantised(made, losses, tuple(kept), found, tuple(chosen))


def halved(content: bytes) -> bytes:
    """An ONNX file whose weights are float16, and computed with in float32.

    Raises
    ------
    MissingExtraError
        onnx isn't installed.
    """
    model = _onnx().load_from_string(content)
    return _short(_rounded(model, _weights(model), half=True))


def signal_to_noise(wanted: Array, found: Array) -> float:
    """Peak signal-to-noise ratio in dB, of pictures in 0..1.

    Examples
    --------
    >>> round(signal_to_noise(np.zeros((1, 2)), np.full((1, 2), 0.01)), 2)
    40.0
    """
    error = float(np.square(np.float64(wanted) - found).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def session(content: bytes) -> Any:
    """ONNX Runtime, with one thread."""
    import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _onnx() -> Any:
    try:
        import onnx  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", extra="onnx", purpose="quantising") from None
    return onnx


def _answers(content: bytes, pictures: Sequence[Feeds]) -> list[Array]:
    run = session(content)
    return [run.run(None, dict(feeds))[0] for feeds in pictures]


def _apart(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    return float(np.mean([np.square(one - two).mean() for one, two in zip(wanted, found, strict=True)]))


def _weights(model: Any) -> dict[str, int]:
    """Names of the layers' weights, and how many values each has."""
    sizes = {each.name: math.prod(each.dims) for each in model.graph.initializer}
    named = (node.input[1] for node in model.graph.node if node.op_type in LAYERS)
    return {name: sizes[name] for name in named if name in sizes}


def _rounded(model: Any, names: Iterable[str], *, half: bool = False) -> Any:
    """With these weights in eight bits, or in half precision.

    A runtime multiplies them out once, when it loads the file: Cast and Mul of constants. DequantizeLinear, which says
    the same, ONNX Runtime leaves for every run.
    """
    onnx = _onnx()
    model = copy.deepcopy(model)
    graph = model.graph
    tensors = {each.name: each for each in graph.initializer}
    axes = {node.input[1]: _axis(node) for node in graph.node if node.op_type in LAYERS}
    made = []
    for name in names:
        weight = onnx.numpy_helper.to_array(tensors[name])
        graph.initializer.remove(tensors[name])
        if half:
            graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float16), f"{name}/half"))
            made.append(onnx.helper.make_node("Cast", [f"{name}/half"], [name], to=onnx.TensorProto.FLOAT))
            continue
        others = tuple(k for k in range(weight.ndim) if k != axes[name])
        scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
        codes = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        graph.initializer.append(onnx.numpy_helper.from_array(codes, f"{name}/codes"))
        graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}/scale"))
        made.append(onnx.helper.make_node("Cast", [f"{name}/codes"], [f"{name}/cast"], to=onnx.TensorProto.FLOAT))
        made.append(onnx.helper.make_node("Mul", [f"{name}/cast", f"{name}/scale"], [name]))
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _axis(node: Any) -> int:
    """Of a weight's output channels."""
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _ranges(content: bytes, pictures: Sequence[Feeds]) -> Any:
    """Of all activations, on the pictures."""
    from onnxruntime.quantization import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.left = iter(pictures)

        def get_next(self) -> Any:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(content)
        # The extremes: percentiles and entropy cut off what carries strokes, and lose more.
        calibrator = create_calibrator(
            path,
            ["Conv"],
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(Reader())
        found = calibrator.compute_data()
        del calibrator
    return found


def _with_activations(model: Any, ranges: Any, nodes: Sequence[str]) -> Any:
    """With these convolutions in eight bits, their inputs as well."""
    if not nodes:
        return copy.deepcopy(model)
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        QDQQuantizer,
    )

    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        True,  # per channel
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        list(nodes),
        [],
        ["Conv"],
        {"OpTypesToExcludeOutputQuantization": ["Conv"], "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _bytes(model: Any) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _short(model: Any) -> bytes:
    """The file with names of a few letters: with the long ones, they are a tenth of it."""
    model = copy.deepcopy(model)
    graph = model.graph
    taken = {each.name for each in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {}

    def name(old: str) -> str:
        return old if old in taken else names.setdefault(old, f"{len(names):x}")

    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            values[:] = [name(each) for each in values]
    used = {each for node in graph.node for each in node.input}
    for each in graph.initializer:
        each.name = name(each.name)
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return _bytes(model)
