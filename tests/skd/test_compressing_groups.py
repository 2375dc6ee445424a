"""compress(): which channels are one group on real graphs, and what stays whole."""

from __future__ import annotations

import pytest
import torch
from _small import SRResNet, UNet, groups_of, noise, open_widths, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from skd._compression.groups import find_groups
from skd._compression.narrowing import _difference, half
from skd._compression.tracing import trace_channels
from skd.compressing import compress

pytest.importorskip("torch_pruning")


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


class Placed(nn.Module):
    """Positions are added without a gradient, by a decorated function and in a block, as tables of sines are."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.middle, self.tail = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.table = nn.Parameter(torch.randn(5, 8))

    @torch.no_grad()
    def places(self, x: Tensor) -> Tensor:
        return self.table[: x.shape[1]]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.middle(self.head(x) + self.places(x)))
        with torch.no_grad():
            scale = torch.ones_like(x)
        out: Tensor = self.tail(x * scale)
        return out


def test_what_a_network_computes_without_gradient_hides_nothing() -> None:
    assert open_widths(groups_of(Placed(), torch.randn(2, 4, 3))) == [6, 8]
    assert torch.is_grad_enabled()


class Counted(nn.Module):
    """Forward knows that one layer has as many channels as another, where no operation says so, as SegFormer's does."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.reduce, self.free = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(1, 8, 1)
        self.norm, self.tail, self.other = nn.LayerNorm(8), nn.Linear(8, 1), nn.Conv2d(8, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        tokens = self.reduce(head).reshape(len(x), head.shape[1], -1).transpose(1, 2)
        out: Tensor = self.tail(self.norm(tokens)).sum((1, 2)) + self.other(self.free(x)).flatten()
        return out


def test_layers_that_only_fit_each_other_as_they_are_stay_whole() -> None:
    seeded()
    found = groups_of(Counted(), torch.randn(2, 1, 4, 4))
    assert open_widths(found) == [8]
    assert next(name for name, (_, whole) in found.items() if whole is None).startswith("free")
    done = compress(Counted().eval(), None, data=noise(8, 1, 4, 4, count=2), ratio=1.1)
    assert done.student(torch.zeros(2, 1, 4, 4)).shape == (2,)


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


def test_a_gate_keeps_both_halves_of_its_channels() -> None:
    """`nn.GLU`: channel c of the result is made of c and c + half, so the two are dropped together."""
    seeded()
    net = nn.Sequential(nn.Conv1d(1, 6, 4, 2), nn.Conv1d(6, 16, 1), nn.GLU(1), nn.Conv1d(8, 2, 1)).eval()
    found = groups_of(net, torch.randn(1, 1, 20))
    assert open_widths(found) == [6, 8]
    done = compress(net, None, data=noise(4, 1, 20), widths={"1": 5}, start="cut")
    narrow = done.student
    assert isinstance(narrow, nn.Sequential)
    rows = [int((net[1].weight == row).all((1, 2)).nonzero()) for row in narrow[1].weight]  # type: ignore[union-attr]
    assert len(set(rows[:5])) == 5
    assert rows[5:] == [row + 8 for row in rows[:5]]
    torch.testing.assert_close(narrow[3].weight, net[3].weight[:, rows[:5]])  # type: ignore[index]


class Conv1D(nn.Module):
    """GPT-2's linear layer, as transformers has it: its weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(0.2 * torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


def test_a_linear_layer_whose_weight_lies_the_other_way_round() -> None:
    """Compressed like the linear layer that it is, and given back as it was."""
    seeded()
    net = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), Conv1D(8, 12), nn.ReLU(), nn.Linear(8, 2)).eval()
    twin = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    state = net.state_dict()
    twin.load_state_dict({**state, "2.weight": state["2.weight"].t()})
    data = noise(16, 3)
    ours, theirs = (compress(each, None, data=data, ratio=2) for each in (net, twin))
    assert ours.widths == theirs.widths
    layer = ours.student[2]  # type: ignore[index]
    assert type(layer) is Conv1D
    assert (layer.nx, layer.nf) == tuple(layer.weight.shape)
    torch.testing.assert_close(ours.student(data[0]), theirs.student(data[0]))
    assert type(net[2]) is Conv1D
    torch.testing.assert_close(net.state_dict(), state)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_norms_with_and_without_weights_before_activations_in_place(affine: bool, inplace: bool) -> None:
    """MONAI's blocks have the one, CycleGAN's the other: neither may keep a channel that is gone."""
    seeded()
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.InstanceNorm2d(12, affine=affine),
        nn.Dropout(0.1),
        nn.LeakyReLU(0.1, inplace=inplace),
        nn.Conv2d(12, 2, 1),
    )
    assert open_widths(groups_of(net.eval(), torch.randn(2, 1, 8, 8))) == [12]
    data = noise(4, 1, 8, 8)
    done = compress(net, None, data=data, widths={"0": 5}, start="cut")
    norm = done.student[1]  # type: ignore[index]
    assert norm.num_features == 5
    assert not norm._forward_pre_hooks
    kept = [int((net[0].weight == row).all((1, 2, 3)).nonzero()) for row in done.student[0].weight]  # type: ignore[index, union-attr]
    if affine:
        torch.testing.assert_close(norm.weight, net[1].weight[kept])  # type: ignore[index]
    with torch.no_grad():
        middle = nn.functional.instance_norm(net[0](data[0])[:, kept])
        wanted = nn.functional.conv2d(nn.functional.leaky_relu(middle, 0.1), net[4].weight[:, kept], net[4].bias)  # type: ignore[index, arg-type]
        torch.testing.assert_close(done.student(data[0]), wanted)
