"""How a network is trained: length, optimizer, precision, and what is kept on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import nn

from skd._code import code_of, without_addresses
from skd.errors import ArgumentError, MissingExtraError
from skd.schedules import Schedule

__all__ = ["Recipe"]

Precision = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adam", "adamw", "sgd", "soap"]
Curve = Literal["cosine", "constant"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

# How often something is written down, where, and how much is shown: a run may go on with these changed.
_BESIDE = {"log_every", "save_every", "keep", "tensorboard", "cpu", "find_unused"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How `fit` and `distill` train. Frozen: `dataclasses.replace` makes another.

    Parameters
    ----------
    steps : int
        Steps of the optimizer.
    learning_rate : float
        At its highest. Not used where `optimizer` is a callable.
    optimizer : {"adam", "adamw", "sgd", "soap"} or callable
        By name (``sgd`` with momentum 0.9), or a function from parameters to an optimizer, which has its own rates.
        ``soap`` (Vyas et al. 2024, arXiv:2409.11321, algorithm 3) is Adam in the eigenvectors' basis of the gradients'
        covariances: small networks, whose gradients cost more than that, come further in equal time (docs: training).
        It is pytorch-optimizer's, from the extra ``soap``.
    weight_decay : float
        Of the named optimizers.
    schedule : {"cosine", "constant"} or callable
        What the learning rate is multiplied with after `warmup`: a cosine down to a hundredth, 1, or a function of the
        steps done, such as `skd.schedules.Ramp`.
    warmup : int
        Steps in which the learning rate rises in a straight line.
    accumulate : int
        Batches a step: their gradients are averaged.
    clip : float or None
        Largest norm of the gradient.
    average : float, optional
        Decay of an exponential moving average of the weights (0.999, say). It is what is evaluated and kept.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward runs (autocast; the weights stay as they are). float16 scales the loss, and wants a GPU.
    compile : bool or mapping
        Whether networks and losses, forward and backward, go through `torch.compile`, or what it is given by name:
        ``{"mode": "max-autotune"}``. Not beside a `TeacherCache`, which a compiled step doesn't read.
    channels_last : bool
        Bring networks and 4-D batches into the memory format that convolutions are fastest in.
    seed : int
        Of dropout, of whatever the data draw at random, and of what learned adapters begin with (in `skd.distill`).
    seconds : float, optional
        End after so much time. The schedule then follows time where time is ahead, so that the rate still comes down;
        a run that is interrupted isn't repeated bit for bit then.
    evaluate_every : int, optional
        Steps between two evaluations; without it there is one, at the end.
    monitor : str, optional
        The value of the evaluation that says what is best; its first by default.
    maximize : bool
        Whether more of it is better.
    patience : int, optional
        End after so many evaluations in a row without a better value.
    log_every, save_every : int
        Steps between two lines of the log, and two checkpoints.
    keep : int
        How many checkpoints are kept, 2 or more: should the last be damaged, the one before it serves.
    tensorboard : bool
        Write the log's values for TensorBoard, too (needs the package ``tensorboard``).
    cpu : bool
        Train on the CPU, also where there is a GPU.
    find_unused : bool
        Several processes: let parameters be that a step doesn't use (see `DistributedDataParallel`).

    Raises
    ------
    ArgumentError
        A value that can't be.

    Examples
    --------
    >>> Recipe(steps=1000, warmup=0).rate(500), Recipe(steps=1000, schedule="constant").rate(24)
    (0.505, 0.5)
    >>> Recipe(steps=0)
    Traceback (most recent call last):
    skd.errors.ArgumentError: steps of a recipe; got 0; expected 1 or more.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: Optimizer | MakeOptimizer = "adam"
    weight_decay: float = 0.0
    schedule: Curve | Schedule = "cosine"
    warmup: int = 50
    accumulate: int = 1
    clip: float | None = 1.0
    average: float | None = None
    precision: Precision = "float32"
    compile: bool | Mapping[str, Any] = False
    channels_last: bool = False
    seed: int = 0
    seconds: float | None = None
    evaluate_every: int | None = None
    monitor: str | None = None
    maximize: bool = False
    patience: int | None = None
    log_every: int = 10
    save_every: int = 500
    keep: int = 2
    tensorboard: bool = False
    cpu: bool = False
    find_unused: bool = False

    def __post_init__(self) -> None:
        least = {"steps": 1, "warmup": 0, "accumulate": 1, "seed": 0, "log_every": 1, "save_every": 1, "keep": 2}
        optional = {"evaluate_every": 1, "patience": 1}
        for name, smallest in (least | optional).items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if type(value) is not int or value < smallest:
                raise _error(name, value, f"{smallest} or more" if type(value) is int else "an integer")
        for name in ("learning_rate", "clip", "seconds"):
            value = getattr(self, name)
            if not (value is None and name != "learning_rate") and not _number(value, above=0):
                raise _error(name, value, "a finite number above 0")
        if not (_number(self.weight_decay, above=0) or self.weight_decay == 0):
            raise _error("weight_decay", self.weight_decay, "a finite number from 0 up")
        if self.average is not None and not (_number(self.average, above=0) and self.average < 1):
            raise _error("average", self.average, "a number between 0 and 1, such as 0.999")
        if self.seed >= 2**63:
            raise _error("seed", self.seed, "0 to 2⁶³ − 1")
        if not (isinstance(self.compile, bool) or (isinstance(self.compile, Mapping) and self.compile)):
            raise _error("compile", repr(self.compile), "True, False, or torch.compile's arguments by name")
        named: tuple[tuple[str, Any], ...] = (("optimizer", Optimizer), ("schedule", Curve), ("precision", Precision))
        for name, known in named:
            value = getattr(self, name)
            if not (callable(value) and name != "precision") and value not in get_args(known):
                or_callable = "" if name == "precision" else ", or a function"
                raise _error(name, repr(value), ", ".join(get_args(known)) + or_callable)

    def rate(self, step: int, elapsed: float = 0.0) -> float:
        """What the learning rate is multiplied with in the step after `step` steps and `elapsed` seconds.

        Raises
        ------
        ArgumentError
            A schedule of the user's own that is negative or not finite.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return warm
        if callable(self.schedule):
            value = float(self.schedule(step))
            if not 0 <= value < math.inf:
                raise _error("schedule", f"{value} after {step} steps", "a finite number from 0 up")
            return warm * value
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress(step, elapsed)))))

    def progress(self, step: int, elapsed: float) -> float:
        """How much of the training is done, from 0 to 1: by steps or by time, whichever is ahead."""
        return max(step / self.steps, elapsed / self.seconds if self.seconds else 0.0)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters.

        Raises
        ------
        ArgumentError
            The user's function returns something else.
        MissingExtraError
            ``soap``: pytorch-optimizer isn't installed.
        """
        if callable(self.optimizer):
            made = self.optimizer(parameters)
            if not isinstance(made, torch.optim.Optimizer):
                raise _error("optimizer", f"a function that returns {type(made).__name__}", "a torch.optim.Optimizer")
            return made
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "soap":
            return _soap()(parameters, **options)
        kinds: dict[str, Callable[..., torch.optim.Optimizer]]
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        if self.optimizer == "sgd":
            options["momentum"] = 0.9
        return kinds[self.optimizer](parameters, **options)

    def identity(self) -> dict[str, Any]:
        """What the weights depend on, as plain values: a run goes on only where all of it is the same."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name not in _BESIDE}


def _soap() -> Callable[..., torch.optim.Optimizer]:
    try:
        from pytorch_optimizer import SOAP
    except ModuleNotFoundError:
        raise MissingExtraError("pytorch-optimizer", extra="soap", purpose="optimizer='soap'") from None
    return SOAP


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"{without_addresses(repr(value))} {code_of(value)}"  # a function, or a schedule


def _number(value: Any, *, above: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and above < value < math.inf


def _error(name: str, got: Any, expected: str) -> ArgumentError:
    return ArgumentError(f"{name} of a recipe", got=got, expected=expected)
