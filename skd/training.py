"""Training any module that returns a `Step`: on one CPU, one GPU, or many machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skd._training.batches import batches_of
from skd._training.checkpoints import FOLDER
from skd._training.engine import Engine
from skd._training.evaluations import BEST, Evaluate
from skd._training.loop import LAST, Each, Loop
from skd._training.records import LOG
from skd.errors import ArgumentError
from skd.recipes import Recipe

__all__ = ["Run", "fit"]


@dataclass(frozen=True)
class Run:
    """What a training did, and where its files are.

    Attributes
    ----------
    out : Path
    steps : int
        Steps of the optimizer in all, those before a resumption among them.
    seconds : float
        Of training in all.
    ended : {"steps", "seconds", "patience"}
        What ended it.
    best : (int, float) or None
        Step and value of the best evaluation.
    evaluation : dict of str to float or None
        The last evaluation.

    Examples
    --------
    >>> run = Run(Path("out"), steps=100, seconds=60.0, ended="steps", best=(80, 0.25), evaluation={"error": 0.3})
    >>> run.best_weights.as_posix(), run.log.as_posix()
    ('out/best.pt', 'out/log.jsonl')
    """

    out: Path
    steps: int
    seconds: float
    ended: str
    best: tuple[int, float] | None
    evaluation: dict[str, float] | None

    @property
    def best_weights(self) -> Path:
        """State dict of the product at its best evaluation: ``torch.load(path, weights_only=True)``."""
        return self.out / BEST

    @property
    def last_weights(self) -> Path:
        """State dict of the product at the end."""
        return self.out / LAST

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.out / LOG

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints that a run goes on from."""
        return self.out / FOLDER


def fit(
    module: nn.Module,
    data: Any,
    out: str | PathLike[str],
    *,
    recipe: Recipe,
    inputs: Callable[[Any], Any] | None = None,
    product: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    each: Each | None = None,
    about: Mapping[str, str | int | float | bool | None] | None = None,
    label: str = "train",
) -> Run:
    """Train `module` in place, from the last checkpoint in `out` if there is one.

    Hugging Face accelerate is the engine, so the same script runs on one CPU or GPU, or in many processes when it is
    started by ``accelerate launch`` or ``torchrun``; a loader's batch size is that of one process.

    A run that was killed at any step and goes on gives, on the CPU, the weights of one that wasn't, bit for bit: which
    samples a batch holds, and what is drawn at random while they are loaded, depend on the recipe's seed and the
    batch's place alone; optimizer, schedules, stages, adapters, averages and random states are in the checkpoint. A
    teacher isn't: see `Distiller`. (Data that can only be read from their beginning have to give the same each time.)

    Parameters
    ----------
    module : nn.Module
        Returns a `Step`: a `Distiller`, or a task of one's own. What its ``state_dict()`` holds is in the checkpoints.
    data : DataLoader or iterable of batches
        Read again and again. A tensor is given to the module as it is, a tuple as its arguments, a dict by keyword.
        In several processes each has its share of a loader's batches; the last round is filled up from the first.
    out : path
        Folder for checkpoints, log (``log.jsonl``) and weights (``best.pt``, ``last.pt``). One run at a time.
    recipe : Recipe
    inputs : callable, optional
        Turns a batch into what the module is called with.
    product : nn.Module, optional
        The part of the module that the training is for: evaluated, and kept as weights. By default a distiller's
        student, or else the module.
    evaluate : callable, optional
        Given the product in eval mode, without gradients and with averaged weights, returns a number or numbers by
        name. Called in the main process alone.
    each : callable, optional
        Called with (step, `Step`) after each step of the optimizer, in every process.
    about : mapping, optional
        Further facts that the run depends on (a crop, a folder): it isn't gone on with where they differ.
    label : str
        What the progress bar says.

    Returns
    -------
    Run

    Raises
    ------
    ArgumentError
        Nothing to train, no `Step`, data that don't come in batches, an evaluation without numbers.
    DataError
        No batch, fewer than processes, samples that can't be put together, a sample with NaN or infinity, no tensors.
    NonFiniteError
        A loss or its gradient is NaN or infinite; the checkpoint before it is kept.
    FileError
        The checkpoints are of another run, code or network, or all damaged; another run is at work in the folder; or
        something can't be written (the disk is full). What was there is kept.
    ProcessError
        Another process failed, died or is stuck.
    MissingExtraError
        ``pip install 'skd[train]'``.

    Examples
    --------
    >>> import tempfile
    >>> from skd import Losses, Step
    >>> class Double(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.line = nn.Linear(1, 1)
    ...
    ...     def forward(self, x):
    ...         y = self.line(x)
    ...         return Step(y, Losses({"error": (y - 2 * x).square().mean()}))
    >>> task, batches = Double(), [torch.rand(8, 1) for _ in range(4)]
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = fit(task, batches, out, recipe=Recipe(steps=400, learning_rate=0.1, warmup=0))
    >>> run.steps, run.ended, round(task.line.weight.item(), 2)
    (400, 'steps', 2.0)
    """
    engine = Engine(recipe)
    try:
        return fit_on(
            engine,
            module,
            data,
            out,
            recipe=recipe,
            inputs=inputs,
            product=product,
            evaluate=evaluate,
            each=each,
            about=about,
            label=label,
        )
    finally:
        engine.close()


def fit_on(
    engine: Engine,
    module: nn.Module,
    data: Any,
    out: str | PathLike[str],
    *,
    recipe: Recipe,
    inputs: Callable[[Any], Any] | None = None,
    product: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    each: Each | None = None,
    about: Mapping[str, Any] | None = None,
    label: str = "train",
) -> Run:
    """`fit`, on an engine that is there already."""
    if not isinstance(module, nn.Module):
        raise ArgumentError("only a module can be trained", got=type(module).__name__)
    if product is None:
        student = getattr(module, "student", None)
        product = student if isinstance(student, nn.Module) else module
    batches = batches_of(data, seed=recipe.seed, rank=engine.rank, processes=engine.processes)
    module.to(engine.device)
    if recipe.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine.share_weights(module)
    loop = Loop(
        engine,
        module,
        batches,
        Path(out),
        recipe,
        inputs=inputs,
        product=product,
        evaluate=evaluate,
        each=each,
        about=about or {},
        label=label,
    )
    ended = loop.run()
    return Run(Path(out), ended.step, ended.seconds, ended.ended or "", ended.best, ended.evaluation)
