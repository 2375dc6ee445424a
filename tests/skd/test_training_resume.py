"""A run that was killed and goes on is the run that wasn't, bit for bit; what can't be gone on with is refused."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from skd import Losses, Recipe, Step, fit
from skd._code import code_of
from skd.errors import DataError, FileError

HERE = Path(__file__).parent
RECIPE = Recipe(steps=12, learning_rate=0.05, warmup=2, save_every=4, log_every=1, average=0.8)


class Noisy(Dataset[Tensor]):
    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3,), float(index)) / 10 + 0.1 * torch.randn(3)


class Net(nn.Module):
    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.first, self.norm, self.last = nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Step:
        output = self.last(self.drop(torch.tanh(self.norm(self.first(x)))))
        return Step(output, Losses({"error": (output - x.sum(1, keepdim=True)).square().mean()}))


def loader(**options: Any) -> DataLoader[Tensor]:
    return DataLoader(Noisy(), **{"batch_size": 4, "shuffle": True, **options})


def stop_at(last: int) -> Callable[[int, Step], None]:
    def each(step: int, result: Step) -> None:
        if step == last:
            raise KeyboardInterrupt

    return each


def state(out: Path, step: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / "checkpoints" / f"step-{step:09}.pt", weights_only=True)
    return found


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, but for times."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key != "seconds":
                assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{index}")
    else:
        assert a == b, where


def interrupted(out: Path, at: int, *, recipe: Recipe = RECIPE, net: Net | None = None, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(net or Net(), options.pop("data", None) or loader(), out, recipe=recipe, each=stop_at(at), **options)


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """A real process and its loading processes, SIGKILL, two stages, adapters, an average, dropout, a schedule."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, HERE / "killed_run.py", str(tmp_path), "10"],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout.split("\n")
    assert said[0] == "whole 0", done.stdout + done.stderr
    assert said[-2] == "ended 0", done.stdout + done.stderr
    killed = [int(line.split()[1]) for line in said if line.startswith("killed")]
    assert len(killed) == 10
    assert len(set(killed)) > 3, "the kills came at different places"
    assert max(killed) > 0, "some run went on from a checkpoint"
    assert_same(state(tmp_path / "whole", 240), state(tmp_path / "killed", 240))
    for name in ("best.pt", "last.pt"):
        whole, pieces = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "killed"))
        assert_same(whole, pieces)
    # The log has each line once, in order, as if nothing had happened.
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "killed")
    ]
    assert_same(*logs)
    # The guard: weights do depend on what is drawn at random.
    assert not torch.equal(
        state(tmp_path / "whole", 240)["random"][0]["torch"], state(tmp_path / "whole", 237)["random"][0]["torch"]
    )


@pytest.mark.parametrize(("at", "optimizer"), [(1, "adam"), (4, "adam"), (5, "adam"), (8, "adam"), (11, "soap")])
def test_a_run_that_goes_on_is_bit_equal(tmp_path: Path, at: int, optimizer: Any) -> None:
    whole, pieces, recipe = Net(), Net(), replace(RECIPE, optimizer=optimizer)
    fit(whole, loader(), tmp_path / "whole", recipe=recipe)
    interrupted(tmp_path / "pieces", at, net=pieces, recipe=recipe)
    pieces = Net(seed=9)  # a script that draws its first weights anew each time
    run = fit(pieces, loader(), tmp_path / "pieces", recipe=recipe)
    assert run.steps == 12
    assert_same(whole.state_dict(), pieces.state_dict())
    assert_same(state(tmp_path / "whole", 12), state(tmp_path / "pieces", 12))


def test_the_number_of_loading_processes_changes_nothing(tmp_path: Path) -> None:
    here, there = Net(), Net()
    fit(here, loader(), tmp_path / "0", recipe=RECIPE)
    fit(there, loader(num_workers=2), tmp_path / "2", recipe=RECIPE)
    assert_same(here.state_dict(), there.state_dict())


def test_a_stream_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Batches that can only be read from the beginning, with noise drawn while they are read."""

    class Stream:
        def __iter__(self) -> Any:
            for index in range(5):
                yield torch.full((4, 3), float(index)) + torch.randn(4, 3)

    whole, pieces = Net(), Net()
    fit(whole, Stream(), tmp_path / "whole", recipe=RECIPE)
    interrupted(tmp_path / "pieces", 7, net=pieces, data=Stream())
    fit(pieces, Stream(), tmp_path / "pieces", recipe=RECIPE)
    assert_same(whole.state_dict(), pieces.state_dict())


def test_a_finished_run_stays(tmp_path: Path) -> None:
    net = Net()
    first = fit(net, loader(), tmp_path, recipe=RECIPE)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    again = Net(seed=3)
    second = fit(again, loader(), tmp_path, recipe=RECIPE, each=stop_at(1))
    assert_same(again.state_dict(), weights)
    assert (second.steps, second.ended, second.seconds) == (first.steps, "steps", first.seconds)


def test_the_callers_random_numbers_are_put_back(tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    fit(Net(), loader(), tmp_path / "a", recipe=RECIPE)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(4)
    interrupted(tmp_path / "b", 3)
    assert torch.equal(torch.rand(3), expected)


# --- what is refused -------------------------------------------------------------------------------------------------


def damaged(out: Path, how: str) -> Path:
    newest = max((out / "checkpoints").glob("step-*.pt"))
    content = bytearray(newest.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "one bit":
        content[len(content) // 2] ^= 1
    elif how == "something else":
        torch.save({"weights": torch.zeros(2)}, newest)
        return newest
    newest.write_bytes(bytes(content))
    return newest


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit", "something else"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, pieces = Net(), Net()
    fit(whole, loader(), tmp_path / "whole", recipe=RECIPE)
    out = tmp_path / "pieces"
    interrupted(out, 9)
    newest = damaged(out, how)
    started: list[int] = []
    fit(pieces, loader(), out, recipe=RECIPE, each=lambda step, result: started.append(step))
    assert started[0] == 5, "it goes on from the one before"
    assert_same(whole.state_dict(), pieces.state_dict())
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if "refused" in line]
    assert len(events) == 1
    assert newest.name in events[0]["refused"]
    assert newest.with_name(newest.name + ".refused").exists(), "nothing is thrown away"
    captured = capsys.readouterr()
    assert "checkpoint refused" in captured.out + captured.err


def test_where_all_are_damaged_nothing_is_trained(tmp_path: Path) -> None:
    interrupted(tmp_path, 9)
    for path in (tmp_path / "checkpoints").glob("step-*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileError, match=r"no checkpoint .* truncated.*Remedy: name another output folder"):
        fit(Net(), loader(), tmp_path, recipe=RECIPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": replace(RECIPE, learning_rate=0.1)}, r"recipe.learning_rate: 0.05 there, 0.1 here"),
        ({"recipe": replace(RECIPE, steps=20)}, r"recipe.steps: 12 there, 20 here"),
        ({"recipe": replace(RECIPE, seed=1)}, r"recipe.seed: 0 there, 1 here"),
        ({"net": Net(width=5)}, r"module.shapes"),
        ({"data": loader(batch_size=5)}, r"data.batch_size: 4 there, 5 here"),
        ({"data": DataLoader(Noisy(11), batch_size=4, shuffle=True)}, r"data.samples: 10 there, 11 here"),
        ({"data": loader(shuffle=False)}, r"data.sampler: RandomSampler there, SequentialSampler here"),
        ({"about": {"crop": 128}}, r"about.crop is here and not there"),
        ({"inputs": lambda x: x + 1}, r"inputs: None there"),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    interrupted(tmp_path, 9)
    before = sorted((tmp_path / "checkpoints").iterdir())
    options = {"recipe": RECIPE, **change}
    net, data = options.pop("net", Net()), options.pop("data", loader())
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(FileError, match=message):
        fit(net, data, tmp_path, **options)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    assert_same(net.state_dict(), kept)


def test_what_does_not_change_the_weights_may_change(tmp_path: Path) -> None:
    interrupted(tmp_path, 9)
    run = fit(Net(), loader(num_workers=1), tmp_path, recipe=replace(RECIPE, log_every=3, save_every=5, keep=3))
    assert run.steps == 12


def test_other_code_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 9)

    class Other(Net):
        def forward(self, x: Tensor) -> Step:
            step = super().forward(x)
            return Step(step.output, Losses({"error": 2 * step.losses["error"]}))

    with pytest.raises(FileError, match=r"module\.code\."):
        fit(Other(), loader(), tmp_path, recipe=RECIPE)


def test_code_is_known_by_what_it_does_and_not_by_its_comments() -> None:
    def compiled(source: str) -> Any:
        scope: dict[str, Any] = {}
        exec(source, scope)
        return scope["f"]

    plain = compiled("def f(x):\n    return x + 1")
    same = compiled('def f(x):\n    """Docs."""\n\n    # a comment\n    return x + 1')
    other = compiled("def f(x):\n    return x + 2")
    inner = compiled("def f(x):\n    return (lambda y: y + 1)(x)")
    inner_other = compiled("def f(x):\n    return (lambda y: y + 2)(x)")
    default = compiled("def f(x, y=1):\n    return x + 1")
    assert code_of(plain) == code_of(same)
    digests = {code_of(f) for f in (plain, other, inner, inner_other, default)}
    assert len(digests) == 5


def scaled(factor: float) -> Any:
    return lambda output, batch: factor * output.square().mean()


def partially(output: Tensor, batch: Tensor, *, factor: float) -> Tensor:
    return factor * output.mean()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (scaled(1.0), scaled(2.0)),
        (functools.partial(partially, factor=1.0), functools.partial(partially, factor=2.0)),
        (lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.2)),
    ],
    ids=["a closed-over variable", "a partial's argument", "two lambdas"],
)
def test_functions_are_told_apart_by_what_they_hold(one: Any, other: Any) -> None:
    assert code_of(one) == code_of(one)
    assert code_of(one) != code_of(other)


def test_layers_of_torch_are_told_apart_by_what_they_say_of_themselves(tmp_path: Path) -> None:
    interrupted(tmp_path, 9)
    other = Net()
    other.drop.p = 0.4
    with pytest.raises(FileError, match=r"module\.layers"):
        fit(other, loader(), tmp_path, recipe=RECIPE)


def test_another_optimizer_of_ones_own_is_refused(tmp_path: Path) -> None:
    def recipe(rate: float) -> Recipe:
        return replace(RECIPE, optimizer=lambda p: torch.optim.SGD(p, lr=rate))

    interrupted(tmp_path, 9, recipe=recipe(0.1))
    with pytest.raises(FileError, match=r"recipe\.optimizer"):
        fit(Net(), loader(), tmp_path, recipe=recipe(0.2))
    fit(Net(), loader(), tmp_path, recipe=recipe(0.1))


# --- nothing is lost -------------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    def meanwhile(step: int, result: Step) -> None:
        with pytest.raises(FileError, match="another run writes into this folder"):
            fit(Net(), loader(), tmp_path, recipe=RECIPE)

    fit(Net(), loader(), tmp_path, recipe=replace(RECIPE, steps=2), each=meanwhile)
    fit(Net(), loader(), tmp_path, recipe=replace(RECIPE, steps=2))  # the lock went with the run


FULL_DISK = """
import resource, sys, torch
sys.path.insert(0, {here!r})
import test_training_resume as t
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def fill(step, result):
    if step == 7:  # the disk is full from here on
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    t.fit(t.Net(), t.loader(), {out!r}, recipe=t.RECIPE, each=fill)
except t.FileError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes")
def test_a_full_disk_during_a_checkpoint(tmp_path: Path) -> None:
    """A real failing write: the operating system refuses more bytes. The checkpoint before is whole, and serves."""
    out = tmp_path / "run"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    code = FULL_DISK.format(here=str(HERE), out=str(out))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "FileError the checkpoint can't be written" in done.stdout, done.stdout + done.stderr
    assert "Remedy: make room there" in done.stdout
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000000000.pt", "step-000000004.pt"]
    whole, pieces = Net(), Net()
    fit(whole, loader(), tmp_path / "whole", recipe=RECIPE)
    fit(pieces, loader(), out, recipe=RECIPE)
    assert_same(whole.state_dict(), pieces.state_dict())


def test_half_written_files_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    interrupted(tmp_path, 9)
    half = tmp_path / "checkpoints" / ".step-000000012.pt.part"
    half.write_bytes(b"half")
    fit(Net(), loader(), tmp_path, recipe=RECIPE)
    assert not half.exists()


def test_a_set_up_that_was_mended_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000.pt"]
    assert fit(Net(width=5), loader(), tmp_path, recipe=RECIPE).steps == 12


def test_two_checkpoints_are_kept_and_the_teacher_is_not_in_them(tmp_path: Path) -> None:
    from skd import Distiller
    from skd.methods import Transfer

    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    fit(Distiller(teacher, student, [Transfer("output", "", "")]), loader(), tmp_path, recipe=replace(RECIPE, steps=9))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-000000008.pt",
        "step-000000009.pt",
    ]
    found = state(tmp_path, 9)
    assert set(found["module"]) == {"student.weight", "student.bias", "_extra_state"}
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)) == {"weight", "bias"}


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    from skd import Distiller
    from skd.methods import Transfer

    def run(teacher_bias: float, weight: float = 1.0, at: int = 99) -> None:
        teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
        with torch.no_grad():
            for value in teacher.parameters():
                value.fill_(teacher_bias)
        distiller = Distiller(teacher, student, [Transfer("output", "", "", weight=weight)])
        fit(distiller, loader(), tmp_path, recipe=RECIPE, each=stop_at(at))

    with pytest.raises(KeyboardInterrupt):
        run(1.0, at=5)
    with pytest.raises(FileError, match="teachers"):
        run(2.0)
    with pytest.raises(FileError, match="rows"):
        run(1.0, weight=2.0)
    run(1.0)


def test_a_non_finite_sample_is_named_and_the_checkpoint_kept(tmp_path: Path) -> None:
    class Broken(Noisy):
        def __getitem__(self, index: int) -> Tensor:
            return super().__getitem__(index) / (0.0 if index == 6 else 1.0)

    data = DataLoader(Broken(), batch_size=2)
    with pytest.raises(DataError, match=r"batch 3 of pass 1 holds NaN or infinity; got sample 0 of its tensor"):
        fit(Net(), data, tmp_path, recipe=replace(RECIPE, save_every=2))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000000.pt", "step-000000002.pt"]
