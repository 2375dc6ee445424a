"""The benchmark of exports: differences and ratios against a clock of its own, and what the docs show of it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "exports.json"


@pytest.fixture(scope="module")
def exports() -> ModuleType:
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("exports", ROOT / "benchmarks" / "exports.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_differences_and_ratios_are_to_the_first(exports: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def run(seconds: float, off: float) -> object:
        def take(content: Tensor, style: Tensor) -> Tensor:
            now[0] += seconds * (1 + now[0])  # a machine that gets slower
            out = content.clone()
            out[..., 0, 0] += off
            return out

        return take

    monkeypatch.setattr(exports.time, "process_time", lambda: now[0])
    rows = exports.beside_torch({"torch": run(1e-4, 0.0), "other": run(3e-4, 0.5)}, (8, 4), 5)
    assert (rows["torch"]["largest"], rows["torch"]["ratio"]) == (0, 1)
    assert rows["other"]["largest"] == pytest.approx(0.5, abs=1e-6)
    assert rows["other"]["mean"] == pytest.approx(0.5 / 32, rel=0.05)
    assert rows["other"]["ratio"] == pytest.approx(3, rel=0.02)
    assert rows["other"]["least"] <= rows["other"]["ratio"] <= rows["other"]["greatest"]


def test_noise_has_the_size(exports: ModuleType) -> None:
    content, style = exports.noise((40, 24))
    assert content.shape == style.shape == (1, 3, 24, 40)
    assert not torch.equal(content, style)


def test_the_committed_figures_keep_what_is_promised() -> None:
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert report["bytes"]["onnx"] <= 260_000
    assert report["bytes"]["onnx-int8"] <= 90_000
    for row in report["rows"]:
        for name, found in row["formats"].items():
            if "int8" not in name:
                assert found["largest"] <= 1 / 255, name
    assert report["judged"]["means"]["onnx-int8"]["least_psnr"] > 40


def test_the_page_uses_every_figure_that_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.syspath_prepend(ROOT)
    marks = importlib.import_module("drawn_exports").export_marks()
    page = (ROOT / "docs" / "export.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"@(\w+)@", page)) == set(marks)
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    for name, size in report["bytes"].items():
        shown = f"{size:,}" in marks["formats"] + marks["bits"]
        assert shown or name == "coreml", name  # which doesn't run here
