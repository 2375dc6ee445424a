"""compress(): attentions keep their heads, and each head as many of its channels."""

from __future__ import annotations

import pytest
import torch
from _small import seeded
from torch import Tensor, nn
from torch.nn import functional as F

from skd.compressing import compress

pytest.importorskip("torch_pruning")
HEADS, WIDTH, LEFT = 2, 16, 4


class Attention(nn.Module):
    """Two heads; `how` says where the products' scale comes from."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.num_heads, self.head_dim = how, HEADS, WIDTH // HEADS
        self.scale = self.head_dim**-0.5
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(6, WIDTH) for _ in range(3))
        self.o_proj = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.how == "function":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scale = self.scale if self.how == "kept" else self.head_dim**-0.5
            mixed = (q @ k.transpose(2, 3) * scale).softmax(-1) @ v
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(*x.shape[:2], self.num_heads * self.head_dim))
        return out


def lossless(how: str) -> nn.Sequential:
    """An attention in which half of each head's channels are zero, elsewhere in each head."""
    seeded()
    net = nn.Sequential(nn.Identity(), Attention(how)).eval()
    gone = torch.tensor([0, 2, 5, 7, 8 + 1, 8 + 2, 8 + 3, 8 + 6])
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            layer = net.get_submodule(f"1.{name}")
            layer.weight[gone], layer.bias[gone] = 0.0, 0.0  # type: ignore[index, operator]
    return net


@pytest.mark.parametrize("how", ["function", "computed", "kept"])
def test_heads_are_narrowed_alike_and_scaled_as_they_were(how: str) -> None:
    net = lossless(how)
    data = [torch.randn(16, 7, 6) for _ in range(4)]
    whole = compress(net, None, data=data, ratio=1)
    (name,) = [row.group for row in whole.rows if row.width == WIDTH]
    done = compress(net, None, data=data, widths={name: HEADS * LEFT})
    narrow = done.student[1]  # type: ignore[index]
    assert (narrow.num_heads, narrow.head_dim) == (HEADS, LEFT)
    assert [narrow.get_submodule(f"{side}_proj").weight.shape[0] for side in "qkv"] == [HEADS * LEFT] * 3
    torch.testing.assert_close(done.student(data[0]), net(data[0]), rtol=1e-4, atol=1e-5)
    assert done.output_energy == pytest.approx(1.0, abs=1e-5)


def test_widths_of_heads_are_of_all_heads() -> None:
    """A width that heads can't share is the next that they can."""
    net = lossless("function")
    data = [torch.randn(16, 7, 6) for _ in range(4)]
    for ratio in (1.3, 1.6, 2.0):
        done = compress(net, None, data=data, ratio=ratio)
        assert done.bytes <= done.budget
        narrow = done.student[1]  # type: ignore[index]
        assert narrow.q_proj.out_features % HEADS == 0
        assert done.student(data[0]).shape == (16, 7, 5)


def test_torch_s_own_attention_stays_whole_and_is_named() -> None:
    seeded()
    layer = nn.TransformerEncoderLayer(8, 2, 24, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)).eval()
    data = [torch.randn(16, 7, 6) for _ in range(4)]
    done = compress(net, None, data=data, ratio=1.1)
    whole = {row.group: row.whole for row in done.rows if row.width == 8}
    assert all(reason is not None and "attention" in reason for reason in whole.values())
    assert whole
    assert done.widths.keys() == {"1.linear1"}
    assert done.student(data[0]).shape == (16, 7, 3)
