"""Weights files: safetensors with the network's configuration in the metadata, so that a file is all one needs.

float32 and float16 files hold a tensor for each of the network's, by its name. An int8 file holds three, as names and
shapes follow from the configuration:

======= ======= ================================================================================================
tensor  type    what it holds, in the order of the network's `state_dict`
======= ======= ================================================================================================
values  int8    each tensor of two or more dimensions, flattened: −127 to 127
scales  float32 a number for each first index (output channel) of these tensors; weight = value × scale
vectors float16 all other tensors (biases)
======= ======= ================================================================================================

A scale is the channel's greatest weight by 127. Values are rounded so that the sum of each kernel plane is kept to half
a step: constant features, smooth surfaces that is, come out as they did. That halved the difference in the pictures or
better, against rounding each value by itself; scales chosen for the least squared error gained next to nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kbstyle_example.files import write_atomically
from kbstyle_example.networks import KBStyle, KBStyleConfig
from skd.errors import ArgumentError, FileError, closest

FOLDER = Path(__file__).parent / "weights"
CHECKSUM = "tensors_sha256"  # in the metadata: of all that follows the header
SHAPE = "2"  # in the metadata, too: of the network's layers; other weights of the same names would paint something else
BUDGET = 204_800  # bytes of KBStyle's whole float32 file: 200 KB of 1,024 bytes
PACKED = ("values", "scales", "vectors")
Stored = Literal["float32", "float16", "int8"]


def bundled() -> dict[str, Path]:
    """The weights that come with the package, by name: teacher, kbstyle, kbstyle-float16, kbstyle-int8.

    Examples
    --------
    >>> "teacher" in bundled()
    True
    """
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"), key=lambda path: path.stem)}


def encoded(network: KBStyle, *, about: Mapping[str, str] | None = None, dtype: Stored = "float32") -> bytes:
    """The weights file of a network; the same network and facts give the same bytes.

    Parameters
    ----------
    network : KBStyle
    about : mapping of str to str, optional
        Further metadata: steps, seed, data.
    dtype : {"float32", "float16", "int8"}
        How the weights are stored, see the head of this module.

    Raises
    ------
    ArgumentError
        Another dtype, or weights that it can't hold: not finite, or beyond 65,504 in float16.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> [-(-len(encoded(KBStyle(STUDENT), dtype=dtype)) // 1024) for dtype in ("float32", "float16", "int8")]
    [199, 103, 53]
    """
    if dtype not in get_args(Stored):
        raise ArgumentError("how to store weights", got=dtype, expected=" or ".join(get_args(Stored)))
    state = {name: tensor.detach().float().contiguous().cpu() for name, tensor in network.state_dict().items()}
    tensors = _packed(state) if dtype == "int8" else {k: v.to(getattr(torch, dtype)) for k, v in state.items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ArgumentError(f"weights that {dtype} can't hold", got=name, expected="finite numbers")
    facts = {**(about or {}), "kbstyle": json.dumps(network.config.as_dict()), "shape": SHAPE, CHECKSUM: "0" * 64}
    content = save(tensors, facts)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    facts[CHECKSUM] = sha256(content[start:]).hexdigest()
    header["__metadata__"] = dict(sorted(facts.items()))  # safetensors shuffles it
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def save_weights(
    network: KBStyle, path: str | os.PathLike[str], *, about: Mapping[str, str] | None = None, dtype: Stored = "float32"
) -> int:
    """Write a network whole or not at all; returns the file's size in bytes.

    Parameters
    ----------
    network : KBStyle
    path : path
    about : mapping of str to str, optional
        Further metadata: steps, seed, data.
    dtype : {"float32", "float16", "int8"}
        How the weights are stored, see the head of this module.

    Raises
    ------
    FileError
        It can't be written there.
    ArgumentError
        See `encoded`.

    Examples
    --------
    >>> import tempfile
    >>> from kbstyle_example.networks import STUDENT
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "student.safetensors")
    ...     save_weights(KBStyle(STUDENT), path, about={"seed": "0"}) == path.stat().st_size
    True
    """
    content = encoded(network, about=about, dtype=dtype)
    write_atomically(content, path, what="the weights")
    return len(content)


def load_weights(name: str | os.PathLike[str]) -> KBStyle:
    """A network in eval mode, float32 on the CPU, from a file or by the name of bundled weights.

    Raises
    ------
    FileError
        There are no such weights, or the file isn't a KBStyle network, or not as it was saved (files without a
        checksum in their metadata are taken as they are).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_weights(KBStyle(KBStyleConfig(widths=(4, 6, 8))), Path(folder, "tiny.safetensors"))
    ...     load_weights(Path(folder, "tiny.safetensors")).config.widths
    (4, 6, 8)
    """
    path = _find(name)
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            config, wanted = KBStyleConfig(**json.loads(facts["kbstyle"])), facts.get(CHECKSUM)
            if facts.get("shape") != SHAPE:
                raise ValueError("weights of another version, whose layers stood in another order: train them again")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it isn't a dict)
        packed = state.keys() == set(PACKED)
        most = state["vectors"].numel() if packed else len(state)  # a block has three biases
        if max(config.fine_blocks, config.deep_blocks, config.style_blocks) > most:
            raise ValueError("more blocks than tensors")  # and endless to build
        with torch.device("meta"):  # no first weights to draw, so the caller's random state stays as it is
            network = KBStyle(config)
        if packed:
            state = _unpacked(state, {name: tensor.shape for name, tensor in network.state_dict().items()})
        if not all(tensor.is_floating_point() and bool(tensor.isfinite().all()) for tensor in state.values()):
            raise ValueError("weights that aren't finite numbers")
        network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
        if wanted is not None and _checksum(path) != wanted:
            raise ValueError("the numbers were changed after they were saved: their checksum is another")
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(
            "these aren't the weights of a KBStyle network", got=f"{path} ({type(error).__name__}: {reason})"
        ) from None
    return network.eval()


def about(name: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a weights file, or of bundled weights.

    Raises
    ------
    FileError
        There are no such weights, or it isn't a weights file.

    Examples
    --------
    >>> "kbstyle" in about("teacher")
    True
    """
    path = _find(name)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FileError("the weights can't be read", got=f"{path} ({type(error).__name__})") from None


def _packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    values, scales, vectors = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0)]
    for tensor in state.values():
        if tensor.dim() < 2:
            vectors.append(tensor)
            continue
        scale = tensor.flatten(1).abs().amax(1) / 127
        steps = tensor.double() / torch.where(scale > 0, scale, 1).double().view(-1, *[1] * (tensor.dim() - 1))
        values.append(_rounded(steps.reshape(-1, math.prod(tensor.shape[2:]))).flatten())
        scales.append(scale)
    return {
        "values": torch.cat(values).to(torch.int8),
        "scales": torch.cat(scales),
        "vectors": torch.cat(vectors).to(torch.float16),
    }


def _rounded(planes: Tensor) -> Tensor:
    """Rows rounded so that their sums are the nearest to what they were: those with the greatest remainders go up."""
    down = planes.floor()
    up = (planes - down).sum(1, keepdim=True).round()
    rank = (planes - down).argsort(dim=1, descending=True, stable=True).argsort(1)
    rounded: Tensor = (down + (rank < up)).clamp(-127, 127)
    return rounded


def _unpacked(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    values, scales, vectors = (state[name] for name in PACKED)
    matrices = [shape for shape in shapes.values() if len(shape) > 1]
    sizes = {
        "values": sum(shape.numel() for shape in matrices),
        "scales": sum(shape[0] for shape in matrices),
        "vectors": sum(shape.numel() for shape in shapes.values() if len(shape) < 2),
    }
    kinds = {"values": torch.int8, "scales": torch.float32, "vectors": torch.float16}
    for name in PACKED:
        if state[name].shape != (sizes[name],) or state[name].dtype != kinds[name]:
            raise ValueError(f"{name} should be {sizes[name]} numbers of {kinds[name]}")
    found = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            found[name], vectors = vectors[: shape.numel()].float(), vectors[shape.numel() :]
            continue
        rows = values[: shape.numel()].view(shape[0], -1).float() * scales[: shape[0], None]
        found[name], values, scales = rows.view(shape), values[shape.numel() :], scales[shape[0] :]
    return found


def _checksum(path: Path) -> str:
    content = path.read_bytes()
    return sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def _find(name: str | os.PathLike[str]) -> Path:
    known = bundled()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise FileError(
            "there are no such weights",
            got=str(name),
            expected="a weights file, or the name of bundled ones",
            remedy=closest(str(name), known),
        )
    return path
