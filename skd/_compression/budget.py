"""Sizes: what a person writes, and what a state dict takes on disk, which is counted as a safetensors file."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skd.errors import ArgumentError

UNITS = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}
_SIZE = re.compile(r"\s*(\d[\d_,]*(?:\.\d+)?)\s*(B|KB|MB|GB)\s*", re.IGNORECASE)

# What a safetensors file calls the types of numbers.
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Size = tuple[tuple[int, ...], torch.dtype]


def parse_size(size: str | int) -> int:
    """Bytes of a size; a KB has 1,024.

    Raises
    ------
    ArgumentError
        It isn't a positive size.

    Examples
    --------
    >>> parse_size("200 KB"), parse_size("1.5 MB"), parse_size("200_000 B"), parse_size(4096)
    (204800, 1572864, 200000, 4096)
    """
    expected = "bytes as an integer, or text such as '200 KB', '1.5 MB' or '200_000 B'"
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        if match is None:
            raise ArgumentError("this isn't a size", got=repr(size), expected=expected)
        number, unit = match.groups()
        bytes_ = int(float(number.replace("_", "").replace(",", "")) * UNITS[unit.upper()])
    elif type(size) is int:
        bytes_ = size
    else:
        raise ArgumentError("this isn't a size", got=repr(size), expected=expected)
    if bytes_ < 1:
        raise ArgumentError("a size must be positive", got=repr(size), expected=expected)
    return bytes_


def size_text(bytes_: int) -> str:
    """A size for people.

    Examples
    --------
    >>> size_text(204_799), size_text(3 * 1024**2), size_text(100)
    ('200.0 KB', '3.0 MB', '100 B')
    """
    if bytes_ < 1024:
        return f"{bytes_} B"
    return f"{bytes_ / 1024:,.1f} KB" if bytes_ < 1024**2 else f"{bytes_ / 1024**2:,.1f} MB"


def sizes_of(model: nn.Module, dtype: torch.dtype) -> dict[str, Size]:
    """Shape and saved dtype of every tensor of the state dict; those that are one parameter count once."""
    seen: set[int] = set()
    found: dict[str, Size] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = (tuple(tensor.shape), dtype if tensor.is_floating_point() else tensor.dtype)
    return found


def data_bytes(sizes: Mapping[str, Size]) -> int:
    """Bytes of the numbers alone."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in sizes.values())


def header(sizes: Mapping[str, Size]) -> bytes:
    """The head of a safetensors file: names, types, shapes and offsets, wide types first."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in sorted(sizes, key=lambda name: (-sizes[name][1].itemsize, name)):
        shape, dtype = sizes[name]
        end = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def file_bytes(sizes: Mapping[str, Size]) -> int:
    """Bytes of the safetensors file of such a state dict."""
    return len(header(sizes)) + data_bytes(sizes)


def to_file(model: nn.Module, dtype: torch.dtype) -> bytes:
    """The safetensors file of a network, floating point numbers in this dtype."""
    sizes, state = sizes_of(model, dtype), model.state_dict()
    parts = [header(sizes)]
    for name in sorted(sizes, key=lambda name: (-sizes[name][1].itemsize, name)):
        tensor = state[name].detach().to("cpu", sizes[name][1]).contiguous()
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return b"".join(parts)
