"""A plain training loop: progress bar, JSON-lines log, atomic checkpoints, resume.

It trains any module that takes a batch and returns a `skd.Step`. Samples depend on their index alone, so a run that
was stopped and goes on sees the same batches as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from skd.errors import ArgumentError, DataError, FileError, NonFiniteError
from skd.steps import Step

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class Plan:
    """How long, how fast and how often.

    Parameters
    ----------
    steps, batch_size : int
    learning_rate : float
        Of Adam, at its highest: warmed up over `warmup` steps, then a cosine down to a hundredth.
    clip : float
        Largest norm of the gradient.
    save_every, log_every : int
        Steps between two checkpoints, and two lines of the log.
    seconds : float, optional
        Stop early once this much time has passed. The schedule then follows time rather than steps, so that the
        learning rate still comes down.
    workers : int
        Processes that load data; 0 loads in this one.

    Raises
    ------
    ArgumentError
        A number that makes no plan.

    Examples
    --------
    >>> Plan(steps=0, batch_size=4)
    Traceback (most recent call last):
    skd.errors.ArgumentError: steps of a training plan; got 0; expected 1 or more.
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup: int = 50
    clip: float = 1.0
    save_every: int = 500
    log_every: int = 10
    seconds: float | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "warmup": 0, "save_every": 1, "log_every": 1, "workers": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ArgumentError(f"{name} of a training plan", got=getattr(self, name), expected=f"{value} or more")
        for name in ("learning_rate", "clip", "seconds"):
            number = getattr(self, name)
            if number is not None and not 0 < number < math.inf:
                raise ArgumentError(f"{name} of a training plan", got=number, expected="a finite number above 0")


def save_atomically(state: Any, path: Path) -> None:
    """`torch.save` beside the path, then rename: a reader never meets half a file.

    Raises
    ------
    FileError
        It can't be written there; what stood there before is kept.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_atomically({"step": 3}, Path(folder, "state.pt"))
    ...     torch.load(Path(folder, "state.pt"), weights_only=True)
    {'step': 3}
    """
    beside = path.with_name(path.name + ".part")
    try:
        with _writing("the checkpoint", path):
            torch.save(state, beside)
            beside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the error above is the one that tells
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(what: str, path: Path) -> Iterator[None]:
    """Failures to write become a `FileError`. PyTorch says RuntimeError where the disk is full or the folder gone."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        remedy = "make room there, or name another output folder; training goes on from the last checkpoint"
        raise FileError(f"{what} can't be written", got=f"{path} ({reason})", remedy=remedy) from error


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name.

    Examples
    --------
    >>> net = nn.Linear(2, 1)
    >>> net.bias.requires_grad = False
    >>> list(trainable(net))
    ['weight']
    """
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def fit(
    module: nn.Module,
    samples: Dataset[Any],
    plan: Plan,
    out: str | Path,
    *,
    label: str = "train",
    each: Callable[[int, Step], None] | None = None,
) -> int:
    """Train `module` in place; returns the number of steps done in all.

    Parameters
    ----------
    module : nn.Module
        Called with a batch, returns a `Step`.
    samples : map-style Dataset
        At least steps × batch_size samples, read in order. What the module draws at random itself (dropout) isn't
        part of the checkpoint: a resumed run draws anew.
    plan : Plan
    out : path
        Folder for the checkpoint and the log. A checkpoint found there is resumed.
    label : str
        What the progress bar says.
    each : callable, optional
        Called with (step, Step) after every optimizer step.

    Raises
    ------
    DataError
        Fewer samples than one batch, or than the steps need.
    NonFiniteError
        A loss or its gradient is NaN or infinite: the checkpoint before it is kept.
    FileError
        The checkpoint belongs to another module, or is damaged; the folder, the log or a checkpoint can't be written.
    ArgumentError
        The module has nothing to train.

    Examples
    --------
    >>> import tempfile
    >>> from skd.steps import Losses
    >>> class Fit(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.line = nn.Linear(1, 1)
    ...
    ...     def forward(self, batch: Tensor) -> Step:
    ...         return Step(None, Losses({"error": (self.line(batch) - 2 * batch).square().mean()}))
    >>> plan = Plan(steps=2, batch_size=4, log_every=1)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     fit(Fit(), torch.rand(8, 1), plan, out)
    ...     [json.loads(line)["step"] for line in Path(out, LOG).read_text().splitlines()]
    2
    [1, 2]
    """
    needed, there = plan.steps * plan.batch_size, len(samples)  # type: ignore[arg-type]
    if there < needed:
        raise DataError("too few samples for the plan", got=there, expected=f"at least {needed}")
    parameters = trainable(module)
    if not parameters:
        raise ArgumentError("the module has nothing to train", remedy="leave some of its parameters requires_grad")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{out} ({error.strerror or error})"
        raise FileError("the output folder can't be made", got=got, remedy="name another output folder") from error
    optimizer = torch.optim.Adam(parameters.values(), lr=plan.learning_rate)
    first, elapsed = _resume(out / CHECKPOINT, parameters, _buffers(module), optimizer)
    with _writing("the log", out / LOG):
        _cut(out / LOG, first)
    loader = DataLoader(
        Subset(samples, range(first * plan.batch_size, needed)),
        batch_size=plan.batch_size,
        num_workers=plan.workers,
        persistent_workers=plan.workers > 0,
    )
    started = time.monotonic() - elapsed
    module.train()
    step = first
    with tqdm(total=plan.steps, initial=first, desc=label) as bar:
        for batch in loader:
            elapsed = time.monotonic() - started
            progress = max(step / plan.steps, elapsed / plan.seconds if plan.seconds else 0.0)
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * min(1.0, (step + 1) / max(1, plan.warmup)) * _cosine(progress)
            result: Step = module(batch)
            total = result.losses.total
            remedy = "lower the learning rate, then run again: training goes on from the last checkpoint"
            if not torch.isfinite(total):
                raise NonFiniteError(f"the loss of step {step} isn't finite", got=result.losses.values(), remedy=remedy)
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(list(parameters.values()), plan.clip)
            if not torch.isfinite(norm):  # Adam would spread it to all weights, and the next checkpoint keep them
                raise NonFiniteError(f"the gradient of step {step} isn't finite", got=float(norm), remedy=remedy)
            optimizer.step()
            step += 1
            if plan.seconds and elapsed > 1:  # the time left is that of whichever ends first
                bar.total = min(plan.steps, max(step, round(step * max(1.0, plan.seconds / elapsed))))
            bar.update()
            if each is not None:
                each(step, result)
            if step % plan.log_every == 0 or step == plan.steps:
                values = result.losses.values()
                shown = sorted(values.items(), key=lambda item: -item[1])[:4]
                bar.set_postfix({name.split("/")[-1]: f"{value:.3f}" for name, value in shown})
                seconds = round(time.monotonic() - started, 2)
                line = json.dumps({"step": step, "seconds": seconds, "gradient": float(norm), **values}) + "\n"
                # Opened for each line: a file kept open tries to write the rest once more when it is closed.
                with _writing("the log", out / LOG), (out / LOG).open("a", encoding="utf-8") as log:
                    log.write(line)
            if step % plan.save_every == 0:
                _save(out / CHECKPOINT, step, time.monotonic() - started, module, optimizer)
    _save(out / CHECKPOINT, step, time.monotonic() - started, module, optimizer)
    return step


def _cosine(progress: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """What a module keeps beside its parameters (BatchNorm's running statistics), by name."""
    kept = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


def _save(path: Path, step: int, seconds: float, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "weights": {name: p.detach() for name, p in trainable(module).items()},
        "buffers": _buffers(module),
        "optimizer": optimizer.state_dict(),
    }
    save_atomically(state, path)


def _resume(
    path: Path, parameters: dict[str, nn.Parameter], buffers: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load the checkpoint if there is one; returns the steps done and the seconds they took."""
    if not path.exists():
        return 0, 0.0
    remedy = f"name another output folder, or remove {path}"
    there: dict[str, Tensor] = {**parameters, **buffers}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        step, seconds, adam = int(state["step"]), float(state["seconds"]), state["optimizer"]
        found: dict[str, Tensor] = {**state["weights"], **state.get("buffers", {})}
        shapes = {name: tuple(value.shape) for name, value in found.items()}
    except Exception as error:  # the unpickler raises nearly anything
        raise FileError("the checkpoint can't be read", got=f"{path} ({type(error).__name__})", remedy=remedy) from None
    if shapes != {name: tuple(value.shape) for name, value in there.items()}:
        raise FileError("the checkpoint belongs to another network", got=str(path), remedy=remedy)
    try:
        optimizer.load_state_dict(adam)  # before the weights: a checkpoint that is refused changes nothing
    except Exception as error:  # missing or of other groups: KeyError, ValueError, TypeError …
        got = f"{path} (its optimizer: {type(error).__name__})"
        raise FileError("the checkpoint can't be read", got=got, remedy=remedy) from None
    with torch.no_grad():
        for name, value in there.items():
            value.copy_(found[name])
    return step, seconds


def _cut(log: Path, last: int) -> None:
    """Drop the lines after the step that training goes on from, and the half line of a run that was killed."""
    if not log.exists():
        log.touch()  # what can't be written shows before the first step
        return
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):  # bytes: what a crash left need not be UTF-8
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > last:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    beside = log.with_name(log.name + ".part")
    beside.write_bytes(b"".join(kept))
    beside.replace(log)
