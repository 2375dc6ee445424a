"""The distiller in Lightning Fabric, as docs/engines.rst shows it, against the loop by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _engines import Batch, Rows, Staged, batches, by_hand, make, weights
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from skd import Distiller

pytest.importorskip("lightning_fabric")

METHODS = {"all": Rows, "freezing": Staged}


def run(code: str, distiller: Distiller, given: list[Batch], size: int = 4, **options: Any) -> dict[str, Any]:
    """Train by the example; the names it leaves."""
    dataset = TensorDataset(*(torch.cat(values) for values in zip(*given, strict=True)))
    names: dict[str, Any] = {
        "torch": torch,
        "distiller": distiller,
        "task_loss": F.mse_loss,
        "loader": DataLoader(dataset, batch_size=size),
        "options": {"accelerator": "cpu", "devices": 1, **options},
    }
    exec(code, names)
    return names


@pytest.mark.parametrize("method", list(METHODS))
def test_weights_are_those_of_the_loop_by_hand(method: str, examples: dict[str, str]) -> None:
    distiller = make(METHODS[method]())
    names = run(examples["fabric"], distiller, batches(5))
    expected = by_hand(make(METHODS[method]()), [[batch] for batch in batches(5)])
    torch.testing.assert_close(weights(distiller), expected, rtol=0, atol=0)
    assert distiller.steps_done == 5
    # What Fabric saves has no teacher in it.
    assert {name.removeprefix("distiller.") for name in names["model"].state_dict()} == distiller.state_dict().keys()


def test_a_checkpoint_goes_on_where_it_stood(examples: dict[str, str], tmp_path: Any) -> None:
    distiller = make(Staged())
    names = run(examples["fabric"], distiller, batches(3))
    names["fabric"].save(tmp_path / "state.ckpt", {"model": names["model"]})
    fresh = make(Staged())
    names["fabric"].load(tmp_path / "state.ckpt", {"model": names["Task"](fresh)})
    assert (fresh.steps_done, fresh.active) == (3, distiller.active)
    torch.testing.assert_close(weights(fresh), weights(distiller), rtol=0, atol=0)


def test_mixed_precision_is_plain_autocast(examples: dict[str, str]) -> None:
    distiller, other = make(), make()
    run(examples["fabric"], distiller, batches(4), precision="bf16-mixed")
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for pair in batches(4):
        x, y = (value.bfloat16() for value in pair)  # so Fabric hands them over
        with torch.autocast("cpu", torch.bfloat16):
            step = other(x)
            loss = F.mse_loss(step.output, y) + step.losses.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        other.advance()
    assert {value.dtype for value in weights(distiller).values()} == {torch.float32}
    torch.testing.assert_close(weights(distiller), weights(other), rtol=0, atol=0)
    # The guard: in full precision the weights are others.
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(weights(distiller), by_hand(make(), [[batch] for batch in batches(4)]))


def test_a_distiller_by_itself_is_refused_by_fabric() -> None:
    """Why the example has a module around it: a Step is read-only, and Fabric wants to write into it."""
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    model = fabric.setup(make())
    with pytest.raises(ValueError, match="frozen dataclass"):
        model(batches(1)[0][0])


def work(rank: int, code: str) -> dict[str, Tensor]:
    # As torchrun sets them; the group is there already, so nobody listens at the port.
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="localhost", MASTER_PORT="1")
    distiller = make()
    run(code, distiller, batches(4), size=2, devices=2, strategy="ddp")
    return weights(distiller)


def test_two_processes_train_as_one(ranks: Callable[..., Any], examples: dict[str, str]) -> None:
    """Fabric's sampler deals out the samples one by one: 0, 2 to the first process and 1, 3 to the second."""
    ended = ranks(work, examples["fabric"])
    assert [process.code for process in ended] == [0, 0], ended
    expected = by_hand(make(), [[batch] for batch in batches(4)])
    for process in ended:
        torch.testing.assert_close(process.result, expected)
