"""Core ML: an .mlpackage, which is a folder. It is written anywhere and runs on Apple's systems alone."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from skd._formats import Call, Written, inputs_of, need, plain, quiet, short, trace
from skd.errors import ExportError


def as_coreml(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """An ML program in float32, of one size unless sizes are given, for iOS 16 and macOS 13 on.

    What can be checked here is: the converted program takes and gives what the network does, by its own description.
    """
    tools = need("coremltools", "coreml", "exporting for Core ML")
    program = trace(model, call, False if dynamic is True else dynamic)
    try:
        # It draws bars on stderr, and can't be told not to.
        with quiet(), contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as folder:
            made = tools.convert(
                plain(program),
                minimum_deployment_target=tools.target.iOS16,
                compute_precision=tools.precision.FLOAT32,
                skip_model_load=True,
            )
            path = Path(folder, "model.mlpackage")
            made.save(str(path))
            files = {
                each.relative_to(path).as_posix(): each.read_bytes()
                for each in sorted(path.rglob("*"))
                if each.is_file() and "debug" not in each.name
            }
            told = made.get_spec().description
    except Exception as error:  # an operator that it hasn't
        raise ExportError("the network can't be converted to Core ML", got=short(error)) from error
    values = [node.meta.get("val") for node in program.graph.find_nodes(op="output")[0].args[0]]
    wanted = [tuple(each.shape) for each in values if isinstance(each, Tensor)]
    found = [tuple(each.type.multiArrayType.shape) for each in told.output]
    if dynamic in (True, False) and found != wanted:
        raise ExportError("what was converted answers with other shapes", got=found, expected=wanted)
    return Written(files, inputs_of(program), None)
