"""The plain loop and DDP as docs/engines.rst shows them, with stages and a schedule, against the loop by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _engines import Rows, Staged, batches, by_hand, half, make, weights
from torch import Tensor, nn

METHODS = {"all": Rows, "freezing": Staged, "not freezing": lambda: Staged(freeze=False)}


def work(rank: int, code: str, count: int, method: str = "all") -> dict[str, Tensor]:
    """Run an example of the documentation on this rank's half of each batch."""
    distiller = make(METHODS[method]())
    loader = half(batches(count), rank)
    exec(code, {"torch": torch, "distiller": distiller, "loader": loader, "task_loss": F.mse_loss})
    return weights(distiller)


def check(ended: list[Any], expected: dict[str, Tensor]) -> None:
    start = weights(make())
    assert [process.code for process in ended] == [0, 0], ended
    for process in ended:
        torch.testing.assert_close(process.result, expected)
    assert all(not torch.equal(value, start[name]) for name, value in expected.items())  # everything was trained


def test_a_plain_loop(examples: dict[str, str]) -> None:
    distiller = make()
    exec(examples["plain"], {"torch": torch, "distiller": distiller, "loader": batches(4), "task_loss": F.mse_loss})
    expected = by_hand(make(), [[batch] for batch in batches(4)])
    torch.testing.assert_close(weights(distiller), expected, rtol=0, atol=0)
    assert distiller.steps_done == 4


def test_two_processes_train_as_one_with_the_joined_batch(ranks: Callable[..., Any], examples: dict[str, str]) -> None:
    ended = ranks(work, examples["ddp"], 3)
    check(ended, by_hand(make(), [[batch] for batch in batches(3)]))
    # The guard: one half of each batch alone gives other weights.
    with pytest.raises(AssertionError, match="not close"):
        check(ended, by_hand(make(), [[batch] for batch in half(batches(3), 0)]))


def test_accumulated_gradients(ranks: Callable[..., Any], examples: dict[str, str]) -> None:
    given = batches(6)
    check(ranks(work, examples["accumulate"], 6), by_hand(make(), [given[i : i + 2] for i in (0, 2, 4)]))


@pytest.mark.parametrize(("example", "method"), [("stages", "freezing"), ("unused", "not freezing")])
def test_stages(example: str, method: str, ranks: Callable[..., Any], examples: dict[str, str]) -> None:
    """Wrapped anew when a stage ends; and, with unused layers looked for, wrapped once."""
    expected = by_hand(make(METHODS[method]()), [[batch] for batch in batches(5)], task=False)
    check(ranks(work, examples[example], 5, method), expected)


def wrapped(rank: int, method: str, options: dict[str, bool]) -> dict[str, Tensor]:
    """Wrapped once, with the distillation's losses alone."""
    distiller = make(METHODS[method]())
    parallel = nn.parallel.DistributedDataParallel(distiller, **options)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9)
    for x, _ in half(batches(4), rank):
        optimizer.zero_grad()
        parallel(x).losses.total.backward()
        optimizer.step()
        distiller.advance()
    return weights(distiller)


@pytest.mark.parametrize("method", ["freezing", "not freezing"])
def test_stages_without_either_are_a_clear_error(method: str, ranks: Callable[..., Any]) -> None:
    ended = ranks(wrapped, method, {})
    assert [process.code for process in ended] == [1, 1]
    assert all("parameters that were not used in producing loss" in process.said for process in ended), ended


@pytest.mark.parametrize(
    ("method", "option"), [("all", "static_graph"), ("not freezing", "find_unused_parameters")], ids=lambda value: value
)
def test_options_of_ddp(method: str, option: str, ranks: Callable[..., Any]) -> None:
    ended = ranks(wrapped, method, {option: True})
    check(ended, by_hand(make(METHODS[method]()), [[batch] for batch in batches(4)], task=False))


def test_every_example_of_the_documentation_is_run_by_a_test(examples: dict[str, str]) -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_engine_*.py"))
    assert {"plain", "ddp", "fsdp", "trainer", "fabric", "join"} <= examples.keys()
    parametrized = {"stages", "unused"}
    assert {name for name in examples if f'examples["{name}"]' not in here} == parametrized
