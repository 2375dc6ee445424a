"""Digests of what a network is called with, sample by sample."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from skd._values import tensors
from skd.errors import ArgumentError


class Call:
    """What a network is called with: what has the batch's size first is the samples', all else is every sample's.

    Raises
    ------
    ArgumentError
        There is no tensor among it.

    Examples
    --------
    >>> call = Call((torch.zeros(3, 2),), {"scale": 2.0})
    >>> call.batch, len(set(call.digests())), call.first()[0][0].shape
    (3, 1, torch.Size([1, 2]))
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.tensors = [tensor for _, tensor in tensors((args, kwargs))]
        batched = [tensor for tensor in self.tensors if tensor.dim() > 0]
        if not batched:
            raise ArgumentError("a network that is given no tensors has no samples", got="none among the arguments")
        self.batch, self.device = len(batched[0]), batched[0].device

    def digests(self) -> Iterator[bytes]:
        """One a sample.

        Raises
        ------
        ArgumentError
            Something is given whose contents can't be told.
        """
        shared = hashlib.sha256(repr(_plain((self.args, self.kwargs))).encode())
        own = []
        for tensor in self.tensors:
            if self._is_own(tensor):
                own.append(tensor.detach().cpu().contiguous())
            else:
                update(shared, tensor)
        for index in range(self.batch):
            digest = shared.copy()
            for tensor in own:
                update(digest, tensor[index])
            yield digest.digest()

    def first(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call of the first sample alone."""
        return self._cut(self.args), self._cut(self.kwargs)

    def _is_own(self, tensor: Tensor) -> bool:
        return tensor.dim() > 0 and len(tensor) == self.batch

    def _cut(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:1] if self._is_own(value) else value
        if isinstance(value, (list, tuple)):
            made = [self._cut(each) for each in value]
            return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
        if isinstance(value, dict):
            return {name: self._cut(each) for name, each in value.items()}
        return value


def update(digest: Any, value: Any) -> None:
    """Go on with a tensor's type, shape and numbers, or with what else it is."""
    if not isinstance(value, Tensor):
        digest.update(repr(value).encode())
        return
    digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _plain(value: Any) -> Any:
    """What was given, without the tensors' contents."""
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:
        raise ArgumentError(
            "the contents of an argument can't be told",
            got=type(value).__name__,
            expected="tensors, numbers, strings, and lists, tuples and dicts of them",
        ) from None
