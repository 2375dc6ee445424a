"""What a batch holds depends on the seed, its pass and its place in it alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler

from skd._training.batches import Batch, Batches, PassOver, batches_of
from skd._training.fetching import Place
from skd._training.randomness import state
from skd.errors import DataError

START = Place()


class Noisy(Dataset[Tensor]):
    """The index, and numbers from all three generators."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        noise = np.random.rand()  # noqa: NPY002 - what user code draws from
        return torch.tensor([index, random.random(), noise, torch.rand(()).item()], dtype=torch.float64)


class AtOnce(Noisy):
    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [torch.stack([self[index], torch.rand(4, dtype=torch.float64)]) for index in indices]


class Stream(IterableDataset[Tensor]):
    """As a map-style dataset's samples, read in order; shared out between loading processes as PyTorch's docs do."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.count, step):
            yield torch.cat([torch.tensor([float(index)]), torch.rand(1)])


class Uneven(Sampler[list[int]]):
    """A batch sampler of one's own, of batches of 1, 2, 3 … samples in an order drawn at random."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count).tolist()
        size = 1
        while order:
            yield order[:size]
            order, size = order[size:], size + 1


class ByEpoch(Sampler[int]):
    """Another order each pass, by `set_epoch` alone."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from ((index + self.epoch) % self.count for index in range(self.count))

    def __len__(self) -> int:
        return self.count


def jittered(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples) + random.random()


def first(batches: Batches, count: int, place: Place = START) -> list[Batch]:
    """So many batches from a place on."""
    found = (item for item in batches.read(place) if isinstance(item, Batch))
    taken = list(islice(found, count))
    found.close()
    return taken


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.place, a.following) == (b.place, b.following)
        assert torch.equal(a.value, b.value)


sizes = st.integers(1, 14), st.integers(1, 5), st.booleans(), st.integers(1, 4), st.integers(0, 2**62)


@settings(max_examples=60, deadline=None)
@given(*sizes)
def test_ranks_share_a_pass(samples: int, size: int, drop: bool, processes: int, seed: int) -> None:
    """An oracle that counts: as many batches for each, every batch somewhere, and each what one process reads."""
    loader = DataLoader(Noisy(samples), batch_size=size, drop_last=drop, shuffle=True)
    total = samples // size if drop else -(-samples // size)
    if total < processes:
        with pytest.raises(DataError, match="the loader has too few batches"):
            next(batches_of(loader, seed=seed, processes=processes).read(Place()))
        return
    rounds = -(-total // processes)
    alone = first(batches_of(loader, seed=seed), 2 * total)
    for epoch in range(2):
        seen = set()
        for rank in range(processes):
            ours = first(batches_of(loader, seed=seed, rank=rank, processes=processes), rounds, Place(epoch))
            assert [batch.place for batch in ours] == [Place(epoch, number) for number in range(rounds)]
            assert ours[-1].following == Place(epoch + 1)
            for number, batch in enumerate(ours):
                k = (number * processes + rank) % total
                seen.add(k)
                assert torch.equal(batch.value, alone[epoch * total + k].value)
        assert seen == set(range(total))
        indices = [int(i) for batch in alone[epoch * total : (epoch + 1) * total] for i in batch.value[:, 0]]
        assert len(indices) == len(set(indices)) == (total * size if drop else samples)


@settings(max_examples=40, deadline=None)
@given(*sizes, st.booleans(), st.integers(0, 12))
def test_reading_from_a_place_is_the_tail_of_reading_from_the_beginning(
    samples: int, size: int, drop: bool, processes: int, seed: int, stream: bool, skipped: int
) -> None:
    total = samples // size if drop else -(-samples // size)
    if total < processes:
        return
    dataset: Any = Stream(samples) if stream else Noisy(samples)
    loader = DataLoader(dataset, batch_size=size, drop_last=drop)
    batches = batches_of(loader, seed=seed, rank=processes - 1, processes=processes)
    whole = first(batches, skipped + 5)
    place = whole[skipped - 1].following if skipped else Place()
    assert_same(first(batches, 5, place), whole[skipped:])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 14), st.integers(1, 3), st.integers(0, 2**62))
def test_a_stream_is_dealt_out_in_full_rounds(count: int, processes: int, seed: int) -> None:
    data = [torch.tensor(float(index)) for index in range(count)]
    if count < processes:
        with pytest.raises(DataError, match=r"the data hold no batch"):
            next(batches_of(data, seed=seed, processes=processes).read(Place()))
        return
    for rank in range(processes):
        read = batches_of(data, seed=seed, rank=rank, processes=processes).read(Place())
        values = []
        for item in read:
            if isinstance(item, PassOver):
                assert item.following == Place(1)
                break
            values.append(int(item.value))
        assert values == [number * processes + rank for number in range(count // processes)]


MAKERS: dict[str, Callable[[int], DataLoader[Any]]] = {
    "in order": lambda n: DataLoader(Noisy(9), 2, num_workers=n),
    "shuffled": lambda n: DataLoader(Noisy(9), 2, shuffle=True, num_workers=n),
    "one by one": lambda n: DataLoader(Noisy(9), batch_size=None, shuffle=True, num_workers=n),
    "at once": lambda n: DataLoader(AtOnce(9), 2, num_workers=n),
    "weighted": lambda n: DataLoader(Noisy(9), 2, sampler=WeightedRandomSampler([1.0] * 9, 9), num_workers=n),
    "own generator": lambda n: DataLoader(
        Noisy(9), 2, shuffle=True, generator=torch.Generator().manual_seed(7), num_workers=n
    ),
    "uneven": lambda n: DataLoader(Noisy(9), batch_sampler=Uneven(9), num_workers=n),
    "by epoch": lambda n: DataLoader(Noisy(9), 2, sampler=ByEpoch(9), num_workers=n),
    "epoch below": lambda n: DataLoader(
        Noisy(9), batch_sampler=BatchSampler(ByEpoch(9), 2, drop_last=False), num_workers=n
    ),
    "collated": lambda n: DataLoader(Noisy(9), 2, collate_fn=jittered, num_workers=n),
}


@pytest.mark.parametrize("name", MAKERS)
def test_loaders_of_every_kind(name: str) -> None:
    """Repeatable, resumable, other content each pass."""
    whole = first(batches_of(MAKERS[name](0), seed=3), 22)
    for skipped in (1, 4, 5, 13):
        tail = first(batches_of(MAKERS[name](0), seed=3), 22 - skipped, whole[skipped - 1].following)
        assert_same(tail, whole[skipped:])
    passes = [[b.value for b in whole if b.place.epoch == epoch] for epoch in (0, 1)]
    assert not all(torch.equal(a, b) for a, b in zip(*passes, strict=False))
    if name in ("by epoch", "epoch below"):
        assert [int(values[0][0, 0]) for values in passes] == [0, 1]
    other = first(batches_of(MAKERS[name](0), seed=4), 22)
    assert not all(torch.equal(a.value, b.value) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["shuffled", "at once", "collated"])
def test_loading_processes_change_nothing(name: str, workers: int) -> None:
    assert_same(
        first(batches_of(MAKERS[name](0), seed=3), 7, Place(1, 2)),
        first(batches_of(MAKERS[name](workers), seed=3), 7, Place(1, 2)),
    )


def test_a_stream_with_loading_processes_goes_on_in_the_middle_of_a_pass() -> None:
    batches = batches_of(DataLoader(Stream(11), 2, num_workers=2), seed=5)
    whole = first(batches, 8)
    assert whole[6].place.epoch == 1
    assert_same(first(batches, 6, whole[1].following), whole[2:])


@pytest.mark.parametrize("name", [*MAKERS, "stream"])
def test_the_callers_generators_are_left_alone_by_every_step(name: str) -> None:
    loader: DataLoader[Any] = DataLoader(Stream(9), 2) if name == "stream" else MAKERS[name](0)
    generator = loader.generator
    own = None if generator is None else generator.get_state()
    before = state()
    reading = batches_of(loader, seed=3).read(Place(0, 1))
    for _ in range(8):
        next(reading)
        now = state()
        assert now["python"] == before["python"]
        assert torch.equal(now["torch"], before["torch"])
        assert torch.equal(now["numpy"][1], before["numpy"][1])
        assert now["numpy"][2:] == before["numpy"][2:]
    if generator is not None:
        assert torch.equal(generator.get_state(), own)
