"""A plain training loop: progress bar, JSON-lines log, atomic checkpoints, resume.

It trains any module that takes a batch and returns a `skd.Step`. Samples depend on their index alone, so a run that
was stopped and goes on sees the same batches as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

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


def save_atomically(state: Any, path: Path) -> None:
    """`torch.save` beside the path, then rename: a reader never meets half a file."""
    beside = path.with_name(path.name + ".part")
    try:
        torch.save(state, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name: all that a checkpoint of the weights needs."""
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
        At least steps × batch_size samples, read in order.
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
        A loss is NaN or infinite: the checkpoint before it is kept.
    FileError
        The checkpoint belongs to another module, or is damaged.
    """
    if plan.steps < 1 or plan.batch_size < 1:
        raise ArgumentError("a training plan without steps", got=plan)
    needed, there = plan.steps * plan.batch_size, len(samples)  # type: ignore[arg-type]
    if there < needed:
        raise DataError("too few samples for the plan", got=there, expected=f"at least {needed}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    parameters = trainable(module)
    optimizer = torch.optim.Adam(parameters.values(), lr=plan.learning_rate)
    first, elapsed = _resume(out / CHECKPOINT, parameters, optimizer)
    loader = DataLoader(
        Subset(samples, range(first * plan.batch_size, needed)),
        batch_size=plan.batch_size,
        num_workers=plan.workers,
        persistent_workers=plan.workers > 0,
    )
    started = time.monotonic() - elapsed
    module.train()
    step = first
    with (out / LOG).open("a", encoding="utf-8") as log, tqdm(total=plan.steps, initial=first, desc=label) as bar:
        for batch in loader:
            elapsed = time.monotonic() - started
            progress = max(step / plan.steps, elapsed / plan.seconds if plan.seconds else 0.0)
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * min(1.0, (step + 1) / plan.warmup) * _cosine(progress)
            result: Step = module(batch)
            total = result.losses.total
            if not torch.isfinite(total):
                raise NonFiniteError(
                    f"the loss of step {step} isn't finite",
                    got=result.losses.values(),
                    remedy="lower the learning rate, then run again: training goes on from the last checkpoint",
                )
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(list(parameters.values()), plan.clip)
            optimizer.step()
            step += 1
            bar.update()
            if each is not None:
                each(step, result)
            if step % plan.log_every == 0 or step == plan.steps:
                values = result.losses.values()
                shown = sorted(values.items(), key=lambda item: -item[1])[:4]
                bar.set_postfix({name.split("/")[-1]: f"{value:.3f}" for name, value in shown})
                line = {"step": step, "seconds": round(time.monotonic() - started, 2), "gradient": float(norm), **values}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if step % plan.save_every == 0:
                _save(out / CHECKPOINT, step, time.monotonic() - started, parameters, optimizer)
    _save(out / CHECKPOINT, step, time.monotonic() - started, parameters, optimizer)
    return step


def _cosine(progress: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _save(path: Path, step: int, seconds: float, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    weights = {name: p.detach() for name, p in parameters.items()}
    save_atomically({"step": step, "seconds": seconds, "weights": weights, "optimizer": optimizer.state_dict()}, path)


def _resume(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Load the checkpoint if there is one; returns the steps done and the seconds they took."""
    if not path.exists():
        return 0, 0.0
    remedy = f"name another output folder, or remove {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights: dict[str, Tensor] = state["weights"]
        step, seconds = int(state["step"]), float(state["seconds"])
    except Exception as error:
        raise FileError("the checkpoint can't be read", got=f"{path} ({type(error).__name__})", remedy=remedy) from None
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if {name: tuple(w.shape) for name, w in weights.items()} != shapes:
        raise FileError("the checkpoint belongs to another network", got=str(path), remedy=remedy)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    optimizer.load_state_dict(state["optimizer"])
    return step, seconds
