"""The benchmark of latency: ratios within rounds against a clock of its own, the floor in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import latency
from kbstyle_example.inference import Inference
from kbstyle_example.networks import STUDENT, KBStyle


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    turns = {"fast": 0, "slow": 0}

    def run(name: str, factor: float) -> object:
        def take(content: Tensor, style: Tensor) -> None:
            assert content.shape == style.shape == (1, 3, 20, 30)
            now[0] += factor * (1 + turns[name])  # a machine that gets slower from round to round
            turns[name] += 1

        return take

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(latency.time, "process_time", lambda: 2 * now[0])
    found = latency.timed({"fast": run("fast", 1.0), "slow": run("slow", 3.0)}, (30, 20), rounds=3)
    assert turns == {"fast": 4, "slow": 4}
    assert found["fast"]["wall"] == {"seconds": 3.0, "ratio": 1.0, "least": 1.0, "greatest": 1.0}
    assert found["slow"]["wall"] == {"seconds": 9.0, "ratio": 3.0, "least": 3.0, "greatest": 3.0}
    assert found["slow"]["cpu"]["seconds"] == 18.0


def test_the_floor_in_closed_form() -> None:
    one, two, three = STUDENT.widths
    pixels = 64 * 48
    moved = 9 * pixels + 4 * (one * pixels // 4 + two * pixels // 16) + 2 * three * pixels // 64
    assert latency.floor(KBStyle(STUDENT), (64, 48)) == {"bytes": 4 * moved, "parameters": 4 * 49_307}


def test_a_known_style_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[tuple[int, ...]] = []
    before = Inference.encode_style

    def counted(quick: Inference, style: Tensor) -> object:
        encoded.append(tuple(style.shape))
        return before(quick, style)

    monkeypatch.setattr(Inference, "encode_style", counted)
    found = latency.systems(onnx=False, folder=tmp_path)
    content, style = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 24, 24)
    with torch.inference_mode():
        known = [found[latency.KNOWN][0](content, style) for _ in range(3)]
        assert encoded == [(1, 3, 24, 24)]
        torch.testing.assert_close(known[2], found[latency.KBSTYLE][0](content, style))
        torch.testing.assert_close(known[2], found[latency.MODULES][0](content, style), rtol=0, atol=1e-4)
        assert found[latency.ADAIN][0](content, style).shape == content.shape


def test_a_style_is_scaled_as_the_tool_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    before = Inference.encode_style
    monkeypatch.setattr(
        Inference, "encode_style", lambda quick, style: (seen.append(tuple(style.shape)), before(quick, style))[1]
    )
    with torch.inference_mode():
        latency.systems(onnx=False, folder=tmp_path)[latency.REDUCED][0](
            torch.rand(1, 3, 32, 48), torch.rand(1, 3, 320, 1024)
        )
    assert seen == [(1, 3, 160, 512)]


def test_bfloat16_is_timed_where_it_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, style = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 24, 24)
    for there in (False, True):
        monkeypatch.setattr(latency, "has_bfloat16", lambda there=there: there)
        found = latency.systems(onnx=False, folder=tmp_path)
        assert all((name in found) is there for name in (latency.HALF, latency.HALF_KNOWN, latency.MICROAST_HALF))
    with torch.inference_mode():
        plain, half, known = (
            found[name][0](content, style) for name in (latency.KBSTYLE, latency.HALF, latency.HALF_KNOWN)
        )
        assert torch.equal(half, known)
        assert 1e-5 < (half - plain).abs().max() < 0.3
        one, other = (found[name][0](content, style) for name in (latency.MICROAST, latency.MICROAST_HALF))
        assert other.dtype == torch.bfloat16
        torch.testing.assert_close(other.float(), one, rtol=0.2, atol=0.2)


def test_every_size_begins_with_what_ratios_are_to(tmp_path: Path) -> None:
    halves = {
        latency.HALF,
        latency.HALF_KNOWN,
        latency.HALF_REDUCED,
        latency.MICROAST_HALF,
    }  # only where they are quick
    known = {*latency.systems(onnx=False, folder=tmp_path), latency.ONNX, latency.MAGENTA, *halves}
    assert {name for names in latency.SIZES.values() for name in names} == known
    assert all(names[0] == latency.KBSTYLE for names in latency.SIZES.values())


def test_what_the_machine_can_do_is_the_best_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 2.0, 6.0, 10.0, 11.0, 13.0])  # a product in 2 s and then in 1 s, a copy in 4 s and then in 2 s
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks))
    assert latency.rates(rounds=2) == {"multiply_adds": 1024.0**3, "bytes": 2 * 4 * 2**25 / 2}
