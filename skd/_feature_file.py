"""Tensors as bytes and back, without a pickle: that takes longer to read than small features take to compare."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNED = 64  # bytes: where a tensor may begin
LENGTH = 8  # bytes of the header's length


class Kept(NamedTuple):
    """A feature as it is written, its own type, and whether its channels lay last."""

    values: Tensor
    dtype: torch.dtype
    last: bool


def packed(features: Sequence[Kept]) -> bytes:
    """A header in JSON, and the values of each feature in the order in which they lie.

    Examples
    --------
    >>> one = Kept(torch.arange(6.0).reshape(2, 3).half(), torch.float32, True)
    >>> unpacked(packed([one]))[0].values
    tensor([[0., 1., 2.],
            [3., 4., 5.]], dtype=torch.float16)
    """
    about = [[_name(each.values.dtype), list(each.values.shape), _name(each.dtype), each.last] for each in features]
    header = json.dumps(about).encode()
    parts = [len(header).to_bytes(LENGTH, "little") + header]
    for each in features:
        parts.append(bytes(-sum(map(len, parts)) % ALIGNED))
        parts.append(each.values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return b"".join(parts)


def unpacked(content: bytes) -> list[Kept]:
    """What `packed` was given."""
    whole = bytearray(content)  # torch wants memory that may be written to
    place = LENGTH + int.from_bytes(whole[:LENGTH], "little")
    found = []
    for name, shape, own, last in json.loads(whole[LENGTH:place]):
        place += -place % ALIGNED
        dtype: torch.dtype = getattr(torch, name)
        count = math.prod(shape)
        values = (
            torch.frombuffer(whole, dtype=dtype, count=count, offset=place) if count else torch.empty(0, dtype=dtype)
        )
        found.append(Kept(values.reshape(shape), getattr(torch, own), last))
        place += count * dtype.itemsize
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
