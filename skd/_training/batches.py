"""The batches of one process, from any place on: what batch k of pass p holds depends on the seed, p and k alone.

That is what makes a resumed run see what the uninterrupted one saw, with any number of loading processes: their random
numbers needn't be kept, since every batch is loaded under a seed of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from skd._code import code_of
from skd._training.fetching import Failed, Fetch, Key, Place, loading, name_of
from skd._training.randomness import seeded
from skd._values import tensors
from skd.errors import ArgumentError, DataError

_ORDER, _LOAD = 1, 2  # so that a pass' order and its batches draw from different streams


class Batch(NamedTuple):
    """A batch, where it stands, and the place to go on from after it."""

    value: Any
    place: Place
    following: Place


class PassOver(NamedTuple):
    """No full round of batches is left in this pass."""

    following: Place


class Loaded(NamedTuple):
    """Batches of a map-style loader: drawn in an order of their own each pass, loaded in any process."""

    loader: DataLoader[Any]
    seed: int
    rank: int
    processes: int

    def identity(self) -> dict[str, Any]:
        """What the order and content of the batches depend on, as far as a loader says."""
        dataset, sampler = self.loader.dataset, self.loader.sampler
        return {
            "dataset": f"{type(dataset).__qualname__} {code_of(type(dataset))}",
            "collate_fn": code_of(self.loader.collate_fn),
            "samples": len(dataset) if hasattr(dataset, "__len__") else None,
            "sampler": type(sampler).__qualname__,
            "batch_size": self.loader.batch_size,
            "drop_last": self.loader.drop_last,
            "processes": self.processes,
        }

    def read(self, place: Place) -> Iterator[Batch | PassOver]:
        """From `place` on, without end."""
        ours = self.loader
        generator = torch.Generator()
        generator.manual_seed(self.seed)  # of no account: each batch is seeded. Otherwise the global one is drawn from
        loader = DataLoader(
            Fetch(ours.dataset, ours.collate_fn, whole=ours.batch_sampler is None),
            batch_size=None,
            sampler=_Keys(self, place),
            collate_fn=_as_it_is,
            num_workers=ours.num_workers,
            pin_memory=ours.pin_memory,
            timeout=ours.timeout,
            worker_init_fn=ours.worker_init_fn,
            multiprocessing_context=ours.multiprocessing_context,
            generator=generator,
            prefetch_factor=ours.prefetch_factor,
        )
        with loading(place):
            iterator = iter(loader)
        try:
            while True:
                with loading(place):
                    loaded = next(iterator)
                if isinstance(loaded, Failed):
                    raise loaded.error()
                batch = Batch(*loaded)
                place = batch.following
                yield batch
        finally:
            del iterator  # ends its processes now; the garbage collector, coming later, waits 5 s for each

    def keys(self, place: Place) -> Iterator[Key]:
        """What this process loads from `place` on."""
        while True:
            order = self._order(place.epoch)
            rounds = -(-len(order) // self.processes)
            for number in range(place.batch, rounds):
                # The last round is filled up from the pass' beginning: every process has a batch in every round.
                k = (number * self.processes + self.rank) % len(order)
                here = Place(place.epoch, number)
                after = Place(place.epoch, number + 1) if number + 1 < rounds else Place(place.epoch + 1)
                yield Key(here, after, order[k], (self.seed, _LOAD, place.epoch, k))
            place = Place(place.epoch + 1)

    def _order(self, epoch: int) -> list[Any]:
        """The pass' batches as lists of indices, the same in every process."""
        sampler: Iterable[Any] = self.loader.sampler if self.loader.batch_sampler is None else self.loader.batch_sampler
        sources: list[Any] = [sampler, getattr(sampler, "sampler", None)]
        for source in sources:
            if hasattr(source, "set_epoch"):
                source.set_epoch(epoch)
        with seeded(self.seed, _ORDER, epoch), _same_each_time(sources):
            order = list(sampler)
        if len(order) < self.processes:
            raise DataError(
                "the loader has too few batches",
                got=f"{len(order)} for {self.processes} process{'es' * (self.processes > 1)}",
                expected="at least one for each process",
                remedy="give more samples, a smaller batch, or drop_last=False",
            )
        return order


class Streamed(NamedTuple):
    """Batches of something that can only be read from its beginning: an iterable dataset's loader, a list, a stream.

    In several processes each reads all of it, and keeps every n-th batch.
    """

    data: Iterable[Any]
    seed: int
    rank: int
    processes: int

    def identity(self) -> dict[str, Any]:
        """What there is to tell of a stream."""
        dataset = getattr(self.data, "dataset", self.data)
        count = len(self.data) if isinstance(self.data, Sequence) else None
        return {"dataset": type(dataset).__qualname__, "batches": count, "processes": self.processes}

    def read(self, place: Place) -> Iterator[Batch | PassOver]:
        """From `place` on, without end; a pass that ends is announced."""
        begun = place.epoch
        while True:
            with seeded(self.seed, _ORDER, place.epoch), loading(place), _same_each_time([self.data]):
                iterator = iter(self.data)
            for _ in islice(self._rounds(iterator, place.epoch), place.batch):
                pass
            number = place.batch
            for value in self._rounds(iterator, place.epoch, first=place.batch):
                yield Batch(value, Place(place.epoch, number), Place(place.epoch, number + 1))
                number += 1
            if number == 0:
                raise DataError(
                    "the data hold no batch" if place.epoch == begun else "the data can be read only once",
                    got="0 batches" + f" for {self.processes} processes" * (self.processes > 1)
                    if place.epoch == begun
                    else f"nothing in pass {place.epoch + 1}",
                    remedy="give a DataLoader or a list of batches, or train for fewer steps",
                )
            place = Place(place.epoch + 1)
            yield PassOver(place)

    def _rounds(self, iterator: Iterator[Any], epoch: int, first: int = 0) -> Iterator[Any]:
        """This process' batch of each full round."""
        number = first
        while True:
            mine = None
            for rank in range(self.processes):
                k = number * self.processes + rank
                with seeded(self.seed, _LOAD, epoch, k), loading(Place(epoch, number)):
                    try:
                        value = next(iterator)
                    except StopIteration:
                        return
                if rank == self.rank:
                    mine = value
            yield mine
            number += 1


Batches = Loaded | Streamed


def batches_of(data: Any, *, seed: int, rank: int = 0, processes: int = 1) -> Batches:
    """The batches of a loader, or of anything that can be iterated over.

    Raises
    ------
    ArgumentError
        It can't be iterated over, or is a dataset without a loader.
    """
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        return Loaded(data, seed, rank, processes)
    if isinstance(data, (Dataset, str, bytes, torch.Tensor, dict)) or not hasattr(data, "__iter__"):
        raise ArgumentError(
            "these data don't come in batches",
            got=type(data).__name__,
            expected="a DataLoader, a list of batches, or another iterable of them",
            remedy="wrap a dataset: torch.utils.data.DataLoader(dataset, batch_size=…, shuffle=True)",
        )
    return Streamed(data, seed, rank, processes)


def check_tensors(batch: Batch) -> None:
    """Refuse a batch that holds no tensor at all."""
    if not tensors(batch.value):
        raise DataError(
            f"{name_of(batch.place)} holds no tensor",
            got=_kind(batch.value),
            remedy="let the dataset or the loader's collate_fn return tensors (for texts: token numbers)",
        )


def not_finite(value: Any) -> str | None:
    """Where a batch holds NaN or infinity; None where it doesn't."""
    for path, tensor in tensors(value):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = ~torch.isfinite(tensor).reshape(tensor.shape[0] if tensor.dim() else 1, -1).all(1)
            rows = ", ".join(map(str, bad.nonzero().flatten().tolist()[:5]))
            return f"sample {rows} of its tensor {'.'.join(map(str, path)) or ''}".rstrip()
    return None


class _Keys(Sampler[Key]):
    def __init__(self, batches: Loaded, place: Place) -> None:
        self.batches, self.place = batches, place

    def __iter__(self) -> Iterator[Key]:
        return self.batches.keys(self.place)


@contextmanager
def _same_each_time(sources: Sequence[Any]) -> Iterator[None]:
    """A generator of the user's own goes on from call to call; a pass has to be repeatable. Put back afterwards."""
    generators = [g for source in sources if isinstance(g := getattr(source, "generator", None), torch.Generator)]
    kept = [g.get_state() for g in generators]
    try:
        for g in generators:
            g.manual_seed(int(torch.randint(2**62, ())))
        yield
    finally:
        for g, was in zip(generators, kept, strict=True):
            g.set_state(was)


def _as_it_is(value: Any) -> Any:
    return value


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__
