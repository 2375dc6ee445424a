"""compress(): norms over channels say of fewer channels what they said of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _small import noise, seeded
from torch import Tensor, nn
from torch.testing import assert_close

from skd._compression.analysis import Data
from skd._compression.layers import Port
from skd._compression.renorming import renorm
from skd.compressing import compress

pytest.importorskip("torch_pruning")
KEPT = torch.tensor([1, 2, 5, 8])
WIDTH = 9


class RMSNorm(nn.Module):
    """As T5 has it: of no kind that torch knows, without a shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return out


def uneven(*shape: int, axis: int) -> Tensor:
    """Channels of very different strengths: those that are kept are the strong ones."""
    strength = torch.full((WIDTH,), 0.3)
    strength[KEPT] = torch.tensor([3.0, 1.0, 2.0, 4.0])
    x = torch.randn(shape) + 0.2
    return (x.movedim(axis, -1) * strength).movedim(-1, axis)


CASES: list[tuple[Any, Any, tuple[int, ...], int, str]] = [
    (nn.LayerNorm(WIDTH), nn.LayerNorm(4), (6, 7, WIDTH), -1, "0"),
    (RMSNorm(WIDTH), RMSNorm(4), (6, 7, WIDTH), -1, "0.weight"),
    (nn.GroupNorm(1, WIDTH), nn.GroupNorm(1, 4), (6, WIDTH, 3, 5), 1, "0"),
]


@pytest.mark.parametrize(("wide", "narrow", "shape", "axis", "port"), CASES, ids=lambda case: type(case).__name__)
def test_against_numpy_s_regression(wide: Any, narrow: Any, shape: tuple[int, ...], axis: int, port: str) -> None:
    seeded()
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.add_(torch.randn_like(parameter))
        for name, parameter in narrow.named_parameters():
            parameter.copy_(wide.get_parameter(name)[KEPT])
    teacher, student = nn.Sequential(wide), nn.Sequential(narrow)
    data = [uneven(*shape, axis=axis) for _ in range(3)]
    x = torch.cat(data)
    with torch.no_grad():
        ours, theirs = (
            value.movedim(axis, -1).flatten(0, -2).double().numpy()
            for value in (narrow(x.index_select(axis, KEPT)), wide(x).index_select(axis, KEPT))
        )
    assert renorm(teacher, student, {Port(port, "both"): KEPT}, Data(data)) == ["0"]
    with torch.no_grad():
        after = narrow(x.index_select(axis, KEPT)).movedim(axis, -1).flatten(0, -2).double().numpy()
    for channel in range(4):
        columns = [ours[:, channel]] + ([np.ones(len(ours))] if hasattr(narrow, "bias") else [])
        known = np.stack(columns, 1)
        best = known @ np.linalg.lstsq(known, theirs[:, channel], rcond=None)[0]
        np.testing.assert_allclose(after[:, channel], best, rtol=1e-4, atol=1e-5)
    # The narrow norm said too little: the strong channels that were kept are most of what it divides by.
    before = ((ours - theirs) ** 2).mean()
    assert ((after - theirs) ** 2).mean() < 0.7 * before


def test_norms_that_know_no_other_channels_or_lost_none_stay() -> None:
    seeded()
    teacher = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.InstanceNorm2d(WIDTH, affine=True), nn.GroupNorm(1, WIDTH)).eval()
    student = nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(1, WIDTH)).eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    positions = {Port("0", "both"): KEPT, Port("1", "both"): KEPT}
    assert renorm(teacher, student, positions, Data([uneven(2, WIDTH, 4, 5, axis=1)])) == []
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_channels_that_do_not_vary_keep_their_scale() -> None:
    wide, narrow = RMSNorm(3), RMSNorm(2)
    x = torch.randn(50, 3)
    x[:, 1] = 0.0
    renorm(nn.Sequential(wide), nn.Sequential(narrow), {Port("0.weight", "both"): torch.tensor([0, 1])}, Data([x]))
    assert narrow.weight[1].item() == 1.0
    assert bool(narrow.weight.isfinite().all())


@pytest.mark.parametrize("norm", [nn.LayerNorm, RMSNorm])
def test_compress_scales_them(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual stream of which a third is left."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.wide, self.narrow = norm(24), nn.Linear(24, 32), nn.Linear(32, 24)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.narrow(self.wide(self.norm(x)).relu())
            return out

    seeded()
    net = nn.Sequential(nn.Linear(5, 24), Block(), Block(), norm(24), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        net[0].weight.mul_(torch.logspace(-1, 1, 24)[:, None])  # type: ignore[operator, union-attr]
    data = noise(40, 5)
    done = compress(net, None, data=data, ratio=4)
    monkeypatch.setattr("skd.compressing.renorm", lambda *_: [])
    without = compress(net, None, data=data, ratio=4)
    assert done.widths == without.widths
    assert done.output_energy > without.output_energy + 0.01
    hooks = [hook for module in net.modules() for hook in module._forward_hooks]
    assert not hooks
    assert_close(compress(net, None, data=data, ratio=1).student(data[0]), net(data[0]), rtol=0, atol=0)
