"""report(): multiply-adds, latency, shares of the gradient, spectra and groups; against what is counted by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skd
from skd import Distiller, Report, report
from skd._reporting import costs
from skd.distances import mse
from skd.errors import ArgumentError, FileError, NonFiniteError
from skd.methods import Stage, Through, Transfer
from skd.reporting import Narrowed, Row, Spectrum
from skd.schedules import Window


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


def counted(teacher: nn.Module, student: nn.Module, x: Any) -> tuple[int | None, int | None]:
    row = Transfer("output", "", "", skd.knowledge.raw, mse)
    found = report(Distiller(teacher, student, [row]), [x])
    return found.teacher_multiply_adds, found.student_multiply_adds


# --- multiply-adds ----------------------------------------------------------------------------------------------------


def test_multiply_adds_of_convolutions_by_hand() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2))
    student = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.ConvTranspose2d(6, 4, 2, 2))
    found = counted(teacher, student, torch.randn(2, 3, 8, 12))
    # Positions × inputs × outputs × kernel; a transposed convolution's positions are its input's.
    positions = 2 * 4 * 6
    assert found == (positions * (3 * 8 * 9 + 8 * 4 * 4), positions * (1 * 6 * 9 + 6 * 4 * 4))


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_multiply_adds_of_attention_by_hand() -> None:
    """Also where torch would run a whole layer, or attention, in one kernel."""
    batch, tokens, width, hidden, heads = 3, 5, 8, 16, 2
    layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True)
    fast = torch.backends.mha.get_fastpath_enabled()
    found = counted(layer, Attention(), torch.randn(batch, tokens, width))
    products = batch * 2 * tokens * tokens * width  # queries with keys, then weights with values
    layers = batch * tokens * (3 * width * width + width * width + 2 * width * hidden)
    assert found == (layers + products, products)
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_multiply_adds_of_recurrence_and_of_a_compiled_network() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)[0]
            return out

    x = torch.randn(2, 5, 3)
    assert counted(Last(), nn.Linear(3, 4), x) == (2 * 5 * 3 * (3 * 4 + 4 * 4), 2 * 5 * 3 * 4)
    compiled = torch.compile(nn.Linear(3, 4), backend="eager")
    with torch.no_grad():
        assert costs.multiply_adds([lambda: compiled(x)]) == 2 * 5 * 3 * 4


def test_multiply_adds_of_several_teachers_on_inputs_of_their_own() -> None:
    teachers = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}
    rows = [Transfer(name, "", "", of=name) for name in teachers]
    distiller = Distiller(teachers, nn.Linear(3, 4), rows, teacher_inputs=lambda x: ((x[:1],), {}))
    found = report(distiller, [torch.randn(1, 3)])
    assert (found.teacher_multiply_adds, found.student_multiply_adds) == (2 * 12, 12)


def test_what_cannot_be_counted_is_left_out() -> None:
    def fails() -> None:
        raise RuntimeError("no such kernel under a dispatch mode")

    assert costs.multiply_adds([fails]) is None
    assert costs.multiply_adds([lambda: torch.ones(2, 3) @ torch.ones(3, 4), lambda: torch.ones(1, 5).mv]) == 24


# --- latency ----------------------------------------------------------------------------------------------------------


class Clock:
    """Each system takes what it is told; so does waiting, which is all counted."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def system(self, name: str, seconds: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += next(seconds)

        return run


def test_latency_is_the_median_of_rounds_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock.now)
    slow, quick = iter([9.0, 9.0, 0.5, 0.3, 0.4]), iter([9.0, 9.0, 0.1, 0.3, 0.2])
    found = costs.in_turns([clock.system("t", slow), clock.system("s", quick)], 3, lambda: None)
    assert found == pytest.approx([400.0, 200.0])
    assert "".join(clock.calls) == "tsst" + "ts" + "st" + "ts"  # two to warm up, then three that count


def test_latency_where_it_is_asked_for() -> None:
    distiller = Distiller(nn.Linear(3, 4), nn.Linear(3, 4), [Transfer("output", "", "")])
    plain, timed = (report(distiller, [torch.randn(2, 3)], rounds=rounds) for rounds in (0, 3))
    assert (plain.teacher_milliseconds, plain.student_milliseconds, plain.rounds) == (None, None, 0)
    assert timed.rounds == 3
    assert min(timed.teacher_milliseconds or 0, timed.student_milliseconds or 0) > 0
    with pytest.raises(ArgumentError, match="rounds of timing; got -1; expected 0 or more"):
        report(distiller, [torch.randn(2, 3)], rounds=-1)


# --- shares of the gradient -------------------------------------------------------------------------------------------


def two_layers() -> tuple[Distiller, Tensor]:
    """Student y = V U x against teacher B A x; terms at both layers, of weights 2 and 5."""
    teacher = nn.Sequential(linear([[1.0, 2.0], [0.0, 1.0]]), linear([[1.0, -1.0], [3.0, 1.0]]))
    student = nn.Sequential(linear([[0.5, 0.0], [1.0, 1.0]]), linear([[2.0, 0.0], [1.0, 1.0]]))
    rows = [
        Transfer("inner", "0", "0", skd.knowledge.raw, mse, 2.0),
        Transfer("output", "", "", skd.knowledge.raw, mse, 5.0),
    ]
    return Distiller(teacher, student, rows), torch.tensor([[1.0, 2.0], [-1.0, 0.5], [2.0, 2.0]])


def norms_by_hand(distiller: Distiller, x: Tensor) -> tuple[float, float]:
    """‖∂/∂(U, V)‖ of w · mean((S − T)²), by the closed form: 2 w / n · (S − T)ᵀ …"""
    (a, b), (u, v) = ([p.detach().double() for p in net.parameters()] for net in (distiller.teacher, distiller.student))
    x = x.double()
    inner, output = x @ u.T - x @ a.T, x @ u.T @ v.T - x @ a.T @ b.T
    by_u = 2 * 2.0 / inner.numel() * inner.T @ x
    by_v = 2 * 5.0 / output.numel() * output.T @ (x @ u.T)
    also_u = 2 * 5.0 / output.numel() * v.T @ output.T @ x
    return float(by_u.norm()), math.hypot(float(by_v.norm()), float(also_u.norm()))


def test_gradient_shares_of_a_linear_model_in_closed_form() -> None:
    distiller, x = two_layers()
    inner, output = norms_by_hand(distiller, x)
    found = report(distiller, [x], gradient_shares=True).rows
    assert [row.gradient_share for row in found] == pytest.approx([inner / (inner + output), output / (inner + output)])
    assert all(row.gradient_share is None for row in report(distiller, [x]).rows)


def test_gradient_shares_are_of_sums_over_the_batches() -> None:
    distiller, x = two_layers()
    one, other = norms_by_hand(distiller, x), norms_by_hand(distiller, 3 * x[:1])
    inner, output = (sum(pair) for pair in zip(one, other, strict=True))
    found = report(distiller, [x, 3 * x[:1]], gradient_shares=True).rows
    assert found[0].gradient_share == pytest.approx(inner / (inner + output))


def test_gradient_shares_count_trained_parameters_alone() -> None:
    distiller, x = two_layers()
    distiller.student[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    found = report(distiller, [x], gradient_shares=True).rows
    assert [row.gradient_share for row in found] == [0.0, 1.0]
    distiller.student.requires_grad_(False)
    assert [row.gradient_share for row in report(distiller, [x], gradient_shares=True).rows] == [None, None]


def test_gradient_shares_of_stages_schedules_and_through_the_teacher() -> None:
    class Staged(skd.methods.Method):
        def transfers(self) -> list[Transfer]:
            through = Through({"0": "0"})
            return [
                Transfer("now", "", ""),
                Transfer("later", "0", "0"),
                Transfer("asleep", "0", "0", weight=Window(1.0, first=9)),
                Transfer("again", "", "", through=through),
            ]

        def stages(self) -> list[Stage]:
            return [Stage(5, ("now", "asleep", "again")), Stage(None, ("later",))]

    teacher, student = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    distiller = Distiller(teacher, student, Staged())
    teacher.requires_grad_(True)  # whoever did
    found = {row.name: row.gradient_share for row in report(distiller, [torch.randn(5, 3)], gradient_shares=True).rows}
    assert list(found) == ["now", "asleep", "again"]
    assert found["asleep"] == 0.0
    assert sum(share for share in found.values() if share is not None) == pytest.approx(1.0)
    assert min(found["now"] or 0, found["again"] or 0) > 0.01
    assert all(p.requires_grad for p in teacher.parameters())


class Noisy(nn.Module):
    """Draws, drops out, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        out: Tensor = self.layers(x) + 0.01 * torch.rand(())
        return out


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("bad", [True, False])
def test_nothing_is_left_behind(grad: bool, bad: bool) -> None:
    distiller = Distiller(Noisy(), Noisy(), [Transfer("output", "", "", skd.knowledge.raw, mse)])
    distiller.student.layers[0].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    x = torch.randn(6, 3)
    distiller(x).losses.total.backward()
    grads = {name: p.grad for name, p in distiller.student.named_parameters()}
    values = {name: None if g is None else g.clone() for name, g in grads.items()}
    flags = [p.requires_grad for p in distiller.parameters()]
    buffers = [b.clone() for b in distiller.buffers()]
    states = [torch.get_rng_state(), distiller.student.training]
    items = [x, x * float("nan")] if bad else [x, x]
    with torch.set_grad_enabled(grad):
        if bad:
            with pytest.raises(NonFiniteError, match="the loss 'output' of batch 1 isn't finite"):
                report(distiller, items, gradient_shares=True, rounds=1)
        else:
            report(distiller, items, gradient_shares=True, rounds=1)
        assert torch.is_grad_enabled() is grad
    for name, parameter in distiller.student.named_parameters():
        assert parameter.grad is grads[name]
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, values[name], rtol=0, atol=0)
    assert [p.requires_grad for p in distiller.parameters()] == flags
    for one, other in zip(distiller.buffers(), buffers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), states[0])  # type: ignore[arg-type]
    assert distiller.student.training is states[1]


def test_a_gradient_that_is_not_finite() -> None:
    class Root(nn.Module):
        """A finite value with an infinite slope."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.weight.sqrt()

    distiller = Distiller(nn.Linear(2, 2), Root(), [Transfer("output", "", "", skd.knowledge.raw, mse)])
    assert report(distiller, [torch.ones(3, 2)]).rows[0].loss is not None
    with pytest.raises(NonFiniteError, match="the gradient of the loss 'output' of batch 0 isn't finite"):
        report(distiller, [torch.ones(3, 2)], gradient_shares=True)


# --- spectra and groups -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compressed() -> tuple[Distiller, list[Tensor], skd.Spectra, skd.Compressed]:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 3, 1))
    data = [torch.randn(2, 3, 8, 12) for _ in range(4)]
    spectra = skd.measure(teacher, skd.Pairing.declare([("0", "2")], teacher, data[0], bottleneck="1"), data)
    done = skd.compress(teacher, spectra, data=data, ratio=2)
    return Distiller(teacher, done.student, [Transfer("output", "", "")]), data, spectra, done


Made = tuple[Distiller, list[Tensor], skd.Spectra, skd.Compressed]


def test_spectra_and_groups_go_into_the_report(compressed: Made, tmp_path: Path) -> None:
    distiller, data, spectra, done = compressed
    found = report(distiller, data, spectra=spectra, compressed=done, gradient_shares=True, rounds=1)
    assert [each.name for each in found.spectra] == ["1/2", "bottleneck"]
    for side, values in (("encoder", found.spectra[0].encoder), ("decoder", found.spectra[0].decoder)):
        cov = getattr(spectra["1/2"], side).cov.numpy()
        by_hand = torch.from_numpy(cov).svd().S
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), by_hand / by_hand.sum())
    assert found.narrowed == tuple(Narrowed(r.group, r.width, r.kept, r.energy, r.bytes, r.whole) for r in done.rows)
    assert {each.name: each.kept for each in found.narrowed if each.whole is None} == done.widths
    assert found.output_energy == done.output_energy
    found.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == found
    text = str(found)
    assert "gradient share" in text.splitlines()[1]
    assert "Spectra, encoder / decoder" in text
    assert f"Compressed, output energy kept {done.output_energy:.1%} before training" in text
    assert "is whole: the network's output" in text
    assert "multiply-adds of the first batch: student" in text
    assert "median of 1 in turns on this machine" in text


def test_something_else_in_their_place(compressed: Made) -> None:
    distiller, data, spectra, done = compressed
    with pytest.raises(ArgumentError, match=r"these aren't spectra; got Pairing; expected what skd\.measure returns"):
        report(distiller, data, spectra=spectra.pairing)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"isn't a compressed student; got Sequential; expected what skd\.compress"):
        report(distiller, data, compressed=done.student)  # type: ignore[arg-type]


def test_directions_of_a_spectrum() -> None:
    spectrum = Spectrum("a", (0.5, 0.25, 0.125, 0.125), (1.0, 0.0))
    assert [spectrum.directions(share, "encoder") for share in (0.4, 0.5, 0.6, 0.875, 0.9, 1.0)] == [1, 1, 2, 3, 4, 4]
    assert spectrum.directions(1.0) == 1


# --- table, file, figure ----------------------------------------------------------------------------------------------


def whole() -> Report:
    return Report(
        rows=(
            Row("pair", "enc", "enc", 0.5, 0.9, 0.75, 0.25),
            Row("output", "output", "output", 0.25, None, None, 0.75),
        ),
        teacher_parameters=5000,
        student_parameters=500,
        teacher_bytes=20480,
        student_bytes=2048,
        batches=3,
        teacher_multiply_adds=9000,
        student_multiply_adds=1500,
        teacher_milliseconds=12.0,
        student_milliseconds=3.0,
        rounds=7,
        spectra=(Spectrum("pair", (0.6, 0.4), (0.99, 0.005, 0.005)),),
        narrowed=(Narrowed("enc", 32, 8, 0.875, 1024), Narrowed("dec", 3, 3, 1.0, 512, "the network's output")),
        output_energy=-0.5,
    )


def test_table_of_everything() -> None:
    assert str(whole()).splitlines() == [
        "Report on 3 batches: student 500 parameters (2.0 KB), teacher 5,000 (20.0 KB), 10.0 times as large",
        "  transfer  teacher  student  loss  alignment  energy kept  gradient share",
        "  pair      enc      enc      0.5   0.900      75.0%        25.0%",
        "  output    output   output   0.25  -          -            75.0%",
        "  note: multiply-adds of the first batch: student 1,500, teacher 9,000, 6.0 times",
        "  note: time of the first batch, median of 7 in turns on this machine: "
        "student 3.0 ms, teacher 12.0 ms, 4.0 times",
        "Spectra, encoder / decoder",
        "  pair  channels  directions for 90 %  for 99 %",
        "  pair  2 / 3     2 / 1                2 / 1",
        "Compressed, output energy kept -50.0% before training",
        "  group  width  kept   energy kept  bytes",
        "  enc    32     8      87.5%        1,024",
        "  dec    3      whole  -            512",
        "  note: dec is whole: the network's output",
    ]


def test_a_report_of_version_1_is_read(tmp_path: Path) -> None:
    row = {"name": "a", "teacher": "x", "student": "y", "loss": 0.5, "alignment": None, "energy_kept": 1.0}
    numbers = {"teacher_parameters": 4, "student_parameters": 2, "teacher_bytes": 16, "student_bytes": 8, "batches": 1}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": "skd.report", "version": 1, "rows": [row], **numbers}), encoding="utf-8")
    found = Report.load(path)
    assert found == Report((Row("a", "x", "y", 0.5, None, 1.0),), 4, 2, 16, 8, 1)
    assert found.to_json()["version"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batches", 1.5),
        ("student_bytes", None),
        ("teacher_multiply_adds", "many"),
        ("spectra", [{"name": "a", "encoder": 1, "decoder": []}]),
        ("narrowed", [{"name": "a", "colour": 1}]),
    ],
)
def test_a_damaged_value(name: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({**whole().to_json(), name: value}), encoding="utf-8")
    with pytest.raises(FileError, match="the report's JSON is damaged"):
        Report.load(path)


def test_figure_of_everything(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = whole().figure()
    loss, alignment, energy, shares, spectra, groups = figure.axes
    assert [len(axes.patches) for axes in (loss, alignment, energy)] == [2, 1, 1]
    assert [bar.get_width() for bar in shares.patches] == [0.25, 0.75]
    assert [list(line.get_ydata()) for line in spectra.lines] == [[0.6, 0.4], [0.99, 0.005, 0.005]]
    assert spectra.get_yscale() == "log"
    assert [bar.get_width() for bar in groups.patches] == [1.0, 1.0, 0.25, 1.0]
    assert list(groups.lines[0].get_xdata()) == [0.875, 1.0]
    assert "9,000" in figure.get_suptitle()
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
