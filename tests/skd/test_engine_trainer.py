"""The distiller in Hugging Face's Trainer, as docs/engines.rst shows it, against the loop by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _engines import Batch, Rows, Staged, batches, by_hand, make, weights
from torch import Tensor

from skd import Distiller

METHODS = {"all": Rows, "freezing": Staged}
STEPS = 5
# Nothing that the loop by hand doesn't do.
OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": STEPS,
    "save_steps": 3,
    "train_sampling_strategy": "sequential",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}


def run(code: str, distiller: Distiller, given: list[Batch], resume: str | None = None, **options: Any) -> list[float]:
    """Train by the example, in the present folder; the losses that were logged."""
    names: dict[str, Any] = {
        "torch": torch,
        "distiller": distiller,
        "task_loss": F.mse_loss,
        "dataset": [{"x": x, "y": y} for xs, ys in given for x, y in zip(xs, ys, strict=True)],
        "options": {**OPTIONS, **options},
    }
    exec(code, names)
    names["trainer"].train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in names["trainer"].state.log_history if "loss" in entry]


@pytest.fixture
def code(examples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example, in an empty folder."""
    pytest.importorskip("transformers")
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.chdir(tmp_path)
    yield examples["trainer"]
    # Trainer sets accelerate up for the whole process; the next test may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("method", list(METHODS))
def test_weights_are_those_of_the_loop_by_hand(method: str, code: str) -> None:
    distiller, given = make(METHODS[method]()), batches(STEPS)
    losses = run(code, distiller, given, logging_steps=1)
    assert distiller.steps_done == STEPS
    expected = by_hand(make(METHODS[method]()), [[batch] for batch in given])
    torch.testing.assert_close(weights(distiller), expected)
    x, y = given[0]
    with torch.no_grad():
        step = make(METHODS[method]())(x)
        first = float(step.losses.total + F.mse_loss(step.output, y))
    assert losses[0] == pytest.approx(first, abs=1e-5)


def test_accumulated_gradients(code: str) -> None:
    distiller, given = make(), batches(6)
    run(code, distiller, given, gradient_accumulation_steps=2, max_steps=3)
    expected = by_hand(make(), [given[i : i + 2] for i in (0, 2, 4)])
    torch.testing.assert_close(weights(distiller), expected)
    assert distiller.steps_done == 3


def test_a_checkpoint_leaves_the_teacher_out_and_resuming_goes_on_there(code: str) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    given = batches(STEPS)
    through = make(Staged())
    run(code, through, given)
    saved = load_file("out/checkpoint-3/model.safetensors")
    assert {name.removeprefix("distiller.") for name in saved} == through.state_dict().keys()
    assert int(saved["distiller._extra_state"]) == 3
    # Resumed by a process that knows nothing of the first: other weights, the first stage.
    again = make(Staged())
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    run(code, again, given, resume="out/checkpoint-3")
    assert again.steps_done == STEPS
    torch.testing.assert_close(weights(again), weights(through), rtol=0, atol=0)
    # The guard: without the checkpoint it isn't so.
    other = make(Staged())
    run(code, other, given, max_steps=2)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(weights(other), weights(through))


def work(rank: int, code: str, folder: str) -> dict[str, Tensor]:
    # As torchrun sets them; the group is there already, so nobody listens at the port.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")
    os.chdir(folder)
    distiller = make()
    run(code, distiller, batches(4), per_device_train_batch_size=2, max_steps=4, save_strategy="no")
    return weights(distiller)


def test_two_processes_train_as_one(ranks: Callable[..., Any], code: str, tmp_path: Path) -> None:
    """Trainer deals out the batches: one of two samples to each process."""
    ended = ranks(work, code, str(tmp_path))
    assert [process.code for process in ended] == [0, 0], ended
    expected = by_hand(make(), [[batch] for batch in batches(4)])
    for process in ended:
        torch.testing.assert_close(process.result, expected)
