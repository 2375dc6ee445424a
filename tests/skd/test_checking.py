"""check() refuses each fault, passes the same set-up without it, and leaves no trace."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skd
from skd import Distiller, check
from skd.adapters import BasisAdapter, ChannelAdapter
from skd.distances import distance, mse, negative_alignment, normalised_mse
from skd.errors import ArgumentError, CheckError, DataError, NonFiniteError, ShapeError
from skd.knowledge import centred, mean_std, raw, sample_similarity
from skd.methods import Stage, Through, Transfer
from skd.methods.transfer import Method
from skd.schedules import Window


class Net(nn.Module):
    """Two layers with BatchNorm and dropout; `cut` and `dead` are the faults."""

    def __init__(self, width: int = 4, *, cut: str = "", dead: bool = False) -> None:
        super().__init__()
        self.enc = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.25)
        self.dec = nn.Conv2d(width, 3, 3, padding=1)
        self.cut = cut
        if dead:
            with torch.no_grad():
                self.norm.bias.fill_(-100.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enc(x)
        if self.cut == "enc":
            x = x.detach()
        x = self.act(self.norm(x))
        if self.cut == "act":
            x = x.detach()
        out: Tensor = self.dec(self.drop(x))
        return out.detach() if self.cut == "output" else out


def batch(size: int = 2) -> Tensor:
    return torch.randn(size, 3, 6, 8, generator=torch.Generator().manual_seed(1))


def built(student: nn.Module | None = None, *rows: Transfer, **options: Any) -> Distiller:
    return Distiller(Net(), Net() if student is None else student, rows or (Transfer("output", "", ""),), **options)


# --- a good set-up passes ---------------------------------------------------------------------------------------------


def test_a_good_set_up_passes() -> None:
    rows = (
        Transfer("enc", "enc", "enc", centred, normalised_mse),
        Transfer("moments", "act", "act", mean_std, normalised_mse, student_adapters=ChannelAdapter(4, 4)),
        Transfer("between samples", "dec", "dec", sample_similarity),
        Transfer("aligned", ("enc",), ("enc",), skd.knowledge.position_samples, negative_alignment),
        Transfer("output", "", ""),
    )
    distiller = built(None, *rows)
    assert check(distiller, batch()) is None
    check(distiller, (batch(),), optimizer=torch.optim.Adam(distiller.parameters()))
    check(distiller, {"x": batch()})


def test_symmetric_distillation_passes() -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ConvTranspose2d(2 * width, width, 2, 2),
            nn.ConvTranspose2d(width, 3, 2, 2),
        )

    teacher, student, x = net(8), net(3), torch.randn(2, 3, 16, 24)
    pairing = skd.pair(teacher, x)
    method = skd.methods.SKD(skd.match(pairing, skd.pair(student, x)), skd.measure(teacher, pairing, [x]))
    check(Distiller(teacher, student, method), x)


def test_a_copy_passes_in_train_and_in_eval_mode() -> None:
    """Loss and gradient are zero there, and nothing is wrong."""
    student = Net()
    distiller = Distiller(copy.deepcopy(student), student, [Transfer("output", "", ""), Transfer("dec", "dec", "dec")])
    check(distiller, batch())
    student.eval()
    assert distiller(batch()).losses.total.item() == 0.0
    check(distiller, batch())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, at its first compile
def test_a_compiled_distiller_is_unwrapped() -> None:
    compiled = torch.compile(built())
    check(compiled, batch())


@pytest.mark.parametrize("thing", [nn.Linear(1, 1), nn.Sequential(), "a string"])
def test_only_a_distiller_can_be_checked(thing: Any) -> None:
    with pytest.raises(ArgumentError, match=r"this isn't a distiller; got .*expected skd\.Distiller"):
        check(thing, batch())


@pytest.mark.parametrize("wrong", [(batch(), batch()), {"y": batch()}, (), "text"])
def test_a_batch_of_another_kind(wrong: Any) -> None:
    with pytest.raises(
        DataError, match=r"the batch isn't what the student takes; got .*Remedy: give what the distiller"
    ):
        check(built(), wrong)


def test_features_that_do_not_fit_are_named_by_their_transfer() -> None:
    with pytest.raises(ShapeError, match="transfer 'enc': "):
        check(built(Net(width=2), Transfer("enc", "enc", "enc")), batch())
    check(built(Net(width=2), Transfer("enc", "enc", "enc", student_adapters=ChannelAdapter(2, 4))), batch())


# --- student layers without a gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["output", "enc:input"])
def test_a_tapped_feature_without_gradient(place: str) -> None:
    tap = "" if place == "output" else place
    row = Transfer("t", tap, tap)
    with pytest.raises(
        CheckError, match=rf"the student layer '{place}' of the loss 't' gets no gradient.*don't detach"
    ):
        check(built(Net(cut="output"), row), batch())
    check(built(Net(), Transfer("t", "enc", "enc")), batch())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_student_that_runs_without_gradients(mode: Callable[[], Any]) -> None:
    class Quiet(Net):
        def forward(self, x: Tensor) -> Tensor:
            with mode():
                return super().forward(x)

    with pytest.raises(CheckError, match=r"gets no gradient.*no_grad or inference_mode"):
        check(built(Quiet()), batch())


@pytest.mark.parametrize("cut", ["enc", "act"])
def test_a_detach_inside_the_student(cut: str) -> None:
    """The output has a gradient; the layers before the detach have none."""
    with pytest.raises(CheckError, match=r"a student layer runs but gets no gradient.*first 'enc\.weight'.*detach"):
        check(built(Net(cut=cut)), batch())
    check(built(Net()), batch())


def test_a_layer_that_does_not_run_is_not_cut_off() -> None:
    student = Net()
    student.spare = nn.Linear(2, 2)
    check(built(student), batch())


def test_a_frozen_layer_is_not_cut_off() -> None:
    student = Net(cut="enc")
    student.enc.requires_grad_(False)
    check(built(student), batch())


def test_a_tap_before_which_nothing_is_trained() -> None:
    student = Net()
    student.enc.requires_grad_(False)
    row = Transfer("t", "enc", "enc")
    with pytest.raises(CheckError, match=r"'enc' of the loss 't' gets no gradient; got .*no trained weights before"):
        check(built(student, row), batch())
    student.enc.requires_grad_(True)
    check(built(student, row), batch())


def test_a_tap_that_the_knowledge_leaves_out() -> None:
    def first(one: Tensor, other: Tensor, *, layout: str) -> Tensor:
        return one + 0 * other.detach()

    def both(one: Tensor, other: Tensor, *, layout: str) -> Tensor:
        return one + other

    taps = ("enc", "act")
    with pytest.raises(
        CheckError, match=r"the student layer 'act' of the loss 't' gets no gradient.*leaves its feature"
    ):
        check(built(None, Transfer("t", taps, taps, first)), batch())
    check(built(None, Transfer("t", taps, taps, both)), batch())


def test_a_student_that_is_frozen() -> None:
    distiller = built()
    distiller.student.requires_grad_(False)
    with pytest.raises(
        CheckError, match=r"nothing of the student is trained\. Remedy: student\.requires_grad_\(True\)"
    ):
        check(distiller, batch())
    distiller.student.requires_grad_(True)
    check(distiller, batch())


# --- constant losses --------------------------------------------------------------------------------------------------


def test_similarity_between_the_samples_of_a_batch_of_one() -> None:
    distiller = built(None, Transfer("similar", "dec", "dec", sample_similarity))
    with pytest.raises((CheckError, ShapeError), match=r"(?s)similar.*(2 or more|at least 2|two)"):
        check(distiller, batch(1))
    check(distiller, batch(2))


def test_structure_of_a_single_position() -> None:
    """Centred over one position a feature is zero, and so is the loss."""
    distiller = Distiller(nn.Conv2d(3, 4, 2), nn.Conv2d(3, 4, 2), [Transfer("structure", "", "", centred)])
    with pytest.raises(ShapeError, match=r"transfer 'structure': centring needs at least two positions"):
        check(distiller, torch.randn(2, 3, 2, 2))
    check(distiller, torch.randn(2, 3, 3, 3))


def test_a_constant_loss_of_any_value_without_a_typed_error_of_its_own() -> None:
    """Written by hand, as a user's knowledge may be: nothing but the values shows it."""

    def similarity(feature: Tensor, *, layout: str) -> Tensor:
        flat = feature.flatten(1)
        return nn.functional.normalize(flat @ flat.mT, dim=1)

    distiller = built(None, Transfer("similar", "dec", "dec", similarity), Transfer("output", "", ""))
    with pytest.raises(CheckError, match=r"the loss 'similar' is constant.*a batch of 2 or more"):
        check(distiller, batch(1))
    check(distiller, batch(2))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_knowledge_that_is_constant(value: float) -> None:
    def fixed(feature: Tensor, *, layout: str) -> Tensor:
        return 0 * feature + value

    with pytest.raises(CheckError, match="the loss 't' is constant: it doesn't depend on the student's feature"):
        check(built(None, Transfer("t", "enc", "enc", fixed)), batch())
    check(built(None, Transfer("t", "enc", "enc", raw)), batch())


def test_a_knowledge_that_detaches() -> None:
    def detached(feature: Tensor, *, layout: str) -> Tensor:
        return feature.detach()

    with pytest.raises(CheckError, match=r"the loss 't' is constant.*look for a detach in knowledge"):
        check(built(None, Transfer("t", "enc", "enc", detached)), batch())


def test_a_dead_relu() -> None:
    row = Transfer("t", "act", "act")
    with pytest.raises(CheckError, match=r"the loss 't' is constant: no weight of the student moves it.*a dead ReLU"):
        check(built(Net(dead=True), row), batch())
    check(built(Net(), row), batch())


def test_a_distance_whose_gradient_is_zero_away_from_its_minimum() -> None:
    @distance(divergence=True)
    def saturated(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().mean().detach() + 0 * student.sum()

    with pytest.raises(CheckError, match="the loss 't' is constant: no weight"):
        check(built(None, Transfer("t", "enc", "enc", raw, saturated)), batch())


def test_a_row_that_a_schedule_holds_at_zero_is_looked_at_already() -> None:
    late = Window(1.0, first=100)
    rows = (Transfer("output", "", ""), Transfer("t", "act", "act", weight=late))
    with pytest.raises(CheckError, match="the loss 't' is constant"):
        check(built(Net(dead=True), *rows), batch())
    check(built(Net(), *rows), batch())


def test_a_row_without_weight_is_not_looked_at() -> None:
    check(built(None, Transfer("output", "", ""), Transfer("t", "enc:input", "enc:input", weight=0.0)), batch())


def test_nothing_but_rows_without_weight() -> None:
    with pytest.raises(CheckError, match="nothing is distilled: all weights are 0"):
        check(built(None, Transfer("output", "", "", weight=0.0)), batch())


def test_a_second_run_through_the_teacher() -> None:
    def rows() -> tuple[Transfer, ...]:
        through = Through({"act": "act"})
        return (Transfer("through", "", "", through=through), Transfer("output", "", ""))

    check(built(Net(), *rows()), batch())
    with pytest.raises(CheckError, match=r"the loss 'through' is constant.*second run"):
        check(Distiller(Deaf(), Net(), rows()), batch())


class Deaf(Net):
    """Its decoder hears nothing of the code it is given."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dec(self.act(self.norm(self.enc(x))).detach())
        return out


# --- teachers ---------------------------------------------------------------------------------------------------------


def test_a_teacher_that_is_not_frozen() -> None:
    distiller = built()
    distiller.teacher.dec.requires_grad_(True)  # type: ignore[union-attr]
    with pytest.raises(CheckError, match=r"'teacher' isn't frozen; got 2 .*'dec\.weight'.*requires_grad_\(False\)"):
        check(distiller, batch())
    distiller.teacher.requires_grad_(False)
    check(distiller, batch())


def test_a_teacher_that_is_not_in_eval_mode() -> None:
    distiller = built()
    distiller.teacher.norm.train()  # type: ignore[union-attr, operator]
    with pytest.raises(CheckError, match=r"isn't in eval mode.*first 'norm'\. Remedy: teacher\.eval\(\)"):
        check(distiller, batch())
    distiller.teacher.eval()
    check(distiller, batch())


def test_a_student_that_trains_the_teachers_weights() -> None:
    student = Net()
    distiller = built(student)
    student.dec = distiller.teacher.dec  # type: ignore[assignment]
    student.requires_grad_(True)
    with pytest.raises(CheckError, match=r"trains parameters of the teacher 'teacher'.*'dec\.weight'.*deepcopy"):
        check(distiller, batch())
    student.dec = copy.deepcopy(student.dec)
    distiller.teacher.requires_grad_(False)
    check(distiller, batch())


def test_the_second_of_two_teachers_is_checked_too() -> None:
    rows = [Transfer("a", "", "", of="one"), Transfer("b", "", "", of="other")]
    distiller = Distiller({"one": Net(), "other": Net()}, Net(), rows)
    check(distiller, batch())
    distiller.teachers["other"].requires_grad_(True)
    with pytest.raises(CheckError, match="the teacher 'other' isn't frozen"):
        check(distiller, batch())


# --- the optimizer ----------------------------------------------------------------------------------------------------


def test_an_adapter_that_is_missing_from_the_optimizer() -> None:
    distiller = built(Net(2), Transfer("t", "enc", "enc", student_adapters=ChannelAdapter(2, 4)))
    with pytest.raises(
        CheckError, match=r"without adapters\.0\.weight, adapters\.0\.bias\. .*distiller\.parameters\(\)"
    ):
        check(distiller, batch(), optimizer=torch.optim.SGD(distiller.student.parameters(), lr=0.1))
    check(distiller, batch(), optimizer=torch.optim.SGD(distiller.parameters(), lr=0.1))


def test_a_student_layer_that_is_missing_from_the_optimizer() -> None:
    distiller = built()
    some = [p for name, p in distiller.named_parameters() if "enc" not in name]
    with pytest.raises(CheckError, match=r"without student\.enc\.weight, student\.enc\.bias\."):
        check(distiller, batch(), optimizer=torch.optim.SGD(some, lr=0.1))
    distiller.student.enc.requires_grad_(False)  # type: ignore[union-attr]
    check(distiller, batch(), optimizer=torch.optim.SGD(some, lr=0.1))


def test_an_optimizer_of_another_student_names_only_some() -> None:
    with pytest.raises(CheckError, match="and 3 more"):
        check(built(), batch(), optimizer=torch.optim.SGD(Net().parameters(), lr=0.1))


def test_an_optimizer_that_holds_the_teacher() -> None:
    distiller = built()
    both = [*distiller.parameters(), *distiller.teacher.parameters()]
    with pytest.raises(CheckError, match="the optimizer holds the teacher 'teacher'"):
        check(distiller, batch(), optimizer=torch.optim.SGD(both, lr=0.1))


# --- features and wrappers --------------------------------------------------------------------------------------------


def test_a_feature_that_is_changed_in_place() -> None:
    student = Net()
    student.act = nn.ReLU(inplace=True)
    with pytest.raises(CheckError, match=r"(?s)'norm'.*in place.*clone=True"):
        check(built(student, Transfer("t", "norm", "norm")), batch())
    check(built(student, Transfer("t", skd.Tap("norm", clone=True), "norm")), batch())


def test_a_student_that_is_wrapped_afterwards() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Any:
            return self.module(x)

    distiller = built()
    distiller.student = Wrapper(distiller.student)
    with pytest.raises(CheckError, match=r"the wrapper is bypassed; got Wrapper.*then wrap the distiller itself"):
        check(distiller, batch())
    check(built(Wrapper(Net())), batch())
    check(Wrapper(built()), batch())


def test_data_parallel() -> None:
    with pytest.raises(CheckError, match=r"DataParallel copies the student.*DistributedDataParallel"):
        check(nn.DataParallel(built()), batch())


def test_several_processes_and_nothing_that_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(CheckError, match=r"nothing averages their gradients; got 2 processes.*DistributedDataParallel"):
        check(built(), batch())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    check(built(), batch())


def test_a_wrapped_student_with_adapters_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parallel(nn.Module):  # stands for DDP, which wants processes
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Any:
            return self.module(x)

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Parallel)
    learned = Transfer("t", "module.enc", "enc", student_adapters=ChannelAdapter(4, 4))
    with pytest.raises(CheckError, match="the adapters aren't, so theirs would drift apart"):
        check(built(Parallel(Net()), learned), batch())
    check(built(Parallel(Net()), Transfer("t", "module.enc", "enc")), batch())


# --- equal teacher and student ----------------------------------------------------------------------------------------


def wide_and_equal() -> tuple[nn.Module, nn.Module]:
    teacher = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh(), nn.Conv2d(3, 3, 1))
    return teacher, copy.deepcopy(teacher)


def test_equal_networks_read_at_different_places() -> None:
    with pytest.raises(CheckError, match=r"teacher and student are equal, and the divergence 't'.*at the same place"):
        check(Distiller(*wide_and_equal(), [Transfer("t", "0", "2")]), batch())
    check(Distiller(*wide_and_equal(), [Transfer("t", "2", "2")]), batch())


def test_equal_networks_through_different_adapters() -> None:
    turned = BasisAdapter(torch.eye(3).flip(0))
    with pytest.raises(CheckError, match="the divergence 't' between them isn't zero"):
        check(Distiller(*wide_and_equal(), [Transfer("t", "0", "0", student_adapters=turned)]), batch())
    same = [Transfer("t", "0", "0", student_adapters=turned, teacher_adapters=turned)]
    check(Distiller(*wide_and_equal(), same), batch())


def test_equal_weights_are_not_equal_networks() -> None:
    """An activation has no weights."""
    teacher, student = wide_and_equal()
    student[1] = nn.Sigmoid()  # type: ignore[index]
    check(Distiller(teacher, student, [Transfer("t", "2", "2")]), batch())
    teacher, student = wide_and_equal()
    with torch.no_grad():
        student[2].bias.add_(0.1)  # type: ignore[index]
    check(Distiller(teacher, student, [Transfer("t", "0", "2")]), batch())


def test_what_need_not_be_zero_between_equal_networks() -> None:
    other = {"teacher_inputs": lambda x: ((x.flip(3),), {})}
    check(Distiller(*wide_and_equal(), [Transfer("t", "2", "2")], **other), batch())
    learned = Transfer("t", "2", "2", student_adapters=ChannelAdapter(3, 3))
    check(Distiller(*wide_and_equal(), [learned]), batch())
    aligned = Transfer("t", "2", "2", skd.knowledge.position_samples, negative_alignment)
    check(Distiller(*wide_and_equal(), [aligned]), batch())


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("measure", [mse, normalised_mse])
def test_the_scale_of_the_features_does_not_matter(scale: float, measure: Any) -> None:
    teacher, student = wide_and_equal()
    check(Distiller(teacher, student, [Transfer("t", "2", "2", raw, measure)]), batch() * scale)
    check(Distiller(teacher, nn.Conv2d(3, 3, 1), [Transfer("t", "", "", raw, measure)]), batch() * scale)


# --- numbers that aren't finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(value: float) -> None:
    bad = batch()
    bad[0, 0, 0, 0] = value
    with pytest.raises(NonFiniteError, match=r"the loss 'output' isn't finite; got (nan|inf).*look at this batch"):
        check(built(), bad)


def test_a_gradient_that_is_not_finite() -> None:
    def root(feature: Tensor, *, layout: str) -> Tensor:
        return feature.abs().sqrt()

    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        teacher[0].bias.add_(0.3)
    with pytest.raises(NonFiniteError, match=r"the gradient of the loss 't' isn't finite.*root or a division at zero"):
        check(Distiller(teacher, student, [Transfer("t", "1", "1", root)]), batch())
    check(Distiller(teacher, student, [Transfer("t", "1", "1", raw)]), batch())


# --- stages -----------------------------------------------------------------------------------------------------------


class Staged(Method):
    def transfers(self) -> list[Transfer]:
        return [Transfer("first", "enc", "enc"), Transfer("second", "act", "act")]

    def stages(self) -> list[Stage]:
        return [Stage(2, ("first",)), Stage(None, ("second",))]


def test_the_present_stage_is_what_is_checked() -> None:
    distiller = Distiller(Net(), Net(dead=True), Staged())
    check(distiller, batch())
    distiller.advance(2)
    with pytest.raises(CheckError, match="the loss 'second' is constant"):
        check(distiller, batch())


# --- no trace ---------------------------------------------------------------------------------------------------------


class Restless(Net):
    """Draws from every generator, and replaces a buffer by another tensor at each forward."""

    def __init__(self, **faults: Any) -> None:
        super().__init__(**faults)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return super().forward(x + 0.01 * random.random() + 0.01 * np.random.random())  # noqa: NPY002


def everything(distiller: Distiller) -> tuple[list[Any], list[Any]]:
    networks = (distiller, *distiller.teachers.values())
    values = [t.clone() for net in networks for t in (*net.parameters(), *net.buffers())]
    values += [torch.zeros(0) if p.grad is None else p.grad.clone() for net in networks for p in net.parameters()]
    values += [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].copy())]  # noqa: NPY002
    rest: list[Any] = [m.training for net in networks for m in net.modules()]
    rest += [id(t) for net in networks for t in (*net.parameters(), *net.buffers())]
    rest += [id(p.grad) for net in networks for p in net.parameters()]
    rest += [p.requires_grad for net in networks for p in net.parameters()]
    rest += [len(m._forward_hooks) + len(m._forward_pre_hooks) for net in networks for m in net.modules()]
    rest += [random.getstate(), torch.is_grad_enabled(), distiller.steps_done]
    return values, rest


@pytest.mark.parametrize("student", [Restless(), Restless(dead=True), Restless(cut="enc")], ids=["good", "dead", "cut"])
@pytest.mark.parametrize("wrong", [False, True], ids=["batch", "wrong batch"])
def test_everything_is_as_before(student: Restless, wrong: bool) -> None:
    student = copy.deepcopy(student)
    rows = (Transfer("t", "act", "act", student_adapters=ChannelAdapter(4, 4)), Transfer("output", "", ""))
    distiller = Distiller(Restless(), student, rows)
    distiller(batch()).losses.total.backward()
    student.train()
    student.norm.eval()  # a mixture of flags
    before = everything(distiller)
    try:
        check(distiller, torch.ones(2, 5, 6, 8) if wrong else batch())
    except (CheckError, RuntimeError):
        pass
    else:
        assert not wrong
    after = everything(distiller)
    assert after[1] == before[1]
    for one, other in zip(after[0], before[0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("tap", ["2", "0"], ids=["good", "refused"])
def test_flags_are_as_before_where_equal_networks_ran_in_eval_mode(tap: str) -> None:
    teacher, student = wide_and_equal()
    distiller = Distiller(teacher, student, [Transfer("t", tap, "2")])
    student.train()
    student[1].eval()  # type: ignore[index]
    before = everything(distiller)
    with contextlib.nullcontext() if tap == "2" else pytest.raises(CheckError, match="teacher and student are equal"):
        check(distiller, batch())
    assert everything(distiller)[1] == before[1]


def test_the_test_of_no_trace_notices() -> None:
    distiller = Distiller(Restless(), Restless(), [Transfer("output", "", "")])
    before = everything(distiller)
    distiller(batch())
    after = everything(distiller)
    assert after[1] != before[1]
    assert not torch.equal(after[0][-2], before[0][-2])


def test_check_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        check(built(), batch())
        assert not torch.is_grad_enabled()
