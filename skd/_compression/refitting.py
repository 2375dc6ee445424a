"""The student's layers fitted to the teacher's, one after the other, each from what the student really gives it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.analysis import Analysis, Data
from skd._compression.attention import query_scales, uneven_scales
from skd._compression.groups import OUTPUT
from skd._compression.narrowing import norms_following
from skd._compression.outcome import output_energy
from skd._compression.projection import kept_outputs, shared_parameters
from skd._compression.regression import Sample, Sums, outputs_of, sums_of, targets_of
from skd._compression.unfolding import bias_of, kernel, put
from skd._measuring import arguments, quiet

RIDGE = 1e-3  # of the mean square of what a layer is given: how much it costs to leave the weights that were there
STRETCH = 4.0  # largest factor that brings an output's deviation back


@dataclass(frozen=True)
class Fitted:
    """Which part of the teacher's outputs a layer missed, in their mean square, before and after."""

    layer: str
    before: float
    after: float


def refit(
    teacher: nn.Module,
    student: nn.Module,
    data: Data,
    kept: Mapping[str, Tensor],
    *,
    plainly: Sequence[str] = (),
    scales: Mapping[str, float] | None = None,
) -> list[Fitted]:
    r"""Fit the student's linear layers and convolutions to the teacher's, in place, in the order in which they run.

    A layer's weights W become those that bring what the *student* gives it, x, nearest to what the teacher's layer
    says in the channels that the student has, y:

    .. math:: \min_W \sum \|W x - y\|^2 + \lambda \|W - W_0\|^2

    with W₀ the weights that were there and λ a thousandth of the mean square of x. That is the structure. Least squares
    shrink what they can't explain, layer after layer, so each output then gets the mean and the deviation of the
    teacher's: the statistics. (Without a bias, its mean square about 0.)

    Parameters
    ----------
    teacher, student : nn.Module
        The student has the teacher's layers under their names, narrower.
    data : Data
        Kept in memory meanwhile.
    kept : mapping of str to Tensor
        (C, c) of layers that lost outputs: the basis of those that are left.
    plainly : sequence of str
        Layers that aren't stretched: those that make the network's output, where the least error is what is wanted.
    scales : mapping of str to float, optional
        What the teacher's outputs are multiplied with for the student (`attention.scale_queries`).

    Returns
    -------
    list of Fitted
        In the order of fitting.

    Notes
    -----
    Layer by layer least squares are He et al.'s ("Channel pruning for accelerating very deep neural networks", ICCV
    2017, eq. 4), who fit to what the pruned network gives a layer as well; bringing the deviations back, and both sides
    of an encoder-decoder, are ours.
    """
    made = (item if data.inputs is None else data.inputs(item) for item in data)
    calls = [arguments(teacher, item, number) for number, item in enumerate(made)]
    with quiet(teacher), quiet(student), norms_following(student):
        counts = outputs_of(student, calls)
        shared = shared_parameters(student)
        order = [layer for layer in counts if not shared & {id(p) for p in _layer(student, layer).parameters()}]
        samples = {layer: Sample(_layer(student, layer), counts[layer], number) for number, layer in enumerate(order)}
        targets = targets_of(teacher, calls, samples, kept, scales or {})
        found = []
        for layer in order:
            sums = sums_of(student, layer, calls, samples[layer], targets.pop(layer))
            if sums is not None:
                found.append(_solve(_layer(student, layer), layer, sums, stretched=layer not in plainly))
    return found


def refitted(
    teacher: nn.Module,
    student: nn.Module,
    data: Data,
    found: Analysis,
    widths: Mapping[int, int],
    energy: float,
) -> tuple[nn.Module, float, list[str]]:
    """The student fitted, its output's energy, and notes; the student as it was where that is more."""
    groups = found.groups
    making = [k for k, group in enumerate(groups) if OUTPUT in (group.whole, found.forced.get(k))]
    scales = uneven_scales(teacher, student)
    for k, width in widths.items():
        if groups[k].scaled:
            scales |= query_scales(student, groups[k].layers, width / groups[k].width)
    fitted = copy.deepcopy(student)
    done = refit(
        teacher,
        fitted,
        data,
        kept_outputs(teacher, groups, found.choices, widths),
        plainly=[port.layer for k in making for port in groups[k].ports if port.side != "in"],
        scales=scales,
    )
    reached = output_energy(teacher, fitted, data)
    if not done or not reached > energy:
        told = "no layer could be fitted" if not done else f"fitting kept {reached:.1%} of the output's energy"
        return student, energy, [f"{told}, so the weights are as they were projected"]
    return fitted, reached, []


def _solve(module: Any, layer: str, sums: Sums, *, stretched: bool) -> Fitted:
    """Put the fitted weights into the layer."""
    old = kernel(module).double()
    if module.bias is not None:
        old = torch.cat((old, bias_of(module).double()), -1)
    old = old.mT  # (G, n, o)
    given, crossed = sums.given, sums.crossed
    ridge = (RIDGE * given.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(1e-30)  # a layer that is given zeros stays
    damped = given + ridge[:, None, None] * torch.eye(given.shape[1], dtype=given.dtype, device=given.device)
    new = old + torch.linalg.solve(damped, crossed - given @ old)
    before, after = _missed(sums, old), _missed(sums, new)
    if not bool(new.isfinite().all()) or after > before:
        return Fitted(layer, before, before)
    if stretched:
        new = _stretched(new, sums, has_bias=module.bias is not None)
    put(module, new.mT)
    return Fitted(layer, before, after)


def _missed(sums: Sums, weight: Tensor) -> float:
    energy = float(sums.squares.sum())
    left = energy - 2 * float((weight * sums.crossed).sum()) + float((weight * (sums.given @ weight)).sum())
    return max(0.0, left) / energy if energy > 0 else 0.0


def _stretched(weight: Tensor, sums: Sums, *, has_bias: bool) -> Tensor:
    """The outputs' means and deviations made the teacher's; without a bias, their mean squares."""
    ours = (weight * (sums.given @ weight)).sum(1) / sums.count
    theirs = sums.squares / sums.count
    level = ours
    if has_bias:
        given, wanted = sums.given[:, -1] / sums.count, sums.crossed[:, -1] / sums.count  # means
        ours = ours - torch.einsum("gn,gno->go", given, weight).square()
        theirs = theirs - wanted.square()
    # What hardly varies is left alone: a deviation of nothing can't be stretched, and rounding needn't be.
    varies = ours > 1e-9 * level
    factor = torch.where(varies, theirs.clamp_min(0) / ours.where(varies, torch.ones_like(ours)), 1.0).sqrt()
    weight = weight * factor.clamp(1 / STRETCH, STRETCH)[:, None]
    if has_bias:
        weight[:, -1] += wanted - torch.einsum("gn,gno->go", given, weight)
    return weight


def _layer(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)
