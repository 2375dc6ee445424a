"""Run by test_training_resume.py: a distillation in a process of its own that is killed at random moments.

The parent imports once and forks the processes that train, so that ten of them start in no time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import accelerate  # noqa: F401 - imported once, before the forks
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import skd
from skd.adapters import ChannelAdapter
from skd.distances import mse
from skd.knowledge import centred, raw
from skd.methods import Method, Stage, Transfer
from skd.schedules import Ramp

STEPS = 240
RECIPE = skd.Recipe(
    steps=STEPS, learning_rate=3e-3, warmup=9, accumulate=2, average=0.9, save_every=3, log_every=5, evaluate_every=20
)


class Rows(Dataset[Tensor]):
    """Samples with noise from all three generators."""

    def __len__(self) -> int:
        return 22  # the last batch of a pass is smaller

    def __getitem__(self, index: int) -> Tensor:
        base = torch.linspace(0, 1, 3 * 8 * 8).reshape(3, 8, 8) * index
        noise = torch.from_numpy(np.random.randn(3, 8, 8).astype(np.float32))  # noqa: NPY002 - what user code does
        return torch.sin(base) + 0.1 * noise + 0.1 * torch.randn(3, 8, 8) + 0.1 * random.random()


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.drop, self.up = nn.Dropout(0.2), nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.drop(self.norm(self.down(x)).relu()))


class TwoStages(Method):
    """A learned adapter first, the output with a rising weight afterwards; a layer stands still at first."""

    def transfers(self) -> Sequence[Transfer]:
        torch.manual_seed(5)
        adapter = ChannelAdapter(4, 6)
        return (
            Transfer("down", "down", "down", centred, mse, student_adapters=adapter),
            Transfer("output", "", "", raw, mse, Ramp(0.5, 1.0, steps=STEPS)),
        )

    def stages(self) -> Sequence[Stage]:
        return (Stage(until=STEPS // 2, transfers=("down",), frozen=("up",)), Stage(None, ("down", "output")))


def train(out: Path, sleep: float) -> None:
    torch.manual_seed(0)
    teacher, student = Net(6), Net(4)
    loader = DataLoader(Rows(), batch_size=4, shuffle=True, num_workers=2)

    def evaluate(net: nn.Module) -> float:
        return float((net(torch.ones(1, 3, 8, 8)) + 0.01 * torch.randn(())).square().mean())

    skd.distill(
        teacher,
        loader,
        out,
        student=student,
        recipe=RECIPE,
        method=TwoStages(),
        evaluate=evaluate,
        each=lambda step, result: time.sleep(sleep),
    )


def forked(out: Path, sleep: float) -> int:
    child = os.fork()
    if child == 0:
        os.setsid()  # its loading processes die with it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress bar
        try:
            train(out, sleep)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
    return child


def newest(out: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.stem.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*.pt")), default=0)


def main(folder: Path, kills: int) -> None:
    child = forked(folder / "whole", 0.0)
    _, status = os.waitpid(child, 0)
    print("whole", status, flush=True)
    killed, dice = 0, random.SystemRandom()
    for _ in range(3 * kills):
        child = forked(folder / "killed", 0.004)
        if killed < kills:
            # A random moment: most after it got further than the last one, some while it still starts.
            before, patience = newest(folder / "killed"), time.monotonic() + dice.choice([0.2, 20, 20, 20])
            while newest(folder / "killed") == before and time.monotonic() < patience:
                time.sleep(0.002)
            time.sleep(dice.uniform(0.0, 0.3))
            os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            killed += os.WIFSIGNALED(status)
            print("killed" if os.WIFSIGNALED(status) else "ended too early", newest(folder / "killed"), flush=True)
        else:
            _, status = os.waitpid(child, 0)
            print("ended", status, flush=True)
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
