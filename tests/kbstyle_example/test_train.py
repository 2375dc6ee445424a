"""Training a teacher: the loss goes down under a small perceptual network, runs go on, mistakes are met early."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import skd
from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.beginning import scratch
from kbstyle_example.data import StylePairs
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import even_phases
from kbstyle_example.peers import System, as_system
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.train import Trained, one_by_one, train
from kbstyle_example.validation import style_losses
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError, ShapeError

TINY = KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, deep_blocks=1, style_blocks=0)
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


RECIPE = skd.Recipe(steps=2, channels_last=True)


def run(pictures: list[Path], out: Path, recipe: skd.Recipe = RECIPE, **options: Any) -> Trained:
    options = {"config": TINY, "crop": 24, "batch_size": 2, "workers": 0, **WEIGHTS, **options}
    return train(pictures[:2], pictures[1:], Fake(), out, recipe=recipe, **options)


def negative(sha256: str = "0" * 64) -> System:
    return System("negative", lambda content, style: 1 - content, sha256, 0, 0, lambda content, style: 0)


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def fixed_loss(network: KBStyle, pictures: list[Path]) -> float:
    batch = [torch.from_numpy(np.asarray(Image.open(path))[None, :24, :24] / np.float32(255)) for path in pictures[:2]]
    with torch.no_grad():
        step = StyleTask(network, Fake(), **WEIGHTS)(*(x.permute(0, 3, 1, 2) for x in batch))
    return float(step.losses.total)


def test_the_loss_goes_down(pictures: list[Path], tmp_path: Path) -> None:
    recipe = skd.Recipe(steps=40, learning_rate=2e-2, warmup=5, log_every=1, seed=3)
    done = run(pictures, tmp_path / "run", recipe)
    assert (done.run.steps, done.run.ended) == (40, "steps")
    assert not done.network.training
    assert fixed_loss(done.network, pictures) < 0.7 * fixed_loss(scratch(TINY, 3), pictures)
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[0].keys() >= {"content", "style", "texture", "total"}


def test_the_losses_are_those_of_the_first_batch(pictures: list[Path], tmp_path: Path) -> None:
    run(pictures, tmp_path / "run", skd.Recipe(steps=1, log_every=1, seed=5))
    samples = StylePairs(pictures[:2], pictures[1:], crop=24, length=2, seed=5)
    content, style = (torch.stack(each) for each in zip(samples[0], samples[1], strict=True))
    wanted = StyleTask(scratch(TINY, 5), Fake(), **WEIGHTS)(content, style).losses
    found = log(tmp_path / "run")[0]
    for name, term in wanted.terms.items():
        assert found[name] == pytest.approx(float(term.detach()), rel=1e-4), name
    assert found["total"] == pytest.approx(float(wanted.total.detach()), rel=1e-4)


def test_hard_pairs_are_drawn_and_the_run_goes_on_with_them(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = StylePairs.__getitem__

    def spy(self: StylePairs, index: int) -> tuple[Tensor, Tensor]:
        seen.append(index)
        return original(self, index)

    recipe = skd.Recipe(steps=6, warmup=2, save_every=2, log_every=1, seed=3)
    whole = run(pictures, tmp_path / "whole", recipe, hard_pairs=3)
    with monkeypatch.context() as patch:
        patch.setattr(StylePairs, "__getitem__", spy)
        patch.setattr(Fake, "forward", stopped_after(2 + 5))  # measuring three pairs takes as many runs as two steps
        with pytest.raises(KeyboardInterrupt):
            run(pictures, tmp_path / "parts", recipe, hard_pairs=3)
    assert seen[:4] == [0, 0, 1, 2]  # whether there are any, then those measured
    assert len(seen) > 4
    assert set(seen) <= {0, 1, 2}
    resumed = run(pictures, tmp_path / "parts", recipe, hard_pairs=3)
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(FileError, match="of other pairs"):
        run(pictures, tmp_path / "parts", recipe, hard_pairs=4)


def test_no_crop_is_seen_twice(pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = StylePairs.__getitem__

    def spy(self: StylePairs, index: int) -> tuple[Tensor, Tensor]:
        seen.append(index)
        return original(self, index)

    monkeypatch.setattr(StylePairs, "__getitem__", spy)
    run(pictures, tmp_path / "run", skd.Recipe(steps=3, accumulate=2))
    assert seen[0] == 0  # read once beforehand, so that what can't be read shows
    assert sorted(seen[1:]) == list(range(3 * 2 * 2))


def stopped_after(steps: int) -> Any:
    calls = []

    def stop(self: Fake, image: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) > 3 * steps:  # three runs a step: content, style, result
            raise KeyboardInterrupt
        return original(self, image)

    original = Fake.forward
    return stop


def test_a_run_goes_on(pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = skd.Recipe(steps=6, warmup=2, save_every=2, log_every=1)
    whole = run(pictures, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "forward", stopped_after(5))
        with pytest.raises(KeyboardInterrupt):
            run(pictures, tmp_path / "parts", recipe)
    assert max(path.name for path in tmp_path.glob("parts/checkpoints/*")) == "step-000000004.pt"
    resumed = run(pictures, tmp_path / "parts", recipe)
    assert resumed.run.steps == 6
    for (name, a), b in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    again = run(pictures, tmp_path / "parts", recipe)  # a finished run is read
    assert len(log(tmp_path / "parts")) == 6
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), whole.network.parameters(), strict=True))


def test_phases_are_evened_in_what_is_returned(pictures: list[Path], tmp_path: Path) -> None:
    done = run(pictures, tmp_path / "run", skd.Recipe(steps=3, learning_rate=0.05, warmup=0))
    expected = KBStyle(TINY)
    expected.load_state_dict(torch.load(done.run.last_weights, weights_only=True))
    assert not all(torch.equal(a, b) for a, b in zip(expected.parameters(), done.network.parameters(), strict=True))
    even_phases(expected.decoder)
    for (name, a), b in zip(expected.state_dict().items(), done.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_same_seed_gives_the_same_network(pictures: list[Path], tmp_path: Path) -> None:
    first, same, other = (
        torch.cat(
            [
                p.detach().flatten()
                for p in run(pictures, tmp_path / name, replace(RECIPE, seed=seed)).network.parameters()
            ]
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_one_loading_process_gives_the_same(pictures: list[Path], tmp_path: Path) -> None:
    none, one = (run(pictures, tmp_path / str(count), workers=count).network for count in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(none.parameters(), one.parameters(), strict=True))


def test_the_perceptual_network_stays_and_is_not_kept(pictures: list[Path], tmp_path: Path) -> None:
    fake = Fake()
    before = {name: value.clone() for name, value in fake.state_dict().items()}
    options: dict[str, Any] = {"config": TINY, "crop": 16, "batch_size": 1, "workers": 0, **WEIGHTS}
    done = train(pictures, pictures, fake, tmp_path / "run", recipe=RECIPE, **options)
    assert all(torch.equal(value, before[name]) for name, value in fake.state_dict().items())
    assert not fake.training
    kept = torch.load(done.run.checkpoints / "step-000000002.pt", weights_only=True)
    assert set(kept["module"]) == {f"network.{name}" for name in done.network.state_dict()}
    assert set(torch.load(done.run.last_weights, weights_only=True)) == set(done.network.state_dict())


def test_options_reach_the_task(pictures: list[Path], tmp_path: Path) -> None:
    recipe = skd.Recipe(steps=1, log_every=1)
    for name, options in (("plain", {}), ("heavy", {"style_weight": 50.0, "content_weight": 0.0})):
        run(pictures, tmp_path / name, recipe, **options)
    plain, heavy = (log(tmp_path / name)[0] for name in ("plain", "heavy"))
    assert heavy["style"] == pytest.approx(10 * plain["style"])
    assert heavy["content"] == 0 < plain["content"]


# --- a guide, and a start --------------------------------------------------------------------------------------------


def test_the_network_imitates_its_guide(pictures: list[Path], tmp_path: Path) -> None:
    """A small KBStyle network can be imitated as any other system; what is left of the difference is told."""
    guide = as_system(scratch(KBStyleConfig(widths=(6, 8, 8)), 8), name="other")
    recipe = skd.Recipe(steps=40, learning_rate=2e-2, warmup=5, log_every=1, seed=3)
    weights: dict[str, Any] = {"style_weight": 0.0, "content_weight": 0.0, "feature_weights": {"coarse": 1.0}}
    run(pictures, tmp_path / "run", recipe, guide=guide, **weights)
    lines = log(tmp_path / "run")
    assert lines[0].keys() >= {"pixels", "features"}
    for term in ("pixels", "features"):
        assert np.mean([line[term] for line in lines[-5:]]) < 0.6 * np.mean([line[term] for line in lines[:5]]), term
    samples = StylePairs(pictures[:2], pictures[1:], crop=24, length=2, seed=3)
    content, style = (torch.stack(each) for each in zip(samples[0], samples[1], strict=True))
    with torch.no_grad():
        wanted = torch.cat([guide.run(content[i : i + 1], style[i : i + 1]) for i in range(2)]).clamp(0, 1)
        apart = scratch(TINY, 3)(content, style).double().numpy() - wanted.double().numpy()
    assert lines[0]["pixels"] == pytest.approx(10 * np.abs(apart).mean(), rel=1e-4)


def test_a_system_guides_one_pair_at_a_time() -> None:
    seen = []

    def run(content: Tensor, style: Tensor) -> Tensor:
        seen.append((content, style))
        return content * style.mean()

    guide = one_by_one(System("scaled", run, "", 0, 0, lambda content, style: 0))
    content, styles = torch.rand(3, 3, 16, 24), torch.rand(3, 3, 16, 16)
    expected = content * styles.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(guide(content, styles), expected)
    assert [(tuple(c.shape), tuple(s.shape)) for c, s in seen] == [((1, 3, 16, 24), (1, 3, 16, 16))] * 3
    torch.testing.assert_close(guide(content, styles[:1]), content * styles[0].mean())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda c, s: c[..., 1:], ShapeError, r"odd gave another shape; got \(1, 3, 24, 23\)"),
        (lambda c, s: c * float("inf"), NonFiniteError, "odd gave a picture with NaN or infinite values"),
    ],
)
def test_guides_that_give_no_pictures(
    pictures: list[Path], tmp_path: Path, make: Any, error: type[Exception], message: str
) -> None:
    odd = System("odd", make, "", 0, 0, lambda content, style: 0)
    with pytest.raises(error, match=message):
        run(pictures, tmp_path / "run", guide=odd, feature_weights={})


def test_another_guide_is_refused(pictures: list[Path], tmp_path: Path) -> None:
    run(pictures, tmp_path / "run", guide=negative(), feature_weights={"fine": 1.0})
    with pytest.raises(FileError, match=r"about\.guide: negative 0+… there, negative 1+… here"):
        run(pictures, tmp_path / "run", guide=negative("1" * 64), feature_weights={"fine": 1.0})
    with pytest.raises(FileError, match=r"about\.weights"):
        run(pictures, tmp_path / "run", guide=negative(), feature_weights={"fine": 2.0})
    with pytest.raises(FileError, match=r"about\.weights"):
        run(pictures, tmp_path / "run", guide=negative(), feature_weights={"fine": 1.0}, pixel_weight=5.0)
    run(pictures, tmp_path / "run", guide=negative(), feature_weights={"fine": 1.0})


def test_a_training_begins_with_given_weights(pictures: list[Path], tmp_path: Path) -> None:
    begun = scratch(TINY, 9)
    before = {name: value.clone() for name, value in begun.state_dict().items()}
    save_weights(begun, tmp_path / "begun.safetensors", about={"trained": "1 step"})
    still = skd.Recipe(steps=1, learning_rate=1e-12, seed=5)
    done = run(pictures, tmp_path / "still", still, start=begun)
    kept = torch.load(done.run.last_weights, weights_only=True)
    for name, value in before.items():
        torch.testing.assert_close(kept[name], value, atol=1e-9, rtol=0, msg=name)
        assert torch.equal(begun.state_dict()[name], value)
    recipe = skd.Recipe(steps=3, seed=5)
    first = run(pictures, tmp_path / "run", recipe, start=begun)
    same = run(pictures, tmp_path / "same", recipe, start=tmp_path / "begun.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), same.network.parameters(), strict=True))
    # The file and the network are the same start: the run is read again.
    assert run(pictures, tmp_path / "run", recipe, start=tmp_path / "begun.safetensors").run.steps == 3
    with pytest.raises(FileError, match=r"about\.start: [0-9a-f]{16} there, [0-9a-f]{16} here"):
        run(pictures, tmp_path / "run", recipe, start=first.network)


def test_a_start_of_another_shape_or_that_isnt_there(pictures: list[Path], tmp_path: Path) -> None:
    message = (
        r"the weights to start from are of a network of another shape; got widths \(4, 5, 7\),.*; "
        r"expected widths \(4, 5, 6\),.*Remedy: start from weights of this shape"
    )
    with pytest.raises(ArgumentError, match=message):
        run(pictures, tmp_path / "run", start=scratch(KBStyleConfig(widths=(4, 5, 7)), 0))
    with pytest.raises(FileError, match=r"there are no such weights; got .*none"):
        run(pictures, tmp_path / "run", start=tmp_path / "none")
    assert not (tmp_path / "run").exists()


# --- validation, and mistakes ----------------------------------------------------------------------------------------


def test_validation_pictures_are_looked_at(pictures: list[Path], tmp_path: Path) -> None:
    recipe = skd.Recipe(steps=4, evaluate_every=2, log_every=4)
    validation = pictures[2:], pictures[2:]
    done = run(pictures, tmp_path / "run", recipe, validation=validation)
    lines = [line for line in log(tmp_path / "run") if "evaluation/total" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert list(done.run.evaluation or {}) == ["total", "content", "style", "texture"]
    trained = KBStyle(TINY)
    trained.load_state_dict(torch.load(done.run.last_weights, weights_only=True))
    task = StyleTask(trained, Fake(), **WEIGHTS)
    expected = style_losses(task, validation, crop=24, seed=0)(trained)
    assert done.run.evaluation == pytest.approx(expected, rel=1e-4)
    assert done.run.best is not None
    assert done.run.best[1] == min(line["evaluation/total"] for line in lines)
    plain = run(pictures, tmp_path / "plain", recipe)  # looking changes nothing
    assert plain.run.evaluation is None
    assert all(torch.equal(a, b) for a, b in zip(plain.network.parameters(), done.network.parameters(), strict=True))


def test_mistakes_leave_nothing(pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ArgumentError, match="fake has no feature 'relu1_1'"):
        train(pictures, pictures, Fake(), out, recipe=RECIPE, config=TINY, crop=16)
    for options, message in (
        ({"crop": 20}, r"side of the crops; got 20; expected a multiple of 8"),
        ({"batch_size": 0}, r"pairs in a batch; got 0; expected 1 or more"),
        ({"workers": -1}, r"processes that load pictures; got -1; expected 0 or more"),
    ):
        with pytest.raises(ArgumentError, match=message):
            run(pictures, out, **options)
    (tmp_path / "broken.png").write_text("no picture")
    broken = [tmp_path / "broken.png"]
    with pytest.raises(DataError, match=r"none of the pictures can be used.*broken\.png"):
        train(broken, pictures, Fake(), out, recipe=RECIPE, config=TINY, crop=16, **WEIGHTS)
    with pytest.raises(DataError, match=r"none of the pictures can be used.*broken\.png"):  # and not at its end
        run(pictures, out, validation=(pictures, broken))
    assert not out.exists()
    with pytest.raises(FileError, match="the output folder can't be written into"):
        run(pictures, pictures[0] / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": KBStyleConfig(widths=(4, 5, 7))}, "module.shapes"),
        ({"crop": 16}, "about.crop: 24 there, 16 here"),
        ({"style_weight": 7.0}, "about.weights"),
        ({"guide": negative(), "feature_weights": {}}, "about.guide: none there, negative 0000"),
        ({"start": scratch(TINY, 9)}, r"about.start: random there, [0-9a-f]{16} here"),
        ({"recipe": replace(RECIPE, seed=1)}, "recipe.seed: 0 there, 1 here"),
        *(({f"{name}_weight": 2.0}, r"about\.weights") for name in ("style", "luminance", "similarity", "detail")),
    ],
)
def test_another_run_is_refused(pictures: list[Path], tmp_path: Path, options: dict[str, Any], message: str) -> None:
    run(pictures, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    with pytest.raises(FileError, match=rf"it is of another run .*{message}.*name another output folder"):
        run(pictures, tmp_path / "run", **options)
    assert {path: path.read_bytes() for path in before} == before


def test_other_pictures_or_another_perceptual_network_are_refused(pictures: list[Path], tmp_path: Path) -> None:
    run(pictures, tmp_path / "run")
    with pytest.raises(FileError, match=r"about\.contents: 2 files"):
        run([*pictures[1:], pictures[0]], tmp_path / "run")
    other = Fake()
    other.sha256 = "ab"
    options: dict[str, Any] = {"config": TINY, "crop": 24, "batch_size": 2, "workers": 0, **WEIGHTS}
    with pytest.raises(FileError, match=r"about\.perceptual:  there, ab here"):
        train(pictures[:2], pictures[1:], other, tmp_path / "run", recipe=RECIPE, **options)
