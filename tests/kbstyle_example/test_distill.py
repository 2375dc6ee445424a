"""Distilling: SKD's terms, a student that learns, a teacher that stays, runs that go on, same seed same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import skd
from kbstyle_example import STUDENT, TEACHER, KBStyle, KBStyleConfig, distill
from kbstyle_example.distill import Distilled, kbstyle_pairing, scratch
from kbstyle_example.loop import CHECKPOINT, LOG, Plan
from skd.errors import ArgumentError, DataError, FileError, SkdError

BLOCKS = {"fine_blocks": 1, "content_blocks": 1, "style_blocks": 1}
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
SHORT = Plan(steps=3, batch_size=2, warmup=1, log_every=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbstyle_example.distill.CALIBRATION_BATCHES", 2)
    monkeypatch.setattr("kbstyle_example.distill.REPORT_BATCHES", 1)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for index in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{index}.png")
        coarse.resize((48, 36), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture
def teacher() -> KBStyle:
    return scratch(WIDE, seed=7)


def run(teacher: KBStyle, pictures: list[Path], out: Path, plan: Plan = SHORT, **options: Any) -> Distilled:
    options = {"config": NARROW, "crop": 24, **options}
    return distill.distill(teacher, pictures[:2], pictures[1:], out, plan=plan, **options)


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


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
        ("1/2", "1/2", 32, 8), ("1/4", "1/4", 64, 16), ("1/8", "1/8", 128, 28),
    ]  # fmt: skip


# --- the training ----------------------------------------------------------------------------------------------------


def test_the_terms_are_those_of_skd(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    done = run(teacher, pictures, tmp_path / "run")
    assert [row.name for row in done.report.rows] == TERMS
    assert [name for name in log(tmp_path / "run")[0] if name in TERMS] == TERMS
    assert done.steps == 3
    assert done.student.config == NARROW
    assert not done.student.training
    count = [sum(p.numel() for p in net.parameters()) for net in (teacher, done.student)]
    assert [done.report.teacher_parameters, done.report.student_parameters] == count


def test_the_output_counts_as_stated(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    student = scratch(NARROW, seed=0)
    run(teacher, pictures, tmp_path / "run", Plan(steps=1, batch_size=2, log_every=1))
    content, style = zip(
        *(distill.StylePairs(pictures[:2], pictures[1:], crop=24, length=2, seed=0)[i] for i in (0, 1)), strict=True
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


def test_the_student_learns(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    plan = Plan(steps=30, batch_size=2, learning_rate=2e-2, warmup=5)
    before = run(teacher, pictures, tmp_path / "before", Plan(steps=1, batch_size=1, learning_rate=1e-12))
    assert torch.allclose(before.student.decoder.up1.weight, scratch(NARROW, 0).decoder.up1.weight)
    after = run(teacher, pictures, tmp_path / "after", plan)
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
    first = run(teacher, pictures, tmp_path / "a", seed=1)
    torch.rand(100)  # what the caller drew makes no difference
    assert equal(first.student, run(teacher, pictures, tmp_path / "b", seed=1).student)
    assert not equal(first.student, run(teacher, pictures, tmp_path / "c", seed=2).student)


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
    plan = Plan(steps=6, batch_size=2, warmup=2, save_every=2, log_every=1)
    whole = run(teacher, pictures, tmp_path / "whole", plan, output=Rising())
    with pytest.raises(KeyboardInterrupt):
        run(teacher, pictures, tmp_path / "parts", plan, output=Rising(stop=5))
    assert torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)["step"] == 4
    again = Rising()
    parts = run(teacher, pictures, tmp_path / "parts", plan, output=again)
    assert 5 in again.seen
    assert not {1, 2, 3} & again.seen
    assert parts.steps == whole.steps == 6
    assert equal(parts.student, whole.student)
    times = ("seconds",)
    a, b = (
        [{k: v for k, v in line.items() if k not in times} for line in log(tmp_path / n)] for n in ("whole", "parts")
    )
    assert a == b


def test_a_finished_run_is_read_again(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    first, again = (run(teacher, pictures, tmp_path / "run") for _ in range(2))
    assert again.steps == first.steps
    assert equal(first.student, again.student)
    assert len(log(tmp_path / "run")) == 3


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


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_leave_nothing(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    for crop in (20, 8, 0, -16):
        with pytest.raises(ArgumentError, match=f"side of the crops; got {crop}; expected a multiple of 8 from 16 up"):
            run(teacher, pictures, out, crop=crop)
    with pytest.raises(ArgumentError, match="seed"):
        run(teacher, pictures, out, seed=-1)
    with pytest.raises(DataError, match="no pictures"):
        distill.distill(teacher, [], pictures, out, plan=SHORT, config=NARROW)
    assert not out.exists()
    with pytest.raises(DataError, match=r"none of the pictures can be used.*too small for this crop"):
        run(teacher, pictures, out, crop=128)
    with pytest.raises(SkdError, match=r"7"):
        run(teacher, pictures, out, config=KBStyleConfig((7, 8, 10), **BLOCKS))
    assert not list(out.iterdir())


def test_outputs_that_cant_be(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the output folder can't be made"):
        run(teacher, pictures, pictures[0])
    run(teacher, pictures, tmp_path / "run")
    with pytest.raises(FileError, match="belongs to another network"):
        run(teacher, pictures, tmp_path / "run", config=KBStyleConfig((3, 4, 6), **BLOCKS))
