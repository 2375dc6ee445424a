"""Distilling: SKD's terms, a student that learns, a teacher that stays, runs that go on, same seed same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skd
from kbstyle_example import STUDENT, TEACHER, KBStyle, KBStyleConfig, distill
from kbstyle_example.beginning import scratch, training_samples
from kbstyle_example.data import StylePairs
from kbstyle_example.detail import detail_distance
from kbstyle_example.distill import kbstyle_pairing, save_student, student_files
from kbstyle_example.losses import luminance_distance
from kbstyle_example.networks import even_phases
from kbstyle_example.perceived import Perceived
from kbstyle_example.perceptual import VGG
from kbstyle_example.similarity import ssim
from kbstyle_example.validation import differences
from kbstyle_example.weights_file import about, load_weights
from skd.errors import ArgumentError, DataError, FileError, SkdError

BLOCKS = {"fine_blocks": 1, "deep_blocks": 1, "style_blocks": 1}
WIDE, NARROW = KBStyleConfig((6, 8, 10), **BLOCKS), KBStyleConfig((3, 4, 5), **BLOCKS)
TERMS = [
    *(
        f"{pair}/{side}/{kind}"
        for pair in ("1/2", "1/4", "1/8")
        for side in ("encoder", "companion", "decoder")
        for kind in ("structure", "statistics")
    ),
    "output",
]
SHORT = skd.Recipe(steps=3, warmup=1, log_every=1, channels_last=True)


@pytest.fixture
def teacher() -> KBStyle:
    return scratch(WIDE, seed=7)


def run(
    teacher: KBStyle, pictures: list[Path], out: Path, recipe: skd.Recipe = SHORT, **options: Any
) -> skd.Distilled[KBStyle]:
    options = {"config": NARROW, "crop": 24, "batch_size": 2, "workers": 0, **options}
    return distill.distill(teacher, pictures[:2], pictures[1:], out, recipe=recipe, **options)


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def equal(first: KBStyle, second: KBStyle) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the pairing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TEACHER, STUDENT, NARROW])
def test_the_pairing_mirrors_the_networks_levels(config: KBStyleConfig) -> None:
    pairing = kbstyle_pairing(KBStyle(config))
    assert [pair.name for pair in pairing] == ["1/2", "1/4", "1/8"]
    for pair, width, scale in zip(pairing, config.widths, (1 / 2, 1 / 4, 1 / 8), strict=True):
        assert (pair.width, pair.decoder_width, len(pair.companions)) == (width, width, 1)
        assert set(pair.scale) == {scale}


def test_no_tap_is_read_after_a_nonlinearity() -> None:
    network = scratch(NARROW, seed=0)
    for pair in kbstyle_pairing(network):
        for tap in (pair.encoder, *pair.companions, pair.decoder):
            _, features = skd.Taps(network, [tap])(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
            assert features[tap].min() < 0, str(tap)


def test_the_plan_matches_level_to_level() -> None:
    rows = skd.match(kbstyle_pairing(KBStyle(TEACHER)), kbstyle_pairing(KBStyle(STUDENT)))
    assert [(a.name, b.name, a.width, b.width) for a, b in rows] == [
        ("1/2", "1/2", 32, 8), ("1/4", "1/4", 64, 20), ("1/8", "1/8", 128, 32),
    ]  # fmt: skip


# --- the training ----------------------------------------------------------------------------------------------------


def test_the_terms_are_those_of_skd(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    done = run(teacher, pictures, tmp_path / "run")
    assert [row.name for row in done.report.rows] == TERMS
    assert [name for name in log(tmp_path / "run")[0] if name in TERMS] == TERMS
    assert (done.run.steps, done.run.ended) == (3, "steps")
    assert done.student.config == NARROW
    assert not done.student.training
    count = [sum(p.numel() for p in net.parameters()) for net in (teacher, done.student)]
    assert [done.report.teacher_parameters, done.report.student_parameters] == count


def test_the_output_counts_as_stated(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    student = scratch(NARROW, seed=0)
    run(teacher, pictures, tmp_path / "run", skd.Recipe(steps=1, log_every=1))
    content, style = zip(
        *(StylePairs(pictures[:2], pictures[1:], crop=24, length=2, seed=0)[i] for i in (0, 1)), strict=True
    )
    with torch.no_grad():
        wanted, found = (net(torch.stack(content), torch.stack(style)) for net in (teacher, student))
    expected = 20 * float((found - wanted).square().sum() / wanted.square().sum())
    assert log(tmp_path / "run")[0]["output"] == pytest.approx(expected, rel=1e-4)


def test_options_reach_skd(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    done = run(teacher, pictures, tmp_path / "a", sides="encoder", statistics=0.0, output=0.0)
    assert [row.name for row in done.report.rows] == [
        f"{pair}/{side}/structure" for pair in ("1/2", "1/4", "1/8") for side in ("encoder", "companion")
    ]
    with pytest.raises(TypeError, match="no_such_option"):
        run(teacher, pictures, tmp_path / "b", no_such_option=1)


def test_features_fade_over_their_share_of_the_steps(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    recipe = replace(SHORT, steps=4, learning_rate=1e-9)
    terms = {}
    for fade in (0.0, 0.5):
        run(teacher, pictures, tmp_path / f"{fade}", recipe, structure=0.7, statistics=0.0, fade=fade)
        terms[fade] = [line["1/8/decoder/structure"] for line in log(tmp_path / f"{fade}")]
        assert "1/8/decoder/statistics" not in log(tmp_path / f"{fade}")[0]
    # Half a cosine over two steps: whole, half, nothing. The weights hardly move meanwhile, and the crops are the same.
    assert [one / other for one, other in zip(terms[0.5], terms[0.0], strict=True)] == pytest.approx([1, 0.5, 0, 0])
    with pytest.raises(ArgumentError, match=r"over which features fade; got 1\.5"):
        run(teacher, pictures, tmp_path / "no", fade=1.5)


def test_adapters_may_be_fitted(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    first = []
    for fitted in (False, True):
        out = tmp_path / f"{fitted}"
        run(teacher, pictures, out, basis="learned", fit_adapters=fitted)
        first.append(sum(value for name, value in log(out)[0].items() if name.endswith(("structure", "statistics"))))
    assert first[1] < first[0] / 2


def test_the_student_learns(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    recipe = skd.Recipe(steps=30, learning_rate=2e-2, warmup=5)
    before = run(teacher, pictures, tmp_path / "before", skd.Recipe(steps=1, learning_rate=1e-12))
    assert torch.allclose(before.student.decoder.up1.weight, scratch(NARROW, 0).decoder.up1.weight)
    after = run(teacher, pictures, tmp_path / "after", recipe)
    first, last = ({row.name: row.loss for row in done.report.rows} for done in (before, after))
    assert last["output"] < 0.5 * first["output"]
    assert sum(last.values()) < 0.8 * sum(first.values())
    batch = torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24)  # one that wasn't distilled on
    with torch.no_grad():
        wanted = teacher(*batch)
        errors = [float((done.student(*batch) - wanted).square().mean()) for done in (before, after)]
    assert errors[1] < 0.7 * errors[0]


def test_the_teacher_stays_as_it_is(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    teacher.train()
    teacher.decoder.up1.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    flags = [p.requires_grad for p in teacher.parameters()]
    strides = [p.stride() for p in teacher.parameters()]
    done = run(teacher, pictures, tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert [p.requires_grad for p in teacher.parameters()] == flags
    assert [p.stride() for p in teacher.parameters()] == strides
    assert all(module.training and not module._forward_hooks for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in done.student.parameters()}


def test_the_same_seed_gives_the_same_student(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    first, second = (replace(SHORT, seed=seed) for seed in (1, 2))
    done = run(teacher, pictures, tmp_path / "a", first)
    torch.rand(100)  # what the caller drew makes no difference
    assert equal(done.student, run(teacher, pictures, tmp_path / "b", first).student)
    assert not equal(done.student, run(teacher, pictures, tmp_path / "c", second).student)


class Rising:
    """An output weight that rises, in a run that is stopped once."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.seen = stop, set[int]()

    def __call__(self, step: int) -> float:
        if step == self.stop:
            raise KeyboardInterrupt
        self.seen.add(step)
        return 1.0 + step


def test_a_run_goes_on_with_its_schedules(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    recipe = skd.Recipe(steps=6, warmup=2, save_every=2, log_every=1)
    whole = run(teacher, pictures, tmp_path / "whole", recipe, output=Rising())
    with pytest.raises(KeyboardInterrupt):
        run(teacher, pictures, tmp_path / "parts", recipe, output=Rising(stop=5))
    assert max(path.name for path in tmp_path.glob("parts/checkpoints/*")) == "step-000000004.pt"
    again = Rising()
    parts = run(teacher, pictures, tmp_path / "parts", recipe, output=again)
    assert 5 in again.seen
    assert not {1, 2, 3} & again.seen
    assert parts.run.steps == whole.run.steps == 6
    assert equal(parts.student, whole.student)
    times = ("seconds",)
    a, b = (
        [{k: v for k, v in line.items() if k not in times} for line in log(tmp_path / n)] for n in ("whole", "parts")
    )
    assert a == b


def test_a_finished_run_is_read_again(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    first, again = (run(teacher, pictures, tmp_path / "run") for _ in range(2))
    assert again.run.steps == first.run.steps
    assert [row.loss for row in again.report.rows] == [row.loss for row in first.report.rows]
    assert equal(first.student, again.student)
    assert len(log(tmp_path / "run")) == 3


# --- under a perceptual network ------------------------------------------------------------------------------------


def judge() -> VGG:
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        net = VGG("judge", (3, 4), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    net.sha256 = "abc"
    return net


LAYERS: dict[str, Any] = {
    "feature_weights": {"relu1_1": 1.0, "relu2_1": 0.5},
    "style_weights": {"relu1_1": 2.0},
    "covariance_weights": {"relu2_1": 0.25},
}


def test_outputs_are_compared_under_the_perceptual_network(
    teacher: KBStyle, pictures: list[Path], tmp_path: Path
) -> None:
    done = run(teacher, pictures, tmp_path / "run", skd.Recipe(steps=1, log_every=1),
               perceptual=judge(), feature_weight=3.0, style_weight=7.0, **LAYERS)  # fmt: skip
    assert [row.name for row in done.report.rows] == [*TERMS, "features"]
    line = log(tmp_path / "run")[0]
    content, style = (
        torch.stack(side)
        for side in zip(*(StylePairs(pictures[:2], pictures[1:], crop=24, length=2, seed=0)[i] for i in (0, 1)),
                        strict=True)
    )  # fmt: skip
    with torch.no_grad():
        wanted, found = (judge()(net(content, style)) for net in (teacher, scratch(NARROW, seed=0)))
        painted = judge()(style)
    a, b, s = ({name: value.double().numpy() for name, value in each.items()} for each in (found, wanted, painted))
    features = sum(
        weight * np.mean([((x - y) ** 2).sum() / (y**2).sum() for x, y in zip(a[layer], b[layer], strict=True)])
        for layer, weight in LAYERS["feature_weights"].items()
    )
    assert line["features"] == pytest.approx(3 * features, rel=1e-4)
    first = [(x["relu1_1"].mean((2, 3)), np.sqrt(x["relu1_1"].var((2, 3)) + 1e-5)) for x in (a, s)]
    apart = sum((found - wanted) ** 2 for found, wanted in zip(*first, strict=True)).mean(1)
    moment = (apart / sum(wanted**2 for wanted in first[1]).mean(1)).mean()
    covariances = [[np.cov(sample.reshape(4, -1), bias=True) for sample in x["relu2_1"]] for x in (a, s)]
    texture = np.mean([((x - y) ** 2).sum() / (y**2).sum() for x, y in zip(*covariances, strict=True)])
    assert line["task"] == pytest.approx(7 * (2 * moment + 0.25 * texture), rel=1e-4)


def test_grey_pictures_count_as_stated() -> None:
    plain, grey = (Perceived(judge(), **LAYERS, luminance_weight=weight) for weight in (0.0, 3.0))
    output, content, style = torch.rand(3, 2, 3, 16, 24).unbind()
    luminance = luminance_distance(judge(), output, style, LAYERS["style_weights"])
    wanted = plain.style(output, (content, style)) + 3 * luminance
    torch.testing.assert_close(grey.style(output, (content, style)), wanted)
    assert grey.identity() == f"{plain.identity()} 3.0"


def test_hard_pairs_reach_the_training_and_need_eyes(
    teacher: KBStyle, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = StylePairs.__getitem__

    def spy(self: StylePairs, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.seed == 0:  # those trained on; the calibration's are of another seed
            seen.append(index)
        return original(self, index)

    monkeypatch.setattr(StylePairs, "__getitem__", spy)
    run(teacher, pictures, tmp_path / "run", skd.Recipe(steps=4), perceptual=judge(), hard_pairs=3, **LAYERS)
    assert seen[:4] == [0, 0, 1, 2]  # whether there are any, then those measured
    assert len(seen) >= 4 + 4 * 2
    assert set(seen) == {0, 1, 2}
    assert len(json.loads((tmp_path / "run" / "hard_pairs.json").read_text())["distances"]) == 3
    with pytest.raises(ArgumentError, match=r"hard pairs are told by a perceptual network; got none\. Remedy"):
        run(teacher, pictures, tmp_path / "other", skd.Recipe(steps=2), hard_pairs=3)
    assert not (tmp_path / "other").exists()


def test_all_weights_of_the_students_picture_reach_its_loss(
    teacher: KBStyle, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Spy(Perceived):
        def __init__(self, perceptual: Any, **options: Any) -> None:
            given.update(options)
            super().__init__(perceptual, **options)

    monkeypatch.setattr(distill, "Perceived", Spy)
    kinds = ("feature", "style", "luminance", "similarity", "detail")
    weights = {f"{kind}_weight": float(index) for index, kind in enumerate(kinds, start=1)}
    weights["similarity_follows"] = 0.125
    run(teacher, pictures, tmp_path / "run", skd.Recipe(steps=1), perceptual=judge(), **LAYERS, **weights)
    assert given == {**LAYERS, **weights}


def test_shapes_count_as_stated() -> None:
    plain, held = (Perceived(judge(), **LAYERS, similarity_weight=weight) for weight in (0.0, 3.0))
    output, content, style = torch.rand(3, 2, 3, 16, 24).unbind()
    found = held.style(output, (content, style))
    torch.testing.assert_close(found, plain.style(output, (content, style)) + 3 * (1 - ssim(output, content).float()))
    assert found.dtype == torch.float32
    assert held.identity() == f"{plain.identity()} similarity 3.0"


def test_the_weight_of_shapes_follows_the_teachers_pictures() -> None:
    held = Perceived(judge(), **LAYERS, similarity_weight=3.0, similarity_follows=0.1)
    content, style, wanted, output = torch.rand(4, 2, 3, 16, 24).unbind()
    output.requires_grad_()
    held(output, wanted)
    held.style(output, (content, style))
    missing = float(ssim(wanted, content) + 0.1 - ssim(output.detach(), content))
    assert held.shapes.weight.item() == pytest.approx(3 * np.exp(0.15 * missing), rel=1e-5)
    with pytest.raises(ArgumentError, match="the weight of shapes follows pictures; got none"):
        held.style(output, (content, style))  # of which no teacher's were seen
    with pytest.raises(ArgumentError, match=r"follows the teacher's pictures; got none\. Remedy: a feature weight"):
        Perceived(judge(), **LAYERS, feature_weight=0.0, similarity_weight=3.0, similarity_follows=0.1)


def test_the_finest_detail_counts_as_stated() -> None:
    plain, held = (Perceived(judge(), **LAYERS, detail_weight=weight) for weight in (0.0, 3.0))
    output, content, style = torch.rand(3, 2, 3, 16, 24).unbind()
    wanted = plain.style(output, (content, style)) + 3 * detail_distance(output, style)
    torch.testing.assert_close(held.style(output, (content, style)), wanted)
    assert held.identity() == f"{plain.identity()} detail 3.0"


def test_the_student_is_seen_once_a_step(
    teacher: KBStyle, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    original = VGG.forward

    def spy(self: VGG, image: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(image.requires_grad)
        return original(self, image)

    monkeypatch.setattr(VGG, "forward", spy)
    counts = []
    for steps in (1, 3):
        seen.clear()
        run(teacher, pictures, tmp_path / str(steps), skd.Recipe(steps=steps), perceptual=judge(), **LAYERS)
        counts.append((seen.count(True), seen.count(False)))
    # A step more sees the student's picture, and without gradients the teacher's and the painting.
    assert (counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]) == (2, 4)


def test_the_perceptual_network_stays_and_is_not_kept(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    perceptual = judge()
    before = {name: value.clone() for name, value in perceptual.state_dict().items()}
    done = run(teacher, pictures, tmp_path / "run", perceptual=perceptual, **LAYERS)
    assert all(torch.equal(value, before[name]) for name, value in perceptual.state_dict().items())
    assert perceptual.frozen
    assert not any(p.requires_grad for p in perceptual.parameters())
    kept = torch.load(done.run.checkpoints / "step-000000003.pt", weights_only=True)["module"]
    assert not [name for name in kept if "conv" in name or "perce" in name]
    perceived = Perceived(perceptual, **LAYERS)
    assert not list(perceived.parameters())
    assert not perceived.state_dict()
    perceived.to("meta")
    assert {p.device.type for p in perceptual.parameters()} == {"meta"}


def test_weights_of_zero_leave_a_comparison_out(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    one = skd.Recipe(steps=1, log_every=1)
    run(teacher, pictures, tmp_path / "a", one, perceptual=judge(), feature_weight=0.0, **LAYERS)
    run(teacher, pictures, tmp_path / "b", one, perceptual=judge(), style_weight=0.0, **LAYERS)
    found = [{"features", "task"} & set(log(tmp_path / name)[0]) for name in ("a", "b")]
    assert found == [{"task"}, {"features"}]


def test_validation_says_how_the_style_fares(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    validation = pictures[2:], pictures[2:]
    done = run(teacher, pictures, tmp_path / "run", perceptual=judge(), validation=validation, **LAYERS)
    trained = KBStyle(NARROW)
    trained.load_state_dict(torch.load(done.run.last_weights, weights_only=True))
    perceived = Perceived(judge(), **LAYERS)
    expected = differences(teacher, validation, crop=24, seed=0, perceived=perceived)(trained)
    assert list(done.run.evaluation or {}) == ["difference", "style"]
    assert done.run.evaluation == pytest.approx(expected, rel=1e-4)


def test_mistakes_about_the_perceptual_network(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    for options, message in (
        ({}, "judge has no feature 'relu[35]_1'"),
        ({**LAYERS, "style_weights": {"relu1_2": 1.0}}, r"judge has no feature 'relu1_2'.*did you mean 'relu1_1'"),
        ({**LAYERS, "feature_weight": -1.0}, "weight of 'relu2_1'; got -1"),
        ({**LAYERS, "style_weight": float("nan")}, "weight of 'relu2_1'; got nan"),
    ):
        with pytest.raises(ArgumentError, match=message):
            run(teacher, pictures, tmp_path / "run", perceptual=judge(), **options)
    assert not (tmp_path / "run").exists()
    run(teacher, pictures, tmp_path / "run", perceptual=judge(), **LAYERS)
    other = judge()
    other.sha256 = "abd"
    for options, message in (
        ({}, r"it is of another run"),
        ({"perceptual": other, **LAYERS}, r"it is of another run"),
        ({"perceptual": judge(), **LAYERS, "style_weights": {}}, r"it is of another run"),
        ({"perceptual": judge(), **LAYERS, "style_weight": 2.0}, r"about\.task_weight"),
    ):
        with pytest.raises(FileError, match=message):
            run(teacher, pictures, tmp_path / "run", **options)


# --- the start -------------------------------------------------------------------------------------------------------


def test_scratch_is_what_the_seed_says() -> None:
    state = torch.random.get_rng_state()
    network = scratch(NARROW, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(4)
    assert equal(network, KBStyle(NARROW))
    assert not equal(network, scratch(NARROW, seed=5))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_cant_be(seed: int) -> None:
    with pytest.raises(ArgumentError, match=f"seed of the first weights; got {seed}"):
        scratch(NARROW, seed)


def test_a_distillation_begins_with_given_weights(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    begun = scratch(NARROW, seed=9)
    still = run(teacher, pictures, tmp_path / "still", skd.Recipe(steps=1, learning_rate=1e-12), start=begun)
    kept = torch.load(still.run.last_weights, weights_only=True)
    for name, value in scratch(NARROW, seed=9).state_dict().items():
        torch.testing.assert_close(kept[name], value, atol=1e-9, rtol=0, msg=name)
    assert equal(begun, scratch(NARROW, seed=9))  # it was copied
    first = run(teacher, pictures, tmp_path / "run", start=begun)
    save_student(begun, tmp_path / "begun.safetensors")
    assert equal(first.student, run(teacher, pictures, tmp_path / "b", start=tmp_path / "begun.safetensors").student)
    with pytest.raises(FileError, match=r"about\.start: [0-9a-f]{16} there, random here"):
        run(teacher, pictures, tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"another shape; got widths \(6, 8, 10\).*expected widths \(3, 4, 5\)"):
        run(teacher, pictures, tmp_path / "c", start=teacher)


# --- what is kept, and looked at -------------------------------------------------------------------------------------


def test_the_teacher_is_not_in_the_checkpoints(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    done = run(teacher, pictures, tmp_path / "run")
    kept = torch.load(done.run.checkpoints / "step-000000003.pt", weights_only=True)["module"]
    assert {name for name in kept if "teacher" in name} == set()
    values = {id(value): value for value in kept.values()}.values()
    for name, weight in teacher.state_dict().items():
        assert not any(v.shape == weight.shape and weight.numel() > 1 and torch.equal(v, weight) for v in values), name


def test_phases_are_evened_in_what_is_returned(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    done = run(teacher, pictures, tmp_path / "run", replace(SHORT, learning_rate=0.05))
    expected = KBStyle(NARROW)
    expected.load_state_dict(torch.load(done.run.last_weights, weights_only=True))
    assert not equal(expected, done.student)
    even_phases(expected.decoder)
    for (name, a), b in zip(expected.state_dict().items(), done.student.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)  # sums in another memory format


def test_validation_pictures_are_looked_at(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    recipe, validation = replace(SHORT, evaluate_every=2), (pictures[2:], pictures[2:])
    done = run(teacher, pictures, tmp_path / "run", recipe, validation=validation)
    lines = [line for line in log(tmp_path / "run") if "evaluation/difference" in line]
    assert [line["step"] for line in lines] == [2, 3]
    trained = KBStyle(NARROW)
    trained.load_state_dict(torch.load(done.run.last_weights, weights_only=True))
    expected = differences(teacher, validation, crop=24, seed=0)(trained)
    assert done.run.evaluation == pytest.approx(expected, rel=1e-4)
    assert equal(done.student, run(teacher, pictures, tmp_path / "plain", recipe).student)  # looking changes nothing


def test_calibration_never_sees_the_crops_that_are_trained_on(
    teacher: KBStyle, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[bytes]] = {}
    original = StylePairs.__getitem__

    def spy(self: StylePairs, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = original(self, index)
        seen.setdefault(self.seed, set()).add(pair[0].numpy().tobytes())
        return pair

    monkeypatch.setattr(StylePairs, "__getitem__", spy)
    run(teacher, pictures, tmp_path / "run", replace(SHORT, seed=4))
    assert set(seen) == {4, 5}
    assert (len(seen[4]), len(seen[5])) == (6, 4)  # 3 steps of 2, and 2 batches of 2
    assert not seen[4] & seen[5]


def test_samples_for_each_step(pictures: list[Path]) -> None:
    recipe = skd.Recipe(steps=7, accumulate=3, seed=9)
    samples = training_samples(pictures, pictures, recipe, crop=16, batch_size=2)
    assert (len(samples), samples.seed, samples.crop) == (42, 9, 16)


def test_a_student_is_written_in_three_precisions(tmp_path: Path) -> None:
    student = scratch(NARROW, seed=4)
    sizes = save_student(student, tmp_path / "kbstyle.safetensors", about={"distilled": "3 steps"})
    names = [tmp_path / f"kbstyle{end}.safetensors" for end in ("", "-float16", "-int8")]
    assert list(sizes) == list(student_files(names[0]).values()) == names
    assert list(sizes.values()) == [path.stat().st_size for path in names]
    assert sorted(tmp_path.iterdir()) == sorted(names)
    for path, tolerance in zip(names, (0.0, 1e-3, 2e-2), strict=True):
        assert about(path)["distilled"] == "3 steps"
        loaded = load_weights(path).state_dict()
        for name, value in student.state_dict().items():
            torch.testing.assert_close(loaded[name], value, atol=tolerance * float(value.abs().max()), rtol=0)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_leave_nothing(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    for crop in (20, 8, 0, -16):
        with pytest.raises(ArgumentError, match=f"side of the crops; got {crop}; expected a multiple of 8 from 16 up"):
            run(teacher, pictures, out, crop=crop)
    with pytest.raises(ArgumentError, match="pairs in a batch; got 0; expected 1 or more"):
        run(teacher, pictures, out, batch_size=0)
    with pytest.raises(ArgumentError, match="processes that load pictures; got -1; expected 0 or more"):
        run(teacher, pictures, out, workers=-1)
    with pytest.raises(DataError, match="no pictures"):
        distill.distill(teacher, [], pictures, out, recipe=SHORT, config=NARROW)
    with pytest.raises(DataError, match=r"none of the pictures can be used.*too small for this crop"):
        run(teacher, pictures, out, crop=128)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(DataError, match=r"none of the pictures can be used.*broken\.png"):  # and not at its end
        run(teacher, pictures, out, validation=(pictures, [tmp_path / "broken.png"]))
    with pytest.raises(SkdError, match=r"7"):
        run(teacher, pictures, out, config=KBStyleConfig((7, 8, 10), **BLOCKS))
    assert not out.exists()


def test_outputs_that_cant_be(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the output folder can't be written into"):
        run(teacher, pictures, pictures[0])
    run(teacher, pictures, tmp_path / "run")
    for options, message in (
        ({"config": KBStyleConfig((3, 4, 6), **BLOCKS)}, r"module\.shapes"),
        ({"output": 1.0}, r"distiller\.rows\.output"),
        ({"crop": 16}, r"about\.crop: 24 there, 16 here"),
    ):
        with pytest.raises(FileError, match=rf"it is of another run .*{message}.*name another output folder"):
            run(teacher, pictures, tmp_path / "run", **options)
    with pytest.raises(FileError, match=r"it is of another run .*teachers.*weights"):
        run(scratch(WIDE, seed=8), pictures, tmp_path / "run")
