"""The benchmark of growth: medians against a clock of its own, the line against a closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch_pruning")

from benchmarks import growth


def test_a_line_is_found_and_what_is_not_one_is_seen() -> None:
    assert growth.line({x: 0.5 + 0.25 * x for x in (1.0, 2.0, 4.0, 8.0)}) == pytest.approx(
        {"fixed": 0.5, "slope": 0.25, "greatest error": 0}, abs=1e-12
    )
    assert growth.line({x: x**2 for x in (1.0, 2.0, 4.0, 8.0)})["greatest error"] > 0.3
    # Of two points and weights 1/y² the line goes through both; a third that is 10 % off has its share of the error.
    assert 0.01 < growth.line({1.0: 1.0, 2.0: 2.2, 3.0: 3.0})["greatest error"] < 0.1


def test_medians_of_rounds_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, costs = [0.0], {"small": [100.0, 1.0, 2.0, 9.0], "large": [100.0, 4.0, 4.5, 3.0]}

    def run(name: str) -> object:
        def take() -> None:
            now[0] += costs[name].pop(0)

        return take

    monkeypatch.setattr(growth.time, "process_time", lambda: now[0])
    runs = {1.0: run("small"), 2.0: run("large")}
    assert growth.timed(runs, 3) == {1.0: 2.0, 2.0: 4.0}  # type: ignore[arg-type]


def test_every_pair_is_compared_and_nothing_else_changes() -> None:
    ladder = growth.Ladder(3, 4)
    example = growth.torch.rand(1, 3, 8, 12)
    found = [ladder.pairing(number, example) for number in (1, 3)]
    assert [len(each) for each in found] == [1, 3]
    assert [(pair.encoder.layer, pair.decoder.layer) for pair in found[1]] == [
        ("down.2", "up.0"), ("down.1", "up.1"), ("down.0", "up.2"),
    ]  # fmt: skip


def test_it_runs_at_its_smallest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "megapixels of a photograph": lambda: growth.painting((32, 64)),
        "samples of a batch": lambda: growth.batches((1, 2)),
        "pairs compared": lambda: growth.pairs((1, 2)),
        "steps of a training": lambda: growth.steps((1,)),
    }
    assert small.keys() == growth.ROWS.keys()
    monkeypatch.setattr(growth, "ROWS", small)
    out = tmp_path / "growth.json"
    growth.main(["--rounds", "1", "--out", str(out)])
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert rows.keys() == small.keys()
    assert all(min(row["seconds"].values()) > 0 for row in rows.values())
    assert [len(row["seconds"]) for row in rows.values()] == [2, 2, 2, 1]
    assert "steps of a training: 1: " in capsys.readouterr().out
