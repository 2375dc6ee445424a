"""Adapters: channels, space, tokens, chains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from skd.adapters import (
    Adapter,
    BasisAdapter,
    Chain,
    ChannelAdapter,
    Identity,
    MapToTokens,
    OrthogonalAdapter,
    SpaceAdapter,
    TokenAdapter,
    map_to_tokens,
    tokens_to_map,
)
from skd.errors import ArgumentError, ShapeError
from skd.taps import Layout, to_bcn

SHAPES: dict[Layout, tuple[int, ...]] = {
    "BCHW": (2, 4, 3, 5),
    "BCDHW": (1, 4, 2, 3, 5),
    "BCL": (2, 4, 7),
    "BNC": (2, 7, 4),
    "BC": (3, 4),
}


def orthonormal(height: int, width: int) -> Tensor:
    q: Tensor = torch.linalg.qr(torch.randn(height, width, dtype=torch.float64))[0]
    return q


def grid_tokens(count: int = 12, width: int = 4) -> Tensor:
    return torch.randn(2, count, width)


# name → (make the adapter, make its feature and reference)
EVERY: dict[str, tuple[Callable[[], Adapter], Callable[[], tuple[Tensor, Tensor]]]] = {
    "identity": (Identity, lambda: (torch.randn(2, 4, 3, 5), torch.randn(2, 9, 3, 5))),
    "channel": (lambda: ChannelAdapter(4, 6), lambda: (torch.randn(2, 4, 3, 5), torch.randn(2, 6, 3, 5))),
    "channel tokens": (
        lambda: ChannelAdapter(4, 6, layout="BNC"),
        lambda: (torch.randn(2, 7, 4), torch.randn(2, 7, 6)),
    ),
    "orthogonal": (lambda: OrthogonalAdapter(4, 6), lambda: (torch.randn(2, 4, 3, 5), torch.randn(2, 6, 3, 5))),
    "basis": (
        lambda: BasisAdapter(orthonormal(4, 2), torch.randn(4)),
        lambda: (torch.randn(2, 4, 3, 5), torch.randn(2, 2, 3, 5)),
    ),
    "space": (SpaceAdapter, lambda: (torch.randn(2, 4, 6, 5), torch.randn(2, 9, 3, 8))),
    "tokens": (lambda: TokenAdapter(prefix=1), lambda: (grid_tokens(), torch.randn(2, 5, 4))),
    "token grid": (
        lambda: TokenAdapter(grid=(3, 4), output_layout="BCHW"),
        lambda: (grid_tokens(), torch.randn(2, 4, 6, 2)),
    ),
    "map to tokens": (MapToTokens, lambda: (torch.randn(2, 4, 3, 5), torch.randn(2, 15, 4))),
    "chain": (
        lambda: Chain(TokenAdapter(prefix=0, grid=(3, 4), output_layout="BCHW"), ChannelAdapter(4, 6), SpaceAdapter()),
        lambda: (grid_tokens(), torch.randn(2, 6, 5, 4)),
    ),
}
each = pytest.mark.parametrize(("make", "inputs"), EVERY.values(), ids=EVERY)


# ---- what holds for all


@each
def test_copies_and_state(make: Callable[[], Adapter], inputs: Callable[[], tuple[Tensor, Tensor]]) -> None:
    adapter, other = make(), make()
    feature, reference = inputs()
    expected = adapter(feature, reference)
    assert_close(copy.deepcopy(adapter)(feature, reference), expected)
    if adapter.state_dict():
        assert not torch.allclose(other(feature, reference), expected)  # so that loading has something to do
    other.load_state_dict(adapter.state_dict())
    assert_close(other(feature, reference), expected)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_and_autocast(
    make: Callable[[], Adapter], inputs: Callable[[], tuple[Tensor, Tensor]], dtype: torch.dtype
) -> None:
    adapter = make()
    feature, reference = inputs()
    expected = adapter(feature, reference)
    with torch.autocast("cpu", dtype=dtype):
        for given_dtype in (torch.float32, dtype):
            result = adapter(feature.to(given_dtype), reference.to(given_dtype))
            assert_close(result.float(), expected, rtol=0.05, atol=0.05)
    result = adapter(feature.to(dtype), reference.to(dtype))  # a half model beside a float32 adapter
    assert_close(result.float(), expected, rtol=0.05, atol=0.05)


@each
def test_compiles_to_one_graph(make: Callable[[], Adapter], inputs: Callable[[], tuple[Tensor, Tensor]]) -> None:
    torch.compiler.reset()
    adapter = make()
    feature, reference = inputs()
    feature.requires_grad_()
    expected = adapter(feature, reference)
    result = torch.compile(adapter, fullgraph=True, backend="aot_eager")(feature, reference)
    assert_close(result, expected)
    weights = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((r * weights).sum(), feature)[0] for r in (result, expected))
    assert_close(ours, theirs)


@each
def test_the_output_layout_is_true(make: Callable[[], Adapter], inputs: Callable[[], tuple[Tensor, Tensor]]) -> None:
    adapter = make()
    feature, reference = inputs()
    result = adapter(feature, reference)
    assert to_bcn(result, adapter.output_layout).shape[0] == feature.shape[0]
    assert adapter.layout in repr(adapter)
    with pytest.raises(ShapeError, match=f"doesn't fit the layout {adapter.layout}"):
        adapter(feature[None], reference)


@pytest.mark.parametrize("kind", [ChannelAdapter, OrthogonalAdapter])
def test_a_shared_adapter_learns_from_both_places(kind: Callable[[int, int], Adapter]) -> None:
    class Pair(nn.Module):
        def __init__(self, encoder: Adapter, decoder: Adapter) -> None:
            super().__init__()
            self.encoder, self.decoder = encoder, decoder

    encoder_feature, decoder_feature = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 2, 6)

    def gradient(adapter: Adapter, *features: Tensor) -> Tensor:
        adapter.zero_grad()
        torch.stack([adapter(feature).square().sum() for feature in features]).sum().backward()
        grad = next(adapter.parameters()).grad
        assert grad is not None
        return grad.clone()

    adapter = kind(4, 3)
    shared, separate = Pair(adapter, adapter), Pair(adapter, copy.deepcopy(adapter))
    assert 2 * len(list(shared.parameters())) == len(list(separate.parameters()))
    alone = [gradient(adapter, encoder_feature), gradient(adapter, decoder_feature)]
    assert all(one.abs().sum() > 0 for one in alone)
    assert_close(gradient(shared.encoder, encoder_feature, decoder_feature), alone[0] + alone[1], rtol=1e-4, atol=1e-4)
    twin = copy.deepcopy(shared)
    assert twin.encoder is twin.decoder
    assert twin.encoder is not adapter


# ---- channels


def oracle(feature: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
    axis = 2 if layout == "BNC" else 1
    last = np.moveaxis(feature.detach().numpy(), axis, -1) @ weight.detach().numpy().T
    if bias is not None:
        last = last + bias.detach().numpy()
    return torch.from_numpy(np.moveaxis(last, -1, axis).copy())


@pytest.mark.parametrize("layout", SHAPES)
def test_channel_adapters_in_every_layout(layout: Layout) -> None:
    feature = torch.randn(SHAPES[layout])
    learned = ChannelAdapter(4, 6, layout=layout)
    nn.init.normal_(learned.bias)  # type: ignore[arg-type]
    assert_close(learned(feature), oracle(feature, learned.weight, learned.bias, layout))
    turned = OrthogonalAdapter(4, 3, layout=layout)
    assert_close(turned(feature), oracle(feature, turned.weight, None, layout))
    basis, mean = orthonormal(4, 2).float(), torch.randn(4)
    fixed = BasisAdapter(basis, mean, layout=layout)
    assert_close(fixed(feature), oracle(feature, basis.T, -mean @ basis, layout))
    assert_close(fixed.lift(fixed(feature)), oracle(fixed(feature), basis, mean, layout))
    uncentred = BasisAdapter(basis, layout=layout)
    assert_close(uncentred(feature), oracle(feature, basis.T, None, layout))


def test_channel_adapter_without_bias_is_linear() -> None:
    adapter = ChannelAdapter(4, 2, bias=False)
    assert adapter.bias is None
    assert_close(adapter(torch.zeros(1, 4, 2, 3)), torch.zeros(1, 2, 2, 3))


def test_inits() -> None:
    kaiming = ChannelAdapter(400, 300).weight
    assert kaiming.std().item() == pytest.approx(1 / 20, rel=0.03)
    for height, width in ((3, 5), (5, 3)):
        weight = ChannelAdapter(width, height, init="orthogonal").weight
        small = weight @ weight.T if height < width else weight.T @ weight
        assert_close(small, torch.eye(3), rtol=0, atol=1e-5)
        assert_close(ChannelAdapter(width, height, init="identity").weight.detach(), torch.eye(height, width))
    start = torch.randn(2, 4, dtype=torch.float64)
    adapter = ChannelAdapter(4, 2, init=start)
    assert_close(adapter.weight.detach(), start.float())
    adapter.weight.data.zero_()
    assert start.abs().sum() > 0  # its own copy
    with pytest.raises(ArgumentError, match="init isn't known; got 'xavier'; expected kaiming"):
        ChannelAdapter(4, 2, init="xavier")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"start from doesn't fit; got \(2, 4\); expected \(4, 2\)"):
        ChannelAdapter(2, 4, init=start)
    for kind in (ChannelAdapter, OrthogonalAdapter):
        with pytest.raises(ArgumentError, match="at least one channel on each side; got 0 → 2"):
            kind(0, 2)


@pytest.mark.parametrize(("width", "height"), [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_orthogonal_stays_orthogonal(width: int, height: int, optimizer: Any) -> None:
    adapter = OrthogonalAdapter(width, height)
    feature, target = torch.randn(2, width, 3, 5), torch.randn(2, height, 3, 5)
    before = adapter.weight.detach().clone()
    steps = optimizer(adapter.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        steps.zero_grad()
        loss = (adapter(feature) - target).square().mean()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    weight = adapter.weight.detach()
    small = weight @ weight.T if height < width else weight.T @ weight
    assert_close(small, torch.eye(min(width, height)), rtol=0, atol=1e-5)
    assert (weight - before).abs().max() > 1e-3
    assert min(losses) < losses[0]
    free = ChannelAdapter(width, height, init="orthogonal", bias=False)  # the guard can fail: a free weight drifts
    steps = optimizer(free.parameters(), lr=0.1)
    (free(feature) - target).square().mean().backward()
    steps.step()
    small = free.weight @ free.weight.T if height < width else free.weight.T @ free.weight
    assert not torch.allclose(small, torch.eye(min(width, height)), atol=1e-4)


def test_orthogonal_is_orthogonal_under_autocast_and_in_half() -> None:
    adapter = OrthogonalAdapter(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = adapter.weight.detach()
    assert weight.dtype == torch.float32
    assert_close(weight.T @ weight, torch.eye(4), rtol=0, atol=1e-5)
    weight = adapter.bfloat16().weight.detach()
    assert_close(weight.T @ weight, torch.eye(4), rtol=0, atol=1e-5)
    assert adapter(torch.randn(1, 4, 2, 3).bfloat16()).shape == (1, 6, 2, 3)


def test_orthogonal_starts_where_it_is_told() -> None:
    for height, width in ((6, 4), (4, 6)):
        start = orthonormal(6, 4) if height == 6 else orthonormal(6, 4).T
        assert_close(OrthogonalAdapter(width, height, start=start).weight.detach(), start.float())
    with pytest.raises(ShapeError, match=r"start from doesn't fit; got \(4, 6\); expected \(6, 4\)"):
        OrthogonalAdapter(4, 6, start=start)


def test_gradient_of_the_orthogonal_adapter() -> None:
    adapter = OrthogonalAdapter(3, 4).double()
    feature = torch.randn(2, 3, 2, 2, dtype=torch.float64)

    def run(tall: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(adapter, {"tall": tall}, (feature,))
        return out

    assert torch.autograd.gradcheck(run, (adapter.tall,))


def test_basis_adapter_goes_there_and_back() -> None:
    basis, mean = orthonormal(5, 3), torch.randn(5, dtype=torch.float64)
    adapter = BasisAdapter(basis, mean, dtype=torch.float64)
    within = mean[:, None, None] + torch.einsum("ck,bkhw->bchw", basis, torch.randn(2, 3, 3, 4, dtype=torch.float64))
    assert_close(adapter.lift(adapter(within)), within)
    coordinates = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    assert_close(adapter(adapter.lift(coordinates)), coordinates)
    assert not list(adapter.parameters())
    assert set(adapter.state_dict()) == {"basis", "mean", "back"}


def test_basis_adapter_of_a_subset_lifts_by_its_own_map() -> None:
    factor = torch.randn(5, 2, dtype=torch.float64)
    feature = torch.einsum("ck,bkl->bcl", factor, torch.randn(2, 2, 9, dtype=torch.float64))
    chosen = [1, 3]
    sigma = factor @ factor.T
    lift = sigma[:, chosen] @ torch.linalg.inv(sigma[chosen][:, chosen])
    subset = torch.eye(5, dtype=torch.float64)[:, chosen]
    adapter = BasisAdapter(subset, lift=lift, layout="BCL", dtype=torch.float64)
    assert_close(adapter(feature), feature[:, chosen])
    assert_close(adapter.lift(feature[:, chosen]), feature)


def test_basis_adapter_computes_in_float32_under_autocast() -> None:
    adapter = BasisAdapter(orthonormal(4, 2))
    feature = torch.randn(2, 4, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(adapter(feature), oracle(feature, adapter.basis.T, None, "BCHW"))


def test_basis_adapter_checks_what_it_is_given() -> None:
    basis = orthonormal(4, 2)
    with pytest.raises(ShapeError, match=r"one column a coordinate; got \(2, 4\); expected \(C, c\) with c ≤ C"):
        BasisAdapter(basis.T)
    with pytest.raises(ShapeError, match=r"mean doesn't fit the basis; got \(2,\); expected \(4,\)"):
        BasisAdapter(basis, torch.ones(2))
    with pytest.raises(ShapeError, match=r"lift doesn't fit the basis; got \(4, 3\); expected \(4, 2\)"):
        BasisAdapter(basis, lift=torch.ones(4, 3))
    for bad in (basis * 1.1, basis * float("nan")):
        with pytest.raises(ArgumentError, match=r"isn't orthonormal.*got UᵀU off by (0\.21|nan).*give the lift"):
            BasisAdapter(bad)
    assert BasisAdapter(basis * 1.1, lift=basis)(torch.ones(1, 4, 2, 3)).shape == (1, 2, 2, 3)


@pytest.mark.parametrize(
    "adapter", [ChannelAdapter(4, 2), OrthogonalAdapter(4, 2), BasisAdapter(torch.eye(4)[:, :2])], ids=repr
)
def test_another_width_is_refused(adapter: Adapter) -> None:
    with pytest.raises(ShapeError, match=r"another number of channels; got 3 in \(1, 3, 2, 2\) as BCHW; expected 4"):
        adapter(torch.randn(1, 3, 2, 2))


# ---- space


def average(array: np.ndarray[Any, Any], axis: int, size: int) -> np.ndarray[Any, Any]:
    """Adaptive average along one axis: cell i covers ⌊i n/m⌋ to ⌈(i+1) n/m⌉."""
    n = array.shape[axis]
    cells = [
        array.take(range(i * n // size, -(-(i + 1) * n // size)), axis).mean(axis, keepdims=True) for i in range(size)
    ]
    return np.concatenate(cells, axis)


def linear(array: np.ndarray[Any, Any], axis: int, size: int) -> np.ndarray[Any, Any]:
    n = array.shape[axis]
    places = (np.arange(size) + 0.5) * n / size - 0.5
    return np.apply_along_axis(lambda line: np.interp(places, np.arange(n), line), axis, array)


@pytest.mark.parametrize(
    ("layout", "shape", "size"),
    [
        ("BCL", (2, 3, 7), (4,)),
        ("BCL", (2, 3, 7), (10,)),
        ("BCHW", (2, 3, 6, 9), (3, 3)),
        ("BCHW", (2, 3, 5, 7), (3, 4)),
        ("BCHW", (2, 3, 4, 3), (9, 5)),
        ("BCHW", (2, 3, 8, 3), (3, 8)),
        ("BCHW", (1, 1, 3, 5), (3, 5)),
        ("BCHW", (1, 2, 1, 1), (4, 3)),
        ("BCDHW", (1, 2, 4, 3, 6), (2, 5, 6)),
    ],
)
def test_space_adapter(layout: Layout, shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    feature = torch.randn(shape, dtype=torch.float64)
    expected = feature.numpy()
    for axis, target in enumerate(size, start=2):
        if target < feature.shape[axis]:
            expected = average(expected, axis, target)
    for axis, target in enumerate(size, start=2):
        if target > feature.shape[axis]:
            expected = linear(expected, axis, target)
    assert_close(SpaceAdapter(layout=layout)(feature, torch.empty(1, 9, *size)), torch.from_numpy(expected.copy()))
    assert_close(SpaceAdapter(layout=layout, size=size)(feature), torch.from_numpy(expected.copy()))


@given(*(st.integers(1, 9) for _ in range(4)))
def test_space_adapter_takes_any_size_to_any_other(height: int, width: int, to_height: int, to_width: int) -> None:
    adapter = SpaceAdapter()
    reference = torch.empty(1, 2, to_height, to_width)
    result = adapter(torch.full((1, 2, height, width), 3.0), reference)
    assert_close(result, torch.full((1, 2, to_height, to_width), 3.0))


def test_a_feature_of_the_right_size_is_left_alone() -> None:
    feature = torch.randn(1, 2, 3, 5)
    assert SpaceAdapter()(feature, torch.empty(1, 7, 3, 5)) is feature


def test_space_adapter_errors() -> None:
    with pytest.raises(ArgumentError, match=r"layout with space; got 'BNC'\. Remedy: use a TokenAdapter"):
        SpaceAdapter(layout="BNC")
    with pytest.raises(ArgumentError, match="layout with space; got 'BC'"):
        SpaceAdapter(layout="BC")
    for size in ((3,), (0, 2)):
        with pytest.raises(ArgumentError, match="size doesn't suit the layout BCHW"):
            SpaceAdapter(size=size)
    with pytest.raises(ArgumentError, match=r"needs a reference feature\. Remedy: call adapter\(feature, reference\)"):
        SpaceAdapter()(torch.randn(1, 2, 3, 5))
    with pytest.raises(ShapeError, match="doesn't fit the layout BCHW"):
        SpaceAdapter()(torch.randn(1, 2, 3, 5), torch.randn(1, 2, 3))


# ---- tokens


def test_tokens_to_map_and_back() -> None:
    feature = torch.randn(2, 4, 3, 5)
    tokens = map_to_tokens(feature)
    assert_close(tokens[:, 1 * 5 + 2], feature[:, :, 1, 2])  # row by row
    assert_close(tokens_to_map(tokens, (3, 5)), feature)
    assert_close(MapToTokens()(feature), tokens)
    with pytest.raises(ShapeError, match=r"tokens don't fill the grid; got 15 tokens; expected 4 × 4.*prefix="):
        tokens_to_map(tokens, (4, 4))


def test_token_adapter_drops_the_prefix() -> None:
    tokens = torch.randn(2, 14, 4)
    assert_close(TokenAdapter(prefix=2)(tokens), tokens[:, 2:])
    assert_close(TokenAdapter(prefix=2, grid=(3, 4))(tokens), tokens[:, 2:])
    assert_close(
        TokenAdapter(prefix=2, grid=(3, 4), output_layout="BCHW")(tokens), tokens_to_map(tokens[:, 2:], (3, 4))
    )


def test_token_adapter_resamples_a_line() -> None:
    tokens = torch.randn(2, 9, 4, dtype=torch.float64)
    longer = torch.from_numpy(linear(tokens.numpy()[:, 1:], 1, 11).copy())
    shorter = torch.from_numpy(average(tokens.numpy()[:, 1:], 1, 4).copy())
    assert_close(TokenAdapter(prefix=1, size=11)(tokens), longer)
    assert_close(TokenAdapter(prefix=1)(tokens, torch.empty(2, 4, 7)), shorter)


def test_token_adapter_resamples_a_grid() -> None:
    tokens = torch.randn(2, 24, 3, dtype=torch.float64)
    array = map_oracle = tokens.numpy().transpose(0, 2, 1).reshape(2, 3, 4, 6)
    map_oracle = linear(average(array, 2, 2), 3, 9)
    expected = torch.from_numpy(map_oracle.copy())
    assert_close(TokenAdapter(grid=(4, 6), output_layout="BCHW")(tokens, torch.empty(2, 8, 2, 9)), expected)
    assert_close(TokenAdapter(grid=(4, 6), size=(2, 9))(tokens, torch.empty(2, 24, 8)), map_to_tokens(expected))
    assert_close(TokenAdapter(grid=(4, 6))(tokens, torch.empty(2, 24, 8)), tokens)


def test_token_adapter_errors() -> None:
    tokens = torch.randn(2, 13, 4)
    with pytest.raises(ArgumentError, match="can't be negative; got prefix=-1"):
        TokenAdapter(prefix=-1)
    with pytest.raises(ArgumentError, match=r"become a map only with a grid\. Remedy: give grid="):
        TokenAdapter(output_layout="BCHW")
    for options in ({"size": (2, 3)}, {"size": 6, "grid": (3, 4)}, {"size": 0}, {"size": (0, 3), "grid": (3, 4)}):
        with pytest.raises(ArgumentError, match="size doesn't suit the tokens; got size="):
            TokenAdapter(**options)
    with pytest.raises(ShapeError, match="no token is left; got 13 tokens, 13 to be dropped"):
        TokenAdapter(prefix=13)(tokens)
    with pytest.raises(ShapeError, match="tokens don't fill the grid; got 13 tokens; expected 3 × 4"):
        TokenAdapter(grid=(3, 4))(tokens)
    with pytest.raises(ArgumentError, match=r"grid of tokens can't be resampled.*reference \(2, 9, 4\).*give size="):
        TokenAdapter(prefix=1, grid=(3, 4))(tokens, torch.empty(2, 9, 4))
    with pytest.raises(ArgumentError, match=r"without a grid can't be resampled to a map.*give grid="):
        TokenAdapter()(tokens, torch.empty(2, 4, 3, 5))


# ---- chains


def test_a_chain_is_its_adapters_in_order() -> None:
    first, second = ChannelAdapter(4, 6), SpaceAdapter(size=(2, 3))
    chain = Chain(first, second)
    feature = torch.randn(2, 4, 5, 5)
    assert_close(chain(feature), second(first(feature)))
    assert list(chain.parameters()) == list(first.parameters())
    mixed = Chain(TokenAdapter(grid=(3, 4), output_layout="BCHW"), ChannelAdapter(4, 6), MapToTokens())
    assert (mixed.layout, mixed.output_layout) == ("BNC", "BNC")


def test_chain_errors() -> None:
    with pytest.raises(ArgumentError, match=r"at least one adapter\. Remedy: use Identity\(\)"):
        Chain()
    with pytest.raises(ArgumentError, match="made of adapters; got Conv2d"):
        Chain(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"SpaceAdapter can't follow TokenAdapter; got .* BNC; expected BCHW"):
        Chain(TokenAdapter(), SpaceAdapter())


def test_the_base_has_no_forward() -> None:
    with pytest.raises(NotImplementedError):
        Adapter(layout="BCHW")(torch.randn(1, 2, 3, 4))
