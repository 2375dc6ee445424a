"""compress(): sizes and widths under a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from _small import SRResNet, UNet, noise, seeded
from torch import nn
from torch.testing import assert_close

from skd._compression.budget import file_bytes, parse_size, size_text, sizes_of, to_file
from skd._compression.widths import Unit, by_energy, uniform
from skd.compressing import Compressed, compress
from skd.errors import ArgumentError, CompressionError
from skd.pairing import Pairing
from skd.spectra import measure

pytest.importorskip("torch_pruning")


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
