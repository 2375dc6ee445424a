"""How long is left: sums, corrections, and words for times."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbstyle_example import outlook
from kbstyle_example.outlook import Outlook, duration

STAGES = ("train", "distil", "draw")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.said = 1000.0, list[str]()
        monkeypatch.setattr(outlook, "time", SimpleNamespace(monotonic=lambda: self.now))

    def outlook(self, *seconds: float) -> Outlook:
        made = Outlook(STAGES, self.said.append)
        made.expect(*seconds)
        return made

    def stage(self, made: Outlook, stage: str, seconds: float) -> None:
        made.begin(stage)
        self.now += seconds
        made.end(stage)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_is_left_is_the_sum(clock: Clock) -> None:
    made = clock.outlook(7200, 1800, 60)
    for stage, seconds in zip(STAGES, (7200, 1800, 60), strict=True):
        clock.stage(made, stage, seconds)
    made.finish("see there")
    assert clock.said == [
        "[1/3] train: about 2 h; for all that is left about 2 h 31 min",
        "[2/3] distil: about 30 min; for all that is left about 31 min",
        "[3/3] draw: about 60 s; for all that is left about 60 s",
        "Done in 2 h 31 min; see there",
    ]


def test_a_slower_stage_makes_the_later_ones_longer(clock: Clock) -> None:
    made = clock.outlook(3600, 1200, 600)
    clock.stage(made, "train", 7200)
    clock.stage(made, "distil", 1200)  # twice 1200 were expected by now
    clock.stage(made, "draw", 0)
    assert [line.partition(": ")[2] for line in clock.said] == [
        "about 1 h; for all that is left about 1 h 30 min",
        "about 40 min; for all that is left about 1 h",
        "about 10 min; for all that is left about 10 min",
    ]


@pytest.mark.parametrize(("seconds", "took"), [((0, 600, 60), 100), ((1, 600, 60), 9)])
def test_short_stages_and_unexpected_ones_correct_nothing(
    clock: Clock, seconds: tuple[float, ...], took: float
) -> None:
    made = clock.outlook(*seconds)
    clock.stage(made, "train", took)
    made.begin("distil")
    assert clock.said[-1] == "[2/3] distil: about 10 min; for all that is left about 11 min"


def test_done_already(clock: Clock) -> None:
    made = clock.outlook(0, 0, 60)
    made.skip("train")
    assert clock.said == ["[1/3] train: done already"]


def test_a_time_for_each_stage(clock: Clock) -> None:
    with pytest.raises(ValueError, match="shorter"):
        clock.outlook(1, 2)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3569, "59 min"), (3570, "1 h"), (3600, "1 h"), (5400, "1 h 30 min"),
     (86_400, "1 d"), (90_000, "1 d 1 h"), (200_000, "2 d 8 h")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(0, 1e7))
def test_durations_are_near_the_truth(seconds: float) -> None:
    units = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    said = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (\w+)", duration(seconds)))
    assert abs(said - seconds) <= max(0.5, 0.35 * seconds if seconds < 150 else 0.1 * seconds)
