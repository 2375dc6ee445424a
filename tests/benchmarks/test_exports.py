"""The benchmark of exports: differences and ratios against a clock of its own, and what the docs show of it."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "exports.json"


@pytest.fixture(scope="module")
def exports() -> ModuleType:
    pytest.importorskip("onnxruntime")
    return importlib.import_module("benchmarks.exports")


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


def report(code: str, names: str, *, judged: bool = False, sizes: tuple[int, ...] = (8, 16)) -> dict[str, Any]:
    """Of formats that are called by a letter, each with its own figures."""
    made: dict[str, Any] = {
        "code": code,
        "runtimes": {f"{name} runtime": code for name in names},
        "bytes": {name: ord(name) for name in names},
        "missing": {},
        "rows": [{"size": [n, n], "formats": {name: f"{name} {n} {code}" for name in names}} for n in sizes],
        "peak_mib": dict.fromkeys(names.replace("c", ""), 1),
        "losses": {},
    }
    return {**made, "judged": f"by {code}"} if judged else made


def test_what_is_missing_is_kept_and_says_so(exports: ModuleType) -> None:
    old, new = report("old", "abc", judged=True, sizes=(16, 8)), report("new", "ab")
    new["missing"] = {"c": "c isn't installed", "d": "nor is d"}
    done = exports.completed(new, old)
    assert done["earlier"] == {
        "c": {"why": "c isn't installed", "code": "old"},
        "judged": {"why": "no --data was given", "code": "old"},
    }
    assert [row["formats"] for row in done["rows"]] == [
        {"a": f"a {n} new", "b": f"b {n} new", "c": f"c {n} old"} for n in (8, 16)
    ]
    assert (done["bytes"]["c"], done["judged"], done["missing"]) == (99, "by old", {"d": "nor is d"})
    assert done["runtimes"] == {"a runtime": "new", "b runtime": "new", "c runtime": "old"}
    # Kept once more, it still says where it is from.
    again = exports.completed({**report("newer", "ab"), "missing": {"c": "gone"}}, done)
    assert again["earlier"]["c"] == {"why": "gone", "code": "old"}
    assert again["earlier"]["judged"]["code"] == "old"
    assert again["rows"][0]["formats"]["a"] == "a 8 newer"


def test_what_is_whole_keeps_nothing(exports: ModuleType) -> None:
    whole = report("new", "abc", judged=True)
    for earlier in ({}, report("old", "abc", judged=True)):
        assert exports.completed(dict(whole), earlier) == {**whole, "earlier": {}}


def test_the_page_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    drawn = importlib.import_module("drawn_exports")
    assert drawn._earlier(None) == ""
    assert drawn._earlier({}) == "All was measured in one run."
    said = drawn._earlier({"ncnn": {"why": "it isn't installed.", "code": "1f2"}})
    assert said == "From an earlier run: ncnn at 1f2 (it isn't installed)."


def test_the_committed_figures_keep_what_is_promised() -> None:
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert report["bytes"]["onnx"] <= 260_000
    assert report["bytes"]["onnx-int8"] <= 90_000
    for row in report["rows"]:
        for name, found in row["formats"].items():
            if "int8" not in name:
                assert found["largest"] <= 1 / 255, name
    means = report["judged"]["means"]
    assert means["onnx-int8"]["least_psnr"] > 40
    for name in exports_of_few_bits(means):
        for network in report["judged"]["networks"]:
            for what in ("style", "content"):
                wide = means["onnx"][f"{network}/{what}"]
                assert means[name][f"{network}/{what}"] == pytest.approx(wide, rel=0.02), name


def exports_of_few_bits(means: dict[str, Any]) -> set[str]:
    """Of all that the page's table shows but float32 in ONNX, which the others are compared with."""
    shown = {"onnx-float16", "onnx-int8", "onnx-int8-static", "kbstyle", "kbstyle-float16", "kbstyle-int8"}
    assert set(means) == shown | {"onnx"}
    return shown


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
    for size in report["judged"]["bytes"].values():
        assert f"{size:,}" in marks["bits"]
