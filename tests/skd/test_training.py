"""The loop's numbers against loops written by hand; what it writes down; what it refuses."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import skd
from skd import Losses, Recipe, Step, fit
from skd.errors import ArgumentError, DataError, FileError, MissingExtraError, NonFiniteError, ProcessError, SkdError
from skd.schedules import Ramp

PLAIN = Recipe(steps=6, learning_rate=0.1, warmup=0, schedule="constant", clip=None, optimizer="sgd", log_every=1)


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Step:
        output = self.last(torch.tanh(self.first(x)))
        return Step(
            output, Losses({"error": (output - x.sum(1, keepdim=True)).square().mean(), "size": output.mean() ** 2})
        )


class Slope(nn.Module):
    """loss = slopes · weight: its gradient is the slopes, whatever the weight."""

    def __init__(self, *slopes: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(slopes), dtype=torch.float64))
        self.slopes = torch.tensor(slopes, dtype=torch.float64)

    def forward(self, x: Tensor) -> Step:
        return Step(None, Losses({"slope": (self.slopes * self.weight).sum() + 0 * x.sum()}))


def batches(count: int = 6, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=generator) for _ in range(count)]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# --- values ----------------------------------------------------------------------------------------------------------


def by_hand(
    net: Net, data: list[Tensor], make: Callable[[Any], torch.optim.Optimizer], *, accumulate: int = 1, clip: float = 0
) -> list[float]:
    """The loop as one writes it; returns the norms of the gradients."""
    optimizer, norms = make(net.parameters()), []
    for first in range(0, len(data), accumulate):
        optimizer.zero_grad()
        for batch in data[first : first + accumulate]:
            (net(batch).losses.total / accumulate).backward()
        norms.append(float(torch.stack([p.grad.square().sum() for p in net.parameters()]).sum().sqrt()))
        if clip and norms[-1] > clip:
            for p in net.parameters():
                p.grad *= clip / (norms[-1] + 1e-6)
        optimizer.step()
    return norms


@pytest.mark.parametrize(
    ("change", "make", "options"),
    [
        ({}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {}),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1), {}),
        ({"optimizer": "adamw", "weight_decay": 0.2}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2), {}),
        ({"optimizer": "soap", "weight_decay": 0.2}, lambda p: SOAP(p, lr=0.1, weight_decay=0.2), {}),
        ({"optimizer": lambda p: torch.optim.RMSprop(p, lr=0.03)}, lambda p: torch.optim.RMSprop(p, lr=0.03), {}),
        ({"steps": 3, "accumulate": 2}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"accumulate": 2}),
        ({"clip": 0.3}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"clip": 0.3}),
    ],
    ids=["sgd", "adam", "adamw", "soap", "own", "accumulated", "clipped"],
)
def test_the_weights_are_those_of_a_loop_written_by_hand(
    tmp_path: Path, change: dict[str, Any], make: Callable[[Any], torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    ours, theirs = Net(), Net()
    recipe = replace(PLAIN, **change)
    fit(ours, batches(), tmp_path, recipe=recipe)
    norms = by_hand(theirs, batches(), make, **options)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close([line["gradient"] for line in lines(tmp_path)], norms, rtol=1e-5, atol=0)
    if "clip" in options:
        assert max(norms) > 0.3, "something was clipped"


def test_batches_that_are_accumulated_are_one_larger_batch(tmp_path: Path) -> None:
    class Mean(Net):
        def forward(self, x: Tensor) -> Step:  # one mean over samples: the mean of means is the mean
            return Step(None, Losses({"error": super().forward(x).losses["error"]}))

    parts, whole = Mean(), Mean()
    fit(parts, batches(6), tmp_path / "parts", recipe=replace(PLAIN, steps=2, accumulate=3))
    joined = [torch.cat(batches(6)[:3]), torch.cat(batches(6)[3:])]
    fit(whole, joined, tmp_path / "whole", recipe=replace(PLAIN, steps=2))
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_the_average_is_a_closed_form(tmp_path: Path) -> None:
    """Plain gradient descent on a slope: the weight after k steps is −0.1·k; its average is known."""
    net = Slope(1.0)
    own = replace(PLAIN, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), average=0.5)
    seen: list[float] = []
    fit(
        net,
        batches(),
        tmp_path,
        recipe=replace(own, evaluate_every=2),
        evaluate=lambda n: seen.append(n.weight.item()) or 0.0,
    )
    expected = [0.0]
    for k in range(1, 7):
        expected.append(0.5 * expected[-1] + 0.5 * -0.1 * k)
    assert seen == pytest.approx([expected[2], expected[4], expected[6]])
    assert net.weight.item() == pytest.approx(expected[6])
    assert float(torch.load(tmp_path / "last.pt", weights_only=True)["weight"]) == pytest.approx(expected[6])
    kept = torch.load(tmp_path / "checkpoints" / "step-000000006.pt", weights_only=True)
    assert float(kept["module"]["weight"]) == pytest.approx(-0.6), "the run itself goes on from its own weights"


@pytest.mark.parametrize(("steps", "warmup"), [(40, 10), (5, 0), (7, 20)])
def test_the_rate_is_a_warm_up_and_a_cosine(tmp_path: Path, steps: int, warmup: int) -> None:
    fit(Slope(1.0), batches(3), tmp_path, recipe=Recipe(steps=steps, warmup=warmup, learning_rate=0.2, log_every=1))
    expected = [
        0.2 * min(1, (k + 1) / max(1, warmup)) * (0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2)
        for k in range(steps)
    ]
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx(expected)


def test_a_schedule_of_ones_own(tmp_path: Path) -> None:
    recipe = replace(PLAIN, schedule=Ramp(1.0, 0.0, steps=5))
    fit(Slope(1.0), batches(), tmp_path, recipe=recipe)
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02, 0.0])
    with pytest.raises(ArgumentError, match=r"schedule of a recipe; got -1.0 after 0 steps"):
        fit(Slope(1.0), batches(), tmp_path / "b", recipe=replace(PLAIN, schedule=lambda step: -1.0))


def test_bfloat16_is_autocast_and_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    class Seen(Net):
        def forward(self, x: Tensor) -> Step:
            seen.append((self.first(x).dtype, self.first.weight.dtype))
            return super().forward(x)

    seen: list[tuple[torch.dtype, torch.dtype]] = []
    ours, theirs = Seen(), Net()
    fit(ours, batches(1), tmp_path, recipe=replace(PLAIN, steps=1, precision="bfloat16"))
    assert seen == [(torch.bfloat16, torch.float32)]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    with torch.autocast("cpu", torch.bfloat16):
        total = theirs(batches(1)[0]).losses.total
    total.backward()
    optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert not [name for name in vars(ours) if name not in vars(Seen())], "nothing is left on the module"
    fit(Net(), batches(1), tmp_path / "again", recipe=replace(PLAIN, steps=1))  # another precision, same process


def test_channels_last(tmp_path: Path) -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Step:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return Step(None, Losses({"a": self.conv(x).square().mean()}))

    seen: list[bool] = []
    image = torch.rand(2, 3, 8, 8)
    fit(Conv(), [image], tmp_path, recipe=replace(PLAIN, steps=1, channels_last=True))
    assert seen == [True]
    assert image.is_contiguous(), "the caller's tensor is left alone"


# --- evaluation, best and last, ends ---------------------------------------------------------------------------------


def test_best_and_last_are_kept(tmp_path: Path) -> None:
    net, values = Slope(1.0), iter([3.0, 1.0, 2.0])
    own = replace(PLAIN, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), evaluate_every=2)
    run = fit(net, batches(), tmp_path, recipe=own, evaluate=lambda n: {"error": next(values), "other": 5})
    assert (run.best, run.evaluation) == ((4, 1.0), {"error": 2.0, "other": 5.0})
    assert float(torch.load(run.best_weights, weights_only=True)["weight"]) == pytest.approx(-0.4)
    assert float(torch.load(run.last_weights, weights_only=True)["weight"]) == pytest.approx(-0.6)
    evaluations = [line["evaluation/error"] for line in lines(tmp_path) if "evaluation/error" in line]
    assert evaluations == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [3.0, 1.0, 2.0, 2.0, 9.0], (4, (2, 1.0), "patience")),
        ({"maximize": True}, [3.0, 1.0, 2.0, 2.0], (3, (1, 3.0), "patience")),
        ({}, [math.nan, 1.0, 0.5, 0.4, 0.3, 0.2], (6, (6, 0.2), "steps")),
    ],
)
def test_early_stop(tmp_path: Path, options: dict[str, Any], values: list[float], expected: Any) -> None:
    left = iter(values)
    recipe = replace(PLAIN, evaluate_every=1, patience=2, **options)
    run = fit(Slope(1.0), batches(), tmp_path, recipe=recipe, evaluate=lambda n: next(left))
    assert (run.steps, run.best, run.ended) == expected


def test_the_monitored_value(tmp_path: Path) -> None:
    def evaluate(net: nn.Module) -> dict[str, float]:
        return {"a": 1.0, "b": float(net.weight[0])}

    recipe = replace(PLAIN, evaluate_every=3)
    assert fit(Slope(1.0), batches(), tmp_path / "1", recipe=recipe, evaluate=evaluate).best == (3, 1.0)
    run = fit(Slope(1.0), batches(), tmp_path / "2", recipe=replace(recipe, monitor="b"), evaluate=evaluate)
    assert run.best is not None
    assert run.best[0] == 6
    with pytest.raises(ArgumentError, match=r"no 'c' to monitor; got a, b"):
        fit(Slope(1.0), batches(), tmp_path / "3", recipe=replace(recipe, monitor="c"), evaluate=evaluate)


@pytest.mark.parametrize("returned", [None, {}, "good", {"a": "good"}])
def test_evaluations_without_numbers(tmp_path: Path, returned: Any) -> None:
    with pytest.raises(ArgumentError, match="the evaluation gives no numbers"):
        fit(Slope(1.0), batches(), tmp_path, recipe=PLAIN, evaluate=lambda n: returned)


def test_an_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    def evaluate(net: nn.Module) -> float:
        assert not net.training
        assert not torch.is_grad_enabled()
        torch.rand(100)
        return 0.0

    class Dropping(Net):
        def forward(self, x: Tensor) -> Step:
            assert self.training
            return super().forward(nn.functional.dropout(x))

    with_it, without = Dropping(), Dropping()
    fit(with_it, batches(), tmp_path / "1", recipe=replace(PLAIN, evaluate_every=1), evaluate=evaluate)
    fit(without, batches(), tmp_path / "2", recipe=PLAIN)
    torch.testing.assert_close(with_it.state_dict(), without.state_dict(), rtol=0, atol=0)


def test_seconds_end_a_run_early(tmp_path: Path) -> None:
    recipe = replace(PLAIN, steps=100_000, seconds=0.3, schedule="cosine", save_every=10**6)
    run = fit(Slope(1.0), batches(), tmp_path, recipe=recipe)
    assert run.ended == "seconds"
    assert 0 < run.steps < 100_000
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    assert rates == sorted(rates, reverse=True), "the rate follows time"
    assert rates[-1] < 0.05


def test_flags_and_gradients_are_put_back(tmp_path: Path) -> None:
    net = Net()
    net.last.eval()
    fit(net, batches(), tmp_path / "a", recipe=PLAIN)
    assert [part.training for part in net.modules()] == [True, True, False]
    assert all(p.grad is None for p in net.parameters())

    def fail(step: int, result: Step) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(net, batches(), tmp_path / "b", recipe=PLAIN, each=fail)
    assert [part.training for part in net.modules()] == [True, True, False]
    assert all(p.grad is None for p in net.parameters())


# --- records ---------------------------------------------------------------------------------------------------------


def test_lines_of_the_log(tmp_path: Path) -> None:
    fit(Net(), batches(), tmp_path, recipe=replace(PLAIN, log_every=4))
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [4, 6]
    assert list(found[0]) == ["step", "seconds", "learning_rate", "gradient", "error", "size", "total"]
    assert found[0]["total"] == pytest.approx(found[0]["error"] + found[0]["size"])


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(Net(), batches(), tmp_path, recipe=replace(PLAIN, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("error")]
    expected = [(line["step"], line["error"]) for line in lines(tmp_path)]
    torch.testing.assert_close(written, expected)


@pytest.mark.parametrize(
    ("package", "change", "extra"),
    [
        ("accelerate", {}, "train"),
        ("tqdm", {}, "train"),
        ("filelock", {}, "train"),
        ("tensorboard", {"tensorboard": True}, "tensorboard"),
        ("pytorch_optimizer", {"optimizer": "soap"}, "soap"),
    ],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, change: dict[str, Any], extra: str
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    if package == "tensorboard":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package.replace('_', '-')}'.*'skd\[{extra}\]'"):
        fit(Net(), batches(), tmp_path, recipe=replace(PLAIN, **change))


# --- data ------------------------------------------------------------------------------------------------------------


class Rows(Dataset[Any]):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


class Seen(Slope):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.seen: list[Any] = []

    def forward(self, x: Tensor, y: Tensor | None = None) -> Step:
        self.seen.append((x.clone(), y))
        return super().forward(x)


def test_every_pass_has_all_samples_in_another_order(tmp_path: Path) -> None:
    net, data = Seen(), TensorDataset(torch.arange(10.0))
    fit(net, DataLoader(data, batch_size=4, shuffle=True), tmp_path, recipe=replace(PLAIN, steps=9))
    sizes = [len(x) for x, _ in net.seen]
    assert sizes == [4, 4, 2] * 3
    passes = [torch.cat([x for x, _ in net.seen[first : first + 3]]).tolist() for first in (0, 3, 6)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert passes[0] != passes[1] != passes[2]


def test_a_loader_of_ones_own_is_respected(tmp_path: Path) -> None:
    """Its batch sampler, its collate_fn; a generator of its own stays where it was."""
    generator = torch.Generator().manual_seed(3)
    was = generator.get_state()
    net = Seen()
    data = DataLoader(
        Rows(list(range(6))),
        batch_sampler=[[5], [0, 1, 2]],
        collate_fn=lambda samples: torch.tensor(samples, dtype=torch.float32),
        generator=generator,
    )
    fit(net, data, tmp_path, recipe=replace(PLAIN, steps=3))
    assert [x.tolist() for x, _ in net.seen] == [[5], [0, 1, 2], [5]]
    assert torch.equal(generator.get_state(), was)


def test_a_loader_without_batches_of_its_own(tmp_path: Path) -> None:
    net = Seen()
    fit(
        net,
        DataLoader(Rows([torch.ones(2), torch.zeros(3)]), batch_size=None),
        tmp_path,
        recipe=replace(PLAIN, steps=2),
    )
    assert [x.tolist() for x, _ in net.seen] == [[1, 1], [0, 0, 0]]


def test_tuples_are_arguments_and_dicts_keywords(tmp_path: Path) -> None:
    x, y = torch.ones(2), torch.zeros(2)
    net = Seen()
    fit(net, [(x, y), {"y": y, "x": x}, [x]], tmp_path, recipe=replace(PLAIN, steps=3))
    assert [given is not None for _, given in net.seen] == [True, True, False]
    with pytest.raises(DataError, match=r"doesn't fit the model's arguments.*inputs=lambda batch: batch\[0\]"):
        fit(Net(), [(x, y)], tmp_path / "b", recipe=PLAIN)
    fit(Net(), [(torch.ones(2, 3), y)], tmp_path / "c", recipe=PLAIN, inputs=lambda batch: batch[0])


class Endless(IterableDataset[Tensor]):
    """No length; each pass has five samples."""

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(5):
            yield torch.full((3,), float(index))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_without_length(tmp_path: Path, workers: int) -> None:
    net = Seen()
    fit(net, DataLoader(Endless(), batch_size=2, num_workers=workers), tmp_path, recipe=replace(PLAIN, steps=5))
    assert [x[0, 0].item() for x, _ in net.seen] == [0, 2, 4, 0, 2]


def test_what_ends_for_good(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the data can be read only once; got nothing in pass 2"):
        fit(Net(), iter(batches(3)), tmp_path, recipe=PLAIN)
    assert fit(Net(), iter(batches(6)), tmp_path / "b", recipe=PLAIN).steps == 6


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], DataError, "the data hold no batch"),
        (DataLoader(Rows([]), batch_size=2), DataError, "too few batches; got 0 for 1 process"),
        (["a", "b"], DataError, "batch 0 of pass 1 holds no tensor; got str"),
        (DataLoader(Rows(["a", "b"]), batch_size=2), DataError, "batch 0 of pass 1 holds no tensor; got list of str"),
        (torch.zeros(3), ArgumentError, "don't come in batches; got Tensor"),
        (TensorDataset(torch.zeros(3)), ArgumentError, "got TensorDataset.*Remedy: wrap a dataset"),
        (7, ArgumentError, "got int"),
        ([torch.zeros(2, 4)], RuntimeError, "mat1 and mat2"),
    ],
)
def test_data_that_can_not_be_used(tmp_path: Path, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(Net(), data, tmp_path, recipe=PLAIN)


@pytest.mark.parametrize("workers", [0, 1])
def test_ragged_samples(tmp_path: Path, workers: int) -> None:
    rows = [torch.zeros(3), torch.zeros(3), torch.zeros(4), torch.zeros(3)]
    data = DataLoader(Rows(rows), batch_size=2, num_workers=workers)
    message = r"batch 1 of pass 1 can't be put together; got RuntimeError: .*\(samples 2, 3\).*collate_fn"
    with pytest.raises(DataError, match=message) as caught:
        fit(Net(), data, tmp_path, recipe=PLAIN)
    assert "Traceback" in caught.value.__notes__[0]


class Failing(Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise self.rows[0]
        return torch.zeros(3)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("label"), DataError, r"batch 1 of pass 1 can't be loaded; got KeyError: 'label' \(samples 2, 3\)"),
        (
            FileError("no such picture", got="a.png", remedy="look"),
            FileError,
            r"no such picture; got a.png. Remedy: look",
        ),
    ],
)
def test_errors_of_a_dataset(
    tmp_path: Path, workers: int, error: Exception, kind: type[SkdError], message: str
) -> None:
    data = DataLoader(Failing([error, 0, 0, 0]), batch_size=2, num_workers=workers)
    with pytest.raises(kind, match=message):
        fit(Net(), data, tmp_path, recipe=PLAIN)


class Dying(Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_loading_process_that_dies(tmp_path: Path) -> None:
    data = DataLoader(Dying([0] * 4), batch_size=2, num_workers=1)
    with pytest.raises(ProcessError, match=r"a process that loads data died or is stuck.*num_workers=0"):
        fit(Net(), data, tmp_path, recipe=PLAIN)


# --- modules and recipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(tmp_path: Path, value: float) -> None:
    class Bad(Net):
        def forward(self, x: Tensor) -> Step:
            step = super().forward(x)
            return Step(None, Losses({"error": step.losses.total * (value if len(seen) == 4 else 1.0)}))

    seen: list[int] = []
    net = Bad()
    with pytest.raises(NonFiniteError, match=r"the loss of step 4 isn't finite; got \{'error': (nan|inf)\}"):
        fit(net, batches(), tmp_path, recipe=replace(PLAIN, save_every=2), each=lambda step, result: seen.append(step))
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    assert (tmp_path / "checkpoints" / "step-000000004.pt").exists()


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Step:
            return Step(None, Losses({"root": self.weight.abs().sqrt().sum()}))

    with pytest.raises(NonFiniteError, match="the gradient of step 0 isn't finite"):
        fit(Root(), batches(), tmp_path, recipe=PLAIN)


def test_modules_that_can_not_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to train"):
        fit(Net().requires_grad_(False), batches(), tmp_path, recipe=PLAIN)
    with pytest.raises(ArgumentError, match="doesn't return a Step; got Tensor"):
        fit(nn.Linear(3, 1), batches(), tmp_path, recipe=PLAIN)
    with pytest.raises(ArgumentError, match="only a module can be trained; got function"):
        fit(lambda x: x, batches(), tmp_path, recipe=PLAIN)  # type: ignore[arg-type]

    class Cut(Net):
        def forward(self, x: Tensor) -> Step:
            return Step(None, Losses({"error": super().forward(x).losses.total.detach()}))

    with pytest.raises(ArgumentError, match="depends on nothing that is trained"):
        fit(Cut(), batches(), tmp_path, recipe=PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps of a recipe; got 0; expected 1 or more"),
        ({"steps": 1.5}, "steps of a recipe; got 1.5; expected an integer"),
        ({"steps": True}, "steps of a recipe; got True"),
        ({"learning_rate": 0}, "learning_rate of a recipe; got 0; expected a finite number above 0"),
        ({"learning_rate": math.nan}, "learning_rate of a recipe; got nan"),
        ({"learning_rate": None}, "learning_rate of a recipe; expected a finite number above 0"),
        ({"clip": -1}, "clip of a recipe"),
        ({"seconds": math.inf}, "seconds of a recipe"),
        ({"average": 1.0}, "average of a recipe; got 1.0; expected a number between 0 and 1"),
        ({"weight_decay": -0.1}, "weight_decay of a recipe"),
        ({"optimizer": "lion"}, r"optimizer of a recipe; got 'lion'; expected adam, adamw, sgd, soap, or a function"),
        ({"schedule": "linear"}, r"schedule of a recipe; got 'linear'; expected cosine, constant, or a function"),
        ({"precision": "int8"}, r"precision of a recipe; got 'int8'; expected float32, bfloat16, float16"),
        (
            {"compile": "default"},
            "compile of a recipe; got 'default'; expected True, False, or torch.compile's arguments",
        ),
        ({"compile": {}}, "compile of a recipe"),
        ({"keep": 1}, "keep of a recipe; got 1; expected 2 or more"),
        ({"patience": 0}, "patience of a recipe"),
        ({"seed": -1}, "seed of a recipe"),
        ({"seed": 2**63}, "seed of a recipe"),
    ],
)
def test_numbers_that_make_no_recipe(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Recipe(**{"steps": 1, **options})


def test_an_optimizer_that_is_none(tmp_path: Path) -> None:
    recipe = replace(PLAIN, optimizer=lambda parameters: list(parameters))  # type: ignore[arg-type,return-value]
    with pytest.raises(ArgumentError, match=r"a function that returns list; expected a torch.optim.Optimizer"):
        fit(Net(), batches(), tmp_path, recipe=recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can")
def test_float16_wants_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"float16 needs a GPU.*Remedy: train in bfloat16"):
        fit(Net(), batches(), tmp_path, recipe=replace(PLAIN, precision="float16"))


def test_folders_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"the output folder can't be written into.*Remedy: name another output folder"):
        fit(Net(), batches(), tmp_path / "file", recipe=PLAIN)


def test_a_log_that_can_not_be_written_shows_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(FileError, match="the log can't be written"):
        fit(Net(), batches(), tmp_path, recipe=PLAIN, each=lambda step, result: pytest.fail("trained"))


def test_it_trains_a_distiller_as_it_is(tmp_path: Path) -> None:
    from skd.methods import Transfer

    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    was = copy.deepcopy(teacher.state_dict())
    distiller = skd.Distiller(teacher, student, [Transfer("output", "", "", weight=Ramp(0.0, 1.0, steps=6))])
    run = fit(distiller, batches(), tmp_path, recipe=replace(PLAIN, steps=200, learning_rate=0.05), label="x")
    assert distiller.steps_done == run.steps == 200
    torch.testing.assert_close(student.state_dict(), was, rtol=0, atol=1e-3)
    torch.testing.assert_close(teacher.state_dict(), was, rtol=0, atol=0)
    assert set(torch.load(run.last_weights, weights_only=True)) == {"weight", "bias"}
