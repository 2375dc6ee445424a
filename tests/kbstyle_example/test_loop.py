"""The training loop: runs go on bit for bit, checkpoints are whole or not there, and its numbers are closed forms."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from kbstyle_example import loop
from kbstyle_example.loop import CHECKPOINT, LOG, Plan, fit, save_atomically, trainable
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError
from skd.steps import Losses, Step


class Net(nn.Module):
    """Two layers with a BatchNorm between them, and a frozen one."""

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.first, self.norm, self.last = nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1)
            self.frozen = nn.Linear(3, 1).requires_grad_(False)

    def forward(self, batch: Tensor) -> Step:
        output = self.last(torch.tanh(self.norm(self.first(batch))))
        error = (output - self.frozen(batch)).square().mean()
        return Step(output, Losses({"error": error, "size": 0.01 * output.square().mean()}))


class Slope(nn.Module):
    """loss = slopes · weight: its gradient is the slopes, whatever the weight."""

    def __init__(self, *slopes: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(slopes), dtype=torch.float64))
        self.slopes = torch.tensor(slopes, dtype=torch.float64)

    def forward(self, batch: Tensor) -> Step:
        return Step(None, Losses({"slope": (self.slopes * self.weight).sum() + 0 * batch.sum()}))


class Rows(Dataset[Tensor]):
    """Fixed rows; `broken` maps an index to what is put in its place."""

    def __init__(self, count: int, broken: dict[int, float] | None = None) -> None:
        self.rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
        self.broken, self.read = broken or {}, list[int]()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return self.rows[index] * self.broken.get(index, 1.0)


def stop_after(last: int) -> Callable[[int, Step], None]:
    def each(step: int, result: Step) -> None:
        if step == last:
            raise KeyboardInterrupt

    return each


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


def checkpoint(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)
    return state


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- runs that go on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 4, 5, 7])
def test_a_run_that_goes_on_is_bit_equal(tmp_path: Path, stop: int) -> None:
    plan = Plan(steps=8, batch_size=2, learning_rate=0.05, warmup=3, save_every=2, log_every=1)
    whole, parts, resumed = Net(), Net(), Net(seed=7)  # the checkpoint's weights count, not the first ones
    assert fit(whole, Rows(16), plan, tmp_path / "whole") == 8
    with pytest.raises(KeyboardInterrupt):
        fit(parts, Rows(16), plan, tmp_path / "parts", each=stop_after(stop))
    done = (stop - 1) // 2 * 2  # it was stopped before its own checkpoint
    assert checkpoint(tmp_path / "parts")["step"] == done
    resumed.frozen.load_state_dict(whole.frozen.state_dict())
    rows = Rows(16)
    assert fit(resumed, rows, plan, tmp_path / "parts") == 8
    assert rows.read == list(range(2 * done, 16))
    assert same(resumed, whole)
    assert not same(whole, Net())
    whole_log, parts_log = (
        [{key: value for key, value in line.items() if key != "seconds"} for line in lines(tmp_path / name)]
        for name in ("whole", "parts")
    )
    assert parts_log == whole_log
    assert [line["step"] for line in parts_log] == list(range(1, 9))


def test_all_that_is_trained_changes_and_nothing_else(tmp_path: Path) -> None:
    net, before = Net(), Net()
    fit(net, Rows(8), Plan(steps=2, batch_size=4), tmp_path)
    for (name, new), old in zip(net.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old) == name.startswith("frozen"), name
    assert net.norm.num_batches_tracked == 2


def test_a_finished_run_stays(tmp_path: Path) -> None:
    plan = Plan(steps=3, batch_size=2, log_every=1)
    net, again = Net(), Net()
    fit(net, Rows(6), plan, tmp_path)
    before = (tmp_path / LOG).read_bytes()
    rows = Rows(6)
    assert fit(again, rows, plan, tmp_path) == 3
    assert rows.read == []
    assert same(again, net)
    assert (tmp_path / LOG).read_bytes() == before


def test_what_is_frozen_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    net = Net()
    fit(net, Rows(2), Plan(steps=1, batch_size=2), tmp_path)
    state = checkpoint(tmp_path)
    names = ["first.weight", "first.bias", "norm.weight", "norm.bias", "last.weight", "last.bias"]
    assert list(trainable(net)) == list(state["weights"]) == names
    assert list(state["buffers"]) == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert len(state["optimizer"]["state"]) == len(names)
    for name, value in state["weights"].items():
        assert torch.equal(value, net.get_parameter(name))


def test_samples_are_read_in_order(tmp_path: Path) -> None:
    rows = Rows(20)
    fit(Net(), rows, Plan(steps=3, batch_size=4), tmp_path)
    assert rows.read == list(range(12))


def test_one_worker_gives_the_same(tmp_path: Path) -> None:
    nets = []
    for workers in (0, 1):
        nets.append(Net())
        fit(nets[-1], Rows(6), Plan(steps=3, batch_size=2, workers=workers), tmp_path / str(workers))
    assert same(*nets)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("[enforce fail] . No space left on device\nframe #0")],
)
def test_a_failing_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / CHECKPOINT
    save_atomically({"step": 1}, path)
    before = path.read_bytes()

    def fail(state: Any, beside: Path) -> None:
        beside.write_bytes(b"half a fi")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(
            FileError, match=r"the checkpoint can't be written.*No space left on device\).*Remedy: make"
        ):
            save_atomically({"step": 2}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    save_atomically({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 2}


def test_other_failures_leave_the_old_checkpoint_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_atomically({"step": 1}, tmp_path / CHECKPOINT)

    def stop(state: Any, beside: Path) -> None:
        beside.write_bytes(b"half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"step": 2}, tmp_path / CHECKPOINT)
    assert checkpoint(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_the_new_checkpoint_comes_by_a_rename_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_atomically({"step": 1}, tmp_path / CHECKPOINT)

    def fail(self: Path, target: Path) -> None:
        assert torch.load(self, weights_only=True) == {"step": 2}  # whole before it is renamed
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FileError, match=r"the checkpoint can't be written.*Permission denied"):
        save_atomically({"step": 2}, tmp_path / CHECKPOINT)
    assert checkpoint(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_cleaning_up_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match=r"the checkpoint can't be written"):
        save_atomically({}, tmp_path / "file" / CHECKPOINT)
    with pytest.raises(FileError, match=r"the checkpoint can't be written"):
        save_atomically({}, tmp_path / "missing" / CHECKPOINT)


def whole(out: Path) -> bytes:
    """A run's checkpoint, as bytes."""
    fit(Net(), Rows(4), Plan(steps=2, batch_size=2), out)
    return (out / CHECKPOINT).read_bytes()


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    "damage",
    [
        *[without(key) for key in ("step", "seconds", "weights", "optimizer")],
        lambda state: {**state, "step": "many"},
        lambda state: {**state, "weights": {"first.weight": 3}},
        lambda state: {**state, "optimizer": {}},
        lambda state: {**state, "optimizer": torch.optim.Adam([torch.zeros(1)]).state_dict()},
        lambda state: [state],
        lambda state: Path("not only weights"),
    ],
)
def test_checkpoints_that_lack_something_are_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], Any]) -> None:
    whole(tmp_path)
    torch.save(damage(checkpoint(tmp_path)), tmp_path / CHECKPOINT)
    refused(Net(seed=3), tmp_path, r"the checkpoint can't be read; got .*checkpoint\.pt.*Remedy: name another output")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_checkpoints_are_refused(tmp_path: Path, share: float) -> None:
    content = whole(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(content[: int(share * len(content))])
    refused(Net(seed=3), tmp_path, r"the checkpoint can't be read; got .*checkpoint\.pt.*Remedy: name another output")


def test_checkpoints_that_are_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_text("no checkpoint")
    (tmp_path / LOG).write_text('{"step": 1}\n')
    refused(Net(), tmp_path, r"the checkpoint can't be read; got .*checkpoint\.pt.*Remedy: name another output folder")


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    whole(tmp_path)
    refused(Net(width=5), tmp_path, r"belongs to another network; got .*checkpoint\.pt.*or remove .*checkpoint\.pt")
    refused(Slope(1.0), tmp_path, r"belongs to another network")
    thawed = Net()
    thawed.frozen.requires_grad_(True)
    refused(thawed, tmp_path, r"belongs to another network")


def refused(net: nn.Module, out: Path, message: str) -> None:
    """`fit` says so, and changes neither files nor weights."""
    weights = [value.clone() for value in net.state_dict().values()]
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(FileError, match=message):
        fit(net, Rows(8), Plan(steps=4, batch_size=2), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), weights, strict=True))


# --- mistakes and mishaps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(tmp_path: Path, value: float) -> None:
    plan = Plan(steps=6, batch_size=2, save_every=2)
    with pytest.raises(NonFiniteError, match=r"the loss of step 5 isn't finite; got .*error.*Remedy: lower the learn"):
        fit(Net(), Rows(12, {10: value}), plan, tmp_path)
    state = checkpoint(tmp_path)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["weights"].values())
    assert fit(Net(), Rows(12), plan, tmp_path) == 6  # and on from there


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    class Root(Slope):
        def forward(self, batch: Tensor) -> Step:
            return Step(None, Losses({"root": self.weight.abs().sqrt().sum() + 0 * batch.sum()}))

    net = Root(1.0)  # the square root of 0 is finite, its slope isn't
    with pytest.raises(NonFiniteError, match=r"the gradient of step 0 isn't finite; got (nan|inf)"):
        fit(net, Rows(2), Plan(steps=1, batch_size=2), tmp_path)
    assert net.weight == 0
    assert not (tmp_path / CHECKPOINT).exists()


def test_too_few_samples_and_nothing_to_train(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"too few samples for the plan; got 11; expected at least 12"):
        fit(Net(), Rows(11), Plan(steps=6, batch_size=2), out)
    with pytest.raises(ArgumentError, match=r"nothing to train.*Remedy: leave some"):
        fit(Net().requires_grad_(False), Rows(2), Plan(steps=1, batch_size=2), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps of a training plan; got 0; expected 1 or more"),
        ({"batch_size": 0}, r"batch_size of a training plan; got 0"),
        ({"warmup": -1}, r"warmup of a training plan; got -1; expected 0 or more"),
        ({"save_every": 0}, r"save_every of a training plan"),
        ({"log_every": 0}, r"log_every of a training plan"),
        ({"workers": -1}, r"workers of a training plan"),
        ({"learning_rate": 0.0}, r"learning_rate of a training plan; got 0\.0; expected a finite number above 0"),
        ({"learning_rate": math.nan}, r"learning_rate of a training plan; got nan"),
        ({"clip": math.inf}, r"clip of a training plan; got inf"),
        ({"seconds": 0.0}, r"seconds of a training plan; got 0\.0"),
    ],
)
def test_numbers_that_make_no_plan(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Plan(**{"steps": 1, "batch_size": 1, **options})


def test_folders_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(
            FileError, match=r"the output folder can't be made; got .*file.*Remedy: name another output"
        ):
            fit(Net(), Rows(2), Plan(steps=1, batch_size=2), out)


def test_a_log_that_can_not_be_written_shows_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    rows = Rows(2)
    with pytest.raises(FileError, match=r"the log can't be written; got .*log\.jsonl.*Remedy: make room"):
        fit(Net(), rows, Plan(steps=1, batch_size=2), tmp_path)
    assert rows.read == []


def test_a_log_that_fails_on_the_way(tmp_path: Path) -> None:
    def each(step: int, result: Step) -> None:
        if step == 3:
            (tmp_path / LOG).unlink()
            (tmp_path / LOG).mkdir()

    with pytest.raises(FileError, match=r"the log can't be written; got .*log\.jsonl \(Is a directory\)"):
        fit(Net(), Rows(8), Plan(steps=4, batch_size=2, log_every=1, save_every=2), tmp_path, each=each)
    assert checkpoint(tmp_path)["step"] == 2


def test_errors_of_the_module_are_its_own(tmp_path: Path) -> None:
    class Broken(Slope):
        def forward(self, batch: Tensor) -> Step:
            raise RuntimeError("a mistake in the module")

    with pytest.raises(RuntimeError, match=r"^a mistake in the module$"):
        fit(Broken(1.0), Rows(2), Plan(steps=1, batch_size=2), tmp_path)


# --- the log ---------------------------------------------------------------------------------------------------------


def test_lines_of_the_log(tmp_path: Path) -> None:
    seen: dict[int, dict[str, float]] = {}
    plan = Plan(steps=7, batch_size=2, log_every=3)
    fit(Net(), Rows(14), plan, tmp_path, each=lambda step, result: seen.update({step: result.losses.values()}))
    assert list(seen) == list(range(1, 8))
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [3, 6, 7]  # the last one, too
    for line in logged:
        assert set(line) == {"step", "seconds", "gradient", "error", "size", "total"}
        assert {name: line[name] for name in ("error", "size", "total")} == seen[line["step"]]
        assert line["total"] == pytest.approx(line["error"] + line["size"])
    seconds = [line["seconds"] for line in logged]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "to', b'{"step": 9}\n{"step": 1}\n', b"\xff\xfe\n", b"[]\n", b'{"step": "x"}\n', b"\n"]
)
def test_what_a_killed_run_left_in_the_log_is_dropped(tmp_path: Path, tail: bytes) -> None:
    fit(Net(), Rows(4), Plan(steps=2, batch_size=2, log_every=1), tmp_path)
    with (tmp_path / LOG).open("ab") as log:
        log.write(tail)
    fit(Net(), Rows(8), Plan(steps=4, batch_size=2, log_every=1), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


# --- its numbers -----------------------------------------------------------------------------------------------------


def weights_after_each_step(net: Slope, plan: Plan, out: Path) -> list[Tensor]:
    weights = [net.weight.detach().clone()]
    data = TensorDataset(torch.zeros(plan.steps * plan.batch_size))
    fit(_Unpacked(net), data, plan, out, each=lambda step, result: weights.append(net.weight.detach().clone()))
    return weights


class _Unpacked(nn.Module):
    """TensorDataset gives lists of one tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: list[Tensor]) -> Any:
        return self.net(batch[0])


@pytest.mark.parametrize(("steps", "warmup"), [(12, 0), (12, 1), (12, 5), (6, 10)])
def test_the_schedule_is_a_warm_up_and_a_cosine(tmp_path: Path, steps: int, warmup: int) -> None:
    # Under a constant gradient each step of Adam is the learning rate long: m / (1 - β1^t) = g, v / (1 - β2^t) = g².
    plan = Plan(steps=steps, batch_size=1, learning_rate=0.1, warmup=warmup)
    weights = weights_after_each_step(Slope(0.5), plan, tmp_path)
    for step, (before, after) in enumerate(itertools.pairwise(weights)):
        rate = 0.1 * (0.01 + 0.99 * math.cos(math.pi * step / (2 * steps)) ** 2)  # cos² = (1 + cos 2x) / 2
        if step < warmup:
            rate *= (step + 1) / warmup
        assert float(before - after) == pytest.approx(rate, rel=1e-6)


def test_seconds_end_a_run_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    net, weights = Slope(0.5), [0.0]

    def each(step: int, result: Step) -> None:
        weights.append(float(net.weight.detach()))
        now[0] += 10.0

    plan = Plan(steps=100, batch_size=1, learning_rate=0.1, warmup=0, seconds=35.0)
    assert fit(net, Rows(100), plan, tmp_path, each=each) == 4  # at 0, 10, 20 and 30 seconds
    state = checkpoint(tmp_path)
    assert (state["step"], state["seconds"]) == (4, 40.0)
    for step in range(4):  # the schedule follows the time
        rate = 0.1 * (0.01 + 0.99 * math.cos(math.pi * 10 * step / (2 * 35)) ** 2)
        assert weights[step] - weights[step + 1] == pytest.approx(rate, rel=1e-6)

    # The time of earlier runs counts; with more of it the run goes on.
    assert fit(Slope(0.5), Rows(100), plan, tmp_path) == 4
    longer = Plan(steps=100, batch_size=1, learning_rate=0.1, warmup=0, seconds=65.0)
    assert fit(net, Rows(100), longer, tmp_path, each=each) == 7  # at 40, 50 and 60 seconds
    assert checkpoint(tmp_path)["seconds"] == 70.0


def test_steps_end_a_run_that_has_time_left(tmp_path: Path) -> None:
    assert fit(Net(), Rows(6), Plan(steps=3, batch_size=2, seconds=1e9), tmp_path) == 3


@pytest.mark.parametrize("clip", [0.5, 2.0, 13.0, 20.0])
def test_gradients_are_clipped_and_logged_as_they_were(tmp_path: Path, clip: float) -> None:
    net, gradients = Slope(3.0, -4.0, 12.0), []  # norm 13
    plan = Plan(steps=2, batch_size=1, clip=clip, log_every=1)

    def each(step: int, result: Step) -> None:
        gradients.append(torch.empty(0) if net.weight.grad is None else net.weight.grad.clone())

    fit(net, Rows(2), plan, tmp_path, each=each)
    wanted = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64) * min(1.0, clip / 13)
    for gradient in gradients:
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=0)
    assert [line["gradient"] for line in lines(tmp_path)] == pytest.approx([13.0, 13.0])
