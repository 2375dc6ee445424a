"""Uneven data and processes that die, with real processes: a result or an error that says why, and never a hang.

A process that still runs after the limit is killed, and its test fails. What ends by itself ends well before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _engines import Batch, batches, make, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

LIMIT = 50.0  # seconds: inside a minute, whatever happens
TIMEOUT = 6.0  # of the group; more than the processes are ever apart

SHARES = {"fewer": (3, 2), "none": (2, 0)}  # how many batches each process has


def share(rank: int, counts: tuple[int, int], *, ragged: bool = False) -> list[Batch]:
    """Batches of two samples; with `ragged`, the last of the first process has one sample only."""
    given = [(x[2 * rank : 2 * rank + 2], y[2 * rank : 2 * rank + 2]) for x, y in batches(3)][: counts[rank]]
    if ragged and rank == 0:
        given[-1] = given[-1][0][:1], given[-1][1][:1]
    return given


def joined(rank: int, code: str, counts: tuple[int, int], throw: bool) -> dict[str, Any]:
    distiller = make()
    names = {"torch": torch, "distiller": distiller, "task_loss": F.mse_loss, "throw": throw}
    exec(code, {**names, "loader": share(rank, counts, ragged=True)})
    return {"weights": weights(distiller), "steps": distiller.steps_done}


@pytest.mark.parametrize("counts", SHARES.values(), ids=SHARES)
def test_uneven_shares_are_joined(counts: tuple[int, int], ranks: Callable[..., Any], examples: dict[str, str]) -> None:
    """Each step's gradient is the sum of those that there are, divided by two."""
    ended = ranks(joined, examples["join"], counts, False, limit=LIMIT)
    assert [process.code for process in ended] == [0, 0], ended
    assert [process.result["steps"] for process in ended] == list(counts)
    distiller = make()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9)
    shares = [share(rank, counts, ragged=True) for rank in range(2)]
    for number in range(max(counts)):
        optimizer.zero_grad()
        for given in shares:
            for x, y in given[number : number + 1]:
                step = distiller(x)
                ((step.losses.total + F.mse_loss(step.output, y)) / 2).backward()
        optimizer.step()
        distiller.advance()
    for process in ended:
        torch.testing.assert_close(process.result["weights"], weights(distiller))


@pytest.mark.parametrize("counts", SHARES.values(), ids=SHARES)
def test_uneven_shares_end_for_all_where_that_is_asked_for(
    counts: tuple[int, int], ranks: Callable[..., Any], examples: dict[str, str]
) -> None:
    ended = ranks(joined, examples["join"], counts, True, limit=LIMIT)
    assert [process.code for process in ended] == [1, 1]
    assert all("exhausted" in process.said for process in ended), ended


def plain(rank: int, counts: tuple[int, int], folder: str, then: str) -> None:
    """The loop of the documentation without `join`; what has no batch left waits for the other, or ends."""
    distiller = make()
    parallel = nn.parallel.DistributedDataParallel(distiller)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    here, there = (Path(folder, str(number)) for number in (rank, 1 - rank))
    try:
        for x, _ in share(rank, counts):
            optimizer.zero_grad()
            parallel(x).losses.total.backward()
            optimizer.step()
        if then == "killed" and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while then == "waits" and not there.exists():
            time.sleep(0.02)
    finally:
        here.touch()


@pytest.mark.parametrize("counts", SHARES.values(), ids=SHARES)
def test_uneven_shares_without_join_time_out(
    counts: tuple[int, int], ranks: Callable[..., Any], tmp_path: Path
) -> None:
    ended = ranks(plain, counts, str(tmp_path), "waits", limit=LIMIT, group=TIMEOUT)
    assert ended[0].code == 1
    assert "Timed out waiting" in ended[0].said
    assert "loss" in ended[0].said  # the line of the loop
    assert ended[1].code == 0


@pytest.mark.parametrize(("then", "code"), [("ends", 0), ("killed", -signal.SIGKILL)])
def test_the_others_notice_a_process_that_is_gone(
    then: str, code: int, ranks: Callable[..., Any], tmp_path: Path
) -> None:
    """At once: the group's timeout is longer than the limit."""
    ended = ranks(plain, (3, 2), str(tmp_path), then, limit=LIMIT, group=10 * LIMIT)
    assert [process.code for process in ended] == [1, code]
    assert "Connection closed by peer" in ended[0].said or "Connection reset by peer" in ended[0].said, ended[0].said
    assert ".backward()" in ended[0].said


class Data(Dataset[Tensor]):
    """Four samples; one of them kills the process that loads it, once `taken` is there (if it is given)."""

    def __init__(self, deadly: int, taken: str) -> None:
        self.deadly, self.taken = deadly, taken

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        if index == self.deadly:
            while self.taken and not Path(self.taken).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return batches(1)[0][0][index]


def loads(rank: int, taken: str) -> None:
    distiller = make()
    parallel = nn.parallel.DistributedDataParallel(distiller)
    data = Data(deadly=2 if rank == 0 else -1, taken=taken)
    loader = DataLoader(data, batch_size=1, num_workers=1, multiprocessing_context="fork")
    for number, x in enumerate(loader):
        if rank == 0 and number == 1 and taken:
            Path(taken).touch()
        parallel(x).losses.total.backward()


@pytest.mark.parametrize("waits", [True, False], ids=["all taken", "batches on their way"])
def test_a_worker_that_loads_data_is_killed(waits: bool, ranks: Callable[..., Any], tmp_path: Path) -> None:
    """Its process says so, and the other one, whose data are fine, ends as well."""
    ended = ranks(loads, str(tmp_path / "taken") if waits else "", limit=LIMIT, group=10 * LIMIT)
    assert [process.code for process in ended] == [1, 1]
    said = ended[0].said
    # A batch that it had finished, and that nobody had taken, is lost with it; then that is what is seen first.
    lost = ("ConnectionResetError", "ConnectionRefusedError", "FileNotFoundError", "EOFError")
    assert "is killed by signal: Killed" in said or (not waits and any(error in said for error in lost)), said
    assert "closed by peer" in ended[1].said or "reset by peer" in ended[1].said, ended[1].said


def sleeps(rank: int) -> None:
    time.sleep(LIMIT * rank)


def test_a_hang_would_be_noticed(ranks: Callable[..., Any]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"processes \[1\] still ran after 3"):
        ranks(sleeps, limit=3, group=0)
