"""A student that begins as `skd.compress` makes it of its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import skd
from kbstyle_example import KBStyle, KBStyleConfig
from kbstyle_example.beginning import scratch
from kbstyle_example.compressed import compressed, settle, with_blocks_of
from kbstyle_example.correction import flat
from kbstyle_example.distill import distill
from kbstyle_example.weights_file import load_weights
from skd.errors import ArgumentError, FileError

pytest.importorskip("torch_pruning")
WIDE = KBStyleConfig((6, 8, 12), fine_blocks=2, deep_blocks=3, style_blocks=2)
NARROW = KBStyleConfig((3, 4, 6), fine_blocks=1, deep_blocks=2, style_blocks=1)


@pytest.fixture
def pictures(draw: Callable[..., list[Path]]) -> list[Path]:
    return draw(4, scale=2)


@pytest.fixture
def teacher() -> KBStyle:
    """Its style reaches the blocks, too: FiLM's last layers aren't zero any more."""
    network = scratch(WIDE, seed=7)
    with torch.no_grad():
        for blocks in (network.decoder.level2, network.decoder.level3):
            torch.nn.init.normal_(blocks.film[-1].weight, std=0.3)
    return network.eval()


def painted(network: KBStyle) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        content, style = (torch.rand(2, 3, 48, 40, generator=generator) for _ in range(2))
        return network.eval()(content, style)


def equal(one: KBStyle, other: KBStyle) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_without_blocks_that_add_nothing_the_picture_is_the_same(teacher: KBStyle) -> None:
    with torch.no_grad():
        for last in (teacher.decoder.level3.blocks[2], teacher.decoder.level2.blocks[1]):
            for parameter in last.out.parameters():
                parameter.zero_()
        for parameter in teacher.style_encoder.level3[3].out.parameters():
            parameter.zero_()
    fewer = with_blocks_of(teacher, NARROW)
    assert fewer.config == replace(NARROW, widths=WIDE.widths)
    torch.testing.assert_close(painted(fewer), painted(teacher))
    first = teacher.decoder.level3.blocks[0].out.weight  # and one that adds something is missed
    with torch.no_grad():
        first.zero_()
    assert float((painted(with_blocks_of(teacher, NARROW)) - painted(fewer)).abs().max()) > 3e-4


def test_a_compressed_student_is_nearer_to_its_teacher_than_a_random_one(
    teacher: KBStyle, pictures: list[Path]
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    state = torch.random.get_rng_state()
    student = compressed(teacher, pictures[:2], pictures[2:], NARROW)
    assert student.config == NARROW
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    wanted = painted(teacher)
    ours = float((painted(student) - wanted).square().mean())
    others = [float((painted(scratch(NARROW, seed)) - wanted).square().mean()) for seed in range(3)]
    assert ours < 0.5 * min(others)
    assert equal(student, compressed(teacher, pictures[:2], pictures[2:], NARROW))
    assert not equal(student, compressed(teacher, pictures[:2], pictures[2:], NARROW, seed=1))


def test_of_the_teacher_s_own_shape_it_is_the_teacher(teacher: KBStyle, pictures: list[Path]) -> None:
    assert equal(compressed(teacher, pictures, pictures, WIDE), teacher)


def test_further_blocks_add_nothing_yet(teacher: KBStyle, pictures: list[Path]) -> None:
    more = replace(WIDE, fine_blocks=4, deep_blocks=0, style_blocks=3)
    torch.testing.assert_close(painted(with_blocks_of(teacher, replace(more, deep_blocks=3))), painted(teacher))
    none = replace(WIDE, fine_blocks=0, deep_blocks=0, style_blocks=0)
    bare = with_blocks_of(teacher, none)
    torch.testing.assert_close(painted(with_blocks_of(bare, WIDE)), painted(bare))
    student = compressed(teacher, pictures, pictures, replace(more, widths=NARROW.widths))
    assert student.config == replace(more, widths=NARROW.widths)
    picture = student(torch.rand(1, 3, 16, 24), torch.rand(1, 3, 16, 16))
    picture.square().sum().backward()
    assert int(student.decoder.level2.blocks[3].out.weight.grad.count_nonzero()) > 0  # and they learn at once


def test_a_correction_adds_nothing_yet_and_knows_its_codes(teacher: KBStyle, pictures: list[Path]) -> None:
    config = replace(NARROW, correction=5)
    student = compressed(teacher, pictures, pictures, config)
    assert student.config == config
    assert student.training
    plain = compressed(teacher, pictures, pictures, NARROW)
    torch.testing.assert_close(painted(student), painted(plain))
    assert student.correction is not None
    with torch.no_grad():
        codes = torch.cat([flat(plain.encode_style(torch.rand(1, 3, 64, 64))) for _ in range(3)])
    assert float(((codes - student.correction.centre) / student.correction.spread).abs().median()) < 3
    assert float(student.correction.spread.max() / student.correction.spread.min()) > 2
    # One that has learned something is taken along, and one that isn't there can't be settled.
    torch.nn.init.normal_(student.correction.last.weight)
    kept = with_blocks_of(student, replace(config, fine_blocks=3))
    torch.testing.assert_close(painted(kept), painted(student))
    with pytest.raises(ArgumentError, match="a network without a correction"):
        settle(plain, [torch.rand(1, 3, 16, 16)])


def test_a_student_that_is_wider_than_its_teacher(teacher: KBStyle, pictures: list[Path]) -> None:
    with pytest.raises(ArgumentError, match=r"wider than its teacher; got \(3, 9, 6\); expected \(6, 8, 12\)"):
        compressed(teacher, pictures, pictures, KBStyleConfig((3, 9, 6), deep_blocks=1))


def test_a_distillation_begins_with_it(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    recipe = skd.Recipe(steps=2, warmup=1, learning_rate=1e-12, seed=3)
    options = {"config": NARROW, "crop": 32, "batch_size": 2, "workers": 0}
    done = distill(teacher, pictures, pictures, tmp_path / "run", recipe=recipe, start="compressed", **options)
    begun = compressed(teacher, pictures, pictures, NARROW, seed=3).state_dict()
    for name, value in torch.load(done.run.last_weights, weights_only=True).items():
        torch.testing.assert_close(value, begun[name], atol=1e-9, rtol=0, msg=name)
    again = distill(teacher, pictures, pictures, tmp_path / "run", recipe=recipe, start="compressed", **options)
    assert equal(done.student, again.student)
    with pytest.raises(FileError, match=r"about\.start: compressed there, random here"):
        distill(teacher, pictures, pictures, tmp_path / "run", recipe=recipe, **options)


def test_the_bundled_student_can_begin_so(pictures: list[Path]) -> None:
    student = compressed(load_weights("teacher"), pictures, pictures)
    assert student.config.widths == (8, 20, 32)
    with torch.no_grad():
        assert bool(painted(student).isfinite().all())
