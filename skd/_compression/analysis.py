"""What is known of a teacher before any width is chosen: its groups, their ties, what they keep at every width."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.attention import has_queries
from skd._compression.calibration import Reader, energy_matrix, measure_inputs, readers
from skd._compression.choices import Choice
from skd._compression.graph import Graph
from skd._compression.groups import INPUT, OUTPUT, Group, celled, find_groups, tied, unseen_groups
from skd._compression.narrowing import find_breaking
from skd._compression.tracing import trace_channels
from skd._measuring import arguments, quiet
from skd.errors import DataError
from skd.moments import Moments
from skd.spectra import PairSpectra, Spectra
from skd.taps import Tap

HEADS = "queries, keys and values of an attention, whose number of heads is unknown"


@dataclass(frozen=True)
class Data:
    """Calibration batches, which are read several times."""

    batches: Iterable[Any]
    inputs: Callable[[Any], Any] | None = None
    limit: int | None = None

    def __iter__(self) -> Any:
        return itertools.islice(iter(self.batches), self.limit)

    def example(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the first forward."""
        for item in self:
            return arguments(model, item if self.inputs is None else self.inputs(item), 0)
        raise DataError("there are no data to calibrate on", got="0 batches", remedy="give at least one batch")

    @classmethod
    def of(cls, data: Any, inputs: Callable[[Any], Any] | None, limit: int | None) -> Data:
        """The data, an iterator's items kept, as they come only once."""
        if isinstance(data, (Tensor, dict)) or not isinstance(data, Iterable):
            got = type(data).__name__
            raise DataError("these aren't batches", got=got, expected="a list, a DataLoader or another iterable")
        batches = list(itertools.islice(data, limit)) if iter(data) is data else data
        return cls(batches, inputs, limit)


@dataclass(frozen=True)
class Analysis:
    """Groups of a teacher, which of them are narrowed together, and what each keeps at every width."""

    graph: Graph
    groups: tuple[Group, ...]
    units: tuple[tuple[int, ...], ...]
    wanted: Mapping[str, Reader]
    moments: Mapping[str, Moments]
    choices: Mapping[int, Choice]
    notes: tuple[str, ...] = field(default=())
    forced: Mapping[int, str | None] = field(default_factory=dict)  # whole, were it not for a factory: why


def run_once(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[nn.Module], Any]:
    """A forward with these arguments, the same random numbers every time."""

    def run(model: nn.Module) -> Any:
        with quiet(model):
            torch.manual_seed(0)
            return model(*args, **kwargs)

    return run


def analyse(
    teacher: nn.Module,
    spectra: Spectra | None,
    data: Data,
    *,
    rotated: bool,
    verified: bool = True,
) -> Analysis:
    """Trace, group, prove and measure."""
    args, kwargs = data.example(teacher)
    taps = [tap for pair in spectra.pairing for tap in _taps(pair)] if spectra else []
    graph = trace_channels(teacher, args, kwargs, list(dict.fromkeys(taps)))
    groups = list(find_groups(graph, teacher))
    home = {atom: k for k, group in enumerate(groups) for atom in group.atoms}
    notes = [f"{', '.join(map(repr, graph.unseen))}: no gradient passes, left whole"] if graph.unseen else []
    ties = []
    for pair in spectra.pairing if spectra else ():
        sides = [{home[atom] for atom in graph.tapped[tap]} for tap in _taps(pair)]
        lost = [f"'{tap}'" for tap, side in zip(_taps(pair), sides, strict=True) if not side]
        if lost:
            notes.append(
                f"pair {pair.name!r}: the channels of {', '.join(lost)} weren't found, so its sides aren't tied"
            )
        ties.append(sorted(set().union(*sides)))
    if verified:
        groups = [replace(g, whole=HEADS) if g.heads and not g.head_count and g.whole is None else g for g in groups]
        units = tied(groups, teacher, ties)
        run = run_once(args, kwargs)
        broken = find_breaking(teacher, groups, units, run)
        attending = [n for n in broken if any(_may_scale(groups[k], teacher) for k in units[n])]
        if attending:  # divided by the root of a head's dimension, perhaps
            scaled = [replace(group, scaled=_may_scale(group, teacher)) for group in groups]
            still = find_breaking(teacher, scaled, [units[n] for n in attending], run)
            for place, n in enumerate(attending):
                if place not in still:
                    del broken[n]
                    for k in units[n]:
                        groups[k] = scaled[k]
        for number, reason in broken.items():
            for k in units[number]:
                groups[k] = replace(groups[k], whole=reason)
    else:
        groups += unseen_groups(graph, teacher)
    forced = {} if verified else {k: group.whole for k, group in enumerate(groups) if group.whole not in (None, INPUT)}
    for k, reason in forced.items():
        if reason == OUTPUT:
            groups[k] = celled(replace(groups[k], whole=None), dict(teacher.named_modules()))
    wanted = readers(teacher, groups)
    moments = measure_inputs(teacher, wanted, data, data.inputs)
    choices = {}
    for k, group in enumerate(groups):
        if group.whole is None:
            matrix = _matrix(group, wanted, moments, graph, spectra)
            if matrix is not None:
                choices[k] = Choice(matrix, group, rotated=rotated and group.rotatable)
            elif verified:
                groups[k] = replace(group, whole="what reads it can't be measured")
        if k not in choices and not verified and group.whole != INPUT:  # the factory decides
            groups[k] = replace(group, whole=None)
            choices[k] = Choice.evenly(group)
    units = tied(groups, teacher, ties)
    return Analysis(graph, tuple(groups), tuple(map(tuple, units)), wanted, moments, choices, tuple(notes), forced)


def _may_scale(group: Group, model: nn.Module) -> bool:
    return group.head_count > 0 and has_queries(model, group.layers)


def _taps(pair: Any) -> tuple[Tap, ...]:
    return (pair.encoder, pair.decoder, *pair.companions)


def _matrix(
    group: Group,
    wanted: Mapping[str, Reader],
    moments: Mapping[str, Moments],
    graph: Graph,
    spectra: Spectra | None,
) -> Tensor | None:
    """(n, n) of trace 1: the mean of what reads the group, and of the spectra's features where they are the group's."""
    found = energy_matrix(group, wanted, moments)
    features = [matrix for pair in spectra or () for matrix in _features(group, pair, graph)]
    if not features:
        return found
    return torch.stack([*features, *([found] if found is not None else [])]).mean(0)


def _features(group: Group, pair: PairSpectra, graph: Graph) -> Sequence[Tensor]:
    found = []
    measured = (pair.encoder, pair.decoder, *pair.companions)
    for tap, statistics in zip(_taps(pair.pair), measured, strict=True):
        place = {atom: channel for channel, atom in enumerate(graph.tapped[tap])}
        if len(place) == statistics.channels and set(group.atoms) <= set(place):
            where = torch.tensor([place[atom] for atom in group.atoms])
            covariance = statistics.cov[where][:, where]
            trace = covariance.diagonal().sum()
            if float(trace) > 0:
                found.append(covariance / trace)
    return found
