"""One forward run with hooks: capture features, put in substitutes."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from skd._values import inputs, locate, replaced
from skd.errors import FeatureError, ShapeError

if TYPE_CHECKING:
    from skd._tap import Tap

_COPIED: Final = -1  # stands for the version of a copy, which nobody else can change


class _Stop(BaseException):
    """Ends a forward after the last capture; no Exception, so that a model's own `except Exception` lets it pass."""

    def __init__(self, run: Run) -> None:
        self.run = run


class Spot(NamedTuple):
    """One side of one module, and what is wanted there: (call, slot) of features and (call, tap, tensor) to put in."""

    module: nn.Module
    side: str
    fixed: tuple[tuple[int, int], ...] = ()
    last: tuple[tuple[int, int], ...] = ()  # the same for calls that count from the last
    puts: tuple[tuple[int, Tap, Tensor], ...] = ()


class Run:
    """What one forward has captured. It lives as long as the forward, so nothing is retained."""

    def __init__(self, taps: tuple[Tap, ...], spots: int, *, stop: bool, compiling: bool) -> None:
        self.taps = taps
        self.features: list[Tensor | None] = [None] * len(taps)
        self.versions = [_COPIED] * len(taps)
        self.recent: list[list[tuple[Tensor, int]]] = [[] for _ in taps]
        self.calls = [0] * spots
        self.missing = len(taps)  # those whose call counts from the last stay missing until the end
        self.put: list[tuple[Tap, Tensor, int]] = []
        self.stop = stop
        self.compiling = compiling
        self.grad = torch.is_grad_enabled()
        self.error: Exception | None = None
        # Replicas and other threads share the modules' hook dicts, and a checkpoint may recompute a layer inside a
        # backward that the model itself runs: neither is a call of this forward.
        self.thread = 0 if compiling else threading.get_ident()
        self.task = 0 if compiling else torch._C._current_graph_task_id()

    def see(self, index: int, spot: Spot, value: Any) -> Any:
        """Count a call, put in the substitutes and take the features; the value to go on with, or None."""
        if not self.compiling and (
            threading.get_ident() != self.thread or torch._C._current_graph_task_id() != self.task
        ):
            return None
        call = self.calls[index]
        self.calls[index] = call + 1
        new = None
        for wanted, tap, tensor in spot.puts:
            if wanted == call:
                value = new = self.replace(value, tap, tensor)
        for wanted, slot in spot.fixed:
            if wanted == call:
                self.features[slot], self.versions[slot] = self.take(value, self.taps[slot])
                self.missing -= 1
        for wanted, slot in spot.last:
            recent = self.recent[slot]
            recent.append(self.take(value, self.taps[slot]))
            if len(recent) > -wanted:
                recent.pop(0)
        if self.stop and not self.missing:
            raise _Stop(self)
        return new

    def take(self, value: Any, tap: Tap) -> tuple[Tensor, int]:
        tensor = value if isinstance(value, Tensor) and not tap.path else locate(value, tap)[1]
        if self.grad and not self.compiling and not torch.is_grad_enabled() and _loses_gradient():
            raise FeatureError(
                f"the feature at tap '{tap}' carries no gradient, as its layer runs inside a reentrant checkpoint",
                remedy="checkpoint(..., use_reentrant=False), or tap a layer outside the checkpointed segment",
            )
        if tap.channels_last:
            tensor = tensor.movedim(-1, 1)
        return self.versioned(tensor, tap)

    def replace(self, value: Any, tap: Tap, tensor: Tensor) -> Any:
        path, old = locate(value, tap)
        if tap.channels_last:
            old = old.movedim(-1, 1)
        if tensor.shape != old.shape:
            raise ShapeError(
                f"the substitute for tap '{tap}' has another shape than the feature",
                got=tuple(tensor.shape),
                expected=tuple(old.shape),
            )
        if self.grad and not self.compiling and _checkpoint_frame() is not None:
            raise FeatureError(
                f"tap '{tap}' can't be substituted inside a checkpointed segment: its recomputation in the backward "
                "would run without the substitute, and the gradients would be wrong",
                remedy="switch activation checkpointing off for this layer",
            )
        tensor, version = self.versioned(tensor, tap)
        self.put.append((tap, tensor, version))
        return replaced(value, path, tensor.movedim(1, -1) if tap.channels_last else tensor)

    def versioned(self, tensor: Tensor, tap: Tap) -> tuple[Tensor, int]:
        """The tensor and its version, by which a later change in place is seen."""
        # Neither a compiled graph nor inference mode shows versions; there a copy is the only way to a right value.
        # Inductor drops the copies that turn out to be needless.
        if tap.clone or self.compiling or tensor.is_inference():
            return tensor.clone(), _COPIED
        return tensor, tensor._version

    def result(self, spots: tuple[Spot, ...]) -> dict[Tap, Tensor]:
        """The complete features, or a FeatureError."""
        error, self.error = self.error, None
        if error is not None:  # raised in a hook, and swallowed by the model
            raise error
        for index, spot in enumerate(spots):
            for wanted, slot in spot.last:
                if len(self.recent[slot]) == -wanted:
                    self.features[slot], self.versions[slot] = self.recent[slot][0]
                else:
                    raise _never(self.taps[slot], spot, self.calls[index])
            for wanted, slot in spot.fixed:
                if wanted >= self.calls[index]:
                    raise _never(self.taps[slot], spot, self.calls[index])
            for wanted, tap, _ in spot.puts:
                if wanted >= self.calls[index] and not (self.stop and not self.missing):
                    raise _never(tap, spot, self.calls[index])
        features: dict[Tap, Tensor] = {}
        for tap, tensor, version in zip(self.taps, self.features, self.versions, strict=True):
            if tensor is None:
                raise FeatureError(f"tap '{tap}' was reached, but its feature is missing")
            if version != _COPIED and tensor._version != version:
                raise _changed(f"the feature at tap '{tap}' was changed in place after its capture", tap)
            features[tap] = tensor
        for tap, tensor, version in self.put:
            if version != _COPIED and tensor._version != version:
                raise _changed(f"the substitute given for tap '{tap}' was changed in place by the model", tap)
        return features


def _never(tap: Tap, spot: Spot, calls: int) -> FeatureError:
    if calls:
        return FeatureError(
            f"tap '{tap}' asks for call {tap.call} of its layer",
            got=f"{calls} call{'s' * (calls > 1)} in this forward",
            remedy="calls count from 0; negative ones count from the last",
        )
    kind = type(spot.module).__name__
    if isinstance(spot.module, (nn.ModuleList, nn.ModuleDict)):
        remedy = f"a {kind} is never called itself; tap one of its layers"
    else:
        remedy = (
            "tap a layer that this input reaches; a layer isn't called where the model skips it, uses its weights or "
            "its forward() directly, or was compiled or scripted on its own"
        )
    return FeatureError(f"tap '{tap}' was never reached: its layer ({kind}) didn't run", got="0 calls", remedy=remedy)


def _changed(what: str, tap: Tap) -> FeatureError:
    return FeatureError(
        what,
        remedy=f"Tap({tap.layer!r}, …, clone=True), tap another layer, or set inplace=False where it is changed",
    )


def _checkpoint_frame() -> types.FrameType | None:
    """The innermost frame of an activation checkpoint between here and the `capture` above."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not capture.__code__:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return frame
        frame = frame.f_back
    return None


def _loses_gradient() -> bool:
    """Whether a reentrant checkpoint, which runs without gradients, hides a gradient that is there."""
    frame = _checkpoint_frame()
    if frame is None or frame.f_code is not CheckpointFunction.forward.__code__:
        return False
    return any(isinstance(arg, Tensor) and arg.requires_grad for arg in frame.f_locals["args"])


class _Hook:
    """Attached to a module while a forward runs; serves as forward hook and, with kwargs, as forward pre-hook.

    A copy or pickle that is made of the model meanwhile gets a callable of the standard library that does nothing.
    """

    __slots__ = ("index", "run", "spot")

    def __init__(self, run: Run, index: int, spot: Spot) -> None:
        self.run, self.index, self.spot = run, index, spot

    def __call__(self, module: nn.Module, args: tuple[Any, ...], more: Any) -> Any:
        run, spot = self.run, self.spot
        output = spot.side == "output"
        value = more if output else inputs(args, more)
        if run.compiling:
            new = run.see(self.index, spot, value)
        else:
            try:
                new = run.see(self.index, spot, value)
            except Exception as error:
                run.error = error
                raise
        if new is None or output:
            return new
        return tuple(new[place] for place in range(len(args))), {name: new[name] for name in more}

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


def capture(model: nn.Module, spots: tuple[Spot, ...], run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the model with a hook at each spot; its output, or None where it was stopped. The hooks are gone after."""
    attached: list[tuple[Any, ...]] = []
    try:
        for index, spot in enumerate(spots):
            _attach(_Hook(run, index, spot), attached)
        output = model(*args, **kwargs)
        return None if run.stop and not run.missing else output  # the model swallowed the stop
    except _Stop as stopped:
        if stopped.run is not run:
            raise
        return None
    except Exception:
        run.error = None  # it's on its way; kept here it would hold its own frames, and the features in them
        raise
    finally:
        _detach(attached, compiling=run.compiling)


def _attach(hook: _Hook, attached: list[tuple[Any, ...]]) -> None:
    """Attach a hook after the user's own, and note how to take it off again."""
    module = hook.spot.module
    output = hook.spot.side == "output"
    names = ("_forward_hooks",) if output else ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    if hook.run.compiling:
        # Dynamo traces a hook where the dict is *set* within the traced forward, and not where it is filled. Read from
        # __dict__, the old one has an origin that dynamo knows, so that it is the very same afterwards.
        key = -1 - len(module.__dict__[names[0]])
        for name in names:
            old = module.__dict__[name]
            setattr(module, name, {**old, key: hook})
            attached.append((module, name, old))
    else:  # filled, so that hooks which come or go during the forward keep their handles
        for name in names:
            hooks = getattr(module, name)
            hooks[hook] = hook
            attached.append((hooks, hook))


def _detach(attached: list[tuple[Any, ...]], *, compiling: bool) -> None:
    for entry in reversed(attached):
        if compiling:
            setattr(*entry)
        else:
            entry[0].pop(entry[1], None)
