"""What compression is worth: each arm is what it says, figures are those by hand, and no cell is run twice."""

from __future__ import annotations

import functools
import importlib
import json
import math
import statistics
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import skd
from kbstyle_example.networks import KBStyle, KBStyleConfig
from skd.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "benchmarks" / "results" / "worth.json"
TINY = KBStyleConfig(widths=(4, 6, 8), fine_blocks=1, deep_blocks=1, style_blocks=1)


@pytest.fixture
def parts() -> dict[str, ModuleType]:
    pytest.importorskip("torch_pruning")
    return {
        name: importlib.import_module(f"benchmarks.worth.{name}")
        for name in ("arms", "tasks", "unet", "table", "__main__")
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures for training and for validation, by what their names say."""
    noise = np.random.default_rng(0)
    for kind in ("content", "style"):
        (tmp_path / kind).mkdir()
        for name in ("wave", "tower", "boat", "barn"):  # tower is for validation
            pixels = noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.jpg")
    return tmp_path


# --- arms -------------------------------------------------------------------------------------------------------------


def chain() -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(), nn.Conv2d(6, 3, 1))
    return net, [torch.randn(2, 3, 8, 10) for _ in range(3)]


def test_slicing_keeps_the_filters_with_the_largest_norms(parts: dict[str, ModuleType]) -> None:
    net, batches = chain()
    spectra = skd.measure(net, skd.Pairing.declare([("0", "1")], net, batches[0]), batches)
    like = skd.compress(net, spectra, data=batches, widths={"0": 3, "2": 2})
    found = parts["arms"].sliced(net, spectra, batches, like)
    first, second, last = (net[k].weight.detach().numpy() for k in (0, 2, 4))  # type: ignore[index, union-attr]
    kept = np.sort(np.argsort(-np.abs(first).sum((1, 2, 3)))[:3])
    inner = np.sort(np.argsort(-np.abs(second).sum((0, 2, 3)))[:2])  # a transposed convolution's outputs come second
    for k, weight in ((0, first[kept]), (2, second[kept][:, inner]), (4, last[:, inner])):
        np.testing.assert_array_equal(found[k].weight.detach().numpy(), weight)
    assert {name: p.shape for name, p in found.named_parameters()} == {
        name: p.shape for name, p in like.student.named_parameters()
    }


def test_random_weights_are_those_that_constructors_draw(parts: dict[str, ModuleType]) -> None:
    network = KBStyle(TINY)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    one, again, other = (parts["arms"].fresh(network, seed) for seed in (1, 1, 2))
    state = torch.get_rng_state()
    for name, p in one.named_parameters():
        torch.testing.assert_close(p, again.get_parameter(name), rtol=0, atol=0)
        torch.testing.assert_close(network.get_parameter(name), before[name], rtol=0, atol=0)
        same = torch.equal(p, other.get_parameter(name)), torch.equal(p, before[name])
        assert same == ((True, True) if name.endswith("film.2.weight") else (False, False)), name
    assert torch.equal(torch.get_rng_state(), state)
    bound = 0.3 / math.sqrt(TINY.widths[2])  # what a pointwise layer draws from, and what `Block` makes of it
    assert one.decoder.level3.blocks[0].out.weight.abs().max() <= bound
    assert one.decoder.level3.film[-1].weight.abs().max() == 0


def test_arms_differ_in_one_thing_at_a_time(parts: dict[str, ModuleType]) -> None:
    net, batches = chain()
    spectra = skd.measure(net, skd.Pairing.declare([("0", "1")], net, batches[0]), batches)
    starts = parts["arms"].Starts(net, spectra, batches, 1400)
    students = {arm: starts.student(arm, 0) for arm in parts["arms"].ARMS}
    shapes = {arm: [tuple(p.shape) for p in each.parameters()] for arm, each in students.items()}
    assert shapes["from scratch"] == shapes["L1 slicing"] == shapes["projection"]
    assert shapes["spectral widths"] == shapes["both"]
    assert students["both"] is not starts.student("both", 0)  # each is trained
    made = starts.compressed("energy")
    assert starts.compressed("energy") is made
    for p, q in zip(students["both"].parameters(), made.student.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_crops_are_pictures_and_noise_of_the_stated_deviation(data: Path, parts: dict[str, ModuleType]) -> None:
    paths = sorted((data / "content").glob("*.jpg"))
    crops = parts["unet"].NoisyCrops(paths, crop=32, length=40, seed=1)
    noise = torch.stack([noisy - clean for noisy, clean in crops])
    assert float(noise.std()) == pytest.approx(25 / 255, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=2e-3)
    noisy, clean = crops[7]
    pictures = [np.asarray(Image.open(path), dtype=np.float32) / 255 for path in paths]
    windows = [
        picture[top : top + 32, left : left + 32] for picture in pictures for top in range(9) for left in range(17)
    ]
    assert any(np.array_equal(clean.permute(1, 2, 0).numpy(), window) for window in windows)
    torch.testing.assert_close(parts["unet"].NoisyCrops(paths, crop=32, length=9, seed=1)[7], (noisy, clean))
    with pytest.raises(IndexError):
        crops[40]
    with pytest.raises(DataError, match="none of the pictures can be used"):
        parts["unet"].NoisyCrops(paths, crop=64, length=1, seed=1)[0]


def test_what_is_measured_by_hand(parts: dict[str, ModuleType]) -> None:
    tasks = parts["tasks"]
    batches = [(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)), (torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4))]
    setting = tasks.Setting()
    task = tasks.Task(nn.Identity(), 1, tuple, lambda *_: batches, batches, tasks.first, clean=True, setting=setting)

    class Brighter(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.5

    found = task.measured(Brighter())
    assert found["difference"] == pytest.approx(255 * 0.5)
    shown = [np.clip(noisy.numpy() + 0.5, 0, 1) for batch in batches for noisy in batch[0]]
    clean = [each.numpy() for batch in batches for each in batch[1]]
    by_hand = [10 * math.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(shown, clean, strict=True)]
    assert found["psnr"] == pytest.approx(statistics.fmean(by_hand), rel=1e-5)


# --- the run ----------------------------------------------------------------------------------------------------------


def test_a_small_run_of_both_tasks(
    data: Path, parts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, out = parts["__main__"], data / "out" / "worth.json"
    monkeypatch.setattr(main, "surroundings", lambda: {"code": "test"})
    style = functools.partial(parts["tasks"].style_task, teacher=KBStyle(TINY))
    monkeypatch.setitem(main.TASKS, "style", style)
    monkeypatch.setattr(main, "SMOKE", main.dataclasses.replace(main.SMOKE, style_bytes=16_000, calibration=32))
    arguments = ["--smoke", "--data", str(data), "--out", str(out), "--cache", str(data / "cache")]
    arms = ["from scratch", "both"]
    main.main([*arguments, "--tasks", "denoising", "--arms", *arms])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["tasks"]["denoising"]["cells"].keys() == set(arms)
    cells = report["tasks"]["denoising"]["cells"]["both"]["0"]
    assert cells.keys() == {"0", "2"}
    assert cells["0"]["difference"] != cells["2"]["difference"]
    assert report["tasks"]["denoising"]["widths"]["uniform"]["bytes"] <= 10 * 1024
    assert report["tasks"]["denoising"]["teacher"]["difference"] == 0.0

    ran = []
    cell = main.cell
    monkeypatch.setattr(main, "cell", lambda *a: (ran.append((a[1], *a[-1])), cell(*a)))
    again = [*arguments, "--tasks", "denoising", "style", "--arms", *arms, "--steps", "0"]
    main.main(again)
    assert ran == [("style", "from scratch", 0, 0), ("style", "both", 0, 0)]  # nothing that stood there
    main.main(again)
    assert len(ran) == 2
    assert "style: root mean squared difference" in capsys.readouterr().out
    main.main(["--show", "--out", str(out)])
    assert "denoising: PSNR in dB" in capsys.readouterr().out

    (data / "style" / "new.jpg").write_bytes((data / "style" / "boat.jpg").read_bytes())
    with pytest.raises(SystemExit, match=r"figures of another plan \(other pictures\)"):
        main.main(again)
    with pytest.raises(SystemExit):
        main.main(["--smoke"])
    assert "--data is missing" in capsys.readouterr().err


# --- the table --------------------------------------------------------------------------------------------------------


def test_table_of_means_intervals_and_differences_seed_by_seed(parts: dict[str, ModuleType]) -> None:
    values = {"from scratch": [10.0, 12.0, 14.0], "both": [5.0, 6.5, 9.5]}
    cells = {arm: {str(s): {"100": {"difference": v}} for s, v in enumerate(seeds)} for arm, seeds in values.items()}
    cells["both"]["0"]["0"] = {"difference": 20.0}
    task = {
        "cells": cells,
        "teacher": {"bytes": 9000, "difference": 0.0},
        "widths": {"energy": {"bytes": 900, "groups": {}}},
    }
    lines = parts["table"].table({"tasks": {"style": task}})[0].splitlines()
    assert lines[1].endswith("  against scratch, 100 steps")
    t = 4.302653  # of two degrees of freedom
    halves = [t * statistics.stdev(each) / math.sqrt(3) for each in (*values.values(), [-5.0, -5.5, -4.5])]
    scratch, both = lines[2:4]
    assert scratch.split()[-6:] == ["random", "-", "12.00", "±", f"{halves[0]:.2f}", "-"]
    assert both.split()[-8:] == [
        "projected",
        "20.00",
        "7.00",
        "±",
        f"{halves[1]:.2f}",
        "-5.00",
        "±",
        f"{halves[2]:.2f}",
    ]
    assert lines[-1] == "  note: the teacher: 9,000 bytes, 0.00"


@pytest.mark.skipif(not COMMITTED.exists(), reason="no figures yet")
def test_the_committed_figures_are_of_the_default_setting(parts: dict[str, ModuleType]) -> None:
    report = json.loads(COMMITTED.read_text(encoding="utf-8"))
    setting = json.loads(json.dumps(parts["__main__"].dataclasses.asdict(parts["tasks"].Setting())))
    assert {key: report["plan"][key] for key in setting} == setting
    assert report["plan"]["method"] == parts["tasks"].SKD_OPTIONS
    assert parts["table"].table(report)
