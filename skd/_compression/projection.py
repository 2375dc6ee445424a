"""The student's weights from the teacher's: bases of the groups, lifts of what is read, biases folded with the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.attention import scale_queries
from skd._compression.calibration import Reader
from skd._compression.choices import Choice
from skd._compression.groups import Group
from skd._compression.layers import Port
from skd._compression.narrowing import kept_positions, narrowed, width_of
from skd.moments import Moments

# Directions below this share of the largest eigenvalue aren't lifted from: they would carry rounding.
CUTOFF = 1e-9
# The student's features aren't quite what the teacher's were. Without doubt, directions in which the kept channels
# hardly vary are weighed by thousands, and what is wrong there is all that comes through (docs/theory.rst).
DOUBT = 0.1


def project(
    model: nn.Module,
    groups: Sequence[Group],
    choices: Mapping[int, Choice],
    widths: Mapping[int, int],
    wanted: Mapping[str, Reader],
    moments: Mapping[str, Moments],
    *,
    lifted: bool = True,
) -> nn.Module:
    """A narrower copy of the network, its weights those of the network between the bases of its groups.

    With B the basis of what a layer reads, Σ and μ its covariance and mean: L = B + (ΣB − B BᵀΣB)(BᵀΣB + λ)⁺ brings
    the kept coordinates back (`solve`), W_S = B_outᵀ W L, and b_S = B_outᵀ (b + W (μ − L Bᵀ μ)). Where that constant
    can't go into the bias, because there is none, or zeros are padded, or a transposed convolution's phases differ,
    Σ + μμᵀ takes Σ's place and nothing is added.

    Without `lifted`, weights are cut alone.
    """
    keep = _kept(groups, choices, widths)
    student = narrowed(model, groups, keep)
    positions = kept_positions(groups, keep, model)
    shared = shared_parameters(model)
    filled = set()
    for layer in dict.fromkeys(port.layer for port in positions):
        module = _module(model, layer)
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or id(module.weight) in shared:
            continue
        into, out = Port(layer, "in"), Port(layer, "out")
        rotated = any(choices[k].rotated for k in keep if {into, out} & set(groups[k].ports))
        if not rotated and not (lifted and into in positions and layer in moments):
            continue
        basis_in = _basis(into, model, groups, choices, keep, positions.get(into))
        basis_out = _basis(out, model, groups, choices, keep, positions.get(out))
        lift, shift = None, None
        if basis_in is not None:
            lift, shift = _lift(module, basis_in, wanted.get(layer), moments.get(layer) if lifted else None)
        _fill(student.get_submodule(layer), module, lift, shift, basis_out, positions.get(into), positions.get(out))
        filled.add(layer)
    for k, atoms in keep.items():
        if groups[k].scaled:  # once more, for those that were filled with the teacher's
            again = [layer for layer in groups[k].layers if layer in filled]
            scale_queries(student, again, len(atoms) / groups[k].width)
    return student


def _kept(groups: Sequence[Group], choices: Mapping[int, Choice], widths: Mapping[int, int]) -> dict[int, Tensor]:
    return {k: choices[k].atoms(width) for k, width in widths.items() if width < groups[k].width}


def kept_places(
    model: nn.Module, groups: Sequence[Group], choices: Mapping[int, Choice], widths: Mapping[int, int]
) -> dict[Port, Tensor]:
    """For each side of a layer that loses channels, the positions that stay."""
    return kept_positions(groups, _kept(groups, choices, widths), model)


def kept_outputs(
    model: nn.Module, groups: Sequence[Group], choices: Mapping[int, Choice], widths: Mapping[int, int]
) -> dict[str, Tensor]:
    """(C, c) by layer that lost outputs: the basis of those that are left."""
    keep = _kept(groups, choices, widths)
    found = {}
    for port, kept in kept_positions(groups, keep, model).items():
        module = _module(model, port.layer)
        if port.side != "in" and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            basis = _basis(port, model, groups, choices, keep, kept)
            if basis is not None:
                found[port.layer] = basis
    return found


def _basis(
    port: Port,
    model: nn.Module,
    groups: Sequence[Group],
    choices: Mapping[int, Choice],
    keep: Mapping[int, Tensor],
    kept: Tensor | None,
) -> Tensor | None:
    """(C, c) of one side of a layer: the bases of its groups in their places, the identity elsewhere."""
    if kept is None:
        return None
    rows = width_of(port, model)
    place = torch.full((rows,), -1)
    place[kept] = torch.arange(len(kept))
    basis = torch.zeros(rows, len(kept), dtype=torch.float64)
    basis[kept, torch.arange(len(kept))] = 1.0
    for k, atoms in keep.items():
        if port in groups[k].ports and choices[k].rotated:
            for where in groups[k].ports[port].T:
                basis[where] = 0.0
                basis[where[:, None], place[where[atoms]][None, :]] = choices[k].basis(len(atoms))
    return basis


def _lift(module: Any, basis: Tensor, reader: Reader | None, moments: Moments | None) -> tuple[Tensor, Tensor | None]:
    """What brings the kept coordinates of a layer's input back, and what is missing of the mean, if it has a place."""
    if moments is None or reader is None:
        return basis, None
    if reader.positions > 1:
        basis = basis[:: reader.positions, :: reader.positions]
    covariance, mean = moments.cov, moments.mean
    constant = _takes_constant(module)
    if not constant:
        covariance = covariance + torch.outer(mean, mean)
    groups = getattr(module, "groups", 1)
    if groups == 1:
        lift = solve(covariance, basis)
    else:
        rows, columns = basis.shape[0] // groups, basis.shape[1] // groups
        lift = torch.zeros_like(basis)
        for k in range(groups):
            mine, ours = slice(k * rows, (k + 1) * rows), slice(k * columns, (k + 1) * columns)
            lift[mine, ours] = solve(covariance[mine, mine], basis[mine, ours])
    shift = mean - lift @ (basis.T @ mean) if constant else None
    if reader.positions > 1:
        lift = torch.kron(lift, torch.eye(reader.positions, dtype=torch.float64))
        shift = None if shift is None else shift.repeat_interleave(reader.positions)
    return lift, shift


def solve(covariance: Tensor, basis: Tensor, doubt: float = DOUBT) -> Tensor:
    """The way back from coordinates in a basis: the L that minimises E‖x − L Bᵀx‖² + λ‖L − B‖².

    λ is `doubt` of the energy that least squares leaves unexplained, a kept coordinate: nothing where all is explained.
    """
    crossed = covariance @ basis
    inner = basis.T @ crossed
    inverse = torch.linalg.pinv(inner, rtol=CUTOFF, hermitian=True)
    if doubt > 0:
        lost = (covariance.diagonal().sum() - (crossed @ inverse * crossed).sum()).clamp_min(0)
        damping = doubt * lost / len(inner) * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        inverse = torch.linalg.pinv(inner + damping, rtol=CUTOFF, hermitian=True)
    found: Tensor = basis + (crossed - basis @ inner) @ inverse
    return found


def _takes_constant(module: Any) -> bool:
    """Whether a constant in a layer's input is a constant in its output, which its bias can take."""
    if module.bias is None:
        return False
    if isinstance(module, nn.Linear):
        return True
    if module.transposed:
        return all(k == 1 for k in module.kernel_size) and all(s == 1 for s in module.stride)
    padded = module.padding_mode == "zeros" and module.padding not in ("valid", 0)
    return not (padded and any(module.padding if isinstance(module.padding, tuple) else (1,)))


def _fill(
    target: Any,
    source: Any,
    lift: Tensor | None,
    shift: Tensor | None,
    basis_out: Tensor | None,
    kept_in: Tensor | None,
    kept_out: Tensor | None,
) -> None:
    weight = source.weight.detach().double().cpu()
    bias = None if source.bias is None else source.bias.detach().double().cpu()
    if getattr(source, "transposed", False):
        weight = weight.transpose(0, 1) if source.groups == 1 else _grouped_transpose(weight, source.groups)
    if lift is not None:
        weight, moved = _read(weight, lift, shift, getattr(source, "groups", 1))
        bias = bias if bias is None or moved is None else bias + moved
    if basis_out is not None:
        weight = torch.einsum("oc,o...->c...", basis_out, weight)
        bias = None if bias is None else basis_out.T @ bias
    if getattr(source, "transposed", False):
        weight = weight.transpose(0, 1) if source.groups == 1 else _grouped_transpose(weight, source.groups)
    with torch.no_grad():
        target.weight.copy_(weight)
        if bias is not None:
            target.bias.copy_(bias)


def _read(weight: Tensor, lift: Tensor, shift: Tensor | None, groups: int) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in / groups, …) after a lift of its input, and the constant that the shift makes of it."""
    rows, columns = lift.shape[0] // groups, lift.shape[1] // groups
    outs = weight.shape[0] // groups
    parts, moved = [], []
    for k in range(groups):
        mine = weight[k * outs : (k + 1) * outs]
        inner = lift[k * rows : (k + 1) * rows, k * columns : (k + 1) * columns]
        parts.append(torch.einsum("oi...,ic->oc...", mine, inner))
        if shift is not None:
            total = mine.flatten(2).sum(2) if mine.ndim > 2 else mine
            moved.append(total @ shift[k * rows : (k + 1) * rows])
    return torch.cat(parts), torch.cat(moved) if moved else None


def _grouped_transpose(weight: Tensor, groups: int) -> Tensor:
    """(in, out / groups, …) ↔ (out, in / groups, …)."""
    return weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def _module(model: nn.Module, layer: str) -> nn.Module | None:
    try:
        return model.get_submodule(layer)
    except AttributeError:
        return None


def shared_parameters(model: nn.Module) -> set[int]:
    """The identities of those that several modules have."""
    names = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    return {each for each in names if names.count(each) > 1}
