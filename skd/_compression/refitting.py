"""The student's layers fitted to the teacher's, one after the other, each from what the student really gives it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.analysis import Analysis, Data
from skd._compression.attention import query_scales, uneven_scales
from skd._compression.groups import OUTPUT
from skd._compression.narrowing import norms_following
from skd._compression.outcome import output_energy
from skd._compression.projection import kept_outputs
from skd._compression.unfolding import bias_of, kernel, patches, put
from skd._measuring import arguments, quiet

RIDGE = 1e-3  # of the mean square of what a layer is given: how much it costs to leave the weights that were there
LARGEST = 4608  # numbers that an output is made of, above which a layer stays as it is: their products are 170 MB
PLENTY, ENOUGH = 64, 4  # positions for each of these numbers: as many as are taken, and below which a layer stays
WORK = 2e11  # products a layer beyond which fewer positions are taken
STRETCH = 4.0  # largest factor that brings an output's deviation back


@dataclass(frozen=True)
class Fitted:
    """Which part of the teacher's outputs a layer missed, in their mean square, before and after."""

    layer: str
    before: float
    after: float


class _Enough(Exception):
    """The layer has run; what comes after it needn't."""


def refit(
    teacher: nn.Module,
    student: nn.Module,
    data: Data,
    kept: Mapping[str, Tensor],
    *,
    plainly: Sequence[str] = (),
    scales: Mapping[str, float] | None = None,
    layers: Callable[[str], bool] | None = None,
) -> list[Fitted]:
    r"""Fit the student's linear layers and convolutions to the teacher's, in place, in the order in which they run.

    A layer's weights W become those that bring what the *student* gives it, x, nearest to what the teacher's layer
    says in the channels that the student has, y:

    .. math:: \min_W \sum \|W x - y\|^2 + \lambda \|W - W_0\|^2

    with W₀ the weights that were there and λ a thousandth of the mean square of x. That is the structure. Least squares
    shrink what they can't explain, layer after layer, so each output is then stretched about its mean to the deviation
    of the teacher's: the statistics. (Without a bias, to its mean square about 0.)

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
    layers : callable, optional
        Whether a layer, by its name, is fitted; all by default.

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
        counts = _outputs(student, calls[:1])
        shared = _shared(student)
        order = [
            layer
            for layer in counts
            if (layers is None or layers(layer)) and not shared & {id(p) for p in _layer(student, layer).parameters()}
        ]
        counts = _outputs(student, calls)
        samples = {layer: _Sample(_layer(student, layer), counts[layer], number) for number, layer in enumerate(order)}
        targets = _targets(teacher, calls, samples, kept, scales or {})
        found = []
        for layer in order:
            sums = _sums(student, layer, calls, samples[layer], targets.pop(layer))
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
    layers: Callable[[str], bool] | None = None,
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
        layers=layers,
    )
    reached = output_energy(teacher, fitted, data)
    if not done or not reached > energy:
        told = "no layer could be fitted" if not done else f"fitting kept {reached:.1%} of the output's energy"
        return student, energy, [f"{told}, so the weights are as they were projected"]
    return fitted, reached, []


class _Sample:
    """Which positions of a layer's outputs are looked at, the same in teacher and student."""

    def __init__(self, layer: Any, outputs: Sequence[Sequence[int]], number: int) -> None:
        self.unknown = kernel(layer).shape[-1] + (layer.bias is not None)
        self.calls = len(outputs[0])
        total = sum(map(sum, outputs))
        wanted = max(ENOUGH * self.unknown, min(PLENTY * self.unknown, int(WORK / self.unknown**2)))
        self.share = min(1.0, wanted / max(total, 1))
        self.usable = self.unknown <= LARGEST and total >= ENOUGH * self.unknown and len({*map(len, outputs)}) == 1
        self.number = number

    def rows(self, batch: int, call: int, count: int) -> Tensor | slice:
        """Of `count` positions; one at least."""
        if self.share >= 1:
            return slice(None)
        seed = (self.number * 65537 + batch) * 257 + call
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(count, generator=generator)[: max(1, round(count * self.share))]


@dataclass
class _Sums:
    """Products of what a layer is given (groups, n) and of what it should say (groups, o), summed in float64."""

    count: int
    given: Tensor  # (G, n, n)
    crossed: Tensor  # (G, n, o)
    squares: Tensor  # (G, o)


def _layer(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)


def _shared(model: nn.Module) -> set[int]:
    names = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    return {each for each in names if names.count(each) > 1}


def _fits(module: Any) -> bool:
    """A plain layer of known kind: one whose weight is something else's product has nothing to be put into."""
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if not isinstance(module, transposed):
            return False
    return "weight" in module._parameters and module.weight.is_floating_point()


def _outputs(model: nn.Module, calls: Sequence[Any]) -> dict[str, list[list[int]]]:
    """Layers in the order in which they first run, with the number of output positions by batch and call."""
    found: dict[str, list[list[int]]] = {}
    batch = 0

    def take(layer: str, module: Any, _: Tensor, output: Tensor) -> None:
        rows = found.setdefault(layer, [])
        while len(rows) <= batch:
            rows.append([])
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        rows[batch].append(output.numel() // width)

    with _watched(model, [name for name, module in model.named_modules() if _fits(module)], take):
        for args, kwargs in calls:
            model(*args, **kwargs)
            batch += 1
    return found


def _targets(
    teacher: nn.Module,
    calls: Sequence[Any],
    samples: Mapping[str, _Sample],
    kept: Mapping[str, Tensor],
    scales: Mapping[str, float],
) -> dict[str, list[list[Tensor]]]:
    """(P, c) by layer, batch and call: what the teacher says at the sampled positions, in the student's channels."""
    found: dict[str, list[list[Tensor]]] = {layer: [[] for _ in calls] for layer in samples}
    batch = 0

    def take(layer: str, module: Any, _: Tensor, output: Tensor) -> None:
        said = output.reshape(-1, output.shape[-1]) if isinstance(module, nn.Linear) else _rows(module, output)
        mine = found[layer][batch]
        said = said[samples[layer].rows(batch, len(mine), len(said))].double()
        if layer in kept:
            said = said @ kept[layer].to(said.device)
        mine.append((said * scales.get(layer, 1.0)).to(output.dtype))

    with _watched(teacher, [layer for layer, sample in samples.items() if sample.usable], take):
        for args, kwargs in calls:
            teacher(*args, **kwargs)
            batch += 1
    return found


def _rows(module: Any, output: Tensor) -> Tensor:
    """(B, C, …) or (C, …) → (positions, C)."""
    batched = output if output.ndim == module.weight.ndim else output[None]
    return batched.flatten(2).transpose(1, 2).flatten(0, 1)


def _sums(
    student: nn.Module, layer: str, calls: Sequence[Any], sample: _Sample, targets: Sequence[Sequence[Tensor]]
) -> _Sums | None:
    """None where there are too few positions, or not the same ones."""
    if not sample.usable or any(len(each) != sample.calls for each in targets):
        return None
    sums: _Sums | None = None
    batch = call = 0

    def take(_: str, module: Any, given: Tensor, __: Tensor) -> None:
        nonlocal sums, call
        said = targets[batch][call].double()
        x = patches(module, given)
        x = x[sample.rows(batch, call, len(x))].double()
        if module.bias is not None:
            x = torch.cat((x, torch.ones_like(x[..., :1])), -1)
        x, y = x.transpose(0, 1), said.view(len(said), x.shape[1], -1).transpose(0, 1)
        found = _Sums(x.shape[1], x.mT @ x, x.mT @ y, y.square().sum(1))
        if sums is not None:
            sums.count += found.count
            for name in ("given", "crossed", "squares"):
                getattr(sums, name).add_(getattr(found, name))
        else:
            sums = found
        call += 1
        if call == sample.calls:
            raise _Enough

    with _watched(student, [layer], take):
        for args, kwargs in calls:
            call = 0
            with suppress(_Enough):
                student(*args, **kwargs)
            batch += 1
    return sums


def _solve(module: Any, layer: str, sums: _Sums, *, stretched: bool) -> Fitted:
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


def _missed(sums: _Sums, weight: Tensor) -> float:
    energy = float(sums.squares.sum())
    left = energy - 2 * float((weight * sums.crossed).sum()) + float((weight * (sums.given @ weight)).sum())
    return max(0.0, left) / energy if energy > 0 else 0.0


def _stretched(weight: Tensor, sums: _Sums, *, has_bias: bool) -> Tensor:
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


@contextmanager
def _watched(
    model: nn.Module, layers: Sequence[str], take: Callable[[str, Any, Tensor, Tensor], None]
) -> Iterator[None]:
    """Inside, `take` is given what these layers are given and what they say, at every call."""

    def hook_for(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            take(layer, module, given.detach(), output.detach())

        return hook

    handles = [_layer(model, name).register_forward_hook(hook_for(name), with_kwargs=True) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
