"""Squared errors of a widened feature that is never made: the same as of one that is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skd
from skd.adapters import Adapter, Chain, ChannelAdapter, SpaceAdapter, TokenAdapter
from skd.distances import Distance, cosine, huber, mse, normalised_mse
from skd.knowledge import Knowledge, attention, centred, mean_std, raw
from skd.methods._implicit import Implicit
from skd.methods.transfer import Through, Transfer

KNOWLEDGE = (raw, centred, mean_std, Knowledge(centred), Knowledge(mean_std, eps=0.1))
DISTANCES = (mse, normalised_mse, Distance(normalised_mse, eps=50.0))
SHAPES = {"BCHW": (3, 5), "BCL": (7,), "BCDHW": (2, 3, 2), "BNC": (6,)}


def row_of(
    adapter: nn.Module | None, knowledge: Any = centred, distance: Any = normalised_mse, **others: Any
) -> Transfer:
    return Transfer("row", "0", "0", knowledge, distance, student_adapters=adapter, **others)


def explicit(row: Transfer, student: Tensor, teacher: Tensor) -> Tensor:
    """With the adapter's output, as any other row is computed."""
    [adapter] = row.student_adapters
    layout = adapter.layout
    ours, theirs = (row.knowledge(each, layout=layout) for each in (adapter(student, teacher), teacher))
    return row.distance(ours, theirs)


def features(layout: str, batch: int, narrow: int, wide: int, seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    found = []
    for width in (narrow, wide):
        space = SHAPES[layout]
        shape = (batch, *space, width) if layout == "BNC" else (batch, width, *space)
        found.append(torch.randn(shape, generator=random, dtype=torch.float64).to(**options) * 3 + 1)
    return found[0].requires_grad_(), found[1]


@settings(deadline=None, max_examples=60)
@given(
    layout=st.sampled_from(list(SHAPES)),
    batch=st.integers(1, 3),
    narrow=st.integers(1, 4),
    more=st.integers(1, 5),
    bias=st.booleans(),
    knowledge=st.sampled_from(KNOWLEDGE),
    distance=st.sampled_from(DISTANCES),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_the_adapted_feature(
    layout: Any, batch: int, narrow: int, more: int, bias: bool, knowledge: Any, distance: Any, seed: int
) -> None:
    torch.manual_seed(seed)
    adapter = ChannelAdapter(narrow, narrow + more, layout=layout, bias=bias).double()
    if adapter.bias is not None:
        nn.init.normal_(adapter.bias)
    row = row_of(adapter, knowledge, distance)
    quick = Implicit.of(row)
    assert quick is not None
    student, teacher = features(layout, batch, narrow, narrow + more, seed)
    found = quick(student, teacher, {})
    assert found is not None
    wanted = explicit(row, student, teacher)
    torch.testing.assert_close(found, wanted)
    leaves = [student, *adapter.parameters()]
    ours, theirs = (torch.autograd.grad(loss, leaves) for loss in (found, wanted))
    torch.testing.assert_close(ours, theirs)  # of an offset that cancels, too: DDP waits for it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("knowledge", KNOWLEDGE[:3])
def test_halves_are_summed_in_single_precision(dtype: torch.dtype, knowledge: Any) -> None:
    adapter = ChannelAdapter(3, 8)
    row = row_of(Chain(adapter, SpaceAdapter()), knowledge)
    student, teacher = features("BCHW", 2, 3, 8, 0, dtype=dtype)
    quick = Implicit.of(row)
    assert quick is not None
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = quick(student, teacher, {})
    assert found is not None
    assert found.dtype == torch.float32
    exact = explicit(row_of(copy.deepcopy(adapter).double(), knowledge), student.detach().double(), teacher.double())
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("knowledge", KNOWLEDGE[:3])
def test_a_copy_has_no_loss_however_it_rounds(knowledge: Any) -> None:
    rounded = list[float]()
    for seed in range(20):
        torch.manual_seed(seed)
        adapter = ChannelAdapter(3, 16)
        student = 5 + torch.randn(2, 3, 9, 7)
        quick = Implicit.of(row_of(adapter, knowledge))
        assert quick is not None
        found = quick(student, adapter(student).detach(), {})
        assert found is not None
        rounded.append(float(found.detach()))
        assert 0 <= rounded[-1] < 1e-5
    assert knowledge is not centred or min(rounded) == 0  # what would be less


def test_rows_share_what_is_the_same_and_nothing_else() -> None:
    student, teacher = features("BCHW", 2, 3, 8, 0)
    others = features("BCHW", 2, 3, 8, 1)
    at = {"0": (student, teacher), "1": others}
    known: dict[Any, Any] = {}
    torch.manual_seed(0)
    for layer, of, knowledge in (
        ("0", "teacher", raw), ("0", "teacher", mean_std), ("0", "teacher", centred), ("1", "teacher", raw),
        ("1", "teacher", mean_std), ("0", "other", mean_std),
    ):  # fmt: skip
        adapter = ChannelAdapter(3, 8).double()
        row = Transfer("row", layer, layer, knowledge, normalised_mse, student_adapters=adapter, of=of)
        quick = Implicit.of(row)
        assert quick is not None
        ours, theirs = at[layer][0], at[layer][1] if of == "teacher" else at[layer][1] ** 2
        found = quick(ours, theirs, known)
        assert found is not None
        torch.testing.assert_close(found, explicit(row, ours, theirs))
    # Of the student's two features one each; of the teacher's, with and without the variance, and the other teacher's.
    assert len(known) == 2 + 4 + 1


def test_what_it_leaves_to_others() -> None:
    class Own(ChannelAdapter):
        """It may do anything."""

    widening = ChannelAdapter(2, 5)
    assert Implicit.of(row_of(widening)) is not None
    for row in (
        row_of(None),
        row_of(ChannelAdapter(5, 5)),
        row_of(Own(2, 5)),
        row_of(Chain(widening, SpaceAdapter(size=(2, 2)))),
        row_of(Chain(widening, ChannelAdapter(5, 6))),
        row_of(Chain(ChannelAdapter(2, 5, layout="BNC"), TokenAdapter())),
        row_of(widening, attention, mse),
        row_of(widening, centred, cosine),
        row_of(widening, raw, huber),
        row_of(widening, teacher_adapters=ChannelAdapter(5, 5)),
        row_of(widening, through=Through({"0": "0"})),
        Transfer("two", ["0", "1"], ["0", "1"], centred, student_adapters=[widening, widening]),
    ):
        assert Implicit.of(row) is None, row


def test_features_that_do_not_fit_are_left_to_what_says_so() -> None:
    adapter = ChannelAdapter(2, 5)
    quick = Implicit.of(row_of(Chain(adapter, SpaceAdapter())))
    assert quick is not None
    fits = torch.randn(2, 2, 4, 6), torch.randn(2, 5, 4, 6)
    assert quick(*fits, {}) is not None
    for student, teacher in (
        (fits[0], torch.randn(2, 5, 6, 4)),  # as many positions, elsewhere
        (fits[0], torch.randn(2, 5, 2, 3)),
        (torch.randn(2, 3, 4, 6), fits[1]),
        (fits[0], torch.randn(2, 4, 4, 6)),
        (fits[0][:1], fits[1]),
        (fits[0], fits[1].flatten(2)),
        (fits[0][..., :1, :1], fits[1][..., :1, :1]),
    ):
        assert quick(student, teacher, {}) is None
    handle = adapter.register_forward_hook(lambda *_: None)
    assert quick(*fits, {}) is None
    handle.remove()
    assert quick(*fits, {}) is not None
    adapter.forward = lambda feature, reference=None: 2 * feature  # type: ignore[method-assign, assignment]
    assert quick(*fits, {}) is None


def networks() -> tuple[nn.Module, nn.Module, Tensor]:
    def network(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ConvTranspose2d(2 * width, width, 2, 2),
            nn.ConvTranspose2d(width, 3, 2, 2),
        )

    torch.manual_seed(0)
    return network(8), network(3), torch.randn(2, 3, 16, 24)


@pytest.mark.parametrize("kept", ["learned", "learned_shared", "FitNets"])
def test_a_distillation_is_the_same_with_and_without(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the adapters don't run."""
    teacher, student, x = networks()
    pairing = skd.pair(teacher, x)
    plan, spectra = skd.match(pairing, skd.pair(student, x)), skd.measure(teacher, pairing, [x])
    found: list[tuple[dict[str, Tensor], list[Tensor]]] = []
    ran = 0
    forward = ChannelAdapter.forward

    def counted(adapter: Adapter, *given: Any) -> Tensor:
        nonlocal ran
        ran += 1
        return forward(adapter, *given)

    monkeypatch.setattr(ChannelAdapter, "forward", counted)
    for quick in (True, False):
        if not quick:
            assert ran == 0
            monkeypatch.setattr(Implicit, "of", classmethod(lambda *_: None))
        torch.manual_seed(1)
        method = (
            skd.methods.FitNets(plan) if kept == "FitNets" else skd.methods.SKD(plan, spectra, basis=kept)  # type: ignore[arg-type]
        )
        distiller = skd.Distiller(copy.deepcopy(teacher), copy.deepcopy(student), method)
        step = distiller(x)
        step.losses.total.backward()
        terms = {name: term.detach() for name, term in step.losses.terms.items()}
        found.append(
            (terms, [parameter.grad.clone() for parameter in distiller.parameters() if parameter.grad is not None])
        )
    assert ran > 0
    (one, ours), (other, theirs) = found
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(ours) == len(theirs) > 8
