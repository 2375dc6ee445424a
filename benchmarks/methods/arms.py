"""What is compared: every method of `skd.methods` that trains a whole student, and the controls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import skd
from skd.errors import ArgumentError
from skd.knowledge import Reread
from skd.methods import LayerMethod, Method, Transfer
from skd.schedules import Ramp

Made = Method | Sequence[Transfer]
Make = Callable[[skd.Plan, skd.Spectra, float, int, Reread | None], Made]
OUTPUT = 20.0  # what the outputs' difference counts, for every method the same
REREADING = 300.0  # of SKD, to its features' 1: what the encoder reads in the outputs
# Of a method's own weight: the trials that each of them has. Beside an output that counts so much, less is mostly more.
FACTORS = (0.01, 0.1, 1.0)
FREE = "no distillation"


# How a student begins: with the seed's random weights; as `skd.compress` folds its teacher's into it, everywhere, on
# one side alone (companions count as encoder), or but for companions; fitted, as ``compress(start="fitted")``.
Start = Literal["random", "compressed", "encoder", "decoder", "pairs", "fitted"]


@dataclass(frozen=True)
class Arm:
    """A method or a control.

    Parameters
    ----------
    name : str
    make : callable, optional
        From plan, spectra, a factor of the method's weight, the steps, and what reads the task's outputs again (None
        where nothing can) to the method; None distils nothing.
    uses : type, optional
        The method whose file defines what `make` makes.
    tuned : bool
        Whether it has a weight to tune.
    start : str
        How the student begins.
    fitted : bool
        Whether learned adapters begin as `skd.fit_adapters` fits them; otherwise at random.
    trained : bool
        False: the student stays as it begins.
    needs_loss : bool
        Whether it has no meaning where the task has no loss of its own.
    """

    name: str
    make: Make | None
    uses: type[Method] | None = None
    tuned: bool = True
    start: Start = "random"
    fitted: bool = False
    trained: bool = True
    needs_loss: bool = False


def _skd(
    sides: Any = "both", basis: Any = "learned", *, fades: bool = True, rereads: bool = True, beside: bool = False
) -> Make:
    """Its features' terms fade over the first half: what they teach last pulls away from the output.

    Without rereading, or with companions (`beside`) that begin otherwise, it has no meaning where there is neither.
    """

    def make(plan: skd.Plan, spectra: skd.Spectra, factor: float, steps: int, reread: Reread | None) -> Made:
        if reread is None and not rereads:
            raise ArgumentError("it is SKD itself here: the outputs aren't what the encoder reads")
        if beside and not any(pair.companions for pair, _ in plan):
            raise ArgumentError("it is SKD itself here: no pair has companions")
        return skd.methods.SKD(
            plan,
            spectra,
            sides=sides,
            basis=basis,
            structure=factor,
            statistics=factor,
            fade=max(1, steps // 2) if fades else None,
            output=OUTPUT,
            reread=reread if rereads else None,
            rereading=REREADING * factor,
        )

    return make


def _reread(plan: skd.Plan, spectra: skd.Spectra, factor: float, _: int, reread: Reread | None) -> Made:
    """SKD's outputs, and nothing of its features."""
    if reread is None:
        raise ArgumentError("it has no meaning here: the outputs aren't what the encoder reads")
    return skd.methods.SKD(
        plan, spectra, structure=0.0, statistics=0.0, output=OUTPUT, reread=reread, rereading=REREADING * factor
    )


def _of(method: type[LayerMethod]) -> Make:
    def make(plan: skd.Plan, spectra: skd.Spectra, factor: float, *_: Any) -> Made:
        weight = method.default_weight * factor
        sides = {"sides": "encoder"} if method is skd.methods.Collaborative else {}
        return method(plan, spectra, weight=weight, output=OUTPUT, **sides)  # type: ignore[arg-type]

    return make


def _output(plan: skd.Plan, spectra: skd.Spectra, *_: Any) -> Made:
    return skd.methods.OutputOnly(plan, spectra, output=OUTPUT)


def _fading(make: Make) -> Make:
    """The outputs' weight fades as the features' does: what is left is the task's own loss."""

    def faded(plan: skd.Plan, spectra: skd.Spectra, factor: float, steps: int, reread: Reread | None) -> Made:
        made = make(plan, spectra, factor, steps, reread)
        # Afterwards, so that the makers' own code, which the finished lines are known by, stays as it is.
        made.output = Ramp(OUTPUT, 0.0, steps=max(1, steps // 2), shape="cosine")  # type: ignore[union-attr]
        return made

    return faded


def _ours(name: str, *args: Any, start: Start = "compressed", fitted: bool = True, **options: Any) -> Arm:
    return Arm(name, _skd(*args, **options), skd.methods.SKD, start=start, fitted=fitted)


# SKD is a start and a loss (docs/theory.rst), so its student begins as `skd.compress` makes it, and is compared where
# such a student is right: through adapters that begin as the least squares fit. The others' papers leave the start
# open: they have the seed's random weights. Among the controls some have SKD's start, too.
METHODS = {"SKD": _ours("SKD")} | {
    name: Arm(name, _of(found), found)
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
        _ours("SKD's loss, random start", start="random", fitted=False),
        # One side alone: what isn't compressed begins at random, and what isn't compared has no loss.
        _ours("SKD, encoder only", "encoder", start="encoder"),
        _ours("SKD, decoder only", "decoder", start="decoder"),
        _ours("SKD, loss on the encoder only", "encoder"),
        _ours("SKD, loss on the decoder only", "decoder"),
        _ours("SKD, outputs not read again", rereads=False),
        Arm("outputs read again", _reread, skd.methods.SKD),
        Arm("SKD's start, outputs read again", _reread, skd.methods.SKD, start="compressed"),
        _ours("SKD, not fading", fades=False),
        _ours("SKD, random adapters", fitted=False),
        _ours("SKD, in the pairs' bases", basis=None, fitted=False),
        _ours("SKD, companions at random", start="pairs", beside=True),
        _ours("SKD, fitted start", start="fitted"),
        Arm("SKD, outputs fading", _fading(_skd()), skd.methods.SKD, start="compressed", fitted=True, needs_loss=True),
        Arm("SKD's start, output fading", _fading(_output), tuned=False, start="compressed", needs_loss=True),
        Arm("output only, fading", _fading(_output), tuned=False, needs_loss=True),
        *(
            Arm(f"SKD's start, {what}", make, tuned=False, start="compressed", trained=make is not None or what == FREE)
            for what, make in (("not trained", None), (FREE, None), ("output only", _output))
        ),
        *(
            Arm(f"SKD's start, {name}", METHODS[name].make, METHODS[name].uses, start="compressed")
            for name in ("AT", "RKD")
        ),
        Arm("SKD's start, FitNets", METHODS["FitNets"].make, skd.methods.FitNets, start="compressed", fitted=True),
        Arm("fitted start, not trained", None, tuned=False, start="fitted", trained=False),
        Arm("fitted start, output only", _output, tuned=False, start="fitted"),
    )
}
ARMS = METHODS | CONTROLS
# Those that the long runs want, whatever the screening says of them.
FINAL_CONTROLS = (
    "from scratch",
    "output only",
    "outputs read again",
    "SKD's start, no distillation",
    "SKD's start, output only",
    "SKD, encoder only",
    "SKD, decoder only",
)
