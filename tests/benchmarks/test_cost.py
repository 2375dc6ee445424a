"""The benchmark of cost: every method has a step, ratios are to the student's own, growth is an exponent."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch_pruning")
from benchmarks import cost


def test_every_method_has_a_step_or_a_reason() -> None:
    names = [name for name, arm in cost.ARMS.items() if arm.make and arm.start == "random"]
    steps, without = cost.steps_of(16, 4, names)
    assert list(steps)[:2] == [cost.OWN, cost.TAUGHT]
    assert {*steps, *without} == {cost.OWN, cost.TAUGHT, *names}
    assert without.keys() == {"Hinton", "HiddenStates", "AttentionMSE"}
    assert all("no meaning here" in reason for reason in without.values())


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = [0.0], {"own": 0, "other": 0}

    def step(name: str, factor: float) -> object:
        def take() -> None:
            now[0] += factor * (1 + turns[name])
            turns[name] += 1

        return take

    monkeypatch.setattr(cost.time, "process_time", lambda: now[0])
    found = cost.timed({cost.OWN: step("own", 1.0), "other": step("other", 2.5)}, 3)
    assert found == {cost.OWN: 1.0, "other": 2.5, "seconds": 3.0}


def test_growth() -> None:
    rows = [
        {"ratio": {"a": 2.0}, "mib": {"a": 3.0}, "seconds": 0.1},
        {"ratio": {"a": 2.0}, "mib": {"a": 27.0}, "seconds": 0.9},
    ]
    assert cost.growth(rows, 9.0)["a"] == {"time": pytest.approx(1.0), "memory": pytest.approx(1.0)}
    assert cost.exponent(1.0, 81.0, 9.0) == pytest.approx(2.0)
    assert cost.exponent(0.0, 1.0, 9.0) is None
    assert cost.exponent(None, 1.0, 9.0) is None


def test_the_peak_sees_what_a_step_holds() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system doesn't tell")
    found = cost.peak(lambda: bytearray(64 * 2**20).count(1))  # touched, then let go
    assert found is None or 50 < found < 90
