"""The style loss against numpy: closed forms, invariances, weights, and where gradients go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kbstyle_example.detail import detail_distance
from kbstyle_example.distances import (
    content_distance,
    covariance_distance,
    feature_distance,
    moment_distance,
)
from kbstyle_example.losses import COVARIANCE_WEIGHTS, FEATURE_WEIGHTS, STYLE_WEIGHTS, StyleTask, guided
from kbstyle_example.moments import EPSILON
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.perceptual import VGG, VGG19_STAGES, Perceptual
from kbstyle_example.similarity import ssim
from skd.errors import ArgumentError, NonFiniteError, ShapeError

Array = np.ndarray[Any, Any]


def feature(*shape: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    scale, shift = rng.uniform(0.5, 3, (2, shape[0], shape[1], 1, 1))
    return torch.from_numpy(rng.standard_normal(shape) * scale + shift).float()


# --- the closed forms, in float64 ------------------------------------------------------------------------------------


def statistics(x: Tensor) -> tuple[Array, Array]:
    values = x.detach().double().numpy()
    return values.mean((2, 3)), np.sqrt(values.var((2, 3)) + EPSILON)


def content_by_hand(result: Tensor, content: Tensor) -> float:
    def standard(x: Tensor) -> Array:
        mean, deviation = statistics(x)
        return (x.detach().double().numpy() - mean[..., None, None]) / deviation[..., None, None]

    return float(((standard(result) - standard(content)) ** 2).mean())


def moments_by_hand(result: Tensor, style: Tensor) -> float:
    (mean, deviation), (wanted_mean, wanted_deviation) = statistics(result), statistics(style)
    apart = ((mean - wanted_mean) ** 2 + (deviation - wanted_deviation) ** 2).mean(1)
    return float((apart / (wanted_mean**2 + wanted_deviation**2).mean(1)).mean())


def covariance_by_hand(result: Tensor, style: Tensor) -> float:
    def covariances(x: Tensor) -> list[Array]:
        flat = x.detach().double().flatten(2).numpy()
        return [np.atleast_2d(np.cov(sample, bias=True)) for sample in flat]

    wanted = covariances(style) * (len(result) // len(style))
    ratios = [
        ((found - target) ** 2).sum() / (target**2).sum()
        for found, target in zip(covariances(result), wanted, strict=True)
    ]
    return float(np.mean(ratios))


def features_by_hand(result: Tensor, wanted: Tensor) -> float:
    a, b = (x.detach().double().numpy() for x in (result, wanted))
    return float(np.mean([((x - y) ** 2).sum() / (y**2).sum() for x, y in zip(a, b, strict=True)]))


@pytest.mark.parametrize("size", [(1, 1, 2, 2), (1, 3, 4, 5), (3, 4, 3, 2)])
@pytest.mark.parametrize(
    ("distance", "by_hand"), [(content_distance, content_by_hand), (feature_distance, features_by_hand)]
)
def test_distances_place_by_place(distance: Any, by_hand: Any, size: tuple[int, ...]) -> None:
    a, b = feature(*size), feature(*size, seed=1)
    found = distance(a, b)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_hand(a, b), rel=1e-4)


@pytest.mark.parametrize(
    ("result", "style"),
    [((1, 1, 2, 2), (1, 1, 3, 3)), ((2, 3, 4, 5), (2, 3, 2, 7)), ((3, 4, 3, 2), (1, 4, 5, 5))],
)
@pytest.mark.parametrize(
    ("distance", "by_hand"), [(moment_distance, moments_by_hand), (covariance_distance, covariance_by_hand)]
)
def test_style_distances(distance: Any, by_hand: Any, result: tuple[int, ...], style: tuple[int, ...]) -> None:
    a, b = feature(*result), feature(*style, seed=1)
    found = distance(a, b)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_hand(a, b), rel=1e-4)


@pytest.mark.parametrize("distance", [moment_distance, covariance_distance, feature_distance])
def test_each_sample_is_relative_to_its_own_target(distance: Any) -> None:
    a, b = feature(2, 3, 4, 4), feature(2, 3, 4, 4, seed=1)
    b[1] *= 100  # were the energies pooled, the first sample would hardly count
    alone = [distance(a[i : i + 1], b[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(distance(a, b), torch.stack(alone).mean())


@pytest.mark.parametrize("distance", [content_distance, moment_distance, covariance_distance, feature_distance])
def test_equal_features_are_at_distance_zero(distance: Any) -> None:
    a = feature(2, 3, 4, 5)
    assert distance(a, a.clone()).item() == 0
    assert distance(a, feature(2, 3, 4, 5, seed=1)).item() > 0.01


def test_style_doesnt_care_where_things_are() -> None:
    a, b = feature(1, 3, 4, 5), feature(1, 3, 3, 3, seed=1)
    shuffled = a.flatten(2)[..., torch.randperm(20)].view_as(a)
    for distance in (moment_distance, covariance_distance):
        torch.testing.assert_close(distance(shuffled, b), distance(a, b))
    assert content_distance(shuffled, a) > 0.1


def test_covariance_sees_what_moments_dont() -> None:
    ones = torch.tensor([1.0, 1.0, -1.0, -1.0])
    other = torch.tensor([1.0, -1.0, 1.0, -1.0])
    together = torch.stack([ones, ones]).view(1, 2, 2, 2)
    apart = torch.stack([ones, other]).view(1, 2, 2, 2)
    assert moment_distance(apart, together).item() == 0
    # Covariances of [[1, 0], [0, 1]] and [[1, 1], [1, 1]]: 2 of 4.
    assert covariance_distance(apart, together).item() == pytest.approx(0.5)


def test_a_constant_style_stays_finite() -> None:
    assert covariance_distance(feature(1, 2, 3, 3), torch.ones(1, 2, 3, 3)).isfinite()
    assert moment_distance(feature(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)).isfinite()
    assert feature_distance(feature(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)).isfinite()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_content_distance_ignores_recolouring(seed: int, changes: int) -> None:
    a, b = feature(2, 3, 4, 5, seed=seed), feature(2, 3, 4, 5, seed=seed + 1)
    rng = np.random.default_rng(changes)
    gain = torch.from_numpy(rng.uniform(0.5, 4, (2, 3, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-5, 5, (2, 3, 1, 1))).float()
    expected = content_distance(a, b)
    torch.testing.assert_close(content_distance(gain * a + shift, b), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(content_distance(a, gain * b + shift), expected, atol=1e-3, rtol=1e-3)
    assert content_distance(-a, a) > 3  # positive changes, that is


@settings(max_examples=40)
@given(
    st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 1e-3, 1e3])
)
def test_distances_are_never_negative(seed: int, batch: int, channels: int, side: int, scale: float) -> None:
    a, b = scale * feature(batch, channels, side, 3, seed=seed), feature(batch, channels, side, 3, seed=seed + 1)
    for distance in (content_distance, moment_distance, covariance_distance, feature_distance):
        for found in (distance(a, b), distance(b, a)):
            assert found.item() >= 0
            assert found.isfinite()


def test_contents_of_different_shapes() -> None:
    with pytest.raises(ShapeError, match=r"features of two contents; got \(1, 2, 3, 3\); expected \(1, 2, 3, 4\)"):
        content_distance(torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 4))
    with pytest.raises(ShapeError, match="features of two contents"):  # it would broadcast
        content_distance(torch.rand(1, 2, 3, 3), torch.rand(2, 2, 3, 3))
    with pytest.raises(ShapeError, match=r"features of two pictures; got \(1, 2, 3, 3\); expected \(2, 2, 3, 3\)"):
        feature_distance(torch.rand(1, 2, 3, 3), torch.rand(2, 2, 3, 3))


def test_half_precision_features_are_summed_in_full() -> None:
    a, b = 300 * torch.ones(1, 2, 8, 8), 200 * torch.ones(1, 2, 8, 8)  # squares that float16 doesn't hold
    assert feature_distance(a.half(), b.half()).item() == pytest.approx(0.25)


# --- the task --------------------------------------------------------------------------------------------------------


class TwoLayers(Perceptual):
    name, layers, content_layer, smallest_side = "two layers", ("fine", "coarse"), "coarse", 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 2, stride=2)
        self.drop = nn.Dropout(0.5)  # in eval mode it does nothing

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.drop(self.first(self.checked(image)).relu())
        return {"fine": fine, "coarse": self.second(fine).tanh()}


TINY = KBStyleConfig(widths=(8, 8, 8), fine_blocks=1, deep_blocks=1, style_blocks=1)


def task(**options: Any) -> StyleTask:
    weights = {"style_weights": {"fine": 0.5, "coarse": 2.0}, "covariance_weights": {"fine": 0.25}}
    return StyleTask(KBStyle(TINY), TwoLayers(), **{**weights, **options})


def pictures() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 17, 16), torch.rand(2, 3, 16, 20)


def test_terms_by_hand() -> None:
    trainer = task(content_weight=3.0, style_weight=7.0)
    content, style = pictures()
    step = trainer(content, style)
    torch.testing.assert_close(step.output, trainer.network(content, style))
    found, wanted, painted = (trainer.perceptual(picture) for picture in (step.output, content, style))
    expected = {
        "content": 3 * content_by_hand(found["coarse"], wanted["coarse"]),
        "style": 7
        * (
            0.5 * moments_by_hand(found["fine"], painted["fine"])
            + 2 * moments_by_hand(found["coarse"], painted["coarse"])
        ),
        "texture": 7 * 0.25 * covariance_by_hand(found["fine"], painted["fine"]),
    }
    assert {name: term.item() for name, term in step.losses.terms.items()} == pytest.approx(expected, rel=1e-4)
    assert step.losses.total.item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_the_luminance_by_hand() -> None:
    trainer = task(content_weight=0.0, style_weight=0.0, luminance_weight=3.0)
    content, style = pictures()
    step = trainer(content, style)
    luma = np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)
    own, wanted = ((x.detach().numpy() * luma).sum(1, keepdims=True) for x in (step.output, style))
    (m, d), (wanted_m, wanted_d) = (
        (x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)) for x in (own, wanted)
    )
    matched = (own - m) / d * wanted_d + wanted_m
    found, painted = (trainer.perceptual(torch.from_numpy(np.repeat(x, 3, 1))) for x in (matched, wanted))
    expected = 3 * (
        0.5 * moments_by_hand(found["fine"], painted["fine"]) + 2 * moments_by_hand(found["coarse"], painted["coarse"])
    )
    assert step.losses.terms["luminance"].item() == pytest.approx(expected, rel=1e-3)
    assert step.losses.total.item() == pytest.approx(expected, rel=1e-3)
    step.losses.total.backward()
    assert all(p.grad is not None for p in trainer.network.decoder.output.parameters())


def test_shapes_that_are_kept_are_the_photographs() -> None:
    trainer = task(content_weight=0.0, style_weight=0.0, similarity_weight=3.0)
    content, style = pictures()
    step = trainer(content, style)
    assert step.losses.terms["shapes"].item() == pytest.approx(3 * (1 - ssim(step.output, content).item()), rel=1e-5)
    assert step.losses.total.dtype == torch.float32
    assert trainer.losses(content, content, style).terms["shapes"].item() == pytest.approx(0, abs=1e-5)
    step.losses.total.backward()
    assert all(p.grad is not None for p in trainer.network.decoder.output.parameters())
    assert "shapes" not in task()(content, style).losses.terms


def test_the_weight_of_shapes_follows_the_guides() -> None:
    trainer = task(guide=lighter, similarity_weight=3.0, similarity_follows=-0.1, **IMITATED)
    content, style = pictures()
    step = trainer(content, style)
    missing = float(ssim(lighter(content, style).clamp(0, 1), content) - 0.1 - ssim(step.output.detach(), content))
    assert trainer.shapes.weight.item() == pytest.approx(3 * np.exp(0.15 * missing), rel=1e-5)
    with pytest.raises(ArgumentError, match=r"follows a guide's pictures; got no guide\. Remedy: imitate a network"):
        task(similarity_weight=3.0, similarity_follows=0.0)


def test_the_finest_detail_is_the_paintings() -> None:
    trainer = task(content_weight=0.0, style_weight=0.0, detail_weight=3.0)
    content, style = pictures()
    step = trainer(content, style)
    wanted = 3 * detail_distance(step.output, style).item()
    assert step.losses.terms["detail"].item() == pytest.approx(wanted, rel=1e-5)
    assert step.losses.total.item() == pytest.approx(wanted, rel=1e-5)
    step.losses.total.backward()
    assert all(p.grad is not None for p in trainer.network.decoder.output.parameters())
    assert "detail" not in task()(content, style).losses.terms


def test_colour_and_contrast_dont_lower_the_luminances_term() -> None:
    trainer = task(luminance_weight=1.0, content_weight=0.0)
    content, style = pictures()
    greyer = 0.2 + 0.5 * style.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    terms = [
        trainer.losses(picture, content, style).terms["luminance"].item()
        for picture in (greyer, 0.5 * greyer + 0.1, style)
    ]
    assert terms[0] == pytest.approx(terms[1], rel=1e-2)
    assert terms[2] == pytest.approx(0, abs=1e-4)
    assert terms[0] > 10 * terms[2]  # another grey than the luminance


def test_layers_of_weight_zero_dont_count() -> None:
    trainer = task(style_weights={"fine": 0.0}, covariance_weights={})
    terms = trainer(*pictures()).losses.terms
    assert terms["style"].item() == terms["texture"].item() == 0
    assert terms["content"].item() > 0
    assert task(content_weight=0.0)(*pictures()).losses.terms["content"].item() == 0


def test_one_painting_for_a_batch() -> None:
    trainer = task()
    content, style = pictures()
    alone = trainer(content, style[:1]).losses.terms
    repeated = trainer(content, style[:1].repeat(2, 1, 1, 1)).losses.terms
    for name, term in repeated.items():
        torch.testing.assert_close(alone[name], term)


def test_gradients_reach_the_network_alone() -> None:
    torch.manual_seed(0)
    trainer = task()
    with torch.no_grad():
        for p in trainer.network.parameters():
            p += 0.2 * torch.randn_like(p)  # some layers begin at zero, and those before them without a gradient
    content, style = pictures()
    trainer(content, style).losses.total.backward()
    assert all(p.grad is None for p in trainer.perceptual.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.network.parameters())
    assert all(p.grad.any() for p in trainer.network.parameters() if p.grad is not None and p.dim() > 1)


def test_no_gradient_reaches_the_targets() -> None:
    trainer = task()
    content, style = (picture.requires_grad_() for picture in pictures())
    output = torch.rand(2, 3, 17, 16, requires_grad=True)
    trainer.losses(output, content, style).total.backward()
    assert content.grad is None
    assert style.grad is None
    assert output.grad is not None
    assert output.grad.any()


@pytest.mark.parametrize("term", ["content", "style", "texture"])
def test_following_a_terms_gradient_lowers_it(term: str) -> None:
    trainer = task()
    content, style = pictures()
    output = torch.rand(2, 3, 17, 16, requires_grad=True)
    before = trainer.losses(output, content, style).terms[term]
    before.backward()
    assert output.grad is not None
    moved = output.detach() - 1e-2 * output.grad / output.grad.norm()
    assert trainer.losses(moved, content, style).terms[term] < before


def test_a_perfect_result_costs_nothing() -> None:
    trainer = task()
    content, _ = pictures()
    assert trainer.losses(content, content, content).total.item() == 0


def test_the_perceptual_network_stays_frozen_while_the_task_trains() -> None:
    trainer = task().train()
    assert trainer.network.training
    assert not any(module.training for module in trainer.perceptual.modules())
    assert not any(p.requires_grad for p in trainer.perceptual.parameters())
    assert all(p.requires_grad for p in trainer.network.parameters())


def test_the_perceptual_network_is_measured_with_and_not_kept() -> None:
    trainer = task()
    assert set(trainer.state_dict()) == {f"network.{name}" for name in trainer.network.state_dict()}
    assert {id(p) for p in trainer.parameters()} == {id(p) for p in trainer.network.parameters()}
    assert not any(isinstance(module, Perceptual) for module in trainer.modules())


def test_the_perceptual_network_goes_where_the_task_goes() -> None:
    trainer = task().double()
    content, style = (picture.double() for picture in pictures())
    assert all(p.dtype == torch.float64 for p in trainer.perceptual.parameters())
    assert trainer(content, style).losses.total.isfinite()
    trainer.to("meta")
    assert {p.device.type for part in (trainer.perceptual, trainer.network) for p in part.parameters()} == {"meta"}


def test_the_default_weights_fit_vgg() -> None:
    vgg = VGG("narrow", (2, 2, 2, 2, 2), stages=VGG19_STAGES)
    trainer = StyleTask(KBStyle(TINY), vgg)
    assert trainer.style_weights == STYLE_WEIGHTS
    assert trainer.covariance_weights == COVARIANCE_WEIGHTS
    assert trainer(*pictures()).losses.total.isfinite()
    assert StyleTask(KBStyle(TINY), vgg, guide=lighter).feature_weights == FEATURE_WEIGHTS


# --- a guide ---------------------------------------------------------------------------------------------------------


def lighter(content: Tensor, style: Tensor) -> Tensor:
    return content + 0.3 * style.mean((2, 3), keepdim=True)  # beyond 1 in places


IMITATED = {"feature_weights": {"fine": 0.5, "coarse": 2.0}}


def test_terms_of_a_guide_by_hand() -> None:
    trainer = task(guide=lighter, pixel_weight=3.0, feature_weight=7.0, **IMITATED)
    content, style = pictures()
    step = trainer(content, style)
    wanted = np.clip(lighter(content, style).numpy(), 0, 1)
    assert (wanted == 1).any()
    found, imitated = trainer.perceptual(step.output), trainer.perceptual(torch.from_numpy(wanted))
    expected = {
        "pixels": 3 * float(np.abs(step.output.detach().double().numpy() - wanted).mean()),
        "features": 7
        * sum(
            weight * features_by_hand(found[layer], imitated[layer])
            for layer, weight in IMITATED["feature_weights"].items()
        ),
    }
    terms = {name: term.item() for name, term in step.losses.terms.items()}
    assert {name: terms[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    plain = task()
    plain.network.load_state_dict(trainer.network.state_dict())
    plain.perceptual.load_state_dict(trainer.perceptual.state_dict())
    without = plain(content, style).losses  # the content is still the photograph's
    assert {name: term.item() for name, term in without.terms.items()} == pytest.approx(
        {name: terms[name] for name in ("content", "style", "texture")}, rel=1e-5
    )
    assert step.losses.total.item() == pytest.approx(without.total.item() + sum(expected.values()), rel=1e-5)


def test_following_the_guides_terms_leads_to_its_picture() -> None:
    trainer = task(guide=lighter, content_weight=0.0, style_weight=0.0, **IMITATED)
    content, style = pictures()
    assert trainer.losses(guided(lighter, content, style), content, style).total.item() == 0
    for term in ("pixels", "features"):
        output = torch.rand(2, 3, 17, 16, requires_grad=True)
        before = trainer.losses(output, content, style).terms[term]
        before.backward()
        assert output.grad is not None
        moved = output.detach() - 1e-2 * output.grad / output.grad.norm()
        assert trainer.losses(moved, content, style).terms[term] < before


class Painter(nn.Module):
    """A guide with weights, that notes how it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        self.seen: list[tuple[bool, torch.dtype]] = []

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        out: Tensor = self.mix(content)
        self.seen.append((torch.is_grad_enabled(), out.dtype))
        return out


def test_a_guide_is_neither_trained_nor_kept_and_moves_along() -> None:
    guide = Painter()
    trainer = task(guide=guide, **IMITATED)
    content, style = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        trainer(content, style)
    trainer(content, style).losses.total.backward()
    assert guide.seen == [(False, torch.float32)] * 2
    assert all(p.grad is None and p.requires_grad for p in guide.parameters())
    assert set(trainer.state_dict()) == {f"network.{name}" for name in trainer.network.state_dict()}
    assert guide not in list(trainer.modules())
    trainer.double()
    assert guide.mix.weight.dtype == torch.float64
    assert trainer(content.double(), style.double()).losses.total.isfinite()


class Counted(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.seen.append(image)
        return super().forward(image)


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, 4),
        ({"content_weight": 0.0}, 3),
        ({"style_weight": 0.0}, 3),
        ({"feature_weight": 0.0}, 3),
        ({"luminance_weight": 1.0}, 6),  # and two grey ones
        ({"content_weight": 0.0, "style_weight": 0.0, "feature_weight": 0.0}, 1),
    ],
)
def test_each_picture_is_looked_at_once_and_only_if_it_counts(options: dict[str, float], runs: int) -> None:
    weights: dict[str, Any] = {"style_weights": {"fine": 1.0}, "covariance_weights": {}, **IMITATED}
    counted = Counted()
    trainer = StyleTask(KBStyle(TINY), counted, guide=lighter, **weights, **options)
    losses = trainer(*pictures()).losses
    assert len({id(picture) for picture in counted.seen}) == len(counted.seen) == runs
    gone = {name.removesuffix("_weight").replace("feature", "features") for name, value in options.items() if not value}
    assert {name for name, term in losses.terms.items() if term.item() == 0} - {"texture"} == gone


@pytest.mark.parametrize(
    ("guide", "error", "message"),
    [
        (lambda c, s: c[..., 1:], ShapeError, r"got \(2, 3, 17, 15\); expected \(2, 3, 17, 16\)"),
        (lambda c, s: c[:1], ShapeError, r"got \(1, 3, 17, 16\); expected \(2, 3, 17, 16\)"),  # would broadcast
        (lambda c, s: c.mean(1, keepdim=True), ShapeError, r"got \(2, 1, 17, 16\)"),
        (lambda c, s: None, ShapeError, "one for each photograph; got NoneType"),
        (lambda c, s: c / 0, NonFiniteError, "the guide gave a picture with NaN or infinite values"),
        (lambda c, s: c * float("nan"), NonFiniteError, "the guide gave a picture with NaN or infinite values"),
    ],
)
def test_guides_that_give_no_pictures(guide: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        task(guide=guide, **IMITATED)(*pictures())


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["style_weights", "covariance_weights", "feature_weights"])
def test_layers_that_arent_there(option: str) -> None:
    with pytest.raises(ArgumentError, match=r"two layers has no feature 'coarze'.*did you mean 'coarse'"):
        task(guide=lighter, **{option: {"fine": 1.0, "coarze": 1.0}})


def test_a_content_layer_that_isnt_there() -> None:
    network = TwoLayers()
    network.content_layer = "fin"
    with pytest.raises(ArgumentError, match=r"two layers has no feature 'fin'.*did you mean 'fine'"):
        StyleTask(KBStyle(TINY), network, style_weights={}, covariance_weights={})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "option",
    [
        *("style_weights", "covariance_weights", "feature_weights"),
        *("content_weight", "style_weight", "luminance_weight", "similarity_weight", "detail_weight"),
        *("pixel_weight", "feature_weight"),
    ],
)
def test_weights_that_cant_be(option: str, weight: float) -> None:
    value = weight if option.endswith("weight") else {"coarse": weight}
    with pytest.raises(ArgumentError, match=f"weight of 'coarse'; got {weight}; expected a finite number, 0 or more"):
        task(guide=lighter, **{**IMITATED, option: value})


def test_defaults_ask_for_vggs_layers() -> None:
    with pytest.raises(ArgumentError, match="two layers has no feature 'relu1_1'"):
        StyleTask(KBStyle(TINY), TwoLayers())
    with pytest.raises(ArgumentError, match="two layers has no feature 'relu1_1'"):
        task(guide=lighter)
