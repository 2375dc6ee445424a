"""compress(): weights that are exact where features allow it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _small import UNet, noise, seeded
from torch import Tensor, nn
from torch.testing import assert_close

from skd._compression.choices import pivots
from skd._compression.projection import solve
from skd.compressing import compress
from skd.errors import ArgumentError

pytest.importorskip("torch_pruning")


def low_rank(layer: Any, rank: int) -> Any:
    """A layer whose outputs lie in a random subspace."""
    transposed = getattr(layer, "transposed", False)
    weight = layer.weight.data
    out = weight.shape[1] if transposed else weight.shape[0]
    basis = torch.linalg.qr(torch.randn(out, rank))[0]
    projector = basis @ basis.T
    equation = "ab,ib...->ia..." if transposed else "ab,b...->a..."
    layer.weight.data = torch.einsum(equation, projector, weight)
    if layer.bias is not None:
        layer.bias.data = projector @ torch.randn(out)
    return layer


class Linear(nn.Module):
    """A linear encoder-decoder with low-rank features: residual sum, concatenation, pooling, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = low_rank(nn.Conv2d(2, 12, 3, padding=1, padding_mode="replicate"), 2)
        self.more = low_rank(nn.Conv2d(12, 12, 1), 2)
        self.down = low_rank(nn.Conv2d(12, 16, 3, 2, 1, bias=False), 4)
        self.up = low_rank(nn.ConvTranspose2d(16, 10, 2, 2, bias=False), 4)
        self.grouped = nn.Conv2d(22, 2, 1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        x = x + self.more(x)
        up = self.up(self.down(x))
        out: Tensor = self.grouped(torch.cat([up, x], 1))
        return out


@pytest.mark.parametrize("bases", ["subset", "rotated"])
def test_a_linear_network_with_low_rank_features_is_its_student(bases: Any) -> None:
    seeded()
    net = Linear().double().eval()
    data = [torch.randn(4, 2, 12, 12, dtype=torch.float64) for _ in range(4)]
    assert compress(net, None, data=data, ratio=1, bases=bases).widths == {"head": 12, "down": 16, "up": 10}
    # 5 for a stream of rank 4: a convolution that pads zeros can't take a constant, so the mean is a direction, too
    done = compress(net, None, data=data, widths={"head": 5, "down": 4, "up": 4}, bases=bases)
    x = torch.randn(3, 2, 16, 20, dtype=torch.float64)
    assert_close(done.student(x), net(x), rtol=1e-5, atol=1e-5 * float(net(x).detach().abs().max()))
    assert done.output_energy == pytest.approx(1, abs=1e-9)
    assert {row.basis for row in done.rows if row.whole is None} == {bases}
    assert sum(p.numel() for p in done.student.parameters()) * 3 < sum(p.numel() for p in net.parameters())


def test_the_lift_is_what_makes_it_so() -> None:
    seeded()
    net = Linear().double().eval()
    data = [torch.randn(4, 2, 12, 12, dtype=torch.float64) for _ in range(4)]
    widths = {"head": 5, "down": 4, "up": 4}
    assert compress(net, None, data=data, widths=widths, start="cut").output_energy < 0.9


def test_a_flattened_map_is_lifted_channel_by_channel() -> None:
    seeded()
    net = nn.Sequential(
        low_rank(nn.Conv2d(2, 8, 1), 2), nn.Flatten(), low_rank(nn.Linear(8 * 9, 6), 3), nn.Linear(6, 2)
    )
    net = net.double().eval()
    data = [torch.randn(30, 2, 3, 3, dtype=torch.float64) for _ in range(2)]
    done = compress(net, None, data=data, widths={"0": 2, "2": 3})
    x = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    assert_close(done.student(x), net(x), rtol=1e-5, atol=1e-6)


def test_grouped_convolutions_are_lifted_within_their_groups() -> None:
    seeded()
    head = nn.Conv2d(2, 8, 1)
    for block in range(2):  # each half of the channels in a plane of its own
        part = slice(4 * block, 4 * block + 4)
        basis = torch.linalg.qr(torch.randn(4, 2))[0]
        head.weight.data[part] = torch.einsum("ab,b...->a...", basis @ basis.T, head.weight.data[part])
    net = nn.Sequential(head, nn.Conv2d(8, 6, 3, groups=2)).double().eval()
    data = [torch.randn(4, 2, 8, 8, dtype=torch.float64) for _ in range(2)]
    done = compress(net, None, data=data, widths={"0": 4})
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    assert_close(done.student(x), net(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match="a multiple of 2"):
        compress(net, None, data=data, widths={"0": 3})


def test_whole_widths_give_the_teacher_again() -> None:
    seeded()
    net = UNet().eval()
    done = compress(net, None, data=noise(2, 1, 16, 16), ratio=1)
    x = torch.randn(2, 1, 16, 16)
    assert_close(done.student(x), net(x), rtol=0, atol=0)
    assert (done.bytes, done.next_bytes, done.unused) == (done.budget, None, 0)
    assert done.student is not net


def test_solve_is_least_squares() -> None:
    seeded()
    samples, basis = torch.randn(500, 5).double() @ torch.randn(5, 5).double(), torch.randn(5, 2).double()
    lift = solve(samples.T @ samples, basis, doubt=0)
    expected = torch.linalg.lstsq(samples @ basis, samples).solution.T
    assert_close(lift, expected)


def test_solve_doubts_what_it_can_not_explain() -> None:
    """A ridge towards the kept coordinates as they are, in proportion to what is lost: augmented least squares."""
    seeded()
    samples = torch.randn(500, 5).double() @ torch.randn(5, 5).double()
    basis = torch.linalg.qr(torch.randn(5, 2).double())[0]
    plain = torch.linalg.lstsq(samples @ basis, samples).solution
    lost = (samples - samples @ basis @ plain).square().sum()
    root = (0.3 * lost / 2).sqrt()
    tall = torch.cat((samples @ basis, root * torch.eye(2).double()))
    expected = torch.linalg.lstsq(tall, torch.cat((samples, root * basis.T))).solution.T
    assert_close(solve(samples.T @ samples, basis, doubt=0.3), expected)
    inside = samples @ basis @ basis.T  # nothing is lost, so nothing is doubted
    assert_close(solve(inside.T @ inside, basis, doubt=0.3), basis, rtol=0, atol=1e-9)


def test_directions_that_hardly_vary_are_not_blown_up() -> None:
    seeded()
    features = torch.randn(2000, 3).double() * torch.tensor([1.0, 1.0, 1e-4]).double()
    features = torch.cat((features, features @ torch.tensor([[1.0], [0.5], [300.0]]).double()), 1)
    features[:, 3] += 0.3 * torch.randn(2000).double()
    keep = torch.eye(4).double()[:, :3]
    covariance = features.T @ features
    assert float(solve(covariance, keep, doubt=0).abs().max()) > 100
    assert float(solve(covariance, keep).abs().max()) < 2


def test_pivots_take_one_of_each_cell_in_turn() -> None:
    matrix = torch.diag(torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])).double()
    assert pivots(matrix, torch.tensor([0, 0, 0, 1, 1, 1])) == [0, 5, 1, 4, 2, 3]
    assert pivots(matrix, torch.zeros(6, dtype=torch.long)) == [0, 1, 2, 5, 4, 3]
