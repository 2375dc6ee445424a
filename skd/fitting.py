"""Where learned adapters begin: the least squares map from what the student has to what the teacher has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skd._looking import evaluate, undisturbed, unwrapped
from skd._measuring import arguments
from skd.adapters import Chain, ChannelAdapter, Identity, MapToTokens, SpaceAdapter, TokenAdapter
from skd.distiller import Distiller
from skd.errors import ArgumentError, DataError, NonFiniteError, ShapeError
from skd.moments import Moments
from skd.taps import Layout, as_layout, to_bcn

__all__ = ["fit_adapters"]

# They average or move positions and treat all channels alike, so a map of the channels may come after them as well.
_OF_POSITIONS = (Identity, SpaceAdapter, TokenAdapter, MapToTokens)
_TOLERANCE = 1e-9  # of the largest eigenvalue: what lies below is float32's rounding, squared with room


def fit_adapters(
    distiller: nn.Module,
    loader: Iterable[Any],
    *,
    batches: int | None = None,
    inputs: Callable[[Any], Any] | None = None,
) -> dict[str, float]:
    r"""Begin the learned adapters on the student's side with the least squares fit to the teacher's features.

    For every `ChannelAdapter` on the student's side of the active transfers, by itself or in a chain with adapters of
    the positions, W and b become those that minimise :math:`\sum \|W s + b - t\|^2` over all positions, with s the
    student's feature at the teacher's size and t the teacher's, through its own adapter if it has one. An adapter that
    has no offset is fitted without one; one that several layers share is fitted to all of them. Where the student's
    feature doesn't vary, the adapter stays as it was: through a fit that is nothing nothing is learned.

    A student that begins with weights of its teacher (`compress`) is then compared in coordinates in which it is right
    as far as it can be. With random adapters the first thing such a student learns is to follow their noise. What this
    is worth is measured in the documentation's benchmark.

    Parameters
    ----------
    distiller : Distiller
        Or the DDP or compiled module around it. Only its adapters change.
    loader : iterable
        Of what the distiller is called with: a tensor, a tuple of arguments or a dict of keyword arguments.
    batches : int, optional
        Look at so many at most.
    inputs : callable, optional
        Turns an item of `loader` into what the distiller takes, e.g. ``lambda batch: batch[0]``.

    Returns
    -------
    dict of str to float
        By layers, "student's → teacher's": which part of the teacher's variance the map explains, at most 1. (Without
        an offset: of its energy.)

    Raises
    ------
    ArgumentError
        This isn't a distiller, `batches` isn't positive, or there is no adapter that could be fitted.
    DataError
        The loader is empty, or an item is of the wrong kind.
    NonFiniteError
        A feature is NaN or infinite.
    ShapeError
        Two features don't have the same positions.

    Notes
    -----
    Learned adapters are FitNets' regressors (Romero et al. 2015), which begin at random; this start is ours.

    Examples
    --------
    >>> from skd.methods import Transfer
    >>> _ = torch.manual_seed(0)
    >>> teacher, student = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 2, 1)
    >>> row = Transfer("features", "", "", student_adapters=ChannelAdapter(2, 4))
    >>> distiller, x = Distiller(teacher, student, [row]), torch.randn(2, 1, 6, 8)
    >>> {layers: round(share, 4) for layers, share in fit_adapters(distiller, [x]).items()}
    {'output → output': 1.0}
    >>> bool(distiller(x).losses.total < 1e-6)
    True
    """
    if batches is not None and batches < 1:
        raise ArgumentError("at least one batch has to be looked at", got=f"batches={batches}")
    inner = unwrapped(distiller)
    return put(inner, fits(inner, islice(loader, batches), inputs))


class Fit(NamedTuple):
    """What one adapter becomes."""

    layers: str
    weight: Tensor | None  # None: as it is
    bias: Tensor | None
    explained: float


class _Place(NamedTuple):
    """An adapter and how the features before it and after it are read."""

    adapter: ChannelAdapter
    row: int
    tap: int  # of the student's, and the teacher's that it faces


def put(distiller: Distiller, found: Sequence[Fit]) -> dict[str, float]:
    """Give the adapters what `fits` found for them, perhaps in another process."""
    adapters = dict.fromkeys(place.adapter for place in _places(distiller))
    with torch.no_grad():
        for adapter, fit in zip(adapters, found, strict=True):
            if fit.weight is not None:
                adapter.weight.copy_(fit.weight)
            if adapter.bias is not None and fit.bias is not None:
                adapter.bias.copy_(fit.bias)
    return {fit.layers: fit.explained for fit in found}


def fits(distiller: Distiller, loader: Iterable[Any], inputs: Callable[[Any], Any] | None = None) -> list[Fit]:
    """The least squares maps, an adapter each, in the order in which the transfers hold them; nothing is changed."""
    places = list(_places(distiller))
    if not places:
        raise ArgumentError(
            "there are no adapters to fit",
            expected="a ChannelAdapter on the student's side, alone or in a chain with adapters of the positions",
            remedy='compare through learned adapters, such as SKD(..., basis="learned")',
        )
    moments: dict[ChannelAdapter, Moments] = {}
    seen = 0
    with undisturbed(distiller), torch.no_grad():
        evaluate(distiller)
        for number, item in enumerate(loader):
            args, kwargs = arguments(distiller.student, item if inputs is None else inputs(item), number)
            student, teachers = distiller.features(*args, **kwargs)
            for place in places:
                both = _both(distiller, place, student, teachers)
                try:
                    moments.setdefault(place.adapter, Moments(both.shape[1])).update(both)
                except NonFiniteError as error:
                    raise NonFiniteError(
                        f"the features of {_layers(distiller, place)} hold NaN or infinity on batch {number}",
                        got=error.got,
                        remedy="check this batch, or run the networks in float32",
                    ) from None
            seen += 1
    if seen == 0:
        raise DataError("there are no data to fit the adapters to", got="0 batches", remedy="give at least one batch")
    names: dict[ChannelAdapter, list[str]] = {}
    for place in places:
        names.setdefault(place.adapter, []).append(_layers(distiller, place))
    return [Fit(", ".join(names[adapter]), *_solved(adapter, joint)) for adapter, joint in moments.items()]


def _places(distiller: Distiller) -> Iterator[_Place]:
    """Every adapter that can be fitted, once for each two layers that it stands between."""
    known = set()
    for number in distiller.active:
        row = distiller.transfers[number]
        if row.through is not None or len(row.student_taps) != len(row.teacher_taps):
            continue  # the student's side runs through the teacher, or layers don't face each other
        for index, adapter in enumerate(row.student_adapters):
            inner = _channelwise(adapter)
            key = inner, row.student_taps[index], row.teacher_taps[index], row.of
            if inner is not None and key not in known:
                known.add(key)
                yield _Place(inner, number, index)


def _channelwise(adapter: nn.Module | None) -> ChannelAdapter | None:
    """The one map of the channels in an adapter, if the others only move positions."""
    parts = list(adapter.adapters) if isinstance(adapter, Chain) else [adapter]
    found = [part for part in parts if isinstance(part, ChannelAdapter)]
    others = [part for part in parts if not isinstance(part, ChannelAdapter)]
    return found[0] if len(found) == 1 and all(isinstance(part, _OF_POSITIONS) for part in others) else None


def _both(distiller: Distiller, place: _Place, student: Any, teachers: Any) -> Tensor:
    """(B, c + C, N): the student's feature before its map of the channels, and what the map is to give."""
    row = distiller.transfers[place.row]
    ours, theirs = row.student_taps[place.tap], row.teacher_taps[place.tap]
    given, wanted = student[ours], teachers[row.of][theirs]
    outer, facing = row.student_adapters[place.tap], row.teacher_adapters[place.tap]
    target = wanted if facing is None else facing(wanted, given)
    layout: Layout = place.adapter.layout
    for part in outer.adapters if isinstance(outer, Chain) else ():
        if isinstance(part, _OF_POSITIONS):
            given = part(given, wanted)
            layout = part.output_layout
    x = to_bcn(given, layout)
    y = to_bcn(target, getattr(facing, "output_layout", None) or as_layout(target, theirs))
    wide = place.adapter.weight.shape
    if x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2] or (y.shape[1], x.shape[1]) != wide:
        raise ShapeError(
            f"no adapter of {wide[1]} → {wide[0]} channels leads from {_layers(distiller, place)}",
            got=f"{tuple(given.shape)} and {tuple(target.shape)}",
            expected="these channels, and the same samples and positions",
            remedy="bring the positions together with a SpaceAdapter or a TokenAdapter in a Chain",
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return torch.cat((x.to(dtype), y.to(dtype)), 1)


def _layers(distiller: Distiller, place: _Place) -> str:
    row = distiller.transfers[place.row]
    ours, theirs = row.student_taps[place.tap], row.teacher_taps[place.tap]
    return f"{str(ours) or 'output'} → {str(theirs) or 'output'}"


def _solved(adapter: ChannelAdapter, joint: Moments) -> tuple[Tensor | None, Tensor | None, float]:
    """Weight (C, c), offset (C,) and the part that they explain, from the moments of both features together."""
    ours = adapter.weight.shape[1]
    scatter, mean = joint.scatter, joint.mean
    if adapter.bias is None:
        scatter = scatter + joint.count * torch.outer(mean, mean)
    seen = float(joint.scatter[:ours, :ours].diagonal().sum())
    if seen <= 1e-12 * joint.count * float(mean[:ours].square().sum()):  # float32's rounding of a constant
        return None, None, 0.0
    # By eigenvalues, as channels that depend on each other, or are constant, have no inverse.
    weight = scatter[ours:, :ours] @ torch.linalg.pinv(scatter[:ours, :ours], rtol=_TOLERANCE, hermitian=True)
    energy = float(scatter[ours:, ours:].diagonal().sum())
    explained = float((weight * scatter[ours:, :ours]).sum()) / energy if energy > 0 else 1.0
    return weight, None if adapter.bias is None else mean[ours:] - weight @ mean[:ours], explained
