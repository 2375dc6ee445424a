"""ExecuTorch: a .pte, with what XNNPACK can run given to it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from skd._formats import Call, Written, inputs_of, named, need, plain, quiet, short, tensors, trace
from skd.errors import ExportError

PURPOSE = "exporting for ExecuTorch"


def as_executorch(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """Of one size, unless bounds are given: its memory is laid out ahead. ExecuTorch's own runtime runs it."""
    exir = need("executorch.exir", "executorch", PURPOSE)
    partitioner = need("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch", PURPOSE)
    runtime = need("executorch.runtime", "executorch", PURPOSE)
    program = trace(model, call, False if dynamic is True else dynamic)
    try:
        with quiet():
            content = bytes(
                exir.to_edge_transform_and_lower(plain(program), partitioner=[partitioner.XnnpackPartitioner()])
                .to_executorch()
                .buffer
            )
    except Exception as error:  # an operator that it hasn't
        raise ExportError("the network can't be lowered to ExecuTorch", got=short(error)) from error
    method = runtime.Runtime.get().load_program(content).load_method("forward")

    def answer(call: Call) -> list[Tensor]:
        given = [each.detach().contiguous() for each in named(program, call).values()]
        return [each.clone() for each in tensors(method.execute(given))]

    return Written({"": content}, inputs_of(program), answer)
