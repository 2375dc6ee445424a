"""The benchmark of whole pictures: ratios within rounds against a clock of its own; the same work on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import end_to_end
from kbstyle_example import KBStyle, KBStyleConfig, Painter


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = [0.0], {"first": 0, "other": 0}

    def run(name: str, seconds: float) -> end_to_end.Run:
        def take() -> None:
            turns[name] += 1
            now[0] += seconds * turns[name]  # a machine that gets slower from round to round

        return take

    monkeypatch.setattr(end_to_end.time, "perf_counter", lambda: now[0])
    found = end_to_end.compared({"first": run("first", 2.0), "other": run("other", 5.0)}, rounds=3)
    assert turns == {"first": 4, "other": 4}
    assert found["first"] == {"seconds": 6.0, "ratio": 1.0, "least": 1.0, "greatest": 1.0}
    assert found["other"] == {"seconds": 15.0, "ratio": 2.5, "least": 2.5, "greatest": 2.5}


def test_both_ways_through_a_folder_write_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=0, deep_blocks=0, style_blocks=0)).eval()
    painter = Painter(torch.rand(3, 32, 32), network=network, style_size=32)
    paths = end_to_end.photographs(tmp_path / "photographs", 3, (48, 32))
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (48, 32)
    written = []
    for run in end_to_end.folders(paths, tmp_path / "out", painter).values():
        run()
        written.append([path.read_bytes() for path in sorted((tmp_path / "out").iterdir())])
        for path in (tmp_path / "out").iterdir():
            path.unlink()
    assert len(written[0]) == 3
    assert written[0] == written[1]
    for run in end_to_end.stages(paths[0], painter).values():
        run()


def test_both_tools_start_and_paint_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (small,) = end_to_end.photographs(tmp_path / "small", 1, (64, 48))
    runs = end_to_end.starts(small, tmp_path / "out.png", 1)
    pictures = []
    for name in (end_to_end.TOOL, end_to_end.ONNX):
        runs[name]()
        with Image.open(tmp_path / "out.png") as image:
            pictures.append(np.asarray(image).astype(int))
        (tmp_path / "out.png").unlink()
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
