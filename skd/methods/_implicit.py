"""Squared errors of a widened feature that is never made: its sums come from those of the student's narrow feature.

A `ChannelAdapter` makes y = W x + b, as wide as the teacher, only for it to be compared and forgotten. With x̄ the
student's feature less its mean over positions, C = x̄ x̄ᵀ and M = t x̄ᵀ of a sample,

    Σ (ȳ − t̄)² = ⟨W C, W⟩ − 2 ⟨W, M⟩ + Σ t̄²,    mean(y) = W mean(x) + b,    var(y) = diag(W C Wᵀ) / N,

so that the teacher's feature is read for M, for its own moments and for M's gradient to x, and nothing of its size is
kept for the backward: two to five times as fast as a convolution, a difference and their gradients. In float32, or
float64 where given; the difference of the sums is exact to some 1e-6 of the teacher's energy
(1e-3 on a GPU whose matrix products are allowed TF32).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from skd.adapters import Chain, ChannelAdapter, SpaceAdapter
from skd.distances import mse, normalised_mse
from skd.knowledge import centred, mean_std, raw
from skd.knowledge._common import no_autocast, working_dtype
from skd.methods.transfer import Transfer
from skd.taps import to_bcn

Known = dict[Any, Any]  # what rows of the same features share within a step
Made = TypeVar("Made")
Kind = Literal["raw", "centred", "mean_std"]
KINDS: tuple[tuple[Any, Kind], ...] = ((raw, "raw"), (centred, "centred"), (mean_std, "mean_std"))


class _Ours(NamedTuple):
    """Of the student's feature (B, S, N): its mean (B, S), itself without that, and the sums of products (B, S, S)."""

    mean: Tensor
    centred: Tensor
    products: Tensor

    @classmethod
    def of(cls, feature: Tensor) -> _Ours:
        mean = feature.mean(2)
        bare = feature - mean[..., None]
        return cls(mean, bare, bare @ bare.mT)


class _Theirs(NamedTuple):
    """The teacher's feature (B, T, N), its mean, and its variance (B, T) where a row needs that."""

    feature: Tensor
    mean: Tensor
    variance: Tensor | None

    @classmethod
    def of(cls, feature: Tensor, *, varies: bool) -> _Theirs:
        mean = feature.mean(2)
        # Not `torch.var`, which takes ten times as long on the CPU.
        return cls(feature, mean, (feature - mean[..., None]).square().mean(2) if varies else None)


class Implicit(NamedTuple):
    """How a row's loss is had without its adapter's output; `of` finds out whether it can be.

    Parameters
    ----------
    row : Transfer
    adapter : ChannelAdapter
    kind : {"raw", "centred", "mean_std"}
        Its knowledge.
    eps : float or None
        The least energy that is divided by; None for `mse`, which doesn't divide.
    least : float
        What `mean_std` adds to a variance.
    """

    row: Transfer
    adapter: ChannelAdapter
    kind: Kind
    eps: float | None
    least: float

    @classmethod
    def of(cls, row: Transfer) -> Implicit | None:
        """None for a row that is anything but a squared error behind an adapter that widens."""
        adapter = _adapter(row)
        knowledge, options = _unbound(row.knowledge)
        distance, given = _unbound(row.distance)
        kind = next((name for function, name in KINDS if function is knowledge), None)
        squared = distance is mse or distance is normalised_mse
        if adapter is None or kind is None or not squared:
            return None
        eps = None if distance is mse else given.get("eps", 1e-8)
        return cls(row, adapter, kind, eps, options.get("eps", 1e-5))

    def __call__(self, student: Tensor, teacher: Tensor, known: Known) -> Tensor | None:
        """The row's loss from features as the networks made them; None where they don't fit, or hooks watch."""
        adapter = self.adapter
        layout = adapter.layout
        if student.ndim != teacher.ndim or any(_watched(module) for module in _modules(self.row)):
            return None
        x, t = to_bcn(student, layout), to_bcn(teacher, layout)
        wide, narrow = adapter.weight.shape
        if x.shape[1] != narrow or t.shape[1] != wide or student.shape[0] != teacher.shape[0]:
            return None  # whatever says so says it better
        if x.shape[2] < 2 or _space(student, layout) != _space(teacher, layout):
            return None
        dtype, row = working_dtype(x, t, adapter.weight), self.row
        with no_autocast(x.device):
            ours = _once(known, (row.student_taps, layout, dtype), lambda: _Ours.of(x.to(dtype)))
            varies = self.kind != "raw"
            key = row.of, row.teacher_taps, layout, dtype, varies
            theirs = _once(known, key, lambda: _Theirs.of(t.to(dtype), varies=varies))
            return self._loss(ours, theirs)

    def _loss(self, ours: _Ours, theirs: _Theirs) -> Tensor:
        weight, bias = self.adapter.weight.to(ours.mean.dtype), self.adapter.bias
        feature, count, positions = theirs.feature, theirs.feature.numel(), theirs.feature.shape[2]
        squares = ((weight @ ours.products) * weight).sum(2)  # of each channel of y, less its mean
        mean = ours.mean @ weight.T
        if bias is not None:
            mean = mean + bias.to(mean.dtype)
        if self.kind == "mean_std" and theirs.variance is not None:
            both = (mean, squares.clamp_min(0) / positions), (theirs.mean, theirs.variance)
            return self.row.distance(*(torch.cat((m, (v + self.least).sqrt()), 1) for m, v in both))
        energy = feature.square().sum() if theirs.variance is None else positions * theirs.variance.sum()
        # In this order the product is quick in either memory format.
        error = squares.sum() - 2 * ((ours.centred @ feature.mT) * weight.T).sum() + energy
        if self.kind == "raw":
            error = error + positions * ((mean - theirs.mean).square() - theirs.mean.square()).sum()
        elif bias is not None:  # no offset changes it, but DDP and weight decay want a gradient of each parameter
            error = error + 0 * bias.sum()
        error = error + (error.clamp_min(0) - error).detach()  # which rounding could take below it
        if self.eps is None:
            return error / count
        return error / count / (energy / count).clamp_min(self.eps)


def _once(known: Known, key: Any, make: Callable[[], Made]) -> Made:
    if key not in known:
        known[key] = make()
    found: Made = known[key]
    return found


def _adapter(row: Transfer) -> ChannelAdapter | None:
    """The student's only adapter, if it widens and nothing else happens to features of equal sizes."""
    if row.through is not None or len(row.student_adapters) != 1 or row.teacher_adapters != (None,):
        return None
    found = row.student_adapters[0]
    parts = list(found.adapters) if type(found) is Chain else [found]
    first, rest = parts[0], parts[1:]
    if type(first) is not ChannelAdapter or any(type(part) is not SpaceAdapter or part.size for part in rest):
        return None
    wide, narrow = first.weight.shape
    return first if narrow < wide else None


def _modules(row: Transfer) -> list[nn.Module]:
    return [module for adapter in row.student_adapters if adapter is not None for module in adapter.modules()]


def _watched(module: nn.Module) -> bool:
    """Whether somebody's hook waits for the module to run, or another function runs in its place."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks) or "forward" in vars(module)


def _unbound(function: Any) -> tuple[Any, dict[str, Any]]:
    """A function and the options that it is bound with."""
    return getattr(function, "function", function), dict(getattr(function, "options", ()))


def _space(feature: Tensor, layout: str) -> tuple[int, ...]:
    """The lengths of all axes but batch and channels."""
    return tuple(n for axis, n in zip(layout, feature.shape, strict=True) if axis not in "BC")
