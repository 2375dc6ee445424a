"""The benchmark of GPUs, on the CPU: what is compared, counted and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.latency import floor
from kbstyle_example.networks import STUDENT, KBStyle
from kbstyle_example.weights_file import load_weights

CPU = torch.device("cpu")


def test_without_a_gpu_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no GPU here; nothing was measured, and nothing written"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert not (tmp_path / "gpu.json").exists()


def test_times_are_a_frames_and_pictures_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000, 3))
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: float(next(ticks)))  # each run takes three seconds
    network = load_weights("kbstyle").eval()
    can = {"bytes": 1e6, "multiply_adds": 1e12}
    found = gpu.measured(network, (48, 32), 2, CPU, can, rounds=3, variants=("float32", "bfloat16", "passes, bfloat16"))
    assert (found["size"], found["batch"], found["failed"]) == ([48, 32], 2, {})
    for row in found["variants"].values():
        assert row["milliseconds"] == row["least"] == row["greatest"] == 1500
        assert row["frames a second"] == pytest.approx(2 / 3)
    assert found["variants"]["float32"]["apart"] == 0
    apart = [found["variants"][name]["apart"] for name in ("bfloat16", "passes, bfloat16")]
    assert all(0.1 < each < 3 for each in apart)
    assert apart[0] != apart[1]
    # In float16 everything takes half of float32's bytes.
    assert found["floor"] == pytest.approx(1000 * floor(KBStyle(STUDENT), (48, 32))["bytes"] / 2 / 1e6)


def test_a_variant_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> gpu.Run:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(gpu.VARIANTS, "float16", (fails, torch.float16))
    can = {"bytes": 1e6, "multiply_adds": 1e12}
    network = KBStyle(STUDENT).eval()
    found = gpu.measured(network, (32, 32), 1, CPU, can, rounds=1, variants=("float32", "float16"))
    assert list(found["variants"]) == ["float32"]
    assert found["failed"] == {"float16": "out of memory"}


def test_a_known_style_gives_the_same_picture() -> None:
    network = load_weights("kbstyle").eval()
    content, style = torch.rand(2, 3, 32, 40), torch.rand(2, 3, 24, 24)
    with torch.inference_mode():
        makes = gpu.eager, gpu.passes, gpu.known
        one, *others = (make(network, content, style, torch.float32)() for make in makes)
    for other in others:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_what_the_machine_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_seconds", lambda run, _: (run(), 0.5)[1])
    found = gpu.rates(CPU, side=16)
    assert found == {"multiply_adds": 2 * 16**3, "bytes": 2 * 2 * 4 * 4 * 16**2}
