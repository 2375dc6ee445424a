"""One row of a distillation: which features, through which adapters, as which knowledge, at which distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from skd.distances import mse
from skd.errors import ArgumentError, closest
from skd.knowledge import raw
from skd.schedules import Weight
from skd.taps import Tap

Taplike = Tap | str | Sequence[Tap | str]
Adapters = nn.Module | Sequence[nn.Module | None] | None


class Through:
    """Run the teacher again with student features in the place of its own (`substitute`).

    The student's side of a transfer is then read in that second run: the student's code through the teacher's decoder,
    as Collaborative Distillation (Wang et al. 2020) trains. Transfers that hold the same object share the run.

    Parameters
    ----------
    put : mapping of teacher tap to student tap
        Where each student feature goes.
    adapters : mapping of teacher tap to nn.Module, optional
        From the student's width to the teacher's; called as ``adapter(feature, reference)``.

    Raises
    ------
    ArgumentError
        Nothing is put in, or an adapter is for a tap where nothing is.

    Examples
    --------
    >>> Through({"code": "encoder"}).put
    {Tap(layer='code', call=0, side='output', path=(), layout=None, clone=False): \
Tap(layer='encoder', call=0, side='output', path=(), layout=None, clone=False)}
    """

    # No dataclass: a compiled step looks objects of this class up by identity, and dataclasses by their fields.

    def __init__(
        self, put: Mapping[Tap | str, Tap | str], adapters: Mapping[Tap | str, nn.Module] | None = None
    ) -> None:
        self.put: Mapping[Tap, Tap] = {Tap.of(there): Tap.of(here) for there, here in put.items()}
        self.adapters: Mapping[Tap, nn.Module] = {Tap.of(there): module for there, module in (adapters or {}).items()}
        if not self.put or not self.adapters.keys() <= self.put.keys():
            raise ArgumentError(
                "a second run of the teacher needs the taps it changes, and adapters for those only",
                got=f"put {[str(tap) for tap in self.put]}, adapters {[str(tap) for tap in self.adapters]}",
            )


@dataclass(frozen=True, eq=False, init=False)
class Transfer:
    """One row of a distillation.

    Its loss is ``weight × distance(knowledge(student features), knowledge(teacher features))``, each feature through
    its adapter first.

    Parameters
    ----------
    name : str
        Of the loss term; unique in a distillation.
    student, teacher : Tap, str or sequence of them
        Where the features are read; kept as `student_taps` and `teacher_taps`. ``""`` is the whole network's output.
        Knowledge of several layers (FSP) takes as many features as there are taps.
    knowledge : callable
        ``(*features, layout=...) -> Tensor``: a function of `skd.knowledge`, or one bound with `Knowledge`.
    distance : callable
        ``(student, teacher) -> scalar``: a function of `skd.distances`, or one bound with `Distance`.
    weight : float or callable
        A number, or a schedule of the optimizer steps done (`skd.schedules`).
    student_adapters, teacher_adapters : nn.Module, None or sequence of them
        One for each tap; called as ``adapter(feature, reference)`` with the other side's feature for reference. A
        learned adapter on the student's side is trained, one on the teacher's side is trained too (FT's paraphraser).
        An adapter that several transfers hold for the same taps runs once a step.
    of : str
        Which teacher, where there are several.
    through : Through, optional
        Read the student's side in a second run of the teacher: `student` names the teacher's layers then.
    info : mapping of str to float
        Numbers for reports, such as the energy that a basis keeps.

    Raises
    ------
    ArgumentError
        No name, no taps, another number of adapters than of taps, several taps for `raw`, or a distance that doesn't
        say whether it is a divergence.

    Examples
    --------
    >>> from skd.knowledge import attention
    >>> row = Transfer("attention", student="enc", teacher="enc", knowledge=attention)
    >>> print(row)
    attention: enc → enc, attention, mse, weight 1.0
    """

    name: str
    student_taps: tuple[Tap, ...]
    teacher_taps: tuple[Tap, ...]
    knowledge: Callable[..., Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    weight: Weight
    student_adapters: tuple[nn.Module | None, ...]
    teacher_adapters: tuple[nn.Module | None, ...]
    of: str
    through: Through | None
    info: Mapping[str, float]

    def __init__(
        self,
        name: str,
        student: Taplike,
        teacher: Taplike,
        knowledge: Callable[..., Tensor] = raw,
        distance: Callable[[Tensor, Tensor], Tensor] = mse,
        weight: Weight = 1.0,
        *,
        student_adapters: Adapters = None,
        teacher_adapters: Adapters = None,
        of: str = "teacher",
        through: Through | None = None,
        info: Mapping[str, float] | None = None,
    ) -> None:
        if not name:
            raise ArgumentError("a transfer needs a name", remedy="it names the loss term in logs and reports")
        if not isinstance(getattr(distance, "divergence", None), bool):
            raise ArgumentError(
                f"the distance of transfer {name!r} doesn't say whether it is a divergence",
                got=getattr(distance, "__name__", repr(distance)),
                remedy="decorate it with @skd.distances.distance(divergence=True or False)",
            )
        ours, our_adapters = _side(name, "student", student, student_adapters)
        theirs, their_adapters = _side(name, "teacher", teacher, teacher_adapters)
        for field, value in {
            "name": name,
            "student_taps": ours,
            "teacher_taps": theirs,
            "knowledge": knowledge,
            "distance": distance,
            "weight": weight,
            "student_adapters": our_adapters,
            "teacher_adapters": their_adapters,
            "of": of,
            "through": through,
            "info": dict(info or {}),
        }.items():
            object.__setattr__(self, field, value)
        if self.is_raw and len(ours) + len(theirs) > 2:
            raise ArgumentError(
                f"transfer {name!r} compares raw features, which are one on each side",
                got=f"{len(ours)} and {len(theirs)} taps",
                remedy="make a transfer for each layer, or state the knowledge that takes several",
            )

    @property
    def is_raw(self) -> bool:
        """Whether the features are compared as they are, so that no layout has to be known."""
        return getattr(self.knowledge, "function", self.knowledge) is raw

    def adapters(self) -> tuple[nn.Module, ...]:
        """All adapter modules of the row, those of its `through` too."""
        through = self.through.adapters.values() if self.through else ()
        both = (*self.student_adapters, *self.teacher_adapters, *through)
        return tuple(module for module in both if module is not None)

    def __str__(self) -> str:
        teacher, student = (", ".join(str(t) or "output" for t in s) for s in (self.teacher_taps, self.student_taps))
        names = [getattr(f, "__name__", repr(f)) for f in (self.knowledge, self.distance)]
        return f"{self.name}: {teacher} → {student}, {names[0]}, {names[1]}, weight {self.weight}"


def _side(
    name: str, side: str, given: Taplike, adapters: Adapters
) -> tuple[tuple[Tap, ...], tuple[nn.Module | None, ...]]:
    """The taps of one side, and an adapter or None for each."""
    taps = (Tap.of(given),) if isinstance(given, (str, Tap)) else tuple(Tap.of(tap) for tap in given)
    if adapters is None:
        adapters = [None] * len(taps)
    listed = (adapters,) if isinstance(adapters, nn.Module) else tuple(adapters)
    if not taps or len(listed) != len(taps):
        raise ArgumentError(
            f"transfer {name!r} needs taps on the {side}'s side, and an adapter or None for each",
            got=f"{len(taps)} taps and {len(listed)} adapters",
        )
    return taps, listed


@dataclass(frozen=True)
class Stage:
    """A part of the training in which only some transfers count and some student layers stand still.

    Parameters
    ----------
    until : int or None
        The optimizer step at which the stage ends; None for the last.
    transfers : tuple of str
        Names of the transfers that count, or of groups of them: ``"1/2"`` stands for all ``"1/2/…"``.
    frozen : tuple of str
        Student layers, dotted names, whose parameters aren't trained meanwhile; ``""`` is the whole student. (Under
        DDP, which looks for trained parameters once, wrap the distiller anew when a stage ends.)

    Examples
    --------
    >>> stage = Stage(until=100, transfers=("1/2",))
    >>> stage.counts("1/2/encoder"), stage.counts("1/20/encoder")
    (True, False)
    """

    until: int | None
    transfers: tuple[str, ...]
    frozen: tuple[str, ...] = ()

    def counts(self, name: str) -> bool:
        """Whether the transfer of this name counts."""
        return any(_stands_for(group, name) for group in self.transfers)

    def check(self, names: Sequence[str], layers: Sequence[str]) -> None:
        """Raise ArgumentError for a group that no transfer is in, or a layer that the student doesn't have."""
        for group in self.transfers:
            if not any(_stands_for(group, name) for name in names):
                raise ArgumentError(
                    f"a stage names {group!r}, and no transfer is called so", remedy=closest(group, names)
                )
        for layer in self.frozen:
            if layer not in layers:
                raise ArgumentError(f"the student has no layer {layer!r} to freeze", remedy=closest(layer, layers))


def _stands_for(group: str, name: str) -> bool:
    return name == group or name.startswith(f"{group}/")


class Method:
    """What builds the transfers of a distillation. A list of `Transfer` is a method, too.

    Subclasses give `transfers`; `prepare` and `stages` where the method needs them.
    """

    def transfers(self) -> Sequence[Transfer]:
        """The rows; called once, when the distiller is made, so adapters made here are trained."""
        raise NotImplementedError

    def stages(self) -> Sequence[Stage]:
        """Stages in order; none means that all transfers count from the first step to the last."""
        return ()
