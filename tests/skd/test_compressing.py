"""compress(): budgets, groups on real graphs, weights that are exact where features allow it, both ways to build."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import skd
from skd._compression.analysis import Data, analyse
from skd._compression.budget import file_bytes, parse_size, size_text, sizes_of, to_file
from skd._compression.graph import trace_channels
from skd._compression.groups import find_groups, tied
from skd._compression.narrowing import _difference, find_breaking, half, narrowed
from skd._compression.projection import pivots, solve
from skd._compression.widths import Unit, by_energy, uniform
from skd.compressing import Compressed, compress
from skd.errors import ArgumentError, CompressionError, DataError, FileError, NonFiniteError
from skd.pairing import Pairing
from skd.spectra import measure

pytest.importorskip("torch_pruning")


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def noise(*shape: int, count: int = 4) -> list[Tensor]:
    return [torch.randn(shape) for _ in range(count)]


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.norm(self.first(x))))
        return out


class UNet(nn.Module):
    """Concatenations, transposed convolutions, group and batch norm, a depthwise and a grouped convolution."""

    def __init__(self, widths: Sequence[int] = (8, 16, 24)) -> None:
        super().__init__()
        one, two, three = widths
        self.down1 = nn.Sequential(nn.Conv2d(1, one, 3, padding=1), nn.GroupNorm(2, one), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(one, two, 3, 2, 1), nn.BatchNorm2d(two), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(two, three, 3, 2, 1), nn.ReLU(), Residual(three))
        self.up2 = nn.ConvTranspose2d(three, two, 2, 2)
        self.merge2 = nn.Sequential(
            nn.Conv2d(2 * two, two, 3, padding=1), nn.ReLU(), nn.Conv2d(two, two, 3, padding=1, groups=two)
        )
        self.up1 = nn.ConvTranspose2d(two, one, 2, 2)
        self.merge1 = nn.Sequential(nn.Conv2d(2 * one, one, 3, padding=1, groups=2), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(one, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        up = self.merge2(torch.cat([self.up2(self.middle(two)), two], 1))
        out: Tensor = self.out(self.merge1(torch.cat([self.up1(up), one], 1)))
        return out


class SRResNet(nn.Module):
    """A residual stream and pixel shuffle."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 5, padding=2)
        self.body = nn.Sequential(Residual(width), Residual(width))
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(width))
        self.tail = nn.Conv2d(width, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        out: Tensor = self.tail(self.up(head + self.body(head)))
        return out


def groups_of(model: nn.Module, *args: Any) -> dict[str, tuple[int, str | None]]:
    """Width of every group by name and number, and why it is whole; after the proof by running."""
    groups = find_groups(trace_channels(model, args, {}), model)
    units = tied(groups, model, [])
    with torch.no_grad():
        broken = find_breaking(model.eval(), groups, units, lambda net: net(*args))
    reasons = {k: reason for number, reason in broken.items() for k in units[number]}
    return {f"{group.name}/{k}": (group.width, group.whole or reasons.get(k)) for k, group in enumerate(groups)}


def open_widths(found: dict[str, tuple[int, str | None]]) -> list[int]:
    return sorted(width for width, whole in found.values() if whole is None)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("200 KB", 204_800), ("1.5 MB", 1_572_864), ("200_000 B", 200_000), ("1kb", 1024), (" 2 GB ", 2**31), (7, 7)],
)
def test_sizes_are_read(text: str | int, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize("size", ["200", "KB", "-1 KB", "0 B", 0, -5, 2.5, True, "1 KiB", None])
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(ArgumentError, match="size"):
        parse_size(size)


def test_size_texts() -> None:
    assert [size_text(n) for n in (5, 204_800, 5 * 1024**2)] == ["5 B", "200.0 KB", "5.0 MB"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_are_what_the_safetensors_library_writes(dtype: torch.dtype) -> None:
    library = pytest.importorskip("safetensors.torch")
    seeded()
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 7))
    net[2].bias = net[1].bias  # counted once
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in net.state_dict().items()}
    del state["2.bias"]
    content = to_file(net, dtype)
    assert len(content) == file_bytes(sizes_of(net, dtype)) == len(library.save(state, {"format": "pt"}))
    loaded = library.load(content)
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert_close(loaded[name], tensor, rtol=0, atol=0)


# --- groups ----------------------------------------------------------------------------------------------------------


def test_groups_of_a_unet_with_concatenations() -> None:
    seeded()
    found = groups_of(UNet(), torch.randn(1, 1, 16, 16))
    # down1, down2, middle, inside the residual block, up2, merge2, up1, merge1
    assert open_widths(found) == [8, 8, 8, 16, 16, 16, 24, 24]
    assert sorted(whole for _, whole in found.values() if whole) == ["the network's input", "the network's output"]


def test_groups_of_an_srresnet() -> None:
    seeded()
    found = groups_of(SRResNet(), torch.randn(1, 3, 8, 8))
    assert open_widths(found) == [8, 8, 8, 8]  # the stream, inside each block, the shuffled one
    assert len(found) == 6


def test_what_goes_through_a_shuffle_and_its_inverse_is_one_group() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 6, 1), nn.PixelUnshuffle(2), nn.Conv2d(24, 2, 1)
    )
    assert open_widths(groups_of(net, torch.randn(1, 3, 4, 4))) == [4, 6]


def test_a_flattened_map_keeps_its_positions_together() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5), nn.ReLU(), nn.Linear(5, 2))
    assert open_widths(groups_of(net, torch.randn(2, 1, 6, 6))) == [5, 6]


class Shared(nn.Module):
    """One convolution runs twice, and two others share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.twice = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 1)
        self.one, self.other = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)
        self.other.weight = self.one.weight
        self.tail = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(F.relu(self.twice(F.relu(self.head(x)))))
        out: Tensor = self.tail(F.relu(self.one(x)) * self.other(x))
        return out


def test_shared_layers_and_weights_stay_shared() -> None:
    seeded()
    net = Shared().eval()
    example = torch.randn(2, 1, 5, 5)
    assert open_widths(groups_of(net, example)) == [4, 6]
    done = compress(net, None, data=noise(4, 1, 5, 5), ratio=1.2)
    student = done.student
    assert isinstance(student, Shared)
    assert student.one.weight is student.other.weight
    assert done.bytes <= done.budget
    assert student(example).shape == net(example).shape


class Attending(nn.Module):
    """Squeeze and excitation, and a map of one channel that is broadcast over all."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.squeeze, self.excite = nn.Conv2d(2, 8, 3), nn.Linear(8, 4), nn.Linear(4, 8)
        self.gate, self.tail = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.head(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]
        out: Tensor = self.tail(x * torch.sigmoid(self.gate(x)))
        return out


def test_gates_over_channels_and_positions() -> None:
    assert open_widths(groups_of(Attending(), torch.randn(2, 2, 7, 7))) == [4, 8]


class Tokens(nn.Module):
    """A class token, positions, layer norm and an attention on (B, N, C)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 20), nn.Linear(20, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(x)))
        out: Tensor = self.head(x[:, 0])
        return out


def test_class_tokens_and_attention() -> None:
    """The stream is narrowed with its token and positions; what is cut into heads stays whole."""
    seeded()
    net = Tokens().eval()
    done = compress(net, None, data=noise(20, 3, 8, 8), ratio=1.5)
    whole = {row.whole for row in done.rows if row.whole}
    assert any("attention" in reason or "follow" in reason for reason in whole)
    narrow = {row.kept for row in done.rows if row.width == 20}
    assert narrow != {20}
    assert done.student(torch.randn(2, 3, 8, 8)).shape == (2, 3)


class Mixing(nn.Module):
    """Normalises over channels by hand: narrowing changes what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        out: Tensor = self.tail(x - x.mean(1, keepdim=True))
        return out


class Hard(nn.Module):
    """Its forward knows a width by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        out: Tensor = self.tail(x.view(x.shape[0], 6, *x.shape[2:]))
        return out


@pytest.mark.parametrize(
    ("net", "reason"), [(Mixing(), "depends on all of its channels"), (Hard(), "narrower, the network doesn't run")]
)
def test_what_cannot_be_narrowed_is_found_by_running_it(net: nn.Module, reason: str) -> None:
    found = groups_of(net, torch.randn(1, 1, 4, 4))
    assert open_widths(found) == []
    assert any(reason in (whole or "") for _, whole in found.values())


@torch.no_grad()
def test_the_proof_notices_wrong_positions() -> None:
    """A group whose places in one layer are another order than its channels is no group."""
    seeded()
    net, example = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1)), torch.randn(1, 1, 4, 4)
    with torch.enable_grad():
        groups = find_groups(trace_channels(net, (example,), {}), net)
    k = next(k for k, group in enumerate(groups) if group.whole is None)
    keep = {k: half(groups[k])}
    assert _difference(net, groups, keep, lambda model: model(example)) is None
    reader = next(port for port in groups[k].ports if port.side == "in")
    groups[k].ports[reader] = groups[k].ports[reader].flip(0)
    assert "depends" in (_difference(net, groups, keep, lambda model: model(example)) or "")


# --- weights ---------------------------------------------------------------------------------------------------------


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
    lift = solve(samples.T @ samples, basis)
    expected = torch.linalg.lstsq(samples @ basis, samples).solution.T
    assert_close(lift, expected)


def test_pivots_take_one_of_each_cell_in_turn() -> None:
    matrix = torch.diag(torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])).double()
    assert pivots(matrix, torch.tensor([0, 0, 0, 1, 1, 1])) == [0, 5, 1, 4, 2, 3]
    assert pivots(matrix, torch.zeros(6, dtype=torch.long)) == [0, 1, 2, 5, 4, 3]


# --- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [UNet((8, 16, 24)), SRResNet(16)], ids=["unet", "srresnet"])
@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("allocation", ["energy", "uniform"])
def test_budgets_are_met(net: nn.Module, ratio: float, allocation: Any) -> None:
    channels = 1 if isinstance(net, UNet) else 3
    data = noise(2, channels, 16, 16, count=2)
    done = compress(net.eval(), None, data=data, ratio=ratio, allocation=allocation)
    assert done.bytes == len(to_file(done.student, torch.float32)) <= done.budget == done.teacher_bytes // ratio
    assert done.unused <= 0.03 or (done.next_bytes is not None and done.next_bytes > done.budget)
    with torch.no_grad():
        assert done.student(data[0]).shape == net(data[0]).shape
    assert not any(type(module).__module__.startswith("skd") for module in done.student.modules())


def test_half_precision_holds_twice_as_much() -> None:
    seeded()
    net, data = UNet().eval(), noise(2, 1, 16, 16, count=2)
    one, half_ = (compress(net, None, data=data, size="20 KB", dtype=dtype) for dtype in (torch.float32, torch.float16))
    assert sum(half_.widths.values()) > sum(one.widths.values())
    assert half_.bytes <= 20 * 1024
    assert next(half_.student.parameters()).dtype == torch.float32


def test_spectral_widths_keep_more_energy_than_one_share() -> None:
    seeded()
    net, data = UNet((16, 24, 32)).eval(), noise(4, 1, 16, 16)
    energy, share = (compress(net, None, data=data, ratio=4, allocation=kind) for kind in ("energy", "uniform"))

    def kept(done: Compressed) -> float:
        return sum(math.log(row.energy) for row in done.rows if row.whole is None)

    assert kept(energy) > kept(share)
    assert energy.output_energy > share.output_energy


def test_the_allocation_is_the_best_where_all_can_be_tried() -> None:
    """Two units whose bytes are their product: against all pairs of widths."""
    count = 12
    curves = [
        [math.log(1 - 0.9 ** (k + 1)) for k in range(count)],
        [math.log(1 - 0.5 ** (k + 1)) for k in range(count)],
    ]
    units = [Unit(tuple((k + 1,) for k in range(count)), tuple(curve)) for curve in curves]

    def total(levels: Sequence[int]) -> int:
        return (levels[0] + 1) * (levels[1] + 1)

    def steps(levels: Sequence[int], u: int) -> Any:
        import numpy as np

        other = levels[1 - u] + 1
        return np.array([(k + 1) * other for k in range(count)]) - total(levels)

    chosen = by_energy(units, 40, total, steps)
    values = {(a, b): curves[0][a] + curves[1][b] for a in range(count) for b in range(count) if total((a, b)) <= 40}
    assert values[chosen[0], chosen[1]] >= sorted(values.values())[-3]
    assert len(set(uniform(units, 40, total))) == 1


def test_minimum_and_multiple() -> None:
    seeded()
    net, data = SRResNet(16).eval(), noise(2, 3, 12, 12, count=2)
    done = compress(net, None, data=data, ratio=3, minimum=6, multiple=4)
    kept = [row.kept for row in done.rows if row.whole is None]
    assert all(width % 4 == 0 and width >= 6 for width in kept)
    with pytest.raises(CompressionError, match=r"can't be made that small.*at least [\d,]+ bytes.*minimum"):
        compress(net, None, data=data, size="1 KB", minimum=6)


def test_an_impossible_budget_names_the_smallest_size_which_is_possible() -> None:
    seeded()
    net, data = UNet().eval(), noise(2, 1, 16, 16, count=2)
    with pytest.raises(CompressionError, match=r"can't be made that small") as caught:
        compress(net, None, data=data, size=2_000)
    smallest = int(str(caught.value.expected).split()[2].replace(",", ""))
    assert compress(net, None, data=data, size=smallest).bytes == smallest


def test_both_sides_of_a_pair_keep_the_same_share() -> None:
    seeded()
    net, data = UNet((8, 16, 24)).eval(), noise(2, 1, 16, 16, count=2)
    pairing = Pairing.declare([("down2", "up2"), ("down1", "up1")], net, data[0])
    done = compress(net, measure(net, pairing, data), data=data, ratio=3)
    kept = {row.group: (row.kept, row.width) for row in done.rows}
    assert kept["down2.0"] == kept["up2"]
    assert kept["down1.0"] == kept["up1"]
    free = compress(net, None, data=data, ratio=3)
    assert {row.group: row.kept for row in free.rows} != {row.group: row.kept for row in done.rows}


# --- both ways to build ----------------------------------------------------------------------------------------------


def test_a_student_from_a_factory_is_filled_by_name() -> None:
    seeded()
    full = (8, 16, 24)
    net, data = UNet(full).eval(), noise(2, 1, 16, 16, count=2)
    done = compress(net, None, data=data, ratio=3, build=UNet, full=full, multiple=2)
    student = done.student
    assert isinstance(student, UNet)
    again = UNet((student.down1[0].out_channels, student.down2[0].out_channels, student.middle[0].out_channels))
    again.load_state_dict(student.state_dict())
    assert_close(again.eval()(data[0]), student(data[0]))
    assert done.bytes <= done.budget
    assert done.unused <= 0.03 or (done.next_bytes or 0) > done.budget
    # the same widths by the automatic way are the same network
    auto = compress(net, None, data=data, widths=done.widths)
    assert_close(auto.student(data[0]), student(data[0]), rtol=1e-4, atol=1e-5)


def test_the_widths_of_a_factory_can_have_names() -> None:
    seeded()
    data = noise(2, 3, 8, 8, count=2)

    def build(widths: dict[str, int]) -> nn.Module:
        return SRResNet(widths["all"])

    net = build({"all": 12}).eval()
    done = compress(net, None, data=data, build=build, full={"all": 12}, widths={"all": 5})
    assert {row.kept for row in done.rows if row.whole is None} == {5}


def test_a_factory_that_builds_something_else_is_refused() -> None:
    net, data = SRResNet(8).eval(), noise(2, 3, 8, 8, count=2)
    with pytest.raises(ArgumentError, match=r"isn't the teacher.*full="):
        compress(net, None, data=data, ratio=2, build=lambda w: SRResNet(*w), full=(6,))
    with pytest.raises(ArgumentError, match="build= needs the widths"):
        compress(net, None, data=data, ratio=2, build=lambda w: SRResNet(*w))

    def odd(widths: tuple[int]) -> nn.Module:
        made = SRResNet(*widths)
        made.tail = nn.Conv2d(made.tail.in_channels, 3, 5 if widths == (8,) else 3, padding=2)
        return made

    with pytest.raises(CompressionError, match=r"'tail.weight' doesn't fit"):
        compress(net, None, data=data, ratio=2, build=odd, full=(8,))


def test_a_norm_that_wants_multiples() -> None:
    data = noise(2, 1, 8, 8, count=2)

    def build(widths: tuple[int]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, widths[0], 5), nn.GroupNorm(4, widths[0]), nn.Conv2d(widths[0], 1, 1))

    net = build((32,)).eval()
    done = compress(net, None, data=data, ratio=1.5, build=build, full=(32,))
    assert done.student[0].out_channels % 4 == 0
    assert compress(net, None, data=data, ratio=1.5).student[0].out_channels % 4 == 0


# --- saving ----------------------------------------------------------------------------------------------------------

LOADING = """
import sys, torch
program = torch.export.load(sys.argv[1])
print(float(program.module()(torch.ones(1, 3, 8, 8)).sum()))
assert not any(name.split(".")[0] in ("skd", "torch_pruning") for name in sys.modules)
"""


def test_an_exported_student_runs_where_there_is_no_skd(tmp_path: Path) -> None:
    seeded()
    net, data = SRResNet(8).eval(), noise(1, 3, 8, 8, count=2)
    done = compress(net, None, data=data, ratio=2)
    done.export(tmp_path / "student.pt2", data[0])
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", LOADING, str(tmp_path / "student.pt2")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(
        done.student(torch.ones(1, 3, 8, 8)).detach().sum().item(), rel=1e-4, abs=1e-4
    )


def test_files_of_a_student(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    seeded()
    net, data = SRResNet(8).eval(), noise(2, 3, 8, 8, count=2)
    done = compress(net, None, data=data, ratio=2, dtype=torch.float16)
    done.save(tmp_path / "student.safetensors")
    assert (tmp_path / "student.safetensors").stat().st_size == done.bytes
    again = copy.deepcopy(done.student)
    again.load_state_dict(library.load_file(tmp_path / "student.safetensors"))
    assert_close(again(data[0]), done.student(data[0]), rtol=1e-2, atol=1e-2)
    done.save_widths(tmp_path / "widths.json")
    widths = Compressed.load_widths(tmp_path / "widths.json")
    assert widths == done.widths
    twin = compress(net, None, data=data, widths=widths)
    assert_close(twin.student(data[0]), done.student(data[0]))


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "skd.widths", "version": 9, "widths": {}}', "[1]"])
def test_damaged_widths_files(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "widths.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FileError, match=r"widths\.json"):
        Compressed.load_widths(path)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_bad_arguments() -> None:
    net, data = SRResNet(4).eval(), noise(2, 3, 8, 8, count=1)
    with pytest.raises(ArgumentError, match="one of size=, ratio= and widths="):
        compress(net, None, data=data)
    with pytest.raises(ArgumentError, match="one of size=, ratio= and widths="):
        compress(net, None, data=data, ratio=2, size=5)
    for ratio in (0.5, math.nan):
        with pytest.raises(ArgumentError, match="how many times smaller"):
            compress(net, None, data=data, ratio=ratio)
    for name in ("allocation", "start", "bases"):
        with pytest.raises(ArgumentError, match=f"there is no such {name}"):
            compress(net, None, data=data, ratio=2, **{name: "other"})
    with pytest.raises(ArgumentError, match="no group that can be narrowed has this name"):
        compress(net, None, data=data, widths={"nothing": 2})
    with pytest.raises(ArgumentError, match="can't have this width"):
        compress(net, None, data=data, widths={"head": 5})


def test_bad_data() -> None:
    seeded()
    net = nn.Sequential(nn.Conv2d(3, 12, 8), nn.ReLU(), nn.Conv2d(12, 2, 1)).eval()
    with pytest.raises(DataError, match="no data"):
        compress(net, None, data=[], ratio=2)
    with pytest.raises(DataError, match="aren't batches"):
        compress(net, None, data=torch.zeros(2, 3, 8, 8), ratio=2)
    with pytest.raises(DataError, match=r"too few positions.*layer '2'.*10 positions for 12 channels.*at least 13"):
        compress(net, None, data=noise(5, 3, 8, 8, count=2), ratio=2)
    with pytest.raises(DataError, match="constant"):
        compress(net, None, data=[torch.zeros(20, 3, 8, 8)], ratio=2)
    with pytest.raises(NonFiniteError, match="layer '2' is given NaN or infinity on batch 1"):
        compress(net, None, data=[torch.randn(9, 3, 9, 9), torch.full((9, 3, 9, 9), math.nan)], ratio=2)


def test_an_iterator_is_read_once() -> None:
    seeded()
    net = SRResNet(4).eval()
    done = compress(net, None, data=iter(noise(2, 3, 8, 8, count=3)), ratio=2, batches=2)
    assert done.bytes <= done.budget


class Cut(nn.Module):
    """A network whose gradient is cut in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.middle, self.tail = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tail(self.middle(self.head(x)).detach())
        return out


def test_what_no_gradient_passes_is_whole_and_named() -> None:
    seeded()
    done = compress(Cut().eval(), None, data=noise(2, 1, 4, 4, count=2), ratio=1)
    assert done.widths == {}
    assert any("'head', 'middle'" in note for note in done.notes)


def test_a_network_that_does_not_run_says_where() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(5, 1, 1))
    with pytest.raises(RuntimeError) as caught:
        compress(net, None, data=noise(2, 1, 4, 4, count=2), ratio=2)
    assert any("'1'" in note for note in getattr(caught.value, "__notes__", []))


def test_the_teacher_is_left_as_it_was() -> None:
    seeded()
    net = UNet().train()
    net.down1[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    compress(net, None, data=noise(2, 1, 16, 16, count=2), ratio=2)
    assert [module.training for module in net.modules()] == flags
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {"down1.0.weight"}
    assert not any(module._forward_pre_hooks for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)
    del state


def test_the_report_is_a_table() -> None:
    seeded()
    net, data = SRResNet(8).eval(), noise(2, 3, 8, 8, count=2)
    text = str(compress(net, None, data=data, size="8 KB"))
    assert text.startswith("Compressed ")
    assert "of 8,192 bytes" in text
    assert "tail is whole: the network's output" in text
    assert json.loads(json.dumps(compress(net, None, data=data, size="8 KB").widths))


def test_analysis_of_kbstyle_has_three_levels() -> None:
    """Content encoder, style encoder and decoder share the three streams; each block has one group more."""
    networks = pytest.importorskip("kbstyle_example.networks")
    seeded()
    net = networks.KBStyle(networks.KBStyleConfig((4, 6, 8))).eval()
    data = [(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 40)) for _ in range(2)]
    found = analyse(net, None, Data.of(data, None, None), rotated=False)
    streams = sorted(group.width for group in found.groups if len(group.ports) > 4 and group.whole is None)
    assert streams == [4, 6, 8]
    blocks = 2 * (2 + 3) + 2
    assert len(found.choices) == 3 + blocks
    done = compress(
        net, None, data=data, ratio=2, build=lambda w: networks.KBStyle(networks.KBStyleConfig(w)), full=(4, 6, 8)
    )
    assert done.bytes <= done.budget
    assert done.student.config.widths != (4, 6, 8)


def test_narrowed_copies_share_nothing_with_the_network() -> None:
    net = SRResNet(4)
    groups = find_groups(trace_channels(net, (torch.randn(1, 3, 8, 8),), {}), net)
    twin = narrowed(net, groups, {k: half(g) for k, g in enumerate(groups) if g.whole is None})
    ours, theirs = ({p.data_ptr() for p in each.parameters()} for each in (net, twin))
    assert not ours & theirs


def test_the_public_name() -> None:
    assert skd.compress is compress
    assert skd.Compressed is Compressed
