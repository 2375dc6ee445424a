"""The batches of one process, from any place on: what batch k of pass p holds depends on the seed, p and k alone.

That is what makes a resumed run see what the uninterrupted one saw, with any number of loading processes: their random
numbers needn't be kept, since every batch is loaded under a seed of its own.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from skd._training.randomness import seeded
from skd._values import tensors
from skd.errors import ArgumentError, DataError, ProcessError, SkdError

_ORDER, _LOAD = 1, 2  # so that a pass' order and its batches draw from different streams


class Place(NamedTuple):
    """Where the data are read: the pass over them, and the batch in it that comes next."""

    epoch: int = 0
    batch: int = 0


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
            "dataset": type(dataset).__qualname__,
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
            _Fetch(ours.dataset, ours.collate_fn, whole=ours.batch_sampler is None),
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
        with _loading(place):
            iterator = iter(loader)
        try:
            while True:
                with _loading(place):
                    loaded = next(iterator)
                if isinstance(loaded, _Failed):
                    raise loaded.error()
                batch = Batch(*loaded)
                place = batch.following
                yield batch
        finally:
            del iterator  # ends its processes now; the garbage collector, coming later, waits 5 s for each

    def keys(self, place: Place) -> Iterator[_Key]:
        """What this process loads from `place` on."""
        while True:
            order = self._order(place.epoch)
            rounds = -(-len(order) // self.processes)
            for number in range(place.batch, rounds):
                # The last round is filled up from the pass' beginning: every process has a batch in every round.
                k = (number * self.processes + self.rank) % len(order)
                here = Place(place.epoch, number)
                after = Place(place.epoch, number + 1) if number + 1 < rounds else Place(place.epoch + 1)
                yield _Key(here, after, order[k], (self.seed, _LOAD, place.epoch, k))
            place = Place(place.epoch + 1)

    def _order(self, epoch: int) -> list[Any]:
        """The pass' batches as lists of indices, the same in every process."""
        sampler: Iterable[Any] = self.loader.batch_sampler or self.loader.sampler
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
        while True:
            with seeded(self.seed, _ORDER, place.epoch), _loading(place), _same_each_time([self.data]):
                iterator = iter(self.data)
            for _ in islice(self._rounds(iterator, place.epoch), place.batch):
                pass
            number = place.batch
            for value in self._rounds(iterator, place.epoch, first=place.batch):
                yield Batch(value, Place(place.epoch, number), Place(place.epoch, number + 1))
                number += 1
            if number == 0:
                raise DataError(
                    "the data hold no batch" if place.epoch == 0 else "the data can be read only once",
                    got="0 batches" + f" for {self.processes} processes" * (self.processes > 1)
                    if place.epoch == 0
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
                with seeded(self.seed, _LOAD, epoch, k), _loading(Place(epoch, number)):
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
            f"{_name(batch.place)} holds no tensor",
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


class _Key(NamedTuple):
    place: Place
    following: Place
    indices: Any
    seed: tuple[int, ...]


class _Keys(Sampler[_Key]):
    def __init__(self, batches: Loaded, place: Place) -> None:
        self.batches, self.place = batches, place

    def __iter__(self) -> Iterator[_Key]:
        return self.batches.keys(self.place)


class _Fetch(Dataset[Any]):
    """Loads a whole batch under its own seed, in whichever process that is."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, whole: bool) -> None:
        self.dataset, self.collate, self.whole = dataset, collate, whole

    def __getitem__(self, key: _Key) -> tuple[Any, Place, Place] | _Failed:
        with seeded(*key.seed):
            step = "loaded"
            try:
                if self.whole:
                    samples = self.dataset[key.indices]
                elif getattr(self.dataset, "__getitems__", None):
                    samples = self.dataset.__getitems__(key.indices)
                else:
                    samples = [self.dataset[index] for index in key.indices]
                step = "put together"
                return self.collate(samples), key.place, key.following
            except Exception as error:
                return _Failed.of(error, f"{_name(key.place)} can't be {step}", key.indices)


class _Failed(NamedTuple):
    """An error of the data, in a form that comes through from any process with nothing lost."""

    kind: type[SkdError]
    what: str
    details: dict[str, Any]
    trace: str

    @classmethod
    def of(cls, error: Exception, what: str, indices: Any) -> _Failed:
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, SkdError) and type(error).__init__ is SkdError.__init__:
            details = {"got": error.got, "expected": error.expected, "remedy": error.remedy}
            return cls(type(error), error.what, {k: v if v is None else str(v) for k, v in details.items()}, trace)
        got = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        samples = indices if isinstance(indices, list) else [indices]
        got += f" (samples {', '.join(map(str, samples[:8]))}{' …' if len(samples) > 8 else ''})"
        remedy = "look at these samples; samples of different sizes want a collate_fn, or a crop in the dataset"
        return cls(DataError, what, {"got": got, "remedy": remedy}, trace)

    def error(self) -> SkdError:
        made = self.kind(self.what, **self.details)
        made.add_note(f"The error of the data:\n{self.trace}")
        return made


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


class _loading:
    """Errors of a loader say which batch; a loading process that died is told as such."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, (SkdError, StopIteration)):
            return
        text = str(error).strip().partition("\n")[0]
        if isinstance(error, RuntimeError) and ("DataLoader worker" in text or "DataLoader timed out" in text):
            remedy = "num_workers=0 shows its error, if it has one; training goes on from the last checkpoint"
            raise ProcessError("a process that loads data died or is stuck", got=text, remedy=remedy) from error
        raise DataError(f"{_name(self.place)} can't be loaded", got=f"{type(error).__name__}: {text}") from error


def _as_it_is(value: Any) -> Any:
    return value


def _name(place: Place) -> str:
    return f"batch {place.batch} of pass {place.epoch + 1}"


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__
