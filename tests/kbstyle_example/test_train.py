"""Training a teacher: the loss goes down under a small perceptual network, runs go on, mistakes are met early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.distill import scratch
from kbstyle_example.loop import CHECKPOINT, LOG, Plan
from kbstyle_example.losses import StyleTask
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.train import train
from skd.errors import ArgumentError, DataError, FileError

TINY = KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, content_blocks=1, style_blocks=0)
WEIGHTS: dict[str, Any] = {"style_weights": {"fine": 1.0, "coarse": 1.0}, "covariance_weights": {"fine": 0.1}}


class Fake(Perceptual):
    """Two random convolutions."""

    name, layers, content_layer, smallest_side = "fake", ("fine", "coarse"), "coarse", 4

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 4, stride=4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = F.relu(self.first(self.checked(image) - 0.5))
        return {"fine": fine, "coarse": F.relu(self.second(fine))}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for index in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{index}.png")
        coarse.resize((48, 36), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def run(pictures: list[Path], out: Path, plan: Plan, **options: Any) -> tuple[KBStyle, int]:
    return train(pictures[:2], pictures[1:], Fake(), out, plan=plan, crop=24, **{"config": TINY, **WEIGHTS, **options})


def fixed_loss(network: KBStyle, pictures: list[Path]) -> float:
    batch = [torch.from_numpy(np.asarray(Image.open(path))[None, :24, :24] / np.float32(255)) for path in pictures[:2]]
    with torch.no_grad():
        step = StyleTask(network, Fake(), **WEIGHTS)(tuple(x.permute(0, 3, 1, 2) for x in batch))
    return float(step.losses.total)


def test_the_loss_goes_down(pictures: list[Path], tmp_path: Path) -> None:
    plan = Plan(steps=50, batch_size=2, learning_rate=2e-2, warmup=5, log_every=1)
    network, steps = run(pictures, tmp_path / "run", plan, seed=3)
    assert steps == 50
    assert not network.training
    assert fixed_loss(network, pictures) < 0.7 * fixed_loss(scratch(TINY, 3), pictures)
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 51))
    assert lines[0].keys() >= {"content", "style", "texture", "total"}


def test_a_run_goes_on(pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(steps=6, batch_size=2, warmup=2, save_every=2, log_every=1)
    whole, _ = run(pictures, tmp_path / "whole", plan)

    calls = []

    def stop(self: Fake, image: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) > 3 * 5:  # three runs a step: content, style, result
            raise KeyboardInterrupt
        return original(self, image)

    original = Fake.forward
    monkeypatch.setattr(Fake, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "parts", plan)
    monkeypatch.setattr(Fake, "forward", original)
    assert torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)["step"] == 4
    resumed, steps = run(pictures, tmp_path / "parts", plan)
    assert steps == 6
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_same_seed_gives_the_same_network(pictures: list[Path], tmp_path: Path) -> None:
    plan = Plan(steps=2, batch_size=2)
    first, same, other = (
        torch.cat([p.detach().flatten() for p in run(pictures, tmp_path / name, plan, seed=seed)[0].parameters()])
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_perceptual_network_stays(pictures: list[Path], tmp_path: Path) -> None:
    fake = Fake()
    before = {name: value.clone() for name, value in fake.state_dict().items()}
    train(pictures, pictures, fake, tmp_path / "run", plan=Plan(steps=2, batch_size=1), config=TINY, crop=16, **WEIGHTS)
    assert all(torch.equal(value, before[name]) for name, value in fake.state_dict().items())
    assert not fake.training


def test_options_reach_the_task(pictures: list[Path], tmp_path: Path) -> None:
    plan = Plan(steps=1, batch_size=1, log_every=1)
    for name, options in (("plain", {}), ("heavy", {"style_weight": 50.0, "content_weight": 0.0})):
        run(pictures, tmp_path / name, plan, **options)
    plain, heavy = (json.loads((tmp_path / name / LOG).read_text()) for name in ("plain", "heavy"))
    assert heavy["style"] == pytest.approx(10 * plain["style"])
    assert heavy["content"] == 0 < plain["content"]


def test_mistakes_leave_nothing(pictures: list[Path], tmp_path: Path) -> None:
    plan, out = Plan(steps=1, batch_size=1, workers=1), tmp_path / "run"
    with pytest.raises(ArgumentError, match="fake has no feature 'relu1_1'"):
        train(pictures, pictures, Fake(), out, plan=plan, config=TINY, crop=16)
    with pytest.raises(ArgumentError, match=r"side of the crops; got 20; expected a multiple of 8"):
        train(pictures, pictures, Fake(), out, plan=plan, config=TINY, crop=20)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(DataError, match=r"none of the pictures can be used.*broken\.png"):
        train([tmp_path / "broken.png"], pictures, Fake(), out, plan=plan, config=TINY, crop=16)
    with pytest.raises(ArgumentError, match="seed"):
        run(pictures, out, plan, seed=-1)
    assert not out.exists()
    with pytest.raises(FileError, match="the output folder can't be made"):
        run(pictures, pictures[0] / "run", plan)


def test_a_run_of_another_network(pictures: list[Path], tmp_path: Path) -> None:
    plan = Plan(steps=1, batch_size=1)
    run(pictures, tmp_path / "run", plan)
    with pytest.raises(FileError, match="belongs to another network"):
        run(pictures, tmp_path / "run", plan, config=KBStyleConfig(widths=(4, 5, 7)))
