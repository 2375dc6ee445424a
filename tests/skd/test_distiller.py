"""The distiller against hand-written runs; it never touches the teacher, keeps a feature or changes the student."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd import Distiller, Tap
from skd.adapters import BasisAdapter, ChannelAdapter
from skd.distances import distance, kl, mse, normalised_mse
from skd.errors import ArgumentError, FeatureError, LayerNotFoundError, ShapeError
from skd.knowledge import Knowledge, attention, centred, class_distribution, mean_std, raw
from skd.methods import Method, Stage, Through, Transfer
from skd.schedules import Ramp, Window


class Net(nn.Module):
    """A small encoder-decoder network."""

    def __init__(self, width: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(width)
        self.code = nn.Conv2d(width, width, 3, 1, 1)
        self.drop = nn.Dropout(drop)
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.code(F.relu(self.norm(self.down(x)))))

    def decode(self, code: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.drop(F.relu(code)))))


class Counted(Net):
    """Counts the runs of its last layer."""

    calls = 0

    def decode(self, code: Tensor) -> Tensor:
        result = super().decode(code)
        self.calls += 1
        return result


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(7))


def code_row(adapter: nn.Module | None = None, **options: Any) -> Transfer:
    return Transfer("code", "code", "code", raw, mse, student_adapters=adapter, **options)


OUTPUT = Transfer("output", "", "", raw, mse, 2.0)


def grads(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


# --- one step ---


def test_a_step_has_the_students_output_and_the_weighted_terms(x: Tensor) -> None:
    teacher, student, adapter = Net(6).eval(), Net(4).eval(), ChannelAdapter(4, 6)
    distiller = Distiller(
        teacher,
        student,
        [
            code_row(
                adapter,
            ),
            OUTPUT,
        ],
    )
    step = distiller(x)
    torch.testing.assert_close(step.output, student(x), rtol=0, atol=0)
    features = [net.code(F.relu(net.norm(net.down(x)))) for net in (student, teacher)]
    mapped = torch.einsum("oc,bchw->bohw", adapter.weight, features[0]) + adapter.bias[:, None, None]
    expected = {"code": (mapped - features[1]).square().mean(), "output": 2 * (student(x) - teacher(x)).square().mean()}
    assert step.losses.terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(step.losses[name], value)
    torch.testing.assert_close(step.losses.total, expected["code"] + expected["output"])
    assert step.teacher_output is None


def test_the_students_random_numbers_and_batch_statistics_are_those_of_a_plain_run(x: Tensor) -> None:
    teacher, student = Net(4, drop=0.5), Net(4, drop=0.5)
    twin = copy.deepcopy(student)
    distiller = Distiller(teacher, student, [code_row(), OUTPUT])
    torch.manual_seed(3)
    output = distiller(x).output
    torch.manual_seed(3)
    assert torch.equal(output, twin(x))
    assert student.norm.num_batches_tracked == 1
    assert torch.equal(student.norm.running_mean, twin.norm.running_mean)


@pytest.mark.parametrize("call", ["distiller.train", "teacher.train", "part.train", "distiller.grad", "teacher.grad"])
def test_the_teacher_stays_frozen_in_eval_mode_and_detached_whatever_is_called(call: str, x: Tensor) -> None:
    teacher, student = Net(4, drop=0.5), Net(4)
    through = Through({"code": "code"})
    rows = [code_row(), Transfer("again", "up", "up", centred, mse, through=through)]
    distiller = Distiller(teacher, student, rows, keep_teacher_output=True)
    before = copy.deepcopy(teacher.state_dict())
    expected = copy.deepcopy(teacher).eval()(x)
    {
        "distiller.train": lambda: distiller.train(),
        "teacher.train": lambda: teacher.train(),
        "part.train": lambda: teacher.drop.train(),
        "distiller.grad": lambda: distiller.requires_grad_(True),
        "teacher.grad": lambda: teacher.requires_grad_(True),
    }[call]()
    step = distiller(x)
    step.losses.total.backward()
    assert torch.equal(step.teacher_output, expected)
    assert not step.teacher_output.requires_grad
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert student.code.weight.grad is not None


def test_the_teacher_is_in_no_list_of_the_distiller_and_moves_with_it() -> None:
    teacher, student, adapter = Net(6), Net(4), ChannelAdapter(4, 6)
    distiller = Distiller(teacher, student, [code_row(adapter)])
    expected = {f"student.{name}" for name in student.state_dict()} | {"adapters.0.weight", "adapters.0.bias"}
    assert distiller.state_dict().keys() == expected | {"_extra_state"}
    ids = {id(p) for p in distiller.parameters()}
    assert ids == {id(p) for p in (*student.parameters(), *adapter.parameters())}
    assert {id(m) for m in distiller.modules()}.isdisjoint(id(m) for m in teacher.modules())
    assert {name.split(".")[0] for name, _ in distiller.named_modules() if name} == {"student", "adapters"}
    distiller.to(torch.float64)
    assert {p.dtype for p in (*teacher.parameters(), *distiller.parameters())} == {torch.float64}
    assert teacher.norm.running_mean.dtype == torch.float64
    assert distiller.teachers == {"teacher": teacher}
    assert distiller.teacher is teacher
    assert distiller.tapped is student


def test_adapters_are_made_where_the_student_is() -> None:
    distiller = Distiller(Net(6).to("meta"), Net(4).to("meta"), [code_row(ChannelAdapter(4, 6))])
    assert {p.device.type for p in distiller.parameters()} == {"meta"}
    assert distiller.factors.device.type == "meta"


def test_several_teachers_with_inputs_of_their_own(x: Tensor) -> None:
    one, other, student = Net(4).eval(), Net(4).eval(), Net(4).eval()

    def brighter(image: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        return (), {"x": image + 1}

    rows = [
        Transfer("a", "code", "code", raw, mse, of="one"),
        Transfer("b", "", "", raw, mse, of="other"),
    ]
    teachers = {"one": one, "other": other}
    distiller = Distiller(teachers, student, rows, teacher_inputs=brighter, keep_teacher_output=True)
    step = distiller(x)
    assert torch.equal(step.output, student(x))
    assert step.teacher_output.keys() == teachers.keys()
    assert all(torch.equal(step.teacher_output[name], net(x + 1)) for name, net in teachers.items())
    torch.testing.assert_close(step.losses["b"], (student(x) - other(x + 1)).square().mean())
    code = [net.code(F.relu(net.norm(net.down(image)))) for net, image in ((student, x), (one, x + 1))]
    torch.testing.assert_close(step.losses["a"], (code[0] - code[1]).square().mean())


def test_the_teachers_output_is_kept_on_demand(x: Tensor) -> None:
    teacher = Net(4).eval()
    step = Distiller(teacher, Net(4), [code_row()], keep_teacher_output=True)(x)
    assert torch.equal(step.teacher_output, teacher(x))


@pytest.mark.parametrize(("keep", "runs"), [(False, 0), (True, 1)])
def test_the_teacher_stops_at_its_last_tap(keep: bool, runs: int, x: Tensor) -> None:
    teacher = Counted(4)
    Distiller(teacher, Net(4), [code_row()], keep_teacher_output=keep)(x)
    assert teacher.calls == runs


def test_the_teacher_does_not_run_where_no_row_needs_it(x: Tensor) -> None:
    class Late(Method):
        def transfers(self) -> list[Transfer]:
            return [OUTPUT]

        def stages(self) -> list[Stage]:
            return [Stage(1, ()), Stage(None, ("output",))]

    teacher = Counted(4)
    distiller = Distiller(teacher, Net(4), Late())
    step = distiller(x)
    assert (teacher.calls, step.losses.values()) == (0, {"total": 0.0})
    distiller.advance()
    assert distiller(x).losses.values()["total"] > 0
    assert teacher.calls == 1


# --- the teacher's second run ---


@pytest.mark.parametrize("widths", [(4, 4), (6, 4)])
def test_the_students_code_through_the_teachers_decoder(widths: tuple[int, int], x: Tensor) -> None:
    teacher, student = Counted(widths[0]).eval(), Net(widths[1]).eval()
    adapter = None if widths[0] == widths[1] else ChannelAdapter(widths[1], widths[0])
    through = Through({"code": "code"}, {} if adapter is None else {"code": adapter})
    rows = [
        Transfer("up", "up", "up", centred, normalised_mse, through=through),
        Transfer("image", "", "", raw, mse, 3.0, through=through),
    ]
    distiller = Distiller(teacher, student, rows)
    step = distiller(x)
    step.losses.total.backward()
    got = grads(distiller)
    assert teacher.calls == 2  # its own run, and one for both rows
    distiller.zero_grad()

    code = student.code(F.relu(student.norm(student.down(x))))
    code = code if adapter is None else F.conv2d(code, adapter.weight[:, :, None, None], adapter.bias)
    up = teacher.up(F.relu(code))
    with torch.no_grad():
        target = teacher.up(F.relu(teacher.code(F.relu(teacher.norm(teacher.down(x))))))
    s, t = (value - value.mean((2, 3), keepdim=True) for value in (up, target))
    losses = (s - t).square().sum() / t.square().sum(), 3 * (teacher.decode(code) - teacher(x)).square().mean()
    for name, loss in zip(("up", "image"), losses, strict=True):
        torch.testing.assert_close(step.losses[name], loss)
    sum(losses).backward()
    torch.testing.assert_close(got, grads(distiller))
    assert got["student.code.weight"] is not None
    assert got["student.head.weight"] is None  # the student's own decoder takes no part
    assert all(p.grad is None for p in teacher.parameters())


# --- schedules and stages ---


def test_schedules_go_on_with_advance(x: Tensor) -> None:
    rows = [
        Transfer("fade", "", "", weight=Ramp(1.0, 0.0, steps=2)),
        Transfer("late", "", "", weight=Window(0.1, first=2)),
    ]
    distiller = Distiller(Net(4), Net(4).eval(), rows)
    distiller.student.eval()
    full = distiller(x).losses.values()["fade"]
    seen = []
    for _ in range(3):
        losses = distiller(x).losses.values()
        seen.append((losses["fade"] / full, losses["late"] / full))
        distiller.advance()
    assert seen == [(1.0, 0.0), (0.5, 0.0), (0.0, pytest.approx(0.1))]
    distiller.advance(10)
    assert distiller.steps_done == 13


def test_advance_before_the_backward_leaves_the_gradient_alone(x: Tensor) -> None:
    distiller = Distiller(Net(4), Net(4), [Transfer("output", "", "", weight=Ramp(1.0, 0.0, steps=1))])
    step = distiller(x)
    distiller.advance()
    step.losses.total.backward()
    assert float(distiller.student.head.weight.grad.abs().sum()) > 0


def test_weights_are_not_rounded_to_half(x: Tensor) -> None:
    distiller = Distiller(Net(4), Net(4), [Transfer("output", "", "", weight=0.1)]).to(torch.bfloat16)
    assert distiller.factors.dtype == torch.float32
    assert torch.equal(distiller.factors, torch.tensor([0.1]))
    distiller.double()
    assert distiller.factors.dtype == torch.float64
    assert distiller.factors.item() == 0.1
    step = Distiller(Net(4).double(), Net(4).double(), [Transfer("output", "", "", weight=0.1)])(x.double())
    assert step.losses.total.dtype == torch.float64


class Staged(Method):
    def __init__(self, *stages: Stage) -> None:
        self.given = stages

    def transfers(self) -> list[Transfer]:
        names = ["1/1/encoder", "1/16/encoder", "1/16/decoder", "output"]
        taps = ["code", "down", "up", ""]
        return [Transfer(name, tap, tap) for name, tap in zip(names, taps, strict=True)]

    def stages(self) -> tuple[Stage, ...]:
        return self.given


def test_stages_count_their_rows_and_freeze_their_layers(x: Tensor) -> None:
    student = Net(4)
    student.head.bias.requires_grad_(False)  # the user's own choice, which a stage gives back
    flags = {name: p.requires_grad for name, p in student.named_parameters()}
    stages = Stage(2, ("1/1",), ("head", "up")), Stage(3, ("1/16", "output"), ("down",)), Stage(None, ("output",))
    distiller = Distiller(Net(4), student, Staged(*stages))

    def frozen() -> set[str]:
        return {name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad < flags[name]}

    assert [*distiller(x).losses.terms] == ["1/1/encoder"]  # and not 1/16, which begins with the same letters
    assert (distiller.active, frozen(), distiller.stage) == ((0,), {"head", "up"}, stages[0])
    distiller.advance(2)
    step = distiller(x)
    assert [*step.losses.terms] == ["1/16/encoder", "1/16/decoder", "output"]
    step.losses.total.backward()
    assert student.down.weight.grad is None
    assert student.up.weight.grad is not None
    assert (distiller.active, frozen()) == ((1, 2, 3), {"down"})
    distiller.advance()
    assert {name: p.requires_grad for name, p in student.named_parameters()} == flags
    assert distiller.active == (3,)


def test_the_whole_student_can_stand_still() -> None:
    distiller = Distiller(Net(4), Net(4), Staged(Stage(1, ("output",), ("",)), Stage(None, ("output",))))
    assert not any(p.requires_grad for p in distiller.student.parameters())
    distiller.advance()
    assert all(p.requires_grad for p in distiller.student.parameters())


def test_a_checkpoint_goes_on_where_it_stood(tmp_path: Path, x: Tensor) -> None:
    def make() -> Distiller:
        stages = Stage(2, ("1/1",), ("head",)), Stage(None, ("output",))
        return Distiller(Net(4), Net(4), Staged(*stages))

    distiller, fresh = make(), make()
    distiller.advance(2)
    torch.save(distiller.state_dict(), tmp_path / "state.pt")
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (fresh.steps_done, fresh.active) == (2, (3,))
    assert fresh.student.head.weight.requires_grad
    torch.testing.assert_close(fresh.student.state_dict(), distiller.student.state_dict(), rtol=0, atol=0)


# --- precision, compilation, copies ---


def full_method(teacher: int = 6, student: int = 4) -> list[Transfer]:
    """A row of every kind: learned and fixed adapters, one shared by two rows, statistics, a second run."""
    shared = ChannelAdapter(student, teacher)
    basis = BasisAdapter(torch.linalg.qr(torch.randn(teacher, student))[0])
    through = Through({"code": "code"}, {"code": ChannelAdapter(student, teacher)})
    return [
        Transfer("structure", "code", "code", centred, normalised_mse, student_adapters=shared),
        Transfer("statistics", "code", "code", mean_std, mse, 0.3, student_adapters=shared),
        Transfer("basis", "up", "up", centred, normalised_mse, Ramp(1.0, 0.0, steps=4), teacher_adapters=basis),
        Transfer("attention", "up", "up", Knowledge(attention, power=4), mse),
        Transfer("again", "up", "up", centred, normalised_mse, through=through),
        Transfer("output", "", "", raw, mse),
    ]


@pytest.fixture
def full() -> Distiller:
    return Distiller(Net(6), Net(4), full_method())


def test_autocast_computes_losses_in_float32(full: Distiller, x: Tensor) -> None:
    full.student.eval()
    plain = full(x)
    with torch.autocast("cpu", torch.bfloat16):
        step = full(x)
    assert step.output.dtype == torch.bfloat16
    assert {term.dtype for term in step.losses.terms.values()} == {torch.float32}
    for name, term in step.losses.terms.items():
        torch.testing.assert_close(term, plain.losses[name], rtol=0.05, atol=1e-3)
    step.losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in full.parameters() if p.grad is not None)


@pytest.fixture
def dynamo() -> Iterator[Any]:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo
    torch._dynamo.reset()


def test_compiled_in_one_graph_values_and_gradients_are_the_same(full: Distiller, x: Tensor, dynamo: Any) -> None:
    full.student.eval()
    expected = full(x)
    expected.losses.total.backward()
    gradients = grads(full)
    full.zero_grad()
    compiled = torch.compile(full, fullgraph=True, backend="aot_eager")
    step = compiled(x)
    torch.testing.assert_close(step.output, expected.output)
    torch.testing.assert_close(dict(step.losses.terms), dict(expected.losses.terms))
    step.losses.total.backward()
    torch.testing.assert_close(grads(full), gradients)
    full.advance(2)  # another weight of the schedule, and no other graph
    torch.testing.assert_close(compiled(x).losses["basis"], 0.5 * expected.losses["basis"])
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_compiled_the_teacher_goes_back_to_eval_mode_too(x: Tensor, dynamo: Any) -> None:
    teacher = Net(4, drop=0.5)
    distiller = Distiller(teacher, Net(4), [OUTPUT], keep_teacher_output=True)
    compiled = torch.compile(distiller, fullgraph=True, backend="eager")
    expected = compiled(x).teacher_output
    teacher.train()
    torch.testing.assert_close(compiled(x).teacher_output, expected)
    assert not any(module.training for module in teacher.modules())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_a_copy_stands_by_itself(copied: Any, full: Distiller, x: Tensor) -> None:
    full.advance(1)
    expected = full(x).losses.values()
    twin = copied(full)
    assert twin.steps_done == 1
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in full.parameters())
    assert twin.teacher is not full.teacher
    assert twin.transfers[0].student_adapters[0] is twin.adapters[0]
    assert twin.tapped is twin.student
    with torch.no_grad():
        for p in (*full.parameters(), *full.teacher.parameters()):
            p.zero_()
    assert twin(x).losses.values() == expected
    twin.advance()
    assert full.steps_done == 1


def test_nothing_is_kept_after_the_step_and_no_hook_remains(full: Distiller, x: Tensor) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def watched(feature: Tensor, *, layout: str = "BCHW") -> Tensor:
        seen.append(weakref.ref(feature))
        return feature

    rows = [*full.transfers, Transfer("watched", "code", "code", watched, mse, student_adapters=ChannelAdapter(4, 6))]
    distiller = Distiller(full.teacher, full.student, rows)
    step = distiller(x)
    assert seen[0]() is not None  # in the graph, which the step holds
    step.losses.total.backward()
    del step
    gc.collect()
    assert [ref() for ref in seen] == [None, None]
    for module in (*distiller.modules(), *full.teacher.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_an_error_in_the_student_leaves_no_hook(x: Tensor) -> None:
    distiller = Distiller(Net(4), Net(4), [code_row(), OUTPUT])
    with pytest.raises(RuntimeError, match="channels"):
        distiller(x[:, :2])
    assert not any(m._forward_hooks for net in (distiller.student, distiller.teacher) for m in net.modules())


def test_the_trained_student_is_saved_and_loaded_without_skd(tmp_path: Path, x: Tensor) -> None:
    student = nn.Sequential(OrderedDict(code=nn.Conv2d(3, 4, 3), act=nn.ReLU(), head=nn.Conv2d(4, 3, 1)))
    distiller = Distiller(copy.deepcopy(student), student, [code_row(), OUTPUT])
    distiller(x).losses.total.backward()
    torch.save(student, tmp_path / "student.pt")
    torch.save((x, student(x).detach()), tmp_path / "values.pt")
    code = (
        "import sys; sys.modules['skd'] = None\n"
        "import torch; student = torch.load('student.pt', weights_only=False); x, y = torch.load('values.pt')\n"
        "torch.testing.assert_close(student(x), y)  # not bit for bit: this process may use more threads\n"
        "assert not [m for m in sys.modules if m.startswith('skd.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)


# --- what networks return ---


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Speaking(nn.Module):
    """Returns the same values in the shape asked for."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.head = form, nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Any:
        logits = self.head(x)
        values: dict[str, Any] = {
            "tuple": (x, logits),
            "dict": {"x": x, "logits": logits},
            "dataclass": Output(logits, (x, x)),
        }
        return values[self.form]


@pytest.mark.parametrize(
    ("form", "path"), [("tuple", (1,)), ("dict", ("logits",)), ("dataclass", ("logits",))], ids=lambda value: str(value)
)
def test_outputs_in_containers(form: str, path: tuple[str | int, ...]) -> None:
    teacher, student, x = Speaking(form), Speaking(form), torch.randn(4, 3)
    tap = Tap("", path=path)
    rows = [
        Transfer("raw", tap, tap),
        Transfer("classes", tap, tap, Knowledge(class_distribution, temperature=2.0), kl),
    ]
    step = Distiller(teacher, student, rows)(x)
    assert type(step.output) is type(student(x))
    torch.testing.assert_close(step.losses["raw"], F.mse_loss(student.head(x), teacher.head(x)))
    logs = [(net.head(x) / 2).log_softmax(1) for net in (student, teacher)]
    expected = F.kl_div(*logs, log_target=True, reduction="batchmean")
    torch.testing.assert_close(step.losses["classes"], expected)


def test_a_container_without_a_path_says_which_there_are() -> None:
    with pytest.raises(FeatureError, match="logits"):
        Distiller(Speaking("dict"), Speaking("dict"), [OUTPUT])(torch.randn(4, 3))


def test_three_dimensions_need_a_layout_only_where_it_matters() -> None:
    teacher, student, x = nn.Linear(4, 6), nn.Linear(4, 6), torch.randn(2, 5, 4)
    raws = Transfer("raw", "", "", Knowledge(raw))
    torch.testing.assert_close(Distiller(teacher, student, [raws])(x).losses.total, F.mse_loss(student(x), teacher(x)))
    with pytest.raises(ShapeError, match="layout"):
        Distiller(teacher, student, [Transfer("statistics", "", "", mean_std)])(x)
    tap = Tap("", layout="BNC")
    total = Distiller(teacher, student, [Transfer("statistics", tap, tap, mean_std)])(x).losses.total
    s, t = (torch.cat([y.mean(1), (y.var(1, correction=0) + 1e-5).sqrt()], 1) for y in (student(x), teacher(x)))
    torch.testing.assert_close(total, F.mse_loss(s, t))


def test_knowledge_of_several_layers_takes_them_in_order(x: Tensor) -> None:
    def flow(first: Tensor, second: Tensor, *, layout: str) -> Tensor:
        assert layout == "BCHW"
        return torch.einsum("bchw,bdhw->bcd", first, second) / first[0, 0].numel()

    teacher, student = Net(6).eval(), Net(4).eval()
    adapter = ChannelAdapter(4, 6)
    row = Transfer(
        "fsp", ["down", "code"], ["down", "code"], flow, mse, student_adapters=[adapter, ChannelAdapter(4, 6)]
    )
    distiller = Distiller(teacher, student, [row])
    maps = []
    for net, adapters in ((student, distiller.adapters), (teacher, (None, None))):
        down = net.down(x)
        pair = [down, net.code(F.relu(net.norm(down)))]
        pair = [f if a is None else a(f) for f, a in zip(pair, adapters, strict=True)]
        maps.append(flow(*pair, layout="BCHW"))
    torch.testing.assert_close(distiller(x).losses.total, F.mse_loss(*maps))


def test_a_shared_adapter_runs_once_and_gathers_both_gradients(x: Tensor) -> None:
    class Counting(ChannelAdapter):
        calls = 0

        def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
            self.calls += 1
            return super().forward(feature, reference)

    teacher, student, adapter = Net(6), Net(4), Counting(4, 6)
    rows = [
        Transfer("code", "code", "code", raw, mse, student_adapters=adapter),
        Transfer("statistics", "code", "code", mean_std, mse, student_adapters=adapter),
        Transfer("up", "up", "up", raw, mse, student_adapters=adapter),
    ]
    distiller = Distiller(teacher, student.eval(), rows)
    assert len(distiller.adapters) == 1
    losses = distiller(x).losses
    assert adapter.calls == 2  # two places, three rows
    apart = [torch.autograd.grad(losses[row.name], adapter.weight, retain_graph=True)[0] for row in rows]
    together = torch.autograd.grad(losses.total, adapter.weight)[0]
    torch.testing.assert_close(together, sum(apart))
    assert all(float(g.abs().max()) > 0 for g in apart)


def test_features_and_knowledge_are_those_of_the_step(full: Distiller, x: Tensor) -> None:
    full.student.eval()
    full.teacher.train()
    losses = full(x).losses
    student, teachers = full.features(x)
    for row, factor in zip(full.transfers, full.factors, strict=True):
        if row.through is None:
            s, t = full.knowledge(row, student, teachers[row.of])
            torch.testing.assert_close(losses[row.name], row.distance(s, t) * factor)
    assert not any(feature.requires_grad for feature in teachers["teacher"].values())


# --- mistakes ---


@distance(divergence=True)
def per_sample(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).flatten(1).square().mean(1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "needs at least one transfer; got none"),
        ([OUTPUT, code_row(), OUTPUT], "two transfers have the same name; got output"),
        (
            [code_row(of="techer")],
            r"'code' learns of a teacher that isn't there; got 'techer'.*did you mean 'teacher'\?",
        ),
        (["output"], "needs at least one transfer; got output"),
    ],
)
def test_rows_that_can_not_be(rows: list[Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Distiller(Net(4), Net(4), rows)


@pytest.mark.parametrize(("student", "teacher"), [("cod", "code"), ("code", "cod")])
def test_an_unknown_layer_comes_with_the_closest_names(student: str, teacher: str) -> None:
    with pytest.raises(LayerNotFoundError, match=r"no layer 'cod'.*did you mean 'code'"):
        Distiller(Net(4), Net(4), [Transfer("code", student, teacher)])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage(None, ("output",)), Stage(5, ("output",))], r"only the last may go on; got \[None, 5\]"),
        ([Stage(5, ("output",)), Stage(5, ("output",))], r"one after the other.*got \[5, 5\]"),
        ([Stage(0, ("output",))], "one after the other"),
        ([Stage(None, ("outptu",))], r"names 'outptu', and no transfer is called so.*did you mean 'output'"),
        ([Stage(None, ("1",)), Stage(None, ("out",))], "stages end one after the other"),
        ([Stage(None, ("out",))], "names 'out', and no transfer"),
        ([Stage(None, ("output",), ("haed",))], r"no layer 'haed' to freeze.*did you mean 'head'"),
    ],
)
def test_stages_that_can_not_be(stages: list[Stage], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Distiller(Net(4), Net(4), Staged(*stages))


def test_networks_that_can_not_be() -> None:
    net = Net(4)
    with pytest.raises(ArgumentError, match=r"isn't the student itself.*deepcopy"):
        Distiller(net, net, [OUTPUT])
    with pytest.raises(ArgumentError, match="needs a teacher"):
        Distiller({}, net, [OUTPUT])
    with pytest.raises(ArgumentError, match="the teacher 'one' isn't a network; got str"):
        Distiller({"one": "net"}, net, [OUTPUT])  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="the student isn't a network; got tuple"):
        Distiller(net, (), [OUTPUT])  # type: ignore[arg-type]
    assert all(p.requires_grad for p in net.parameters())  # a refused teacher is left alone


def test_a_second_run_is_of_one_teacher() -> None:
    through = Through({"code": "code"})
    rows = [Transfer(name, "", "", of=name, through=through) for name in ("one", "other")]
    with pytest.raises(ArgumentError, match="shares a second run with one of another teacher; got 'other' and 'one'"):
        Distiller({"one": Net(4), "other": Net(4)}, Net(4), rows)


def test_shapes_that_do_not_fit(x: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"different shapes.*student.*4.*teacher.*6.*ChannelAdapter"):
        Distiller(Net(6), Net(4), [code_row()])(x)
    with pytest.raises(ShapeError, match="'samples' isn't a scalar"):
        Distiller(Net(4), Net(4), [Transfer("samples", "", "", raw, per_sample)])(x)


def test_features_of_several_layouts_are_refused() -> None:
    def both(first: Tensor, second: Tensor, *, layout: str) -> Tensor:
        return first

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 1), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x).mean((2, 3)) + self.other(x.mean((2, 3)))

    row = Transfer("both", ["one", "other"], ["one", "other"], both)
    with pytest.raises(ShapeError, match="'both' have different layouts; got BCHW at 'one', BC at 'other'"):
        Distiller(Two(), Two(), [row])(torch.randn(2, 3, 4, 4))


def test_training_goes_forward() -> None:
    with pytest.raises(ArgumentError, match="training goes forward; got -1 steps"):
        Distiller(Net(4), Net(4), [OUTPUT]).advance(-1)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"can't have this weight; got -1\.0"):
        Distiller(Net(4), Net(4), [Transfer("output", "", "", weight=-1.0)])


def test_its_text_lists_the_transfers() -> None:
    assert "output: output → output, raw, mse, weight 2.0" in str(Distiller(Net(4), Net(4), [OUTPUT]))
