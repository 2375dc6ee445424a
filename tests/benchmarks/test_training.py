"""The benchmark of training: variants that are exact compute the same, the profile is all of a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from benchmarks import training
from benchmarks.methods.denoising import loss
from benchmarks.worth.unet import UNet, unet_pairing


@pytest.fixture
def task() -> training.Task:
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16))
    return training.Task(UNet((8, 12, 16)).eval(), UNet((2, 3, 4)), unet_pairing, data, 2, loss)


def weights(runner: training.Runner) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in runner.student.parameters()])


@pytest.mark.parametrize("changes", [{"channels_last": True}, {"workers": 1}, {"cache": True}, {"early": True}])
def test_what_is_faster_learns_the_same(task: training.Task, tmp_path: Path, changes: dict[str, bool]) -> None:
    runners = [training.Runner(task, replace(training.Variant(), **some), tmp_path) for some in ({}, changes)]  # type: ignore[arg-type]
    begun = weights(runners[0])
    for runner in runners:
        for _ in range(3):
            runner.step()
    first, other = map(weights, runners)
    assert float((first - begun).abs().amax()) > 1e-4
    torch.testing.assert_close(other, first, rtol=0, atol=2e-5)


def test_the_student_alone_has_no_teacher(task: training.Task, tmp_path: Path) -> None:
    runner = training.Runner(task, training.VARIANTS[training.OWN], tmp_path)
    calls = []
    runner.watched["teacher"].register_forward_hook(lambda *_: calls.append("teacher"))
    runner.step()
    assert calls == []
    pictures = replace(task, own=None, data=TensorDataset(torch.rand(4, 3, 16, 16)))
    by_the_teacher = training.Runner(pictures, training.VARIANTS[training.OWN], tmp_path / "cache")
    by_the_teacher.step()  # its pictures are at hand


def test_a_profile_is_all_of_a_step(task: training.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = training.Runner(task, training.Variant(), tmp_path)
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # a second between two looks
        return now[0]

    monkeypatch.setattr(training.time, "perf_counter", clock)
    # Looks: at a step's five marks, and before and after each network, which take a second each of the forward's five.
    assert runner.profile(2) == {
        "batch": 1.0,
        "teacher": 1.0,
        "student": 1.0,
        "method": 3.0,
        "backward": 1.0,
        "optimizer": 1.0,
    }
    assert not any(network._forward_hooks or network._forward_pre_hooks for network in runner.watched.values())


def test_ratios_are_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Fake:
        variant = training.Variant()

        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def step(self) -> None:
            now[0] += self.seconds

    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    runners = {"student alone": Fake(0.5), "SKD": Fake(1.0)}
    found = training.timed(runners, rounds=3, steps=4)  # type: ignore[arg-type]
    assert found["SKD"] == {"steps a second": 1.0, "ratio": 2.0, "least": 2.0, "greatest": 2.0}
    assert found["student alone"]["steps a second"] == 2.0


def test_a_step_that_cannot_be_compiled_says_why(task: training.Task, tmp_path: Path) -> None:
    runner = training.Runner(task, training.Variant(), tmp_path)
    assert training.failing(runner) is None

    def fail(*_: object) -> None:
        raise AssertionError("expected size  8==8")

    runner.run = fail
    assert training.failing(runner) == "AssertionError: expected size 8==8"
