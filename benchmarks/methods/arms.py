"""What is compared: every method of `skd.methods` that trains a whole student, and the controls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import skd
from skd.methods import LayerMethod, Method, Transfer

Made = Method | Sequence[Transfer]
OUTPUT = 20.0  # what the outputs' difference counts, for every method the same
# Of a method's own weight: the trials that each of them has. Beside an output that counts so much, less is mostly more.
FACTORS = (0.1, 1 / 3, 1.0)


@dataclass(frozen=True)
class Arm:
    """A method or a control.

    Parameters
    ----------
    name : str
    make : callable, optional
        From plan, spectra and a factor of the method's weight to the method; None distils nothing.
    tuned : bool
        Whether it has a weight to tune.
    started : bool
        Whether the student has what `skd.compress` starts it with, where all others have the seed's random weights.
    trained : bool
        False: the student stays as it begins.
    """

    name: str
    make: Callable[[skd.Plan, skd.Spectra, float], Made] | None
    tuned: bool = True
    started: bool = False
    trained: bool = True


def _skd(sides: Any = "both", basis: Any = "learned") -> Callable[[skd.Plan, skd.Spectra, float], Made]:
    # Learned adapters, as a student of random weights hasn't the teacher's directions, and as the others have them.
    return lambda plan, spectra, factor: skd.methods.SKD(
        plan, spectra, sides=sides, basis=basis, structure=factor, statistics=factor, output=OUTPUT
    )


def _of(method: type[LayerMethod]) -> Callable[[skd.Plan, skd.Spectra, float], Made]:
    def make(plan: skd.Plan, spectra: skd.Spectra, factor: float) -> Made:
        weight = method.default_weight * factor
        sides = {"sides": "encoder"} if method is skd.methods.Collaborative else {}
        return method(plan, spectra, weight=weight, output=OUTPUT, **sides)  # type: ignore[arg-type]

    return make


def _output(plan: skd.Plan, spectra: skd.Spectra, _: float) -> Made:
    return skd.methods.OutputOnly(plan, spectra, output=OUTPUT)


CONTROLS = {
    arm.name: arm
    for arm in (
        Arm("from scratch", None, tuned=False),
        Arm("output only", _output, tuned=False),
        Arm("SKD, encoder only", _skd("encoder")),
        Arm("SKD, decoder only", _skd("decoder")),
        Arm("started, not trained", None, tuned=False, started=True, trained=False),
        Arm("started, no distillation", None, tuned=False, started=True),
        Arm("started, output only", _output, tuned=False, started=True),
        # The basis that the start is in: the spectra's own choice.
        Arm("started, SKD", _skd(basis=None), started=True),
    )
}
METHODS = {"SKD": Arm("SKD", _skd())} | {
    name: Arm(name, _of(getattr(skd.methods, name)))
    for name in skd.methods.__all__
    if inspect.isclass(found := getattr(skd.methods, name))
    and issubclass(found, LayerMethod)
    and name not in ("LayerMethod", "OutputOnly")
}
ARMS = METHODS | CONTROLS
