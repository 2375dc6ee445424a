"""Two processes with a sharded student (FSDP2), as docs/engines.rst shows it, against one with the joined batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _engines import Net, Rows, Staged, batches, by_hand, half, make, weights
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from skd import Distiller

METHODS = {"all": Rows, "freezing": Staged, "not freezing": lambda: Staged(freeze=False)}


def whole(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.full_tensor() for name, value in values.items()}


def shard(distiller: Distiller) -> Distiller:
    for module in (*distiller.student.children(), distiller.student, distiller):
        fully_shard(module)
    return distiller


def gradients(rank: int) -> dict[str, Tensor]:
    """Of one step, and the plainest facts of what is sharded."""
    distiller = shard(make())
    assert isinstance(distiller, FSDPModule)
    assert all(isinstance(p, DTensor) for p in distiller.parameters())
    assert not any(isinstance(p, DTensor) for p in distiller.teacher.parameters())
    for x, y in half(batches(1), rank):
        step = distiller(x)
        (step.losses.total + F.mse_loss(step.output, y)).backward()
    return whole({name: p.grad for name, p in distiller.named_parameters()})


def test_gradients_are_those_of_the_joined_batch(ranks: Callable[..., Any]) -> None:
    ended = ranks(gradients)
    assert [process.code for process in ended] == [0, 0], ended
    distiller = make()
    x, y = batches(1)[0]
    step = distiller(x)
    (step.losses.total + F.mse_loss(step.output, y)).backward()
    expected = {name: p.grad for name, p in distiller.named_parameters()}
    assert {name.split(".")[0] for name in expected} == {"student", "adapters"}
    for process in ended:
        torch.testing.assert_close(process.result, expected, rtol=1e-5, atol=1e-7)
    distiller.zero_grad()
    distiller(x[:2]).losses.total.backward()  # the guard: half a batch gives others
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(ended[0].result, {name: p.grad for name, p in distiller.named_parameters()})


def train(rank: int, code: str, method: str) -> dict[str, Tensor]:
    distiller = make(METHODS[method]())
    names = {"torch": torch, "distiller": distiller, "loader": half(batches(5), rank), "task_loss": F.mse_loss}
    exec(code, names)
    return whole(weights(distiller))


@pytest.mark.parametrize("method", list(METHODS))
def test_weights_after_some_steps(method: str, ranks: Callable[..., Any], examples: dict[str, str]) -> None:
    """A stage that ends needs nothing here, whether it froze layers or not."""
    ended = ranks(train, examples["fsdp"], method)
    assert [process.code for process in ended] == [0, 0], ended
    expected = by_hand(make(METHODS[method]()), [[b] for b in batches(5)])
    start = weights(make())
    assert all(not torch.equal(value, start[name]) for name, value in expected.items())
    for process in ended:
        torch.testing.assert_close(process.result, expected)


def save_and_load(rank: int, code: str, folder: str) -> dict[str, Any]:
    """Trained weights go into a file; other ones, from the file, take their place."""
    os.chdir(folder)
    distiller = shard(make(Staged()))
    by_hand(distiller, [[batch] for batch in half(batches(3), rank)], task=False)
    expected = whole(weights(distiller))
    saving, loading = code.split("torch.distributed.barrier()\n")
    names: dict[str, Any] = {"torch": torch, "distiller": distiller, "rank": rank}
    exec(saving, names)
    torch.distributed.barrier()
    fresh = shard(Distiller(Net(6), Net(4), Staged()))
    names["distiller"] = fresh
    exec(loading, names)
    torch.testing.assert_close(whole(weights(fresh)), expected, rtol=0, atol=0)
    # It goes on in the second stage as the other does.
    assert (fresh.steps_done, fresh.stage, fresh.active) == (3, distiller.stages[1], distiller.active)
    for module, p in ((fresh, dict(fresh.named_parameters())), (distiller, dict(distiller.named_parameters()))):
        assert module.steps_done == 3
        assert [name.split(".")[1] for name, value in p.items() if not value.requires_grad] == ["down", "down"]
    return {"keys": list(get_model_state_dict(fresh, options=StateDictOptions(full_state_dict=True))), **expected}


def test_a_state_dict_goes_round_without_the_teacher(
    ranks: Callable[..., Any], examples: dict[str, str], tmp_path: Any
) -> None:
    ended = ranks(save_and_load, examples["fsdp-save"], str(tmp_path))
    assert [process.code for process in ended] == [0, 0], ended
    state = torch.load(tmp_path / "distiller.pt", weights_only=True)
    one = make(Staged())
    assert state.keys() == one.state_dict().keys()
    assert set(ended[0].result.pop("keys")) == state.keys()
    one.load_state_dict(state)  # a process without shards takes it, too
    assert one.steps_done == 3
    torch.testing.assert_close(weights(one), ended[0].result, rtol=0, atol=0)
