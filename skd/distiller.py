"""The module that runs teacher and student and returns the student's output and the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from skd.adapters import Adapter
from skd.caching import TeacherCache, narrowed
from skd.errors import ArgumentError, ShapeError
from skd.methods._distilled import check_networks, check_rows, check_stages
from skd.methods._implicit import Implicit
from skd.methods.transfer import Method, Stage, Through, Transfer
from skd.schedules import weight_at
from skd.steps import Losses, Step
from skd.taps import Layout, Tap, Taps, as_layout

Features = dict[Tap, Tensor]
Given = tuple[tuple[Any, ...], dict[str, Any]]


class _Runs(NamedTuple):
    """The networks that a stage runs, and what is read of each."""

    student: Taps
    teachers: dict[str, Taps]
    again: dict[Through, tuple[str, Taps]]
    narrowed: dict[str, dict[Tap, Adapter]]  # what a cache keeps as an adapter returns it, by teacher
    implicit: dict[int, Implicit]  # rows whose adapter needn't run


class Distiller(nn.Module):
    """Runs teacher and student, and returns a `Step`: the student's output and the named losses.

    The distiller is the module that one wraps (DDP, FSDP, ``torch.compile``) and whose parameters one optimises: the
    student's and the adapters'. The student stays a plain module; save and deploy it by itself.

    The teacher is frozen, in eval mode and run without gradients, whatever is called on the distiller. It is no
    submodule: it isn't among the parameters nor in the state dict, but ``distiller.to(...)`` moves it.

    Parameters
    ----------
    teacher : nn.Module or mapping of str to nn.Module
        One teacher, or several by name (a transfer says `of` which it learns).
    student : nn.Module
    method : Method or sequence of Transfer
    teacher_inputs : callable, optional
        Given what the distiller was called with, returns what the teachers are called with: ``(args, kwargs)``.
        By default the same.
    keep_teacher_output : bool
        Whether `Step.teacher_output` holds the teacher's output (several: by name). Without it a teacher stops at its
        last tap, in eager mode.
    cache : TeacherCache, optional
        Where the teachers' features are kept, so that samples that come again don't run a teacher.

    Raises
    ------
    ArgumentError
        A cache, which doesn't keep outputs, together with `keep_teacher_output`; two transfers of one name, an unknown
        teacher, teacher and student the same module, or a stage that names
        nothing.
    LayerNotFoundError
        A tap names a layer that its network doesn't have.

    Examples
    --------
    >>> from skd.methods import Transfer
    >>> teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> distiller = Distiller(teacher, student, [Transfer("output", "", "", weight=2.0)])
    >>> step = distiller(torch.zeros(4, 3))
    >>> expected = 2 * (student(torch.zeros(4, 3)) - teacher(torch.zeros(4, 3))).square().mean()
    >>> torch.equal(step.losses.total, expected), list(step.losses.terms)
    (True, ['output'])
    """

    factors: Tensor

    def __init__(
        self,
        teacher: nn.Module | Mapping[str, nn.Module],
        student: nn.Module,
        method: Method | Sequence[Transfer],
        *,
        teacher_inputs: Callable[..., Given] | None = None,
        keep_teacher_output: bool = False,
        cache: TeacherCache | None = None,
    ) -> None:
        super().__init__()
        teachers = {"teacher": teacher} if isinstance(teacher, nn.Module) else dict(teacher)
        rows = tuple(method.transfers() if isinstance(method, Method) else method)
        stages = tuple(method.stages()) if isinstance(method, Method) else ()
        if cache is not None and keep_teacher_output:
            raise ArgumentError(
                "a cache keeps features, and not the teacher's output", remedy="keep_teacher_output=False"
            )
        check_networks(teachers, student)
        check_rows(rows, teachers)
        check_stages(stages, rows, student)
        self.student = student
        self._teachers = teachers  # a plain dict, which nn.Module doesn't register
        self.transfers = rows
        self.adapters = nn.ModuleList(dict.fromkeys(module for row in rows for module in row.adapters()))
        self.teacher_inputs, self.keep_teacher_output, self.cache = teacher_inputs, keep_teacher_output, cache
        self.stages = stages or (Stage(None, tuple(row.name for row in rows)),)
        # Weights are a tensor, so that a schedule changes a value and a compiled step isn't compiled again.
        dtype, device = _kind_of(student)
        self.register_buffer("factors", torch.zeros(len(rows), dtype=dtype), persistent=False)
        self.adapters.to(device)
        self.factors = self.factors.to(device)
        self.steps_done = 0
        self._frozen: dict[str, bool] = {}
        self._stage: Stage | None = None
        self._set_out()
        for one in teachers.values():
            one.eval().requires_grad_(False)

    # --- one step --------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Step:
        """Run the student on what is given, the teachers on the same (or on `teacher_inputs` of it).

        Returns
        -------
        Step
            With `losses.terms` by transfer, each already weighted.

        Raises
        ------
        FeatureError, ShapeError
            A tap wasn't reached or was changed in place, or two features don't fit.
        """
        given = self._given(args, kwargs)
        from_cache = self.cache is not None and not torch.compiler.is_compiling()
        kept = self._runs.narrowed if from_cache else {}
        outputs, known = self._run_teachers(given, kept)
        output, features = self._runs.student(*args, **kwargs)
        again = {through: self._run_again(through, features, known, given) for through in self._runs.again}
        adapted: dict[Any, Tensor] = {}
        sums: dict[Any, Any] = {}
        terms = {}
        for index in self._active:
            row = self.transfers[index]
            loss = None
            if (quick := self._runs.implicit.get(index)) is not None:
                loss = quick(features[row.student_taps[0]], known[row.of][row.teacher_taps[0]], sums)
            if loss is None:
                ours = features if row.through is None else again[row.through]
                loss = row.distance(*self._both(row, ours, known[row.of], adapted, kept.get(row.of, {})))
            if loss.ndim:
                raise ShapeError(f"the distance of transfer {row.name!r} isn't a scalar", got=tuple(loss.shape))
            terms[row.name] = loss * self.factors[index]
        return Step(output, Losses(terms), outputs)

    def knowledge(self, row: Transfer, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's knowledge of one row, from features by tap."""
        return self._both(row, student, teacher, {}, {})

    @staticmethod
    def _both(
        row: Transfer,
        student: Features,
        teacher: Features,
        adapted: dict[Any, Tensor],
        narrowed: Mapping[Tap, Adapter],
    ) -> tuple[Tensor, Tensor]:
        """As `knowledge`; `adapted` keeps the adapters' results, for rows of the same features that share adapters."""
        ours, theirs = row.student_taps, row.teacher_taps
        return (
            _knowledge(row, ours, student, row.student_adapters, theirs, teacher, adapted, {}),
            _knowledge(row, theirs, teacher, row.teacher_adapters, ours, student, adapted, narrowed),
        )

    def features(self, *args: Any, **kwargs: Any) -> tuple[Features, dict[str, Features]]:
        """The student's features, and the teachers' by name, as one forward reads them (for reports and checks)."""
        _, known = self._run_teachers(self._given(args, kwargs), {})
        return self._runs.student(*args, **kwargs)[1], known

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        """What the teachers are called with."""
        return self.teacher_inputs(*args, **kwargs) if self.teacher_inputs else (args, kwargs)

    def _run_teachers(
        self, given: Given, narrowed: Mapping[str, Mapping[Tap, Adapter]]
    ) -> tuple[Any, dict[str, Features]]:
        """The teachers' output, as `Step.teacher_output` has it, and their features, from a cache those `narrowed`."""
        outputs: dict[str, Any] = {}
        known: dict[str, Features] = {}
        for name, taps in self._runs.teachers.items():
            if any(module.training for module in taps.model.modules()):
                taps.model.eval()  # whoever called train()
            with torch.no_grad():
                if self.cache is not None and not torch.compiler.is_compiling():
                    known[name] = self.cache.features(taps, *given, adapters=narrowed.get(name))
                else:
                    outputs[name], known[name] = taps(*given[0], **given[1])
        if not self.keep_teacher_output:
            return None, known
        return (outputs if len(self._teachers) > 1 else outputs[next(iter(outputs))]), known

    def _run_again(self, through: Through, student: Features, known: dict[str, Features], given: Given) -> Features:
        """The features of a teacher's second run, with gradients to the student and none to the teacher."""
        name, taps = self._runs.again[through]
        if any(p.requires_grad for p in taps.model.parameters()):
            taps.model.requires_grad_(False)  # whoever set it
        put = {}
        for there, here in through.put.items():
            adapter = through.adapters.get(there)
            put[there] = student[here] if adapter is None else adapter(student[here], known[name][there])
        features: Features = taps(*given[0], substitute=put, **given[1])[1]
        return features

    # --- stages and schedules ----------------------------------------------------------------------------------------

    def advance(self, steps: int = 1) -> None:
        """Tell the distiller that the optimizer made a step, so that schedules and stages go on.

        Not needed where weights are numbers and there are no stages.

        Raises
        ------
        ArgumentError
            `steps` is negative.
        """
        if steps < 0:
            raise ArgumentError("training goes forward", got=f"{steps} steps")
        self.steps_done += steps
        self._set_out()

    @property
    def stage(self) -> Stage:
        """The stage that the training is in."""
        for stage in self.stages:
            if stage.until is None or self.steps_done < stage.until:
                return stage
        return self.stages[-1]

    def _set_out(self) -> None:
        """Bring weights, active rows and frozen layers up to the step."""
        stage = self.stage
        if stage is not self._stage:
            self._stage = stage
            self._freeze(stage)
            self._active = tuple(index for index, row in enumerate(self.transfers) if stage.counts(row.name))
            self._runs = self._plan()
        weights = [weight_at(row.weight, self.steps_done) for row in self.transfers]
        # A new tensor, as a backward may still need the old one; never in half, where 0.1 isn't 0.1.
        dtype = torch.promote_types(self.factors.dtype, torch.float32)
        self.factors = torch.tensor(weights, dtype=dtype, device=self.factors.device)

    def _freeze(self, stage: Stage) -> None:
        """Freeze the stage's student layers; give those of the stage before their flags back."""
        parameters = dict(self.student.named_parameters(remove_duplicate=False))
        for name, flag in self._frozen.items():
            parameters[name].requires_grad_(flag)
        names = [
            name
            for layer in stage.frozen
            for name, _ in self.student.get_submodule(layer).named_parameters(layer, remove_duplicate=False)
        ]
        self._frozen = {name: parameters[name].requires_grad for name in names}
        for name in names:
            parameters[name].requires_grad_(False)

    def _plan(self) -> _Runs:
        """What the active rows need of each network."""
        rows = [self.transfers[index] for index in self._active]
        throughs = {row.through: row.of for row in rows if row.through is not None}
        ours = [tap for row in rows if row.through is None for tap in row.student_taps]
        ours += [tap for through in throughs for tap in through.put.values()]
        teachers = {}
        for name, teacher in self._teachers.items():
            taps = [tap for row in rows if row.of == name for tap in row.teacher_taps]
            taps += [tap for through, of in throughs.items() if of == name for tap in through.put]
            if taps or self.keep_teacher_output:
                teachers[name] = Taps(teacher, taps, stop_early=not self.keep_teacher_output)
        again = {}
        for through, name in throughs.items():
            taps = [tap for row in rows if row.through is through for tap in row.student_taps]
            again[through] = name, Taps(self._teachers[name], taps, stop_early=True)
        return _Runs(
            Taps(self.student, ours),
            teachers,
            again,
            {name: narrowed(rows, name) for name in teachers},
            {index: found for index in self._active if (found := Implicit.of(self.transfers[index])) is not None},
        )

    def thawed_later(self) -> list[nn.Parameter]:
        """The student's parameters that the present stage freezes and another may train: an optimizer wants them."""
        parameters = dict(self.student.named_parameters(remove_duplicate=False))
        return [parameters[name] for name, trained in self._frozen.items() if trained]

    @property
    def active(self) -> tuple[int, ...]:
        """Which of the transfers count at this step, by index."""
        return self._active

    @property
    def tapped(self) -> nn.Module:
        """The module whose layers are read: the student, unless it was replaced since."""
        return self._runs.student.model

    # --- what nn.Module does, with the teachers --------------------------------------------------------------------

    @property
    def teachers(self) -> Mapping[str, nn.Module]:
        """The teachers by name."""
        return dict(self._teachers)

    @property
    def teacher(self) -> nn.Module:
        """The only teacher, or the first."""
        return next(iter(self._teachers.values()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for teacher in self._teachers.values():
                teacher._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set_out()  # the weights in the new precision, not rounded to a half
        return self

    def get_extra_state(self) -> Tensor:
        """The optimizer steps done, by which schedules and stages go on; part of the state dict."""
        # A tensor, as safetensors, in which some engines save, takes nothing else.
        return torch.tensor(self.steps_done, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from where the state dict stood."""
        self.steps_done = int(state)
        self._set_out()

    def extra_repr(self) -> str:
        return "\n".join(str(row) for row in self.transfers)


def _knowledge(
    row: Transfer,
    taps: tuple[Tap, ...],
    features: Features,
    adapters: tuple[nn.Module | None, ...],
    reference_taps: tuple[Tap, ...],
    references: Features,
    adapted: dict[Any, Tensor],
    narrowed: Mapping[Tap, Adapter],
) -> Tensor:
    """The knowledge of one side; the other side's features are the adapters' reference, the last where it has fewer.

    Features of `narrowed` taps are what their adapter returned.
    """
    values: list[Tensor] = []
    layouts: dict[Layout, Tap] = {}
    needs_layout = not row.is_raw  # an output of three dimensions hasn't stated one
    for index, (tap, adapter) in enumerate(zip(taps, adapters, strict=True)):
        feature = features[tap]
        if needs_layout:
            layouts[getattr(adapter, "output_layout", None) or as_layout(feature, tap)] = tap
        if adapter is not None and narrowed.get(tap) is not adapter:
            reference = reference_taps[min(index, len(reference_taps) - 1)]
            key = adapter, tap, reference, row.of, row.through
            value = adapted.get(key)
            if value is None:
                value = adapted[key] = adapter(feature, references[reference])
            feature = value
        values.append(feature)
    if not needs_layout:
        return values[0]
    if len(layouts) > 1:
        raise ShapeError(
            f"the features of transfer {row.name!r} have different layouts",
            got=", ".join(f"{layout} at '{tap}'" for layout, tap in layouts.items()),
            remedy="bring them to one with adapters (TokenAdapter, MapToTokens)",
        )
    return row.knowledge(*values, layout=next(iter(layouts)))


def _kind_of(student: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Where the student is, and at which precision its losses come out."""
    for parameter in student.parameters():
        if parameter.is_floating_point():
            return torch.promote_types(parameter.dtype, torch.float32), parameter.device
    return torch.float32, torch.device("cpu")
