"""The faults of a set-up that show in a run: losses that are constant, layers without a gradient, unequal copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skd._looking import evaluate
from skd._values import tensors
from skd.distiller import Distiller
from skd.errors import CheckError, FeatureError, NonFiniteError, ShapeError
from skd.methods.transfer import Transfer
from skd.taps import Tap

TOLERANCE = 1e-4  # of a loss that should be zero or still, in units of what noise as large as the feature makes of it

_Features = Mapping[Tap, Tensor]
Call = tuple[tuple[Any, ...], dict[str, Any]]  # what the distiller is called with


# --- transfer by transfer ---------------------------------------------------------------------------------------------


def check_features(distiller: Distiller, call: Call) -> None:
    """Each transfer's unweighted loss: finite, not constant, and with a gradient at each of its student layers."""
    with _usable():
        ours, theirs = distiller.features(*call[0], **call[1])
    weights = [p for p in distiller.student.parameters() if p.requires_grad]
    for row in _rows(distiller):
        if row.through is not None:  # its student side is in the teacher's second run: see check_step
            continue
        for tap in row.student_taps:
            if not ours[tap].requires_grad:
                raise CheckError(
                    f"the student layer {str(tap) or 'output'!r} of the loss {row.name!r} gets no gradient",
                    got="a feature that is detached, or has no trained weights before it",
                    remedy="don't detach it, nor run the student under no_grad or inference_mode; tap a later layer",
                )
        loss, noisy, still = _losses(distiller, row, ours, theirs[row.of])
        if still or not loss.requires_grad:
            raise CheckError(
                f"the loss {row.name!r} is constant: it doesn't depend on the student's feature",
                got=f"{float(loss.detach()):.3g} whatever the feature",
                remedy="a relation between samples needs a batch of 2 or more, structure more than one position; "
                "else look for a detach in knowledge, adapter or distance",
            )
        _check_gradients(row, loss, noisy, [ours[tap] for tap in row.student_taps], weights)


def _losses(distiller: Distiller, row: Transfer, ours: _Features, theirs: _Features) -> tuple[Tensor, float, bool]:
    """The loss, the loss with noise as large as the features added, and whether the noise makes no difference."""
    generator = torch.Generator().manual_seed(0)
    size = max(_rms(features[tap]) for features, taps in _sides(row, ours, theirs) for tap in taps) or 1.0
    noisy = dict(ours)
    for tap in row.student_taps:
        noise = torch.randn(ours[tap].shape, generator=generator)
        noisy[tap] = ours[tap].detach() + (size * noise).to(ours[tap])
    try:
        known, target = distiller.knowledge(row, dict(ours), dict(theirs))
        loss = row.distance(known, target)
        with torch.no_grad():
            moved = distiller.knowledge(row, noisy, dict(theirs))[0]
            other = float(row.distance(moved, target))
    except ShapeError as error:
        what = f"transfer {row.name!r}: {error.what}"
        raise ShapeError(what, got=error.got, expected=error.expected, remedy=error.remedy) from error
    value = float(loss.detach())
    _require_finite(row.name, value)
    change = float((moved - known.detach()).double().norm())
    same = change <= 1e-5 * float(known.detach().double().norm()) or abs(other - value) <= 1e-6 * abs(value)
    return loss, other, same


def _sides(row: Transfer, ours: _Features, theirs: _Features) -> tuple[tuple[_Features, tuple[Tap, ...]], ...]:
    return (ours, row.student_taps), (theirs, row.teacher_taps)


def _rms(feature: Tensor) -> float:
    size = float(feature.detach().float().square().mean().sqrt())
    return size if size < float("inf") else 0.0


def _check_gradients(
    row: Transfer, loss: Tensor, noisy: float, features: list[Tensor], weights: list[nn.Parameter]
) -> None:
    gradients = _gradients(loss, [*features, *weights])
    for gradient in gradients:
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise NonFiniteError(
                f"the gradient of the loss {row.name!r} isn't finite",
                got="NaN or infinity",
                remedy="look for a root or a division at zero, such as the deviation of a constant feature",
            )
    felt = [_moves(g) for g in gradients[: len(features)]]
    if any(_moves(g) for g in gradients[len(features) :]):
        for tap, gradient, moves in zip(row.student_taps, gradients, felt, strict=False):
            if gradient is None or (any(felt) and not moves):
                raise CheckError(
                    f"the student layer {str(tap) or 'output'!r} of the loss {row.name!r} gets no gradient",
                    got="a knowledge or distance that leaves its feature out",
                    remedy="leave the tap out, or look for a detach in knowledge, adapter or distance",
                )
        return
    value, divergence = float(loss.detach()), _is_divergence(row)
    if not any(felt) and (value <= TOLERANCE * noisy or not divergence):
        return  # the student is a perfect copy here
    layers = ", ".join(repr(str(tap) or "output") for tap in row.student_taps)
    raise CheckError(
        f"the loss {row.name!r} is constant: no weight of the student moves it",
        got=f"{value:.3g} and the gradient zero before {layers}",
        remedy="look for a dead ReLU, a detach in the student, or a tap before which nothing is trained",
    )


def _gradients(loss: Tensor, wanted: list[Any]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise CheckError(
            "the student has reentrant activation checkpoints, through which gradients can't be looked at",
            remedy="checkpoint(..., use_reentrant=False)",
        ) from error


def _moves(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.abs().max() > 0)


# --- the whole step ---------------------------------------------------------------------------------------------------


def check_step(distiller: Distiller, call: Call) -> None:
    """One forward as in training: losses finite, second runs with gradients, no layer of the student cut off."""
    ran: dict[nn.Module, None] = {}
    hooks = [m.register_forward_hook(lambda module, *_: ran.setdefault(module)) for m in distiller.student.modules()]
    try:
        with _usable():
            step = distiller(*call[0], **call[1])
    finally:
        for hook in hooks:
            hook.remove()
    weights = [p for p in distiller.student.parameters() if p.requires_grad]
    for row in _rows(distiller):
        term = step.losses.terms[row.name]
        value = float(term.detach())
        _require_finite(row.name, value)
        if row.through is None or not float(distiller.factors[distiller.transfers.index(row)]):
            continue
        gradients = _gradients(term, weights) if term.requires_grad else ()
        if not any(_moves(g) for g in gradients) and value > 0:
            raise CheckError(
                f"the loss {row.name!r} is constant: no weight of the student moves it",
                got=f"{value:.3g}",
                remedy="look for a detach on the way into the teacher's second run, and for a tap before it",
            )
    _check_cut_off(distiller.student, list(ran), [*_outputs(step.output), *step.losses.terms.values()])


def _check_cut_off(student: nn.Module, ran: list[nn.Module], ends: list[Tensor]) -> None:
    """Layers that ran and have trained weights must reach the output or a loss."""
    live = [end.float().sum() for end in ends if end.requires_grad]
    if not live:
        return
    names = {module: name for name, module in student.named_modules()}
    owned = [
        (names[m], f"{names[m]}.{key}".lstrip("."), p)
        for m in ran
        for key, p in m.named_parameters(recurse=False)
        if p.requires_grad
    ]
    gradients = _gradients(torch.stack([end.to(live[0].device) for end in live]).sum(), [p for _, _, p in owned])
    reached = {layer for (layer, _, _), g in zip(owned, gradients, strict=True) if g is not None}
    cut = [key for layer, key, _ in owned if layer not in reached]
    if cut:
        raise CheckError(
            "a student layer runs but gets no gradient, from any loss nor from the output",
            got=f"{len(cut)} parameters, first {cut[0]!r}",
            remedy="look for a detach, no_grad or .data in the student; freeze the layer if it is meant to stand still",
        )


def _outputs(output: Any) -> Iterator[Tensor]:
    return (tensor for _, tensor in tensors(output) if tensor.is_floating_point())


def check_equal(distiller: Distiller, call: Call) -> None:
    """Between an equal teacher and student, divergences are zero."""
    equal = [name for name, teacher in distiller.teachers.items() if _is_copy(distiller.student, teacher)]
    if not equal or distiller.teacher_inputs is not None:  # other inputs, other features
        return
    evaluate(distiller)
    with torch.no_grad():
        ours, theirs = distiller.features(*call[0], **call[1])
        for row in _rows(distiller):
            learned = any(p.requires_grad for module in row.adapters() for p in module.parameters())
            if row.of not in equal or learned or not _is_divergence(row) or row.through is not None:
                continue
            loss, noisy, _ = _losses(distiller, row, ours, theirs[row.of])
            if float(loss) > TOLERANCE * noisy:
                raise CheckError(
                    f"teacher and student are equal, and the divergence {row.name!r} between them isn't zero",
                    got=f"{float(loss):.3g}",
                    expected="0",
                    remedy="read both sides at the same place, through the same adapters",
                )


def _is_copy(student: nn.Module, teacher: nn.Module) -> bool:
    """Whether both are the same layers with the same weights. (Equal weights aren't enough: an activation has none.)"""
    if type(student) is not type(teacher) or repr(student) != repr(teacher):
        return False
    ours, theirs = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (student, teacher))
    return ours.keys() == theirs.keys() and all(
        ours[key].shape == theirs[key].shape and torch.equal(ours[key], theirs[key].to(ours[key].device))
        for key in ours
    )


# --- small things -----------------------------------------------------------------------------------------------------


def _rows(distiller: Distiller) -> list[Transfer]:
    """The transfers that count at this stage; a schedule may still hold one at zero."""
    rows = [distiller.transfers[index] for index in distiller.active]
    counted = [row for row in rows if callable(row.weight) or row.weight > 0]
    if not counted:
        raise CheckError("nothing is distilled: all weights are 0", remedy="give a transfer a weight above 0")
    return counted


def _is_divergence(row: Transfer) -> bool:
    return bool(getattr(row.distance, "divergence", False))


def _require_finite(name: str, value: float) -> None:
    if not abs(value) < float("inf"):
        remedy = "look at this batch, and at the input's range"
        raise NonFiniteError(f"the loss {name!r} isn't finite", got=value, remedy=remedy)


@contextmanager
def _usable() -> Iterator[None]:
    """A feature that can't be used is a fault of the set-up."""
    try:
        yield
    except FeatureError as error:
        raise CheckError(error.what, got=error.got, expected=error.expected, remedy=error.remedy) from error
