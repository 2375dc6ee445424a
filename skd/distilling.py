"""The one call: pair, measure, match, check, train, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from skd._code import code_of
from skd._measuring import arguments
from skd._training.batches import Batch, batches_of, check_tensors
from skd._training.engine import Engine
from skd._training.evaluations import Evaluate
from skd._training.fetching import CALIBRATION
from skd._training.loop import Each
from skd._training.randomness import seeded
from skd._training.trained import modes_kept
from skd.caching import TeacherCache
from skd.checking import check_unwrapped
from skd.distiller import Distiller
from skd.errors import ArgumentError, ShapeError
from skd.fitting import fits, put
from skd.matching import Plan, match
from skd.methods import SKD, Method, Transfer
from skd.pairing import Pairing, pair
from skd.recipes import Recipe
from skd.reporting import Report, report
from skd.spectra import Spectra, measure
from skd.steps import Losses, Step
from skd.training import Run, fit_on

__all__ = ["Distilled", "distill"]

Student = TypeVar("Student", bound=nn.Module)
TaskLoss = Callable[[Any, Any], Tensor]
MakeMethod = Callable[[Plan, Spectra], Method | Sequence[Transfer]]

CALIBRATION_BATCHES, REPORT_BATCHES = 16, 8
ADAPTERS = 2**32 + 1  # with the seed, the stream of random numbers that learned adapters begin with


@dataclass(frozen=True)
class Distilled(Generic[Student]):
    """A finished distillation.

    Attributes
    ----------
    student : nn.Module
        The one that was given, trained, in eval mode; with averaged weights where the recipe asks for them.
    report : Report
        What is left of each loss, on calibration data.
    run : Run
        Steps, evaluations, and where the files are.

    Examples
    --------
    >>> [field for field in Distilled.__dataclass_fields__]
    ['student', 'report', 'run']
    """

    student: Student
    report: Report
    run: Run


def distill(
    teacher: nn.Module,
    data: Any,
    out: str | PathLike[str],
    *,
    student: Student,
    recipe: Recipe,
    method: Method | Sequence[Transfer] | MakeMethod = SKD,
    pairings: tuple[Pairing, Pairing] | None = None,
    fit_adapters: bool = False,
    inputs: Callable[[Any], Any] | None = None,
    task_loss: TaskLoss | None = None,
    task_weight: float = 1.0,
    evaluate: Evaluate | None = None,
    calibration: Any = None,
    cache: TeacherCache | None = None,
    each: Each | None = None,
    about: Mapping[str, str | int | float | bool | None] | None = None,
    label: str = "distil",
) -> Distilled[Student]:
    """Train a student to do what its teacher does, from the last checkpoint in `out` if there is one.

    Pairs are found in both networks, the teacher's spectra are measured, the set-up is checked, `fit` trains, and a
    report says what was retained. Each of these steps can be done by hand: see `pair`, `measure`, `match`,
    `Distiller`, `check`, `fit` and `report`.

    Parameters
    ----------
    teacher : nn.Module
        Frozen meanwhile, moved to the device, otherwise left as it was. It isn't in the checkpoints.
    data : DataLoader or iterable of batches
        See `fit`. A tensor, a tuple of arguments or a dict of keyword arguments of both networks, unless `inputs`
        makes one of these of it.
    out : path
        Folder for everything that is written.
    student : nn.Module
        Trained in place.
    recipe : Recipe
    method : Method, sequence of Transfer, or callable
        What is distilled. A callable is given the plan and the spectra, as `skd.methods.SKD` itself is; the others
        need neither, and no pairs are looked for then.
    pairings : (Pairing, Pairing), optional
        The teacher's and the student's, where they aren't to be found automatically.
    fit_adapters : bool
        Whether learned adapters begin as `skd.fit_adapters` fits them to the calibration data, in the place of random
        numbers: for a student that begins with what its teacher has learned (`compress`).
    inputs : callable, optional
        Turns a batch into what the networks are called with: ``lambda batch: batch[0]`` for (x, y).
    task_loss : callable, optional
        Given the student's output and the batch, returns a scalar that is trained on, too.
    task_weight : float
        Of the task's loss.
    evaluate : callable, optional
        Given the student in eval mode, returns a number or numbers by name; see `fit`.
    calibration : DataLoader or iterable of batches, optional
        For spectra, adapters, check and report; the first 16 batches of it. By default the training data, in an order
        and with random numbers of their own.
    cache : TeacherCache, optional
        Where the teacher's features are kept: samples that come again don't run it.
    each, about, label
        See `fit`.

    Returns
    -------
    Distilled

    Raises
    ------
    PairingError
        Pairs can't be found or matched; says how to declare them.
    CheckError
        A set-up that would train and learn nothing.
    ArgumentError, DataError, NonFiniteError, FileError, ProcessError, MissingExtraError
        As `fit`.

    Examples
    --------
    >>> import tempfile, torch
    >>> _ = torch.manual_seed(0)
    >>> def net(width):
    ...     return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1),
    ...                          nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ConvTranspose2d(width, 3, 2, 2))
    >>> data = [torch.randn(4, 3, 16, 24) for _ in range(4)]
    >>> with tempfile.TemporaryDirectory() as out:
    ...     done = distill(net(8), data, out, student=net(2), recipe=Recipe(steps=5))
    >>> done.run.steps, [row.name for row in done.report.rows][-1]
    (5, 'output')
    """
    if not isinstance(method, (Method, Sequence)) and not callable(method):
        raise ArgumentError(
            "there is no such method", got=type(method).__name__, expected="a Method, transfers, or a function of both"
        )
    engine = Engine(recipe)
    try:
        with _given_back(teacher):
            for network in (teacher, student):
                network.to(engine.device)
            source = batches_of(data if calibration is None else calibration, seed=recipe.seed)

            def examples() -> Iterator[Any]:
                for batch in islice(source.read(CALIBRATION), CALIBRATION_BATCHES):
                    if not isinstance(batch, Batch):
                        return  # a short list ends
                    check_tensors(batch)
                    given = batch.value if inputs is None else inputs(batch.value)
                    yield engine.moved(given, channels_last=recipe.channels_last)

            with seeded(recipe.seed, ADAPTERS):  # learned adapters begin alike, whatever was drawn before
                if not isinstance(method, (Method, Sequence)):
                    # Spectra come from one process, so that all compare in the same bases to the last bit.
                    prepared = engine.on_main(lambda: _prepared(teacher, student, pairings, examples))
                    method = method(*prepared)
                distiller = Distiller(teacher, student, method, cache=cache)
            if fit_adapters:
                put(distiller, engine.on_main(lambda: fits(distiller, examples())))
            engine.all_alike(lambda: check_unwrapped(distiller, next(iter(examples()))))
            task = _Task(distiller, inputs, task_loss, task_weight)
            facts: dict[str, Any] = {"task_loss": None if task_loss is None else code_of(task_loss)}
            facts |= {"task_weight": task_weight} | ({"fit_adapters": True} if fit_adapters else {})
            run = fit_on(
                engine,
                task,
                data,
                out,
                recipe=recipe,
                inputs=_whole,
                product=student,
                evaluate=evaluate,
                each=each,
                about={**facts, **(about or {})},
                label=label,
            )
            student.eval()
            found = engine.on_main(lambda: report(distiller, examples(), batches=REPORT_BATCHES))
            return Distilled(student, found, run)
    finally:
        engine.close()


def _prepared(
    teacher: nn.Module,
    student: nn.Module,
    pairings: tuple[Pairing, Pairing] | None,
    examples: Callable[[], Iterator[Any]],
) -> tuple[Plan, Spectra]:
    """The networks' pairs, matched, and the teacher's spectra."""
    theirs, ours = pairings or (pair(teacher, next(examples())), pair(student, next(examples())))
    return match(theirs, ours), measure(teacher, theirs, examples())


class _Task(nn.Module):
    """The distiller's losses, and the task's own."""

    def __init__(
        self,
        distiller: Distiller,
        inputs: Callable[[Any], Any] | None,
        task_loss: TaskLoss | None,
        task_weight: float,
    ) -> None:
        super().__init__()
        self.distiller, self.inputs, self.task_loss, self.task_weight = distiller, inputs, task_loss, task_weight

    def forward(self, batch: Any) -> Step:
        given = batch if self.inputs is None else self.inputs(batch)
        args, kwargs = arguments(self.distiller.student, given, 0)
        step: Step = self.distiller(*args, **kwargs)
        if self.task_loss is None:
            return step
        loss = self.task_loss(step.output, batch)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ShapeError("the task's loss isn't a scalar", got=got, remedy="take its mean")
        return Step(step.output, Losses({"task": self.task_weight * loss, **step.losses.terms}), step.teacher_output)


def _whole(batch: Any) -> tuple[Any]:
    """The batch as one argument: the task's loss may want what the networks don't."""
    return (batch,)


@contextmanager
def _given_back(teacher: nn.Module) -> Iterator[None]:
    """The teacher's modes and gradient flags are put back as they were."""
    flags = [(p, p.requires_grad) for p in teacher.parameters()]
    with modes_kept(teacher):
        try:
            yield
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
