"""ncnn, through pnnx: a .param of the layers and a .bin of the weights, for phones."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from skd._formats import Call, Written, addcmul, need, quiet, short, tensors, var_mean
from skd.errors import ExportError

PURPOSE = "exporting for ncnn"


def as_ncnn(model: nn.Module, call: Call, dynamic: Any) -> Written:
    """Of one sample, in float32. ncnn runs it. Sizes may vary unless `dynamic` is False; pnnx finds where they do."""
    ncnn, pnnx = need("ncnn", "ncnn", PURPOSE), need("pnnx", "ncnn", PURPOSE)
    given = tensors(call)
    if any(len(each) != 1 for each in given):
        raise ExportError("ncnn takes one sample at a time", got=f"a batch of {max(map(len, given))}")
    trace: Callable[..., Any] = torch.jit.trace
    try:
        with quiet(), torch.no_grad(), _Plain():
            traced = trace(_Flat(model, call), tuple(given), check_trace=False)
    except Exception as error:  # whatever the network's code does under tracing
        raise ExportError("the network can't be traced", got=short(error)) from error
    param, weights = _converted(traced, given, dynamic is not False, Path(str(pnnx.__file__)).parent)
    net = ncnn.Net()
    # As the file says: by itself ncnn computes in half precision where the processor can.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param_mem(param.decode()) != 0:
        raise ExportError("ncnn doesn't read what pnnx wrote", got=f"{len(param)} bytes")
    net.load_model_mem(weights)
    outputs = _names(param, "out")

    def answer(call: Call) -> list[Tensor]:
        run = net.create_extractor()
        for k, each in enumerate(tensors(call)):
            run.input(f"in{k}", ncnn.Mat(np.ascontiguousarray(each[0].detach().numpy())).clone())
        found = [run.extract(name) for name in outputs]
        if bad := [name for name, (code, _) in zip(outputs, found, strict=True) if code != 0]:
            raise RuntimeError(f"no answer for {', '.join(bad)}")
        return [torch.from_numpy(np.array(each))[None] for _, each in found]

    free = {k: f"s{k}" for k in range(2, 6)} if dynamic is not False else {}
    inputs = {f"in{n}": tuple(free.get(k, size) for k, size in enumerate(each.shape)) for n, each in enumerate(given)}
    return Written({"": param, ".bin": weights}, inputs, answer)


def _converted(traced: Any, given: Sequence[Tensor], dynamic: bool, package: Path) -> tuple[bytes, bytes]:
    """What pnnx writes: the layers and their weights."""
    program = next((path for path in package.rglob("pnnx*") if path.is_file() and path.stem == "pnnx"), None)
    if program is None:
        raise ExportError("pnnx has no program for this system", got=str(package))
    shapes = [f"inputshape={_shapes(each.shape for each in given)}"]
    if dynamic:  # where two sizes differ, it takes them for free
        shapes.append(f"inputshape2={_shapes((*each.shape[:2], *(2 * n for n in each.shape[2:])) for each in given)}")
    with tempfile.TemporaryDirectory() as folder:
        traced.save(str(Path(folder, "net.pt")))
        done = subprocess.run([program, "net.pt", *shapes, "fp16=0"], cwd=folder, capture_output=True, text=True)
        param, weights = Path(folder, "net.ncnn.param"), Path(folder, "net.ncnn.bin")
        if done.returncode != 0 or not param.exists():
            said = " ".join(done.stderr.split())[-300:]
            raise ExportError(
                "pnnx can't convert the network",
                got=f"exit {done.returncode}: {said}",
                remedy="export with dynamic=False, if its code fixes the sizes",
            )
        content = param.read_bytes()
        # A layer that ncnn lacks keeps the name that torch or pnnx has for it.
        lacking = sorted(set(re.findall(r"^(\S*(?:\.|::)\S*)", content.decode(), re.MULTILINE)))
        if lacking:
            raise ExportError("ncnn has no layer for some operators", got=", ".join(lacking))
        return content, weights.read_bytes()


def _shapes(shapes: Iterable[Sequence[int]]) -> str:
    return ",".join(f"[{','.join(map(str, shape))}]f32" for shape in shapes)


def _names(param: bytes, prefix: str) -> list[str]:
    """Of the network's outputs, in their order."""
    found = set(re.findall(rf"\b{prefix}(\d+)\b", param.decode()))
    return [f"{prefix}{number}" for number in sorted(map(int, found))]


class _Flat(nn.Module):
    """Tensors alone in and out: what isn't one is fixed."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self.leaves, self.spec = pytree.tree_flatten(call)

    def forward(self, *given: Tensor) -> Any:
        left = iter(given)
        leaves = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        out = tensors(self.model(*args, **kwargs))
        return out[0] if len(out) == 1 else tuple(out)


class _Plain(TorchFunctionMode):
    """Writes what ncnn hasn't in what it has, as `_formats.plain` does for programs."""

    known: Mapping[Any, Callable[..., Any]] = {torch.var_mean: var_mean, torch.addcmul: addcmul}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.known.get(func, func)(*args, **(kwargs or {}))
