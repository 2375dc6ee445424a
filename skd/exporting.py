"""export(): a network as a file that other runtimes load, written only if it answers as the network does."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skd._exporting import answer_of, calls_of, file_of, write
from skd._formats import Answer, Call, Written, as_onnx, as_program, short
from skd._formats_coreml import as_coreml
from skd._formats_executorch import as_executorch
from skd._formats_ncnn import as_ncnn
from skd._formats_openvino import as_openvino
from skd._training.trained import modes_kept
from skd.errors import ArgumentError, ExportError

__all__ = ["Exported", "export"]

FORMATS: dict[str, Callable[[nn.Module, Call, Any], Written]] = {
    ".onnx": as_onnx,
    ".pt2": as_program,
    ".xml": as_openvino,
    ".param": as_ncnn,
    ".pte": as_executorch,
    ".mlpackage": as_coreml,
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path : Path
    bytes : int
        The file's size, with what goes beside it or, where it is a folder, in it.
    inputs : mapping of str to tuple
        Each input's shape; a dimension that may vary is a name, a fixed one a number.
    difference : float or None
        The largest from torch's answers, over the example and the checks, in units of the largest value of each answer
        (of 1 where that is smaller). None: nothing here runs the format; it was converted and is unchecked.

    Examples
    --------
    >>> Exported(Path("net.onnx"), 203_000, {"x": ("s0", 3, "s1", "s2")}, 1e-6).inputs["x"][1]
    3
    """

    path: Path
    bytes: int
    inputs: Mapping[str, tuple[int | str, ...]]
    difference: float | None

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in self.inputs.items())
        told = "not run here" if self.difference is None else f"{self.difference:.1e} from torch at most"
        return f"{self.path}: {self.bytes:,} bytes, {shapes}; {told}"


def export(
    model: nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    checks: Sequence[Any] = (),
    dynamic: bool | Mapping[str, Any] | Sequence[Any] = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write a network, in eval mode, for another runtime.

    ================ ============================= ==========================================
    ending           format                        sizes
    ================ ============================= ==========================================
    ``.onnx``        ONNX                          may vary
    ``.pt2``         a program of torch.export     may vary
    ``.xml``         OpenVINO, with a ``.bin``     may vary
    ``.ncnn.param``  ncnn, with an ``.ncnn.bin``   may vary; one sample
    ``.pte``         ExecuTorch, for XNNPACK       the example's, or by bounds in `dynamic`
    ``.mlpackage``   Core ML, a folder             the example's
    ================ ============================= ==========================================

    What was written is read again and run on the example and the checks; it stays only if its answers are torch's. Core
    ML doesn't run here: of it the conversion alone is checked. The network is left as it was.

    Parameters
    ----------
    model : nn.Module
    example : Tensor, tuple or dict
        What the network is called with: a tensor, positional or keyword arguments.
    path : path
        Its suffix says the format.
    checks : sequence of examples, optional
        Further ones, such as of other sizes, that the file must answer as well.
    dynamic : bool, or what `torch.export.export` takes as dynamic_shapes
        Which dimensions may vary. True: all those of the example that are larger than 1, as far as the network's own
        code doesn't fix them (`Exported.inputs` tells); False: none.
    tolerance : float
        How far answers may be apart, in the units of `Exported.difference`.

    Raises
    ------
    ArgumentError
        A format that isn't known; what is no network, no path, no list of checks or no tolerance.
    MissingExtraError
        What the format needs isn't installed: the extras are onnx, openvino, ncnn, executorch and coreml.
    ExportError
        The network can't be exported, or the file's answers are others than torch's: nothing is written. Or its own
        answers are NaN or no tensors, and can't be compared.
    FileError
        It can't be written there; the folder isn't made.
    DataError
        The example isn't what the network can be called with.

    Examples
    --------
    >>> import tempfile
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(net, torch.rand(2, 3, 16, 24), Path(folder, "net.pt2"), checks=[torch.rand(1, 3, 32, 32)])
    >>> done.difference
    0.0
    """
    target = file_of(path, FORMATS)
    if not 0 <= tolerance < math.inf:
        raise ArgumentError("tolerance is how far answers may be apart", got=tolerance, expected="a number from 0 up")
    calls = calls_of(model, example, checks)
    with modes_kept(model), torch.no_grad():
        model.eval()
        wanted = [answer_of(model, *each) for each in calls.items()]
        written = FORMATS[target.suffix](model, calls["the example"], dynamic)
        apart = [
            _apart(written.answer, call, want, which, tolerance)
            for (which, call), want in zip(calls.items(), wanted, strict=True)
            if written.answer is not None
        ]
    write(target, written.files)
    return Exported(target, sum(map(len, written.files.values())), written.inputs, max(apart, default=None))


def _apart(answer: Answer, call: Call, wanted: Sequence[Tensor], which: str, tolerance: float) -> float:
    """How far the file's answer is from torch's; raises where that is too far."""
    try:
        got = answer(call)
    except Exception as error:  # a runtime raises what it likes
        raise ExportError(
            f"what was exported doesn't run on {which}",
            got=short(error),
            remedy="make the network's code the same for all sizes, or export with dynamic=False",
        ) from error
    if [tuple(each.shape) for each in got] != [tuple(each.shape) for each in wanted]:
        raise ExportError(
            f"what was exported answers {which} with other shapes",
            got=[tuple(each.shape) for each in got],
            expected=[tuple(each.shape) for each in wanted],
        )
    found = 0.0
    for ours, theirs in zip(wanted, got, strict=True):
        if ours.numel():
            one, two = ours.double(), theirs.double()
            largest = float(one.abs().where(one.isfinite(), 1.0).max())
            off = (one - two).abs().masked_fill(one == two, 0.0)  # infinity, too, may be the answer
            found = max(found, float(off.nan_to_num(math.inf, math.inf).max()) / max(1.0, largest))
    if found > tolerance:
        raise ExportError(
            f"what was exported answers {which} otherwise than torch does",
            got=f"{found:.1e} apart",
            expected=f"{tolerance:.1e} at most",
            remedy="give another tolerance=, if that is good enough",
        )
    return found
