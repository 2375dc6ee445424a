"""compress(): what is refused, and what it says."""

from __future__ import annotations

import math

import pytest
import torch
from _small import SRResNet, noise, seeded
from torch import Tensor, nn

from skd.compressing import compress
from skd.errors import ArgumentError, CompressionError, DataError, NonFiniteError

pytest.importorskip("torch_pruning")


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


def test_channels_that_lead_to_ever_more_are_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded()
    net, data = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1)), noise(2, 1, 4, 4, count=2)
    compress(net, None, data=data, ratio=1)
    monkeypatch.setattr("skd._compression.graph.MOST", 0)
    with pytest.raises(CompressionError, match=r"channels can't be traced; got RecursionError.*give build="):
        compress(net, None, data=data, ratio=1)


def test_a_student_that_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded()
    net, data = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1)), noise(2, 1, 4, 4, count=2)

    def broken(*_: object) -> nn.Module:
        raise RuntimeError("shape '[4, 7, -1]'\nis invalid")

    monkeypatch.setattr("skd.compressing.run_once", lambda *_: broken)
    with pytest.raises(CompressionError, match=r"doesn't run; got RuntimeError: shape '\[4, 7, -1\]' is invalid"):
        compress(net, None, data=data, widths={"0": 3})


def test_a_network_that_does_not_run_says_where() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(5, 1, 1))
    with pytest.raises(RuntimeError) as caught:
        compress(net, None, data=noise(2, 1, 4, 4, count=2), ratio=2)
    assert any("'1'" in note for note in getattr(caught.value, "__notes__", []))
