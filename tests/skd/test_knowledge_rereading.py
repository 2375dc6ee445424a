"""What an encoder reads in an output, against the same computed in numpy; and that the encoder isn't touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import skd
from skd import Distiller, Pairing, Tap
from skd._training.identity import identity_of
from skd.distances import normalised_mse
from skd.errors import ArgumentError, FeatureError, LayerNotFoundError, ShapeError
from skd.knowledge import Reread
from skd.methods import SKD, Transfer


class Network(nn.Module):
    """Two layers down and one up; it notes which of them ran."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two, self.up = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 3, 1)
        self.ran: list[str] = []
        for name, layer in self.named_children():
            layer.register_forward_hook(lambda *_, name=name: self.ran.append(name))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.two(self.one(x)))
        return out


class Two(nn.Module):
    """A network of two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 1)

    def forward(self, content: Tensor, *, style: Tensor) -> Tensor:
        out: Tensor = content + self.inner(style).sum(1, keepdim=True)
        return out


def by_hand(network: Network, y: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Means and deviations of both layers, from the weights alone."""
    found = []
    for layer in (network.one, network.two):
        weight, bias = layer.weight.detach().double().numpy()[:, :, 0, 0], layer.bias.detach().double().numpy()
        y = np.einsum("oc,bchw->bohw", weight, y) + bias[:, None, None]
        found += [y.mean((2, 3)), np.sqrt(y.var((2, 3)) + eps)]
    return np.concatenate(found, 1)


@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 99),
    copy=st.booleans(),
)
def test_means_then_deviations_layer_by_layer(batch: int, height: int, width: int, seed: int, copy: bool) -> None:
    network = Network(seed)
    y = torch.randn(batch, 3, height, width)
    read = Reread(network, [Tap("one", clone=copy), "two"])(y)
    torch.testing.assert_close(read.double(), torch.from_numpy(by_hand(network, y.double().numpy())))


def test_the_run_ends_after_the_last_layer_that_is_read() -> None:
    network = Network()
    Reread(network, ["two", "one"])(torch.zeros(1, 3, 2, 2))
    assert network.ran == ["one", "two"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_never_in_half(dtype: torch.dtype) -> None:
    network = Network()
    y = torch.randn(2, 3, 8, 8)
    read = Reread(network.to(dtype), ["one"])(y.to(dtype))
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, Reread(network.float(), ["one"])(y), rtol=0.02, atol=0.02)


def test_a_dict_is_keyword_arguments() -> None:
    network, y = Two(), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        features = network.inner(y).flatten(2)
    expected = torch.cat([features.mean(2), (features.var(2, correction=0) + 1e-5).sqrt()], 1)
    read = Reread(network, ["inner"], inputs=lambda y: {"content": torch.zeros_like(y), "style": y})(y)
    torch.testing.assert_close(read.detach(), expected)


def test_a_tuple_is_several_arguments() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum = nn.Identity()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.sum(a - 2 * b)
            return out

    y = torch.randn(2, 3, 4, 5)
    read = Reread(Pair(), ["sum"], inputs=lambda y: (y, 3 * y))(y)
    torch.testing.assert_close(read[:, :3], -5 * y.mean((2, 3)))


def test_gradients_are_the_outputs_alone_and_flags_are_put_back() -> None:
    network = Network()
    network.two.weight.requires_grad_(False)
    y = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    network.double()
    reread = Reread(network, ["one", "two"])
    assert torch.autograd.gradcheck(reread, (y,))
    reread(y).sum().backward()
    assert y.grad is not None
    assert all(p.grad is None for p in network.parameters())
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["two.weight"]


def test_flags_are_put_back_by_an_error_too() -> None:
    network = Network()
    with pytest.raises(ShapeError, match=r"can't be called with it; got \(1, 2, 4, 4\) \(.*channels.*Remedy: inputs=…"):
        Reread(network, ["one"])(torch.zeros(1, 2, 4, 4))
    assert all(p.requires_grad for p in network.parameters())


def test_what_can_not_be_read_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"without a layer.*name the encoder's layers"):
        Reread(Network(), [])
    with pytest.raises(LayerNotFoundError, match="no layer 'thre'"):
        Reread(Network(), ["thre"])
    with pytest.raises(ArgumentError, match="need a model; got str"):
        Reread("teacher", ["one"])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"can't be called with it; got .*style.*Remedy: inputs=…"):
        Reread(Two(), ["inner"])(torch.zeros(1, 3, 2, 2))
    with pytest.raises(FeatureError, match="two#1"):
        Reread(Network(), ["two#1"])(torch.zeros(1, 3, 2, 2))


def made(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    widths = (8, 8) if seed == 0 else (3, 3)
    return nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(widths[1], 3, 2, 2))


def test_skd_adds_what_is_read_in_units_of_the_teachers_own() -> None:
    teacher, student, x = made(0), made(1), torch.randn(2, 3, 8, 12)
    pairings = [Pairing.declare({"p": ("0", "1")}, network, x) for network in (teacher, student)]
    method = SKD(
        skd.match(*pairings),
        skd.measure(teacher, pairings[0], [x]),
        reread=Reread(teacher, [pair.encoder for pair in pairings[0]]),
        rereading=3.0,
    )
    assert [row.name for row in method.transfers()][-2:] == ["output", "output/reread"]
    terms = Distiller(teacher, student, method)(x).losses.terms
    with torch.no_grad():
        read = []
        for network in (student, teacher):
            features = teacher[0](network(x)).flatten(2)
            read.append(torch.cat([features.mean(2), (features.var(2, correction=0) + 1e-5).sqrt()], 1))
        expected = 3 * (read[0] - read[1]).square().sum() / read[1].square().sum()
    torch.testing.assert_close(terms["output/reread"].detach(), expected)


@pytest.mark.parametrize("options", [{}, {"rereading": 0.0}])
def test_skd_reads_nothing_again_unless_it_is_to(options: dict[str, float]) -> None:
    teacher, x = made(0), torch.randn(2, 3, 8, 12)
    pairing = Pairing.declare({"p": ("0", "1")}, teacher, x)
    reread = Reread(teacher, ["0"]) if options else None
    method = SKD(skd.match(pairing, pairing), skd.measure(teacher, pairing, [x]), reread=reread, **options)
    assert "output/reread" not in [row.name for row in method.transfers()]


def test_a_distiller_trains_the_student_alone_compiled_or_not() -> None:
    teacher, student, x = made(0), made(1), torch.randn(2, 3, 8, 12)
    row = Transfer("again", "", "", Reread(teacher, ["0"]), normalised_mse)
    rows = [Transfer("hint", "0", "0", skd.knowledge.sample_similarity), row]
    distiller = Distiller(teacher, student, rows)
    plain = distiller(x).losses.total
    plain.backward()
    grads = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    assert len(grads) == 4
    assert all(p.grad is None for p in teacher.parameters())
    student.zero_grad()
    compiled = torch.compile(distiller, fullgraph=True, backend="eager")(x).losses.total
    torch.testing.assert_close(compiled, plain)
    compiled.backward()
    torch.testing.assert_close([p.grad for p in student.parameters()], grads)


def test_a_run_that_reads_other_layers_is_another_run() -> None:
    teacher = Network()

    def identity(*layers: str) -> Any:
        return identity_of(Distiller(teacher, made(1), [Transfer("again", "", "", Reread(teacher, layers))]))

    assert identity("one") == identity("one") != identity("one", "two")
