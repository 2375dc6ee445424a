"""Run by test_training_processes.py under torchrun: the same script as in one process, in several."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import skd
from skd.adapters import ChannelAdapter
from skd.distances import mse
from skd.knowledge import centred, raw
from skd.methods import Method, Stage, Transfer

RANK = int(os.environ.get("RANK", "0"))
# Plain descent: Adam would make steps of full size from a bias' gradient that is zero but for rounding.
RECIPE = skd.Recipe(
    steps=8, optimizer="sgd", learning_rate=0.1, warmup=0, average=0.5, save_every=4, log_every=1, evaluate_every=4
)


def net(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 2, 2))


class Staged(Method):
    """The second stage trains a layer that the first holds still: parallel modules have to be wrapped anew."""

    def transfers(self) -> Sequence[Transfer]:
        torch.manual_seed(2)
        adapter = ChannelAdapter(4, 6)
        return (
            Transfer("code", "0", "0", centred, mse, student_adapters=adapter),
            Transfer("output", "", "", raw, mse),
        )

    def stages(self) -> Sequence[Stage]:
        return (Stage(until=3, transfers=("code",), frozen=("2",)), Stage(None, ("code", "output")))


class Unfrozen(Staged):
    """The first stage's losses don't reach a layer that is trained."""

    def stages(self) -> Sequence[Stage]:
        return (Stage(until=3, transfers=("code",)), Stage(None, ("code", "output")))


def images(count: int = 32) -> Tensor:
    return torch.randn(count, 3, 8, 12, generator=torch.Generator().manual_seed(1))


class Stream(IterableDataset[Tensor]):
    """Another length in each process, as where each reads files of its own."""

    def __iter__(self):
        yield from images()[: 9 + 6 * RANK]


def distill(out: Path, data, **options) -> None:
    torch.manual_seed(0)
    teacher = net(6)
    torch.manual_seed(1 + RANK)  # a script that doesn't seed: the loop begins with the main process' weights
    student = net(4)
    done = skd.distill(
        teacher,
        data,
        out,
        student=student,
        **{"recipe": RECIPE, "method": Staged(), **options},
        evaluate=lambda n: n(images(4)).square().mean(),
    )
    torch.save({"student": student.state_dict(), "best": list(done.run.best)}, out / f"rank{RANK}.pt")


def die(step: int, result: object) -> None:
    if step == 4 and RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def fail(step: int, result: object) -> None:
    if step == 4 and RANK == 1:
        raise KeyError("of process 1 alone")


class Missing(TensorDataset):
    def __getitem__(self, index):
        if index >= 20 and RANK == 1:
            raise FileNotFoundError("of process 1 alone")
        return super().__getitem__(index)[0]


def whole(samples: Tensor, size: int, **options) -> DataLoader:
    return DataLoader(samples, batch_size=size, **options)  # type: ignore[arg-type]


def main(what: str, out: Path) -> None:
    size = 4 * int(os.environ.get("WORLD_SIZE", "1")) if what == "joined" else 4
    if what in ("train", "joined"):
        distill(out, whole(images(), 8 if "WORLD_SIZE" not in os.environ else 4))
    elif what == "fitted":
        distill(out, whole(images(), 8 if "WORLD_SIZE" not in os.environ else 4), fit_adapters=True)
    elif what == "uneven":
        distill(out, whole(images(21), size, shuffle=True))
    elif what == "unused":
        distill(out, whole(images(), size), method=Unfrozen(), recipe=replace(RECIPE, find_unused=True))
    elif what == "stream":
        distill(out, whole(Stream(), 3))
    elif what == "too few":
        distill(out, whole(images(4), size))
    elif what == "die":
        distill(out, whole(images(), size), each=die)
    elif what == "fail":
        distill(out, whole(images(), size), each=fail)
    elif what == "missing":
        distill(out, whole(Missing(images()), size))
    elif what == "folder":
        (out / "log.jsonl").mkdir(exist_ok=True, parents=True)
        distill(out, whole(images(), size))


if __name__ == "__main__":
    started = time.monotonic()
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except Exception as error:
        print(f"RANK {RANK} {type(error).__name__}: {error}", flush=True)
        raise SystemExit(1) from None
    finally:
        print(f"RANK {RANK} took {time.monotonic() - started:.1f} s", flush=True)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
