"""Timing under a clock of our own, peak memory, and what stands beside figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import skd
from kbstyle_example.evaluation import costs
from kbstyle_example.evaluation.costs import code_version, latencies, machine, peak_memory, surroundings
from kbstyle_example.peers import System
from skd.errors import ArgumentError


class Clock:
    """Time passes only when a system works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []
        self.slow = 1.0

    def __call__(self) -> float:
        return self.now

    def system(self, name: str, seconds: float) -> System:
        def run(content: Tensor, style: Tensor) -> Tensor:
            assert style.shape[-1] <= 512
            self.turns.append(name)
            self.now += seconds * self.slow
            return content

        return System(name, run, name, 0, 0, lambda content, style: 0)


def test_latencies() -> None:
    clock = Clock()
    systems = [clock.system("one", 0.25), clock.system("two", 0.5), clock.system("three", 1.0)]
    found = latencies(systems, (24, 16), reference="two", rounds=3, clock=clock)
    assert found["one"] == (250, 0.5, 0.5, 0.5)
    assert found["two"] == (500, 1, 1, 1)
    assert found["three"] == (1000, 2, 2, 2)
    # One round to warm up and three that count; each begins with another system.
    assert clock.turns[::3] == ["one", "two", "three", "one"]
    assert sorted(clock.turns) == ["one"] * 4 + ["three"] * 4 + ["two"] * 4


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    clock = Clock()

    def slower(content: Tensor, style: Tensor) -> Tensor:
        clock.slow *= 3  # once a round
        clock.now += 1.0 * clock.slow
        return content

    first = System("first", slower, "1", 0, 0, lambda content, style: 0)
    found = latencies([first, clock.system("second", 2.0)], (16, 16), rounds=1, warm_up=0, clock=clock)
    assert found["second"].ratio == 2
    assert found["second"].milliseconds == 6000


def test_the_spread_is_that_of_the_rounds() -> None:
    clock = Clock()
    seconds = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    def run(content: Tensor, style: Tensor) -> Tensor:
        clock.now += next(seconds)
        return content

    odd = System("odd", run, "odd", 0, 0, lambda content, style: 0)
    found = latencies([clock.system("steady", 1.0), odd], (16, 16), rounds=5, clock=clock)["odd"]
    assert found == (3000, 3, 2, 4)


def test_latencies_of_what_cant_be_timed() -> None:
    system = Clock().system("one", 1.0)
    with pytest.raises(ArgumentError, match=r"no such system to refer to; got 'ona'. Remedy: did you mean 'one'"):
        latencies([system], (16, 16), reference="ona")
    with pytest.raises(ArgumentError, match="no such system to refer to"):
        latencies([], (16, 16))
    for wrong in ({"rounds": 0}, {"warm_up": -1}):
        with pytest.raises(ArgumentError, match="rounds of timing"):
            latencies([system], (16, 16), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="rounds of timing"):
        latencies([system], (0, 16))


def test_peak_memory_sees_a_hundred_megabytes() -> None:
    def hungry(content: Tensor, style: Tensor) -> Tensor:
        if content.shape[-1] > 64:
            torch.ones(25 * 2**20)
        return content

    def modest(content: Tensor, style: Tensor) -> Tensor:
        return content

    found = [peak_memory(System("s", run, "s", 0, 0, lambda c, s: 0), (128, 128)) for run in (hungry, modest)]
    if found[0] is None:
        pytest.skip("this system doesn't tell a process's peak memory")
    assert found[1] is not None
    assert 98 * 2**20 < found[0] < 130 * 2**20  # the kernel counts in batches of pages
    assert found[1] < 20 * 2**20


def test_without_the_kernels_figures_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "write_text", fails)
    assert peak_memory(Clock().system("one", 1.0), (16, 16)) is None


def test_surroundings_name_versions_and_the_commit() -> None:
    found = surroundings()
    assert found["versions"]["torch"] == torch.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["threads"] == torch.get_num_threads()
    assert "processors" in machine()


def test_code_version_in_a_checkout_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        run = subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    monkeypatch.setattr(costs, "__file__", str(tmp_path / "costs.py"))
    (tmp_path / "__init__.py").touch()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version() == f"skd {skd.__version__}"
    try:
        git("init", "-q")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git isn't there")
    assert code_version() == f"skd {skd.__version__}"  # a checkout, but not of this file
    git("add", "__init__.py")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert code_version() == commit
    (tmp_path / "__init__.py").write_text("changed", encoding="utf-8")
    assert code_version() == f"{commit}+changes"


def test_without_git_it_is_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", fails)
    assert code_version() == f"skd {skd.__version__}"
