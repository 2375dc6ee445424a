"""Knowledge that keeps the positions, and what every knowledge function promises."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from skd import knowledge as kn
from skd.errors import ArgumentError, ShapeError
from skd.knowledge import Knowledge
from skd.knowledge._bound import Bound
from skd.knowledge._common import full_precision, unit
from skd.taps import Layout, to_bcn

SHAPES: dict[Layout, tuple[int, ...]] = {
    "BCHW": (2, 4, 3, 5),
    "BCDHW": (2, 4, 2, 3, 5),
    "BCL": (2, 4, 7),
    "BNC": (2, 7, 4),
}
ONE_SAMPLE = [
    kn.raw,
    kn.normalised,
    kn.centred,
    kn.standardised,
    kn.attention,
    kn.channel_distribution,
    kn.class_distribution,
    kn.mean_std,
    kn.covariance,
    kn.gram,
    kn.channel_correlation,
    kn.position_affinity,
    kn.position_samples,
]
EVERY = [*ONE_SAMPLE, kn.sample_similarity, kn.batch_samples]
KEEPS_SHAPE = [kn.raw, kn.normalised, kn.centred, kn.standardised]


def example(layout: Layout, dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    shape = (batch, *SHAPES[layout][1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def bcn(feature: Tensor, layout: Layout) -> np.ndarray[Any, Any]:
    array = feature.numpy()
    return array.transpose(0, 2, 1) if layout == "BNC" else array.reshape(*array.shape[:2], -1)


def unbcn(array: np.ndarray[Any, Any], layout: Layout) -> Tensor:
    return torch.from_numpy(array.transpose(0, 2, 1) if layout == "BNC" else array.reshape(2, *SHAPES[layout][1:]))


# ---- values, against numpy


@pytest.mark.parametrize("layout", SHAPES)
def test_maps_that_keep_the_shape(layout: Layout) -> None:
    feature = example(layout) + 2
    f = bcn(feature, layout)
    assert kn.raw(feature, layout=layout) is feature
    norm = np.sqrt((f**2).sum((1, 2), keepdims=True))
    assert_close(kn.normalised(feature, layout=layout), unbcn(f / norm, layout))
    assert_close(kn.centred(feature, layout=layout), unbcn(f - f.mean(2, keepdims=True), layout))
    standard = (f - f.mean((0, 2), keepdims=True)) / f.std((0, 2), keepdims=True)
    assert_close(kn.standardised(feature, layout=layout), unbcn(standard, layout), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_attention(layout: Layout, power: float) -> None:
    feature = example(layout)
    energy = (np.abs(bcn(feature, layout)) ** power).sum(1)
    expected = energy / np.sqrt((energy**2).sum(1, keepdims=True))
    assert_close(kn.attention(feature, layout=layout, power=power), torch.from_numpy(expected))


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_distributions(layout: Layout, temperature: float) -> None:
    feature = example(layout)
    weights = np.exp(bcn(feature, layout) / temperature)
    positions = torch.from_numpy(weights / weights.sum(2, keepdims=True))
    classes = torch.from_numpy((weights / weights.sum(1, keepdims=True)).transpose(0, 2, 1).copy())
    assert_close(kn.channel_distribution(feature, layout=layout, temperature=temperature).exp(), positions)
    assert_close(kn.class_distribution(feature, layout=layout, temperature=temperature).exp(), classes)


def test_attention_is_in_range_where_its_powers_are_not() -> None:
    strong, faint = torch.full((1, 2, 3), 6e4, dtype=torch.float16), torch.full((1, 2, 3), 1e-5)
    expected = torch.full((1, 3), 3**-0.5)
    assert_close(kn.attention(strong, layout="BCL", power=12), expected)
    assert_close(kn.attention(faint, layout="BCL", power=12), expected)
    for scale in (1e-6, 1e18):  # of squares nothing is taken out first
        assert_close(kn.attention(torch.full((1, 2, 3), scale), layout="BCL"), expected)
    assert torch.isinf(strong.float() ** 12).all()  # what the scaling is there for
    assert ((faint**12) == 0).all()


# ---- what holds for all of them


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("layout", SHAPES)
def test_layouts_agree(function: Callable[..., Tensor], layout: Layout) -> None:
    """Every layout gives what the flattened (B, C, L) gives, for maps up to the way they are laid out."""
    feature = example(layout)
    options = {"count": 1000} if function is kn.position_affinity else {}
    result = function(feature, layout=layout, **options)
    expected = function(to_bcn(feature, layout), layout="BCL", **options)
    assert_close(to_bcn(result, layout) if function in KEEPS_SHAPE else result, expected)


@pytest.mark.parametrize("function", ONE_SAMPLE, ids=lambda f: f.__name__)
def test_one_sample_gives_what_it_gives_in_a_batch(function: Callable[..., Tensor]) -> None:
    feature = example("BCHW")
    if function is kn.standardised:  # over the batch, by definition
        assert torch.isfinite(function(feature[:1])).all()
        return
    alone, together = function(feature[:1]), function(feature)
    assert_close(alone, together[: alone.shape[0]])


@pytest.mark.parametrize("function", EVERY[1:], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("given_dtype", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_precision(
    function: Callable[..., Tensor], given_dtype: torch.dtype, computed: torch.dtype, autocast: bool
) -> None:
    feature = example("BCHW", given_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = function(feature)
    assert result.dtype == computed
    # As exact as the dtype it is computed in, given the rounded input.
    assert_close(result.double(), function(feature.double()), rtol=1e-4, atol=1e-5)


def test_precision_guard_can_fail() -> None:
    feature = example("BCHW").float()
    bare = kn.gram.__wrapped__  # type: ignore[attr-defined]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bare(feature).dtype == torch.bfloat16
        assert kn.gram(feature).dtype == torch.float32


@pytest.mark.parametrize("function", EVERY[1:], ids=lambda f: f.__name__)
def test_gradients(function: Callable[..., Tensor]) -> None:
    feature = example("BCL")[:, :2, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: function(f, layout="BCL"), (feature,))


@pytest.mark.parametrize("function", EVERY[1:], ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_gradients_of_constant_features_are_finite(function: Callable[..., Tensor], value: float) -> None:
    feature = torch.full((2, 3, 2, 4), value, requires_grad=True)
    weights = torch.randn(function(feature).shape)
    (function(feature) * weights).sum().backward()
    assert feature.grad is not None
    assert torch.isfinite(feature.grad).all()


def test_gradient_guard_can_fail() -> None:
    feature = torch.zeros(1, 3, requires_grad=True)
    (feature / feature.square().sum().sqrt()).sum().backward()
    assert feature.grad is not None
    assert torch.isnan(feature.grad).any()


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
def test_the_layout_must_fit(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ShapeError, match="doesn't fit the layout BCHW; got \\(2, 4, 7\\)"):
        function(example("BCL"))


@pytest.mark.parametrize("function", EVERY[1:], ids=lambda f: f.__name__)
def test_whole_numbers_are_refused(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ArgumentError, match=r"floating-point tensors only; got torch\.int64.*\.float\(\)"):
        function(torch.ones(2, 3, 2, 4, dtype=torch.int64))


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
def test_compiles_to_one_graph(function: Callable[..., Tensor]) -> None:
    torch.compiler.reset()
    feature = example("BCHW", torch.float32)
    compiled = torch.compile(Knowledge(function), fullgraph=True, backend="eager")
    assert_close(compiled(feature), function(feature))


@pytest.mark.parametrize(
    "function",
    [kn.centred, kn.standardised, kn.attention, kn.channel_distribution, kn.covariance, kn.position_affinity],
)
def test_a_single_position_is_refused(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"at least two positions.*got \(1, 3, 1, 1\) in layout BCHW.*Remedy: tap a"):
        function(torch.randn(1, 3, 1, 1))
    with pytest.raises(ShapeError, match="at least two positions"):
        function(torch.randn(1, 3), layout="BC")


def test_options_are_checked() -> None:
    feature = example("BCHW")
    with pytest.raises(ArgumentError, match=r"power of an attention map must be at least 1 and finite; got 0\.5"):
        kn.attention(feature, power=0.5)
    for function in (kn.channel_distribution, kn.class_distribution):
        for temperature in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ArgumentError, match="temperature must be positive and finite"):
                function(feature, temperature=temperature)
    for function in (kn.normalised, kn.standardised, kn.mean_std):
        with pytest.raises(ArgumentError, match="eps must be positive and finite; got 0"):
            function(feature, eps=0.0)


# ---- invariances


@given(st.permutations(range(4)), st.floats(1e-4, 1e4), st.integers(0, 1000))
def test_attention_ignores_the_order_of_channels_and_the_scale(order: list[int], scale: float, seed: int) -> None:
    feature = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))
    assert_close(kn.attention(-scale * feature[:, order]), kn.attention(feature))


@given(st.integers(0, 1000), st.floats(-1e3, 1e3))
def test_centring_forgets_offsets_and_distributions_too(seed: int, offset: float) -> None:
    feature = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_close(kn.centred(feature + offset), kn.centred(feature))
    assert_close(kn.channel_distribution(feature + offset), kn.channel_distribution(feature))
    assert_close(kn.centred(feature).mean((2, 3)), torch.zeros(2, 4, dtype=torch.float64))


@given(st.floats(1e-30, 1e30))
def test_unit_has_norm_one_at_every_scale(scale: float) -> None:
    values = unit(torch.tensor([[3.0, -4.0]]) * scale, 1, eps=1e-35)
    assert_close(values, torch.tensor([[0.6, -0.8]]))


# ---- Knowledge


def test_knowledge_binds_options() -> None:
    knowledge = Knowledge(kn.attention, power=4)
    feature = example("BNC")
    assert_close(knowledge(feature, layout="BNC"), kn.attention(feature, layout="BNC", power=4))
    assert repr(knowledge) == str(knowledge) == "attention(power=4)"
    assert repr(Knowledge(kn.raw)) == "raw"
    assert Knowledge.of(kn.attention) == Knowledge(kn.attention) != knowledge
    assert Knowledge.of(knowledge) is knowledge
    for twin in (pickle.loads(pickle.dumps(knowledge)), copy.deepcopy(knowledge), Knowledge(kn.attention, power=4)):
        assert twin == knowledge
        assert hash(twin) == hash(knowledge)
        assert_close(twin(feature, layout="BNC"), knowledge(feature, layout="BNC"))


def test_knowledge_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Knowledge(kn.raw).function = kn.gram  # type: ignore[misc]


def test_knowledge_refuses_what_it_can_not_keep() -> None:
    with pytest.raises(ArgumentError, match=r"attention has no option 'pover'\. Remedy: did you mean 'power'\?"):
        Knowledge(kn.attention, pover=2)
    with pytest.raises(ArgumentError, match="attention has no option 'layout'"):
        Knowledge(kn.attention, layout="BNC")
    with pytest.raises(ArgumentError, match=r"can't keep a tensor.*'basis'.*shape \(3, 2\).*BasisAdapter"):
        Knowledge(kn.coordinates, basis=torch.eye(3)[:, :2])
    with pytest.raises(ArgumentError, match=r"named function of a module.*got .*<lambda>"):
        Knowledge(lambda feature, *, layout: feature)
    with pytest.raises(ArgumentError, match=r"named function of a module.*got Bound"):
        Bound(Bound(kn.raw))


def test_knowledge_in_a_module_survives_deepcopy_and_compiles() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.knowledge = Knowledge(kn.attention, power=4)

        def forward(self, feature: Tensor) -> Tensor:
            return self.knowledge(feature)

    torch.compiler.reset()
    feature = example("BCHW", torch.float32)
    holder = copy.deepcopy(Holder())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = torch.compile(holder, fullgraph=True, backend="aot_eager")(feature)
    assert_close(result, kn.attention(feature, power=4))


def test_keyword_tensors_are_converted_too() -> None:
    @full_precision
    def total(feature: Tensor, *, weight: Tensor) -> Tensor:
        return (feature * weight).sum()

    assert total(torch.ones(2).half(), weight=torch.ones(2).bfloat16()).dtype == torch.float32
    assert total(feature=torch.ones(2).half(), weight=torch.ones(2).double()).dtype == torch.float64
