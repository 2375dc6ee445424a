"""Perceptual networks that look by turns: whose turn it is, what they have in common, runs that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import skd
from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.beginning import scratch
from kbstyle_example.by_turns import ByTurns
from kbstyle_example.distances import moment_distance
from kbstyle_example.distill import distill
from kbstyle_example.losses import StyleTask
from kbstyle_example.perceived import Perceived
from kbstyle_example.perceptual import VGG, identity_of
from kbstyle_example.train import train
from skd.errors import ArgumentError, FileError

TINY = KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, deep_blocks=1, style_blocks=0)
LAYERS: dict[str, Any] = {"style_weights": {"relu1_1": 1.0}, "covariance_weights": {}, "feature_weights": {}}
RECIPE = skd.Recipe(steps=5, warmup=1, save_every=3, log_every=1)


def eyes(seed: int, stages: int = 2) -> VGG:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        widths = (3, 4, 5)[:stages]
        net = VGG(f"eyes{seed}", widths, stages=tuple((1, str(i + 1)) for i in range(stages)), content_layer="relu2_1")
    net.sha256 = f"{seed}" * 4
    return net.freeze()


def both() -> ByTurns:
    return ByTurns([eyes(1), eyes(2)])


def test_each_step_is_under_the_next() -> None:
    content, style = torch.rand(2, 2, 3, 16, 24)
    task = StyleTask(scratch(TINY, 0), both(), content_weight=0.0, style_weight=2.0, **LAYERS)
    seen = []
    for _ in range(3):
        step = task(content, style)
        seen.append(float(step.losses["style"].detach()))
    output = step.output.detach()
    first, second = (
        2 * float(moment_distance(net(output)["relu1_1"], net(style)["relu1_1"])) for net in (eyes(1), eyes(2))
    )
    assert first != pytest.approx(second, rel=0.01)
    assert seen == pytest.approx([first, second, first])


def test_without_gradients_the_first_looks_and_no_turn_passes() -> None:
    content, style = torch.rand(2, 2, 3, 16, 24)
    task = StyleTask(scratch(TINY, 0), both(), content_weight=0.0, **LAYERS)
    trained = [float(task(content, style).losses["style"].detach())]
    with torch.no_grad():
        looked = [float(task(content, style).losses["style"]) for _ in range(2)]
    trained.append(float(task(content, style).losses["style"].detach()))
    assert looked == pytest.approx([trained[0]] * 2)
    assert trained[1] != pytest.approx(trained[0], rel=0.01)
    with torch.no_grad():  # a picture that is a parameter itself asks for gradients even here
        task.losses(torch.rand(2, 3, 16, 24, requires_grad=True), content, style)
    assert int(task.turn) == 2


def test_a_students_picture_is_under_one_network_in_a_step() -> None:
    perceived = Perceived(both(), **{**LAYERS, "feature_weights": {"relu1_1": 1.0}}, luminance_weight=1.0)
    alone = [
        Perceived(eyes(seed), **{**LAYERS, "feature_weights": {"relu1_1": 1.0}}, luminance_weight=1.0)
        for seed in (1, 2, 1)
    ]
    teacher, style = torch.rand(2, 2, 3, 16, 24)
    output = torch.rand(2, 3, 16, 24, requires_grad=True)
    for wanted in alone:
        torch.testing.assert_close(perceived(output, teacher), wanted(output, teacher))
        torch.testing.assert_close(perceived.style(output, (teacher, style)), wanted.style(output, (teacher, style)))


def test_what_they_have_in_common_can_be_weighed() -> None:
    turns = ByTurns([eyes(1, 3), eyes(2, 2)])
    assert turns.layers == ("relu1_1", "relu2_1")
    assert turns.smallest_side == eyes(1, 3).smallest_side > eyes(2, 2).smallest_side
    assert turns(torch.rand(1, 3, 16, 16)).keys() == {"relu1_1", "relu2_1"}
    with pytest.raises(ArgumentError, match=r"eyes1 and eyes2 by turns has no feature 'relu3_1'"):
        StyleTask(KBStyle(TINY), turns, style_weights={"relu3_1": 1.0}, covariance_weights={})


def test_another_network_is_another_run() -> None:
    lifted = eyes(2)
    lifted.variant = "lifted"
    assert identity_of(both()) == "1111 + 2222"
    assert identity_of(ByTurns([eyes(1), lifted]).bfloat16()) == "1111 + 2222 lifted bfloat16"


def test_networks_that_cant_take_turns() -> None:
    with pytest.raises(ArgumentError, match=r"perceptual networks that look by turns; got 1; expected 2 or more"):
        ByTurns([eyes(1)])
    other = eyes(2, 1)
    with pytest.raises(ArgumentError, match=r"not all of eyes1 and eyes2 by turns have 'relu2_1'; got relu1_1"):
        ByTurns([eyes(1), other])


class Ending:
    """A weight that ends the training in the middle."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def __call__(self, step: int) -> float:
        if step == self.stop:
            raise KeyboardInterrupt
        return 0.5

    def __repr__(self) -> str:
        return "Ending"


def test_a_training_goes_on_with_the_turn_it_was_at(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"config": TINY, "crop": 24, "batch_size": 2, "workers": 0, **LAYERS}

    def run(out: str) -> KBStyle:
        return train(pictures[:2], pictures[1:], both(), tmp_path / out, recipe=RECIPE, **options).network

    whole, calls, original = run("whole"), list[int](), VGG.forward

    def stop(self: VGG, image: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 3 * 4 + 1:  # three runs a step: content, style, result
            raise KeyboardInterrupt
        return original(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(VGG, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    assert max(path.name for path in tmp_path.glob("parts/checkpoints/*")) == "step-000000003.pt"  # at an odd turn
    parts = run("parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    options["similarity_weight"] = 2.0
    with pytest.raises(FileError, match=r"about\.weights"):
        run("parts")


def test_a_distillation_goes_on_with_its_turn_and_with_the_weight_that_follows(
    pictures: list[Path], tmp_path: Path
) -> None:
    teacher = scratch(KBStyleConfig(widths=(6, 8, 10), fine_blocks=1, deep_blocks=1, style_blocks=0), 7)
    options: dict[str, Any] = {"config": TINY, "crop": 24, "batch_size": 2, "workers": 0, "recipe": RECIPE, **LAYERS}
    options |= {"feature_weights": {"relu1_1": 1.0}, "similarity_weight": 3.0, "similarity_follows": 0.25}

    def run(out: str, output: Any = 0.5) -> KBStyle:
        folder = tmp_path / out
        done = distill(teacher, pictures[:2], pictures[1:], folder, perceptual=both(), output=output, **options)
        return done.student

    whole = run("whole", Ending())
    with pytest.raises(KeyboardInterrupt):
        run("parts", Ending(stop=5))
    newest = max(tmp_path.glob("parts/checkpoints/*"))
    assert newest.name == "step-000000003.pt"
    kept = {
        name.rpartition(".")[2]: value
        for name, value in torch.load(newest, weights_only=True)["module"].items()
        if "perceived" in name
    }
    assert int(kept["turn"]) == 5  # of three steps, and two of the check before them
    assert float(kept["weight"]) != 3.0
    parts = run("parts", Ending())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    options["similarity_follows"] = 0.0
    with pytest.raises(FileError, match=r"about\.perceptual: eyes1 and eyes2 by turns"):
        run("parts", Ending())
