"""Adapters begun by least squares, against numpy's own solver; what stays as it was; what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skd
from skd import Distiller, Recipe, distill, fit_adapters
from skd.adapters import BasisAdapter, Chain, ChannelAdapter, MapToTokens, SpaceAdapter, TokenAdapter
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError, ShapeError
from skd.methods import SKD, FitNets, Through, Transfer
from skd.taps import Tap


class Net(nn.Module):
    """Two layers to tap, and a batch norm and dropout that a look must not disturb."""

    def __init__(self, width: int, seed: int, stride: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.one = nn.Conv2d(3, width, 3, stride, 1)
            self.norm, self.drop = nn.BatchNorm2d(width), nn.Dropout(0.5)
            self.two = nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.drop(self.norm(self.one(x).tanh())))
        return out


def images(count: int = 3, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, 8, 12, generator=generator) for _ in range(count)]


def flat(features: Sequence[Tensor]) -> Any:
    """(positions, C) float64."""
    return torch.cat([f.double().flatten(2).transpose(0, 1).flatten(1).T for f in features]).detach().numpy()


def read(network: nn.Module, layer: str, data: Sequence[Tensor]) -> list[Tensor]:
    network.eval()
    taps = skd.Taps(network, [layer])
    return [taps(x)[1][Tap.of(layer)].detach() for x in data]


def by_numpy(x: Any, y: Any, *, offset: bool = True) -> tuple[Any, float]:
    """The least squares map, the offset its last column, and the part of the variance that it explains."""
    columns = np.hstack([x, np.ones((len(x), 1))]) if offset else x
    found = np.linalg.lstsq(columns, y, rcond=None)[0]
    around = y - y.mean(0) if offset else y
    return found.T, 1 - ((y - columns @ found) ** 2).sum() / (around**2).sum()


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found.detach().double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [True, False])
def test_the_map_is_that_of_numpys_least_squares(offset: bool) -> None:
    teacher, student, data = Net(6, 0), Net(2, 1), images()
    adapter = ChannelAdapter(2, 6, bias=offset)
    shares = fit_adapters(Distiller(teacher, student, [Transfer("f", "one", "one", student_adapters=adapter)]), data)
    expected, share = by_numpy(flat(read(student, "one", data)), flat(read(teacher, "one", data)), offset=offset)
    found = adapter.weight if adapter.bias is None else torch.cat((adapter.weight, adapter.bias[:, None]), 1)
    close(found, expected)
    assert shares == {"one → one": pytest.approx(share, abs=1e-6)}


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**16))
@settings(max_examples=20)
def test_a_linear_image_of_the_student_is_explained_whole(width: int, wide: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, image = nn.Conv2d(3, width, 1), nn.Conv2d(width, wide, 1)
    teacher = nn.Sequential(nn.Conv2d(3, width, 1), image)
    teacher[0].load_state_dict(student.state_dict())
    distiller = Distiller(teacher, student, [Transfer("f", "", "1", student_adapters=ChannelAdapter(width, wide))])
    (share,) = fit_adapters(distiller, images()).values()
    assert share == pytest.approx(1, abs=1e-6)
    assert float(distiller(images()[0]).losses.total.detach()) < 1e-6


def test_no_other_map_has_less_error() -> None:
    teacher, student, data = Net(6, 0), Net(2, 1), images(1)
    adapter = ChannelAdapter(2, 6)
    distiller = Distiller(teacher, student.eval(), [Transfer("f", "one", "one", student_adapters=adapter)])
    fit_adapters(distiller, data)
    gradients = torch.autograd.grad(distiller(data[0]).losses.total, list(adapter.parameters()))
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


def test_channels_that_are_constant_or_repeat_others_do_no_harm() -> None:
    teacher, student, data = Net(6, 0), Net(3, 1), images()
    with torch.no_grad():
        student.one.weight[1], student.one.bias[1] = student.one.weight[0], student.one.bias[0]
        student.one.weight[2] = 0
    adapter = ChannelAdapter(3, 6)
    (share,) = fit_adapters(
        Distiller(teacher, student, [Transfer("f", "one", "one", student_adapters=adapter)]), data
    ).values()
    _, expected = by_numpy(flat(read(student, "one", data)), flat(read(teacher, "one", data)))
    assert share == pytest.approx(expected, abs=1e-6)
    assert float(adapter.weight.detach().abs().max()) < 100
    torch.testing.assert_close(adapter.weight[:, 0], adapter.weight[:, 1])


def test_a_feature_that_does_not_vary_leaves_its_adapter_alone() -> None:
    teacher, student, adapter = Net(6, 0), Net(2, 1), ChannelAdapter(2, 6)
    torch.nn.init.zeros_(student.one.weight)
    before = adapter.weight.detach().clone()
    distiller = Distiller(teacher, student, [Transfer("f", "one", "one", student_adapters=adapter)])
    assert fit_adapters(distiller, images()) == {"one → one": 0.0}
    torch.testing.assert_close(adapter.weight.detach(), before, rtol=0, atol=0)


def test_the_student_is_brought_to_the_teachers_size_and_layout_first() -> None:
    teacher, student, data = Net(6, 0, stride=2), Net(2, 1), images()
    x = [nn.functional.adaptive_avg_pool2d(f, (4, 6)) for f in read(student, "one", data)]
    expected, share = by_numpy(flat(x), flat(read(teacher, "one", data)))
    for outer in (
        Chain(ChannelAdapter(2, 6), SpaceAdapter()),
        Chain(SpaceAdapter(), ChannelAdapter(2, 6)),
        Chain(SpaceAdapter(), MapToTokens(), ChannelAdapter(2, 6, layout="BNC")),
        Chain(
            ChannelAdapter(2, 6),
            SpaceAdapter(size=(4, 6)),
            MapToTokens(),
            TokenAdapter(grid=(4, 6), output_layout="BCHW"),
        ),
    ):
        tokens = outer.output_layout == "BNC"
        row = Transfer("f", "one", "one", student_adapters=outer, teacher_adapters=MapToTokens() if tokens else None)
        shares = fit_adapters(Distiller(teacher, student, [row]), data)
        inner = next(part for part in outer.adapters if isinstance(part, ChannelAdapter))
        close(inner.weight, expected[:, :-1])
        assert shares == {"one → one": pytest.approx(share, abs=1e-6)}


def test_the_teachers_own_adapter_comes_first() -> None:
    teacher, student, data = Net(6, 0), Net(2, 1), images()
    basis = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))[0]
    adapter = ChannelAdapter(2, 4)
    row = Transfer("f", "one", "one", student_adapters=adapter, teacher_adapters=BasisAdapter(basis))
    (share,) = fit_adapters(Distiller(teacher, student, [row]), data).values()
    y = flat(read(teacher, "one", data)) @ basis.double().numpy()
    assert share == pytest.approx(by_numpy(flat(read(student, "one", data)), y)[1], abs=1e-6)


def test_an_adapter_of_two_layers_is_fitted_to_both() -> None:
    teacher, student, data = Net(6, 0), Net(2, 1), images()
    shared = ChannelAdapter(2, 6)
    student.two, teacher.two = nn.Conv2d(2, 2, 1), nn.Conv2d(6, 6, 1)
    rows = [Transfer(layer, layer, layer, student_adapters=shared) for layer in ("one", "two")]
    shares = fit_adapters(Distiller(teacher, student, rows), data)
    x, y = (np.vstack([flat(read(net, layer, data)) for layer in ("one", "two")]) for net in (student, teacher))
    expected, share = by_numpy(x, y)
    torch.testing.assert_close(
        shared.weight.detach().double(), torch.from_numpy(expected[:, :-1]), rtol=1e-4, atol=1e-5
    )
    assert shares == {"one → one, two → two": pytest.approx(share, abs=1e-6)}


def test_two_terms_of_the_same_layers_count_once() -> None:
    teacher, student, data = Net(6, 0), Net(2, 1), images()
    alone, twice = ChannelAdapter(2, 6), ChannelAdapter(2, 6)
    fit_adapters(Distiller(teacher, student, [Transfer("a", "one", "one", student_adapters=alone)]), data)
    rows = [Transfer(name, "one", "one", student_adapters=twice) for name in "ab"]
    assert list(fit_adapters(Distiller(teacher, student, rows), data)) == ["one → one"]
    torch.testing.assert_close(alone.state_dict(), twice.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_are_fitted_too(dtype: torch.dtype) -> None:
    teacher, student, data = Net(6, 0).to(dtype), Net(2, 1).to(dtype), [x.to(dtype) for x in images()]
    adapter = ChannelAdapter(2, 6)
    fit_adapters(Distiller(teacher, student, [Transfer("f", "one", "one", student_adapters=adapter)]), data)
    expected, _ = by_numpy(flat(read(student, "one", data)), flat(read(teacher, "one", data)))
    torch.testing.assert_close(
        adapter.weight.detach().double(), torch.from_numpy(expected[:, :-1]), rtol=1e-3, atol=1e-4
    )


def test_skd_and_fitnets_from_a_compressed_start_begin_nearer_than_at_random() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1),
        nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 3, 2, 2),
    )  # fmt: skip
    data = [torch.randn(4, 3, 16, 24) for _ in range(4)]
    pairing = skd.pair(teacher, data[0])
    spectra = skd.measure(teacher, pairing, data)
    student = skd.compress(teacher, spectra, data=data, ratio=4).student
    plan = skd.match(pairing, skd.pair(student, data[0]))
    for method in (SKD(plan, spectra, basis="learned", output=0.0), FitNets(plan, output=0.0)):
        distiller = Distiller(teacher, student, method)
        before = float(distiller(data[0]).losses.total.detach())
        shares = fit_adapters(distiller, data)
        assert float(distiller(data[0]).losses.total.detach()) < before / 2
        assert len(shares) == 2 * len(plan)


# --- what stays ------------------------------------------------------------------------------------------------------


def test_only_the_adapters_change() -> None:
    teacher, student = Net(6, 0).train(), Net(2, 1).train()
    adapter, other = ChannelAdapter(2, 6), ChannelAdapter(4, 12)
    rows = [Transfer("f", "one", "one", student_adapters=adapter)]
    distiller = Distiller(teacher, student, [*rows, Transfer("g", "two", "two", student_adapters=Chain(other))])
    student.norm.eval()
    flags = [module.training for module in distiller.modules()]
    kept = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    generator = torch.get_rng_state()
    fit_adapters(distiller, images())
    assert [module.training for module in distiller.modules()] == flags
    torch.testing.assert_close(student.state_dict(), kept, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.requires_grad and p.grad is None for p in distiller.parameters())


def test_an_error_leaves_the_adapters_as_they_were() -> None:
    adapter = ChannelAdapter(2, 6)
    distiller = Distiller(Net(6, 0), Net(2, 1), [Transfer("f", "one", "one", student_adapters=adapter)])
    before = adapter.weight.detach().clone()
    data = images()
    data[2] = data[2] / 0
    with pytest.raises(NonFiniteError, match="one → one hold NaN or infinity on batch 2"):
        fit_adapters(distiller, data)
    torch.testing.assert_close(adapter.weight.detach(), before, rtol=0, atol=0)
    fit_adapters(distiller, data, batches=2)


def test_adapters_that_do_more_than_move_positions_are_left_alone() -> None:
    first, second, lone = ChannelAdapter(2, 4), ChannelAdapter(4, 6), ChannelAdapter(4, 12)
    rows = [
        Transfer("f", "one", "one", student_adapters=Chain(first, second)),
        Transfer("g", "two", "two", student_adapters=lone),
    ]
    before = first.weight.detach().clone()
    assert list(fit_adapters(Distiller(Net(6, 0), Net(2, 1), rows), images())) == ["two → two"]
    torch.testing.assert_close(first.weight.detach(), before, rtol=0, atol=0)


# --- inside distill --------------------------------------------------------------------------------------------------


def test_distill_begins_with_them(tmp_path: Path) -> None:
    teacher, ours, theirs, data = Net(6, 0), Net(2, 1), Net(2, 1), images(4)
    recipe = Recipe(steps=4, learning_rate=0.01, warmup=0, schedule="constant", clip=None, optimizer="sgd")
    ours.drop.p = theirs.drop.p = 0.0
    done = distill(
        teacher,
        data,
        tmp_path,
        student=ours,
        recipe=recipe,
        method=[Transfer("f", "one", "one", student_adapters=ChannelAdapter(2, 6))],
        fit_adapters=True,
    )
    distiller = Distiller(teacher, theirs, [Transfer("f", "one", "one", student_adapters=ChannelAdapter(2, 6))])
    fit_adapters(distiller, data)
    distiller.train()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01, momentum=0.9)
    for batch in data:
        optimizer.zero_grad()
        distiller(batch).losses.total.backward()
        optimizer.step()
    torch.testing.assert_close(done.student.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)


def test_distill_goes_on_only_with_the_same_choice(tmp_path: Path) -> None:
    rows = [Transfer("f", "one", "one", student_adapters=ChannelAdapter(2, 6))]
    recipe = Recipe(steps=4, warmup=0)
    distill(Net(6, 0), images(4), tmp_path, student=Net(2, 1), recipe=recipe, method=rows, fit_adapters=True)
    with pytest.raises(FileError, match=r"of another run \(about.fit_adapters"):
        distill(Net(6, 0), images(4), tmp_path, student=Net(2, 1), recipe=recipe, method=rows)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_there_has_to_be_an_adapter() -> None:
    row = Transfer("again", "two", "two", through=Through({"one": "one"}, {"one": ChannelAdapter(2, 6)}))
    for rows in ([Transfer("output", "two", "two", student_adapters=None)], [row]):
        with pytest.raises(ArgumentError, match=r'no adapters to fit.*basis="learned"'):
            fit_adapters(Distiller(Net(6, 0), Net(2, 1), rows), images())


def test_there_have_to_be_data() -> None:
    distiller = Distiller(Net(6, 0), Net(2, 1), [Transfer("f", "one", "one", student_adapters=ChannelAdapter(2, 6))])
    with pytest.raises(DataError, match="no data to fit the adapters to"):
        fit_adapters(distiller, [])
    with pytest.raises(ArgumentError, match=r"at least one batch.*batches=0"):
        fit_adapters(distiller, images(), batches=0)
    with pytest.raises(ArgumentError, match="isn't a distiller"):
        fit_adapters(Net(2, 1), images())


def test_positions_and_channels_have_to_fit() -> None:
    rows = [Transfer("f", "one", "one", student_adapters=ChannelAdapter(2, 6))]
    with pytest.raises(ShapeError, match=r"one → one.*\(2, 2, 8, 12\) and \(2, 6, 4, 6\).*SpaceAdapter"):
        fit_adapters(Distiller(Net(6, 0, stride=2), Net(2, 1), rows), images())
    rows = [Transfer("f", "one", "one", student_adapters=ChannelAdapter(2, 5))]
    with pytest.raises(ShapeError, match="no adapter of 2 → 5 channels leads from one → one"):
        fit_adapters(Distiller(Net(6, 0), Net(2, 1), rows), images())


def test_inputs_make_arguments_of_items() -> None:
    adapter = ChannelAdapter(2, 6)
    distiller = Distiller(Net(6, 0), Net(2, 1), [Transfer("f", "one", "one", student_adapters=adapter)])
    first = fit_adapters(distiller, images())
    second = fit_adapters(distiller, [(x, "label") for x in images()], inputs=lambda item: item[0])
    assert first == second
