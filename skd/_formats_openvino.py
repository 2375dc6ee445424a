"""OpenVINO: an .xml of the layers and a .bin of the weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skd._formats import Call, Written, inputs_of, named, need, onnx_of, trace

PURPOSE = "exporting for OpenVINO"


def as_openvino(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """Through ONNX, as OpenVINO reads it. It runs it, too."""
    openvino = need("openvino", "openvino", PURPOSE)
    program = trace(model, call, dynamic)
    core = openvino.Core()
    # Not convert_model, which calls home.
    made = core.read_model(onnx_of(program, "openvino", PURPOSE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.serialize(made, path)
        files = {"": path.read_bytes(), ".bin": path.with_suffix(".bin").read_bytes()}
        read = core.read_model(path)
    # By itself it takes bfloat16 where the processor has it.
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def answer(call: Call) -> list[Tensor]:
        given = named(program, call)
        feeds = {name: given[name].detach().cpu().numpy() for each in compiled.inputs for name in each.names}
        found = compiled(feeds)
        return [torch.from_numpy(found[each].copy()) for each in compiled.outputs]

    return Written(files, inputs_of(program), answer)
