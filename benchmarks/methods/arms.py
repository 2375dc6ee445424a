"""What is compared: every method of `skd.methods` that trains a whole student, and the controls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import skd
from skd.methods import LayerMethod, Method, Transfer

Made = Method | Sequence[Transfer]
Make = Callable[[skd.Plan, skd.Spectra, float, int], Made]
OUTPUT = 20.0  # what the outputs' difference counts, for every method the same
# Of a method's own weight: the trials that each of them has. Beside an output that counts so much, less is mostly more.
FACTORS = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Arm:
    """A method or a control.

    Parameters
    ----------
    name : str
    make : callable, optional
        From plan, spectra, a factor of the method's weight and the steps to the method; None distils nothing.
    tuned : bool
        Whether it has a weight to tune.
    started : bool
        Whether the student has what `skd.compress` starts it with, where all others have the seed's random weights.
    fitted : bool
        Whether learned adapters begin as `skd.fit_adapters` fits them; otherwise at random.
    trained : bool
        False: the student stays as it begins.
    """

    name: str
    make: Make | None
    tuned: bool = True
    started: bool = False
    fitted: bool = False
    trained: bool = True


def _skd(sides: Any = "both", basis: Any = "learned", *, fades: bool = True) -> Make:
    """Its features' terms fade over the first half: what they teach last pulls away from the output."""

    def make(plan: skd.Plan, spectra: skd.Spectra, factor: float, steps: int) -> Made:
        weight = skd.schedules.Ramp(factor, 0.0, steps=max(1, steps // 2), shape="cosine") if fades else factor
        return skd.methods.SKD(
            plan, spectra, sides=sides, basis=basis, structure=weight, statistics=weight, output=OUTPUT
        )

    return make


def _of(method: type[LayerMethod]) -> Make:
    def make(plan: skd.Plan, spectra: skd.Spectra, factor: float, _: int) -> Made:
        weight = method.default_weight * factor
        sides = {"sides": "encoder"} if method is skd.methods.Collaborative else {}
        return method(plan, spectra, weight=weight, output=OUTPUT, **sides)  # type: ignore[arg-type]

    return make


def _output(plan: skd.Plan, spectra: skd.Spectra, *_: float) -> Made:
    return skd.methods.OutputOnly(plan, spectra, output=OUTPUT)


# SKD is a start and a loss (docs/theory.rst), so its student begins as `skd.compress` makes it, and is compared where
# such a student is right: through adapters that begin as the least squares fit. The others' papers leave the start
# open: they have the seed's random weights. Among the controls some have SKD's start, too, with fitted adapters.
METHODS = {"SKD": Arm("SKD", _skd(), started=True, fitted=True)} | {
    name: Arm(name, _of(getattr(skd.methods, name)))
    for name in skd.methods.__all__
    if inspect.isclass(found := getattr(skd.methods, name))
    and issubclass(found, LayerMethod)
    and name not in ("LayerMethod", "OutputOnly")
}
CONTROLS = {
    arm.name: arm
    for arm in (
        Arm("from scratch", None, tuned=False),
        Arm("output only", _output, tuned=False),
        Arm("SKD's loss, random start", _skd()),
        Arm("SKD, encoder only", _skd("encoder"), started=True, fitted=True),
        Arm("SKD, decoder only", _skd("decoder"), started=True, fitted=True),
        Arm("SKD, not fading", _skd(fades=False), started=True, fitted=True),
        Arm("SKD, random adapters", _skd(), started=True),
        Arm("SKD, in the pairs' bases", _skd(basis=None), started=True),
        Arm("SKD's start, not trained", None, tuned=False, started=True, trained=False),
        Arm("SKD's start, no distillation", None, tuned=False, started=True),
        Arm("SKD's start, output only", _output, tuned=False, started=True),
        *(Arm(f"SKD's start, {name}", METHODS[name].make, started=True) for name in ("AT", "RKD")),
        Arm("SKD's start, FitNets", METHODS["FitNets"].make, started=True, fitted=True),
    )
}
ARMS = METHODS | CONTROLS
