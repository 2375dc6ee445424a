"""Two processes against one with the joined batch: the same gradients of the student and of the adapters.

The losses are means over samples (mse): DDP averages the processes' gradients, which is the gradient of the joined
batch only for these. A loss that is divided by its batch's energy (normalised_mse) is a mean of two ratios then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skd import Distiller
from skd.adapters import ChannelAdapter
from skd.distances import mse
from skd.knowledge import centred, mean_std
from skd.methods import Through, Transfer


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, width, 3, 2, 1)
        self.code = nn.Conv2d(width, width, 3, 1, 1)
        self.up = nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.code(self.down(x).relu()).relu())


def make() -> Distiller:
    """One shared learned adapter, a second run of the teacher, and the output; all the student's layers are reached."""
    torch.manual_seed(0)
    teacher, student = Net(6), Net(4)
    shared = ChannelAdapter(4, 6)
    through = Through({"code": "code"}, {"code": ChannelAdapter(4, 6)})
    rows = [
        Transfer("down", "down", "down", centred, mse, student_adapters=shared),
        Transfer("code", "code", "code", mean_std, mse, 0.5, student_adapters=shared),
        Transfer("again", "", "", through=through),
        Transfer("output", "", "", weight=2.0),
    ]
    return Distiller(teacher, student, rows)


def batch() -> Tensor:
    return torch.randn(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def work(rank: int) -> dict[str, Any]:
    """One of the two processes."""
    distiller = make()
    parallel = DistributedDataParallel(distiller)
    step = parallel(batch()[2 * rank : 2 * rank + 2])
    step.losses.total.backward()
    gradients = {name: p.grad for name, p in distiller.named_parameters()}
    return {"gradients": gradients, "output": step.output.detach()}


def test_two_processes_give_the_gradients_of_one(ranks: Callable[..., Any]) -> None:
    ended = ranks(work)
    assert [process.code for process in ended] == [0, 0], ended
    results = [process.result for process in ended]
    distiller = make()
    step = distiller(batch())
    step.losses.total.backward()
    torch.testing.assert_close(torch.cat([result["output"] for result in results]), step.output)
    expected = {name: p.grad for name, p in distiller.named_parameters()}
    assert {name.split(".")[0] for name in expected} == {"student", "adapters"}
    assert all(float(gradient.abs().max()) > 0 for gradient in expected.values())
    for result in results:
        torch.testing.assert_close(result["gradients"], expected, rtol=1e-5, atol=1e-7)

    # The guard: half the batch alone gives other gradients.
    distiller.zero_grad()
    distiller(batch()[:2]).losses.total.backward()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(results[0]["gradients"], {n: p.grad for n, p in distiller.named_parameters()})
