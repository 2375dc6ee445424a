"""report(): every value against an independent oracle, its files and figure, and that nothing is left changed."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skd
from skd import Distiller, Report, report
from skd.adapters import BasisAdapter, ChannelAdapter
from skd.distances import mse, normalised_mse
from skd.errors import ArgumentError, DataError, FileError, MissingExtraError, NonFiniteError
from skd.knowledge import centred, position_samples
from skd.methods import Through, Transfer
from skd.reporting import Row
from skd.schedules import Window


def net(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.Dropout(0.5),
        nn.Conv2d(width, 2, 3, padding=1),
    )


def data(count: int = 2, size: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 5, 7, generator=generator) for _ in range(count)]


def output_only(width: int = 2, **options: Any) -> Distiller:
    return Distiller(net(4), net(width), [Transfer("output", "", "", **options)])


def debiased_cka(first: np.ndarray, second: np.ndarray) -> float:
    """From the unbiased estimator of HSIC as Song et al. 2012 write it (eq. 5), in float64."""

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        k, other = k.copy(), other.copy()
        n = len(k)
        np.fill_diagonal(k, 0)
        np.fill_diagonal(other, 0)
        one = np.ones(n)
        total = np.trace(k @ other) + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
        return float((total - 2 / (n - 2) * (one @ k @ other @ one)) / (n * (n - 3)))

    k, other = first @ first.T, second @ second.T
    return hsic(k, other) / float(np.sqrt(hsic(k, k) * hsic(other, other)))


def rows_of(feature: Tensor) -> np.ndarray:
    """(B, C, H, W) as one row a position."""
    return feature.detach().double().permute(0, 2, 3, 1).reshape(-1, feature.shape[1]).numpy()


# --- values -----------------------------------------------------------------------------------------------------------


def test_losses_are_unweighted_means_over_the_batches() -> None:
    distiller = output_only(weight=7.0)
    teacher, student = distiller.teacher, copy.deepcopy(distiller.student).eval()
    by_hand = [((student(x) - teacher(x)) ** 2).mean().item() for x in data(3)]
    assert by_hand[0] != by_hand[1]
    found = report(distiller, data(3))
    assert found.rows[0].loss == pytest.approx(sum(by_hand) / 3, rel=1e-6)
    assert found.batches == 3
    assert report(distiller, data(3), batches=1).rows[0].loss == pytest.approx(by_hand[0], rel=1e-6)


def test_alignment_is_debiased_cka_averaged_over_the_batches() -> None:
    distiller = Distiller(net(4), net(3), [Transfer("t", "0", "0", student_adapters=ChannelAdapter(3, 4))])
    teacher, student = distiller.teacher, distiller.student
    by_hand = [debiased_cka(rows_of(student[0](x)), rows_of(teacher[0](x))) for x in data(2)]  # type: ignore[index, operator]
    assert len(rows_of(data()[0])) == 70  # fewer than are sampled at most
    found = report(distiller, data(2)).rows[0].alignment
    assert found == pytest.approx(sum(by_hand) / 2, abs=1e-5)
    assert abs(by_hand[0]) < 0.99


def test_alignment_of_a_rotated_and_scaled_copy_is_one_and_its_loss_is_not_zero() -> None:
    teacher = nn.Conv2d(3, 4, 3)
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.weight.copy_(3 * torch.einsum("ij,jchw->ichw", turn, teacher.weight))
        student.bias.copy_(3 * turn @ teacher.bias)  # type: ignore[union-attr, operator]
    row = report(Distiller(teacher, student, [Transfer("t", "", "")]), data()).rows[0]
    assert row.alignment == pytest.approx(1.0, abs=1e-4)
    assert row.loss is not None
    assert row.loss > 0.1


@pytest.mark.parametrize("options", [{"student": ("0", "3"), "teacher": ("0", "3")}, {"student": "0", "teacher": "3"}])
def test_no_alignment_where_it_is_not_defined(options: dict[str, Any]) -> None:
    def first_sum(*features: Tensor, layout: str) -> Tensor:
        return features[0].mean((1, 2, 3))

    teacher = net(4)
    teacher[3] = nn.Conv2d(4, 2, 3)  # a smaller map
    found = report(Distiller(teacher, net(4), [Transfer("t", knowledge=first_sum, **options)]), data())
    assert found.rows[0].alignment is None


def test_tokens_are_aligned_where_their_layout_is_stated() -> None:
    x = torch.randn(2, 6, 3)
    tokens = skd.Tap("", layout="BNC")
    distiller = Distiller(nn.Linear(3, 4), nn.Linear(3, 4), [Transfer("a", tokens, tokens), Transfer("b", "", "")])
    teacher, student = (f(x).detach().double().reshape(-1, 4).numpy() for f in (distiller.teacher, distiller.student))
    stated, unstated = report(distiller, [x]).rows
    assert stated.alignment == pytest.approx(debiased_cka(student, teacher), abs=1e-5)
    assert unstated.alignment is None
    assert unstated.loss == stated.loss


def test_more_positions_than_are_sampled() -> None:
    """Large maps and batches make no larger kernel matrix than 512 positions do."""
    teacher, student = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    x = torch.randn(8, 3, 40, 40)
    samples = [position_samples(one(x).detach(), count=512).double().numpy() for one in (student, teacher)]
    found = report(Distiller(teacher, student, [Transfer("t", "", "")]), [x]).rows[0].alignment
    assert found == pytest.approx(debiased_cka(*samples), abs=1e-4)


def test_energy_kept_is_the_bases() -> None:
    teacher, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)), torch.randn(2, 3, 8, 8)
    student = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 2, 2))
    pairing = skd.Pairing.declare([("0", "1")], teacher, x)
    plan = skd.match(pairing, skd.Pairing.declare([("0", "1")], student, x))
    method = skd.methods.SKD(plan, skd.measure(teacher, pairing, [x]), basis="own", output=0.0)
    found = {row.name: row.energy_kept for row in report(Distiller(teacher, student, method), [x]).rows}
    flat = rows_of(teacher[0](x))
    values = np.linalg.eigvalsh(np.cov(flat.T))
    assert found["1/2/encoder/structure"] == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-6)
    assert report(output_only(), data()).rows[0].energy_kept is None


def test_parameters_and_bytes_by_hand() -> None:
    found = report(output_only(width=2), data())

    def count(width: int) -> int:
        return (3 * 9 * width + width) + 2 * width + (width * 9 * 2 + 2)

    def buffers(width: int) -> int:
        return 4 * (width + width) + 8  # running mean and variance in float32, the count in int64

    assert (found.teacher_parameters, found.student_parameters) == (count(4), count(2))
    assert found.teacher_bytes == 4 * count(4) + buffers(4)
    assert found.student_bytes == 4 * count(2) + buffers(2)


def test_shared_parameters_count_once_half_ones_two_bytes_and_all_teachers() -> None:
    shared = nn.Linear(3, 3, bias=False)
    student = nn.Sequential(shared, shared).bfloat16()
    teachers = {"a": nn.Linear(3, 3).bfloat16(), "b": nn.Linear(3, 3, bias=False).bfloat16()}
    distiller = Distiller(teachers, student, [Transfer("a", "", "", of="a"), Transfer("b", "", "", of="b")])
    found = report(distiller, [torch.ones(2, 3, dtype=torch.bfloat16)])
    assert (found.student_parameters, found.student_bytes) == (9, 18)
    assert (found.teacher_parameters, found.teacher_bytes) == (21, 42)


def test_a_row_through_the_teacher() -> None:
    """Its student side is the teacher's second run, so the loss can't be read from the features."""
    through = Through({"0": "0"})
    rows = [Transfer("through", "", "", through=through, weight=5.0), Transfer("output", "", "")]
    distiller = Distiller(net(4), net(4), rows)
    teacher, student, x = distiller.teacher, copy.deepcopy(distiller.student).eval(), data()[0]
    again = teacher[1:](student[0](x))  # type: ignore[index]
    found = report(distiller, [x]).rows[0]
    assert found.loss == pytest.approx(((again - teacher(x)) ** 2).mean().item(), rel=1e-5)
    assert found.alignment is None


def test_a_row_through_the_teacher_that_a_schedule_holds_at_zero() -> None:
    late = Transfer("t", "", "", through=Through({"0": "0"}), weight=Window(1.0, first=9))
    found = report(Distiller(net(4), net(4), [late, Transfer("output", "", "")]), data())
    assert found.rows[0].loss is None
    assert str(found).splitlines()[2].split() == ["t", "output", "output", "-", "-", "-"]


def test_what_the_loader_gives() -> None:
    distiller, x = output_only(), data()[0]
    expected = report(distiller, [x]).rows
    assert report(distiller, [(x,)]).rows == expected
    assert report(distiller, [{"input": x}]).rows == expected
    assert report(distiller, iter([(x, "label")]), inputs=lambda item: item[0]).rows == expected


def test_a_wrapped_distiller() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    distiller = output_only()
    assert report(Wrapper(distiller), data()) == report(distiller, data())


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_empty_loader() -> None:
    with pytest.raises(DataError, match=r"no data to report on; got 0 batches\. Remedy: give at least one batch"):
        report(output_only(), [])


@pytest.mark.parametrize("count", [0, -1])
def test_no_batches(count: int) -> None:
    with pytest.raises(ArgumentError, match=f"at least one batch has to be looked at; got batches={count}"):
        report(output_only(), data(), batches=count)


def test_items_of_the_wrong_kind() -> None:
    with pytest.raises(DataError, match=r"batch 1 can't be given to the model; got str"):
        report(output_only(), [data()[0], "text"])
    with pytest.raises(DataError, match=r"batch 0 doesn't fit the model's arguments.*inputs=lambda"):
        report(output_only(), [(data()[0], torch.zeros(2))])


def test_only_a_distiller() -> None:
    with pytest.raises(ArgumentError, match="this isn't a distiller; got Linear"):
        report(nn.Linear(1, 1), data())


def test_a_loss_that_is_not_finite() -> None:
    bad = data()
    bad[1][0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="the loss 'output' of batch 1 isn't finite; got nan"):
        report(output_only(), bad)


# --- no trace ---------------------------------------------------------------------------------------------------------


class Restless(nn.Module):
    """Draws from every generator, and counts its calls in a buffer that it replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        noise = torch.rand(()) + random.random() + float(np.random.random())  # noqa: NPY002
        out: Tensor = self.net(x) + 0.01 * noise
        return out


def state(distiller: Distiller) -> tuple[list[Tensor], list[Any]]:
    networks = (distiller, *distiller.teachers.values())
    tensors = [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].copy())]  # noqa: NPY002
    tensors += [t.detach().clone() for one in networks for t in (*one.parameters(), *one.buffers())]
    flags: list[Any] = [m.training for one in networks for m in one.modules()]
    flags += [id(p.grad) for one in networks for p in one.parameters()]
    flags += [random.getstate(), torch.is_grad_enabled()]
    return tensors, flags


@pytest.mark.parametrize("items", [data(), [data()[0], "text"], []], ids=["good", "bad item", "empty"])
def test_everything_is_as_before(items: list[Any]) -> None:
    distiller = Distiller(Restless(), Restless(), [Transfer("output", "", "")])
    distiller(data()[0]).losses.total.backward()
    distiller.student.net[1].eval()  # type: ignore[union-attr, index]
    distiller.teacher.net[2].train()  # type: ignore[union-attr, index]
    before = state(distiller)
    with contextlib.suppress(DataError):
        report(distiller, items)
    after = state(distiller)
    assert after[1] == before[1]
    for one, other in zip(after[0], before[0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_networks_run_in_eval_mode() -> None:
    """Dropout and batch statistics are off on both sides, whatever the flags were."""
    distiller = output_only(width=4)
    distiller.student.load_state_dict(distiller.teacher.state_dict())
    distiller.train()
    distiller.teacher.train()
    assert report(distiller, data()).rows[0].loss == 0.0
    assert distiller.teacher.training


# --- text, file, figure -----------------------------------------------------------------------------------------------


def example() -> Report:
    rows = (Row("enc → dec", "enc", "enc", 0.5, -0.01, 0.75), Row("output", "output", "output", 0.25, None, None))
    return Report(rows, 5000, 500, 20480, 2048, 3)


def test_table() -> None:
    assert str(example()).splitlines() == [
        "Report on 3 batches: student 500 parameters (2.0 KB), teacher 5,000 (20.0 KB), 10.0 times as large",
        "  transfer   teacher  student  loss  alignment  energy kept",
        "  enc → dec  enc      enc      0.5   -0.010     75.0%",
        "  output     output   output   0.25  -          -",
    ]


def test_json_round_trip(tmp_path: Path) -> None:
    made = report(Distiller(net(4), net(4), [Transfer("t", "0", "0", centred, normalised_mse)]), data())
    for found in (example(), made):
        path = tmp_path / "report.json"
        found.save(path)
        assert Report.load(path) == found
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["rows"][0]["loss"] == found.rows[0].loss
        assert content["format"] == "skd.report"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is no report file, or a damaged one"),
        (b'{"format": "skd.pairing"}', "this isn't a report's JSON"),
        (b'{"format": "skd.report", "version": 9}', "another version; got 9; expected 2"),
        (b'{"format": "skd.report", "version": 1, "rows": [{}]}', "damaged"),
        (b"\xff\xfe\x00", "is no report file"),
    ],
)
def test_a_file_that_is_no_report(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=match):
        Report.load(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="can't be read; got No such file"):
        Report.load(tmp_path / "none.json")
    with pytest.raises(FileError, match="can't be written; got No such file"):
        example().save(tmp_path / "none" / "report.json")


def test_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = example().figure()
    loss, alignment, energy = figure.axes
    assert [bar.get_width() for bar in loss.patches] == [0.5, 0.25]
    assert [bar.get_width() for bar in alignment.patches] == [-0.01]
    assert [bar.get_width() for bar in energy.patches] == [0.75]
    assert [text.get_text() for text in loss.get_yticklabels()] == ["enc → dec", "output"]
    assert alignment.get_xlim() == (-0.01, 1.0)
    assert energy.get_xlim() == (0.0, 1.0)
    bottom, top = loss.get_ylim()
    assert bottom > top  # the first row stands on top
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_figure_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"figure of a report needs the package 'matplotlib'.*'skd\[plot\]'"):
        example().figure()


def test_adapters_of_both_sides() -> None:
    basis = torch.eye(4)[:, :2]
    row = Transfer("t", "0", "0", distance=mse, teacher_adapters=BasisAdapter(basis))
    distiller = Distiller(net(4), net(2), [row])
    x = data()[0]
    by_hand = (distiller.student[0](x) - distiller.teacher[0](x)[:, :2]).square().mean().item()  # type: ignore[index, operator]
    assert report(distiller, [x]).rows[0].loss == pytest.approx(by_hand, rel=1e-6)
