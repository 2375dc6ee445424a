"""The one call against its steps done by hand; what it leaves behind; what it refuses."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import skd
from skd import Distiller, Recipe, Step, distill
from skd.errors import ArgumentError, CheckError, DataError, FileError, PairingError, ShapeError
from skd.methods import SKD, Method, Transfer

RECIPE = Recipe(steps=5, learning_rate=0.01, warmup=0, schedule="constant", clip=None, optimizer="sgd", log_every=1)
OUTPUT = [Transfer("output", "", "")]


def net(width: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                down1=nn.Conv2d(3, width, 3, 2, 1),
                down2=nn.Conv2d(width, 2 * width, 3, 2, 1),
                up2=nn.ConvTranspose2d(2 * width, width, 2, 2),
                up1=nn.ConvTranspose2d(width, 3, 2, 2),
            )
        )


def images(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 12, generator=generator) for _ in range(count)]


def trained_by_hand(teacher: nn.Module, student: nn.Module, method: Any, task: Any = None) -> None:
    distiller = Distiller(teacher, student, method)
    distiller.train()
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    for batch in images():
        optimizer.zero_grad()
        step = distiller(batch)
        total = step.losses.total if task is None else step.losses.total + task(step.output, batch)
        total.backward()
        optimizer.step()
        distiller.advance()


def skd_by_hand(teacher: nn.Module, student: nn.Module) -> Method:
    theirs, ours = skd.pair(teacher, images()[0]), skd.pair(student, images()[0])
    return SKD(skd.match(theirs, ours), skd.measure(teacher, theirs, images()))


def same(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-7)


class OutputOnly(Method):
    def transfers(self) -> Sequence[Transfer]:
        return OUTPUT


# --- values ----------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_its_steps_done_by_hand(tmp_path: Path) -> None:
    teacher, ours, theirs = net(6, 0), net(2, 1), net(2, 1)
    done = distill(teacher, images(), tmp_path, student=ours, recipe=RECIPE)
    trained_by_hand(teacher, theirs, skd_by_hand(teacher, theirs))
    assert done.student is ours
    same(ours, theirs)
    assert not torch.equal(ours.up1.weight, net(2, 1).up1.weight)


def test_the_task_is_added_with_its_weight(tmp_path: Path) -> None:
    teacher, ours, theirs = net(6, 0), net(2, 1), net(2, 1)

    def task(output: Tensor, batch: Tensor) -> Tensor:
        return (output - batch).square().mean()

    options: dict[str, Any] = {"student": ours, "recipe": RECIPE, "method": OUTPUT}
    distill(teacher, images(), tmp_path, **options, task_loss=task, task_weight=3.0)
    trained_by_hand(teacher, theirs, OUTPUT, lambda output, batch: 3 * task(output, batch))
    same(ours, theirs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_run_is_one_graph_and_gives_the_same_weights(tmp_path: Path, precision: Any) -> None:
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, given: Sequence[Tensor]) -> Any:
        graphs.append(len(given))
        return graph.forward

    teacher, ours, theirs = net(6, 0), net(2, 1), net(2, 1)
    compiled = replace(RECIPE, precision=precision, compile={"backend": count, "fullgraph": True})
    torch.compiler.reset()
    distill(teacher, images(), tmp_path / "compiled", student=ours, recipe=compiled)
    assert len(graphs) == 1
    distill(teacher, images(), tmp_path / "plain", student=theirs, recipe=replace(RECIPE, precision=precision))
    assert len(graphs) == 1
    same(ours, theirs)
    theirs.load_state_dict(torch.load(tmp_path / "compiled/last.pt", weights_only=True))  # names without a prefix
    with pytest.raises(FileError, match=r"of another run \(recipe\.compile: "):
        distill(teacher, images(), tmp_path / "compiled", student=theirs, recipe=replace(RECIPE, precision=precision))


def test_compile_true_is_torch_compile_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: [asked.append(options), module][1])
    distill(net(6, 0), images(), tmp_path, student=net(2, 1), recipe=replace(RECIPE, compile=True))
    assert asked == [{}]


def test_a_compiled_step_would_not_read_the_cache(tmp_path: Path) -> None:
    cache = skd.TeacherCache(tmp_path / "cache")
    with pytest.raises(ArgumentError, match=r"a compiled step doesn't read a TeacherCache; got compile=True\."):
        distill(
            net(6, 0), images(), tmp_path / "out", student=net(2, 1), recipe=replace(RECIPE, compile=True), cache=cache
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [OutputOnly(), OUTPUT, lambda plan, spectra: OUTPUT], ids=["method", "rows", "made"])
def test_every_form_of_a_method(tmp_path: Path, method: Any) -> None:
    teacher, ours, theirs = net(6, 0), net(2, 1), net(2, 1)
    distill(teacher, images(), tmp_path, student=ours, recipe=RECIPE, method=method)
    trained_by_hand(teacher, theirs, OUTPUT)
    same(ours, theirs)


def test_declared_pairings_and_calibration_data_reach_the_method(tmp_path: Path) -> None:
    teacher, student = net(6, 0), net(2, 1)
    declared = [
        skd.Pairing.declare(pairs=[("down1", "up2")], model=one, example=images()[0]) for one in (teacher, student)
    ]
    own = [10 + batch for batch in images(3)]
    seen: list[Any] = []

    def method(plan: Any, spectra: Any) -> Any:
        seen.extend([plan, spectra])
        return OUTPUT

    options: dict[str, Any] = {"student": student, "recipe": RECIPE, "method": method}
    distill(teacher, images(), tmp_path, **options, pairings=(declared[0], declared[1]), calibration=own)
    assert [(str(a.encoder), str(b.decoder)) for a, b in seen[0]] == [("down1", "up2")]
    name = declared[0][0].name
    mean = torch.cat([teacher.down1(batch) for batch in own]).mean((0, 2, 3))
    torch.testing.assert_close(seen[1][name].encoder.mean, mean.detach().double(), rtol=1e-5, atol=1e-6)


def test_inputs_pick_what_the_networks_get_and_the_task_gets_all(tmp_path: Path) -> None:
    labelled = TensorDataset(torch.cat(images()), torch.arange(20))
    seen: list[Any] = []

    def task(output: Tensor, batch: Any) -> Tensor:
        seen.append(batch[1].shape)
        return output.square().mean()

    options: dict[str, Any] = {"student": net(2, 1), "recipe": RECIPE, "method": OUTPUT}
    loader = DataLoader(labelled, batch_size=4)
    distill(net(6, 0), loader, tmp_path, **options, inputs=lambda batch: batch[0], task_loss=task)
    assert seen == [(4,)] * 5


def test_dict_batches_of_tokens(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, width)
            self.block = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.0, batch_first=True)
            self.head = nn.Linear(width, 5)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.head(self.block(self.embed(ids), src_key_padding_mask=mask).mean(1))

    torch.manual_seed(0)
    data = [{"ids": torch.randint(11, (4, 6)), "mask": torch.zeros(4, 6, dtype=torch.bool)} for _ in range(3)]
    teacher, student = Tokens(8), Tokens(4)
    before = (teacher.eval()(**data[0]) - student.eval()(**data[0])).square().mean().item()
    recipe = Recipe(steps=40, warmup=0, learning_rate=0.02)
    done = distill(teacher, data, tmp_path, student=student, recipe=recipe, method=OUTPUT)
    assert (teacher(**data[0]) - done.student(**data[0])).square().mean().item() < 0.5 * before


def test_evaluation_average_and_files(tmp_path: Path) -> None:
    student, modes = net(2, 1), []

    def evaluate(network: nn.Module) -> float:
        modes.append((network is student, network.training, torch.is_grad_enabled()))
        return float(network(images()[0]).square().mean())

    recipe = Recipe(steps=6, warmup=0, average=0.5, evaluate_every=3, log_every=1)
    done = distill(net(6, 0), images(), tmp_path, student=student, recipe=recipe, method=OUTPUT, evaluate=evaluate)
    assert modes == [(True, False, False)] * 2
    assert not any(part.training for part in student.modules())
    last = torch.load(done.run.last_weights, weights_only=True)
    torch.testing.assert_close(dict(student.state_dict()), dict(last), rtol=0, atol=0)
    kept = torch.load(done.run.checkpoints / "step-000000006.pt", weights_only=True)["module"]
    own = {name.split("student.")[1]: value for name, value in kept.items() if "student." in name}
    assert not torch.equal(own["up1.weight"], last["up1.weight"]), "the run's own weights aren't the average"
    assert not any("teacher" in name for name in kept)
    visible = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert visible == {"best.pt", "last.pt", "log.jsonl", "checkpoints"}


def test_the_report_is_that_of_the_trained_student(tmp_path: Path) -> None:
    teacher, student = net(6, 0), net(2, 1)
    done = distill(teacher, images(), tmp_path, student=student, recipe=RECIPE, method=OUTPUT, calibration=images(3))
    by_hand = skd.report(Distiller(teacher, student, OUTPUT), images(3), batches=8)
    assert str(done.report) == str(by_hand)


def test_learned_adapters_begin_by_the_recipe_s_seed(tmp_path: Path) -> None:
    learned = functools.partial(SKD, basis="learned")

    def trained(name: str, drawn_before: int, **options: Any) -> dict[str, Tensor]:
        student, recipe = net(2, 1), replace(RECIPE, **options)
        torch.manual_seed(drawn_before)
        state = torch.get_rng_state()
        distill(net(6, 0), images(), tmp_path / name, student=student, recipe=recipe, method=learned)
        assert torch.equal(torch.get_rng_state(), state)
        return student.state_dict()

    one, other = trained("one", 1), trained("other", 2)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(one["up1.weight"], trained("reseeded", 1, seed=5)["up1.weight"])


# --- resumption ------------------------------------------------------------------------------------------------------


def test_bases_and_adapters_go_on_bit_for_bit(tmp_path: Path) -> None:
    def stop(step: int, result: Step) -> None:
        if step == 3:
            raise KeyboardInterrupt

    recipe = Recipe(steps=6, warmup=2, average=0.9, save_every=2)
    loader = DataLoader(torch.cat(images()), batch_size=4, shuffle=True)  # type: ignore[arg-type]
    whole, pieces, again = net(2, 1), net(2, 1), net(2, 7)
    distill(net(6, 0), loader, tmp_path / "whole", student=whole, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        distill(net(6, 0), loader, tmp_path / "pieces", student=pieces, recipe=recipe, each=stop)
    distill(net(6, 0), loader, tmp_path / "pieces", student=again, recipe=recipe)
    one, other = (
        torch.load(tmp_path / run / "checkpoints" / "step-000000006.pt", weights_only=True)["module"]
        for run in ("whole", "pieces")
    )
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)
    torch.testing.assert_close(whole.state_dict(), again.state_dict(), rtol=0, atol=0)


# --- the teacher, and what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_the_teacher_comes_back_as_it_was(tmp_path: Path, fails: bool) -> None:
    teacher = net(6, 0)
    teacher.train()
    teacher.down2.eval()
    teacher.up1.bias.requires_grad_(False)
    weights = copy.deepcopy(teacher.state_dict())

    def facts() -> Any:
        flags = [p.requires_grad for p in teacher.parameters()], [part.training for part in teacher.modules()]
        hooks = [[len(v) for k, v in vars(part).items() if "hooks" in k] for part in teacher.modules()]
        return flags, hooks, [sorted(vars(part)) for part in teacher.modules()]

    def each(step: int, result: Step) -> None:
        if fails:
            raise KeyError("mine")

    before = facts()
    options: dict[str, Any] = {"student": net(2, 1), "recipe": RECIPE, "each": each}
    if fails:
        with pytest.raises(KeyError, match="mine"):
            distill(teacher, images(), tmp_path, **options)
    else:
        distill(teacher, images(), tmp_path, **options)
    assert facts() == before
    torch.testing.assert_close(teacher.state_dict(), weights, rtol=0, atol=0)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_broken_set_up_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Detaching(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    out, steps, student = tmp_path / "out", [], net(2, 1)
    student.down2 = Detaching(2, 4, 3, 2, 1)
    options: dict[str, Any] = {"recipe": RECIPE, "method": OUTPUT, "each": lambda *_: steps.append(1)}
    with pytest.raises(CheckError, match=r"gets no gradient.*down1\.weight"):
        distill(net(2, 0), images(), out, student=student, **options)
    assert not out.exists()
    assert not steps


def test_networks_without_pairs(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(288, 2))
    with pytest.raises(PairingError, match="declare"):
        distill(flat, images(), tmp_path / "out", student=copy.deepcopy(flat), recipe=RECIPE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": [["a", "b"]]}, DataError, "batch 0 of the calibration holds no tensor; got list of str"),
        ({"data": []}, DataError, "the data hold no batch"),
        ({"data": 3}, ArgumentError, "these data don't come in batches"),
        ({"method": 3}, ArgumentError, "there is no such method; got int"),
        ({"task_loss": lambda output, batch: output}, ShapeError, "the task's loss isn't a scalar"),
        ({"task_loss": lambda output, batch: 1.0}, ShapeError, "the task's loss isn't a scalar; got float"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    options = {"data": images(), "student": net(2, 1), "recipe": RECIPE, "method": OUTPUT, **change}
    with pytest.raises(error, match=message):
        distill(net(6, 0), options.pop("data"), tmp_path, **options)
