"""Distances: values against numpy, and what a divergence promises, on every registered one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from skd import distances
from skd.distances import DISTANCES, Distance, DistanceFunction, distance
from skd.errors import ArgumentError, ShapeError
from skd.knowledge import channel_distribution, kernel_alignment, mean_std

DIVERGENCES = [function for function in DISTANCES.values() if function.divergence]
SAME_SHAPE = [
    function for name, function in DISTANCES.items() if name not in ("alignment_distance", "negative_alignment")
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def named(function: object) -> str:
    return getattr(function, "__name__", "")


def pair(function: DistanceFunction, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Different student and teacher knowledge of a shape that the distance takes, not square."""
    shape = (batch, 4, 3, 5) if function in SAME_SHAPE else (7, 3)
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


# ---- values


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (distances.mse, lambda s, t: ((s - t) ** 2).mean()),
        (distances.l1, lambda s, t: np.abs(s - t).mean()),
        (Distance(distances.huber, delta=0.7), lambda s, t: huber_oracle(s - t, 0.7).mean()),
        (
            distances.frobenius,
            lambda s, t: np.mean([np.linalg.norm((a - b).ravel()) for a, b in zip(s, t, strict=True)]),
        ),
        (distances.normalised_mse, lambda s, t: ((s - t) ** 2).mean() / (t**2).mean()),
        (distances.cosine, lambda s, t: 1 - np.mean((s * t).sum(1) / np.sqrt((s**2).sum(1) * (t**2).sum(1)))),
        (
            Distance(distances.cosine, dim=-1),
            lambda s, t: 1 - np.mean((s * t).sum(-1) / np.sqrt((s**2).sum(-1) * (t**2).sum(-1))),
        ),
    ],
    ids=str,
)
def test_values(function: Callable[..., Tensor], expected: Callable[..., float]) -> None:
    student, teacher = pair(distances.mse)
    assert function(student, teacher).item() == pytest.approx(expected(student.numpy(), teacher.numpy()), rel=1e-9)


def huber_oracle(d: np.ndarray, delta: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.where(np.abs(d) <= delta, d**2 / 2, delta * (np.abs(d) - delta / 2))


def test_kl_with_its_knowledge_is_the_loss_of_cwd() -> None:
    student, teacher = pair(distances.mse)
    tau = 3.0
    s, t = (np.exp(side.numpy().reshape(2, 4, 15) / tau) for side in (student, teacher))
    s, t = s / s.sum(2, keepdims=True), t / t.sum(2, keepdims=True)
    expected = tau**2 / (2 * 4) * (t * np.log(t / s)).sum()
    knowledge = [channel_distribution(side, temperature=tau) for side in (student, teacher)]
    assert distances.kl(*knowledge, temperature=tau).item() == pytest.approx(expected, rel=1e-9)
    torch_says = torch.nn.functional.kl_div(*knowledge, log_target=True, reduction="sum") * tau**2 / 8
    assert_close(distances.kl(*knowledge, temperature=tau), torch_says)


def test_gradient_of_kl_in_the_logits_is_the_difference_of_probabilities() -> None:
    student, teacher = (side.requires_grad_() for side in pair(distances.mse))
    distances.kl(channel_distribution(student, temperature=1), channel_distribution(teacher, temperature=1)).backward()
    expected = (student.flatten(2).softmax(2) - teacher.flatten(2).softmax(2)) / 8
    assert student.grad is not None
    assert_close(student.grad.flatten(2), expected.detach())


@given(st.integers(0, 1000), st.floats(0.1, 5))
def test_kl_is_not_negative_for_other_inputs_either(seed: int, scale: float) -> None:
    student, teacher = (scale * side for side in pair(distances.mse, seed))
    assert distances.kl(student, teacher) > 0
    lower = teacher - 3
    assert (lower.exp() * (lower - teacher)).sum() < 0 < distances.kl(teacher, lower)  # the bare form is negative


def test_kl_of_probabilities_that_underflow() -> None:
    certain = torch.tensor([[0.0, -500.0]])
    other = torch.tensor([[-500.0, 0.0]])
    assert_close(distances.kl(certain, other), torch.tensor(500.0))


@pytest.mark.parametrize("estimator", ["debiased", "centred", "plain"])
def test_alignment_distance_is_one_minus_alignment(estimator: str) -> None:
    student, teacher = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    alignment = kernel_alignment(student, teacher, estimator=estimator)  # type: ignore[arg-type]
    assert_close(distances.alignment_distance(student, teacher, estimator=estimator), 1 - alignment)
    assert_close(distances.negative_alignment(student, teacher, estimator=estimator), -alignment)


def test_normalised_mse_weighs_every_layer_alike() -> None:
    student, teacher = pair(distances.mse)
    value = distances.normalised_mse(student, teacher)
    assert_close(distances.normalised_mse(student * 1e3, teacher * 1e3), value)
    assert_close(distances.normalised_mse(torch.zeros_like(teacher), teacher), torch.ones_like(value))


def test_the_denominator_of_normalised_mse_takes_no_gradient() -> None:
    student, teacher = (side.requires_grad_() for side in pair(distances.mse))
    distances.normalised_mse(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is not None
    assert_close(teacher.grad, -student.grad)  # otherwise the teacher's energy would add a term


def test_no_distance_detaches_the_teacher() -> None:
    for function in DISTANCES.values():
        student, teacher = (side.requires_grad_() for side in pair(function))
        function(student, teacher).backward()
        assert teacher.grad is not None
        assert teacher.grad.abs().sum() > 0


# ---- what a divergence promises


@pytest.mark.parametrize("function", DIVERGENCES, ids=named)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_divergences(
    function: DistanceFunction, seed: int, batch: int, height: int, width: int, scale: float, dtype: torch.dtype
) -> None:
    shape = (batch, 3, height, width) if function in SAME_SHAPE else (batch + 3, 3)
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(shape, generator=generator) for _ in range(2))
    if function is distances.kl:  # takes log-probabilities; one value has no other, and faint ones round to the same
        student, teacher = (torch.cat([side / scale, -side / scale], -1).log_softmax(-1) for side in (student, teacher))
    student, teacher = student.to(dtype), teacher.to(dtype)
    assert function(teacher.clone(), teacher).item() == 0
    student.requires_grad_()
    value = function(student, teacher)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(value)
    assert value > 0
    value.backward()
    assert student.grad is not None
    assert student.grad.dtype == dtype
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("function", DIVERGENCES, ids=named)
def test_divergences_of_constant_and_nearly_equal_inputs(function: DistanceFunction) -> None:
    shape = (2, 3, 2, 5) if function in SAME_SHAPE else (6, 3)
    for value in (0.0, 1.0, -40.0):
        student = torch.full(shape, value, requires_grad=True)
        result = function(student, torch.full(shape, value))
        result.backward()
        assert result.item() == 0
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
    for seed in range(20):  # where rounding is as large as the distance
        teacher = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        assert function(teacher * (1 + 1e-7), teacher) >= 0


def test_the_promise_can_be_broken() -> None:
    """The properties above catch a distance that is marked wrongly: the registered one that isn't a divergence."""
    function = DISTANCES["negative_alignment"]
    assert not function.divergence
    teacher = pair(function)[1]
    assert function(teacher, teacher).item() == pytest.approx(-1)
    assert [function for function in DISTANCES.values() if not function.divergence] == [function]


def test_one_minus_a_rounded_cosine_would_be_negative() -> None:
    """What the form ½‖ŝ − t̂‖² is there for."""
    naive = []
    for seed in range(50):
        vector = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed))
        naive.append(float(1 - torch.nn.functional.cosine_similarity(vector, vector)))
        assert distances.cosine(vector, vector).item() == 0
    assert min(naive) < 0


@pytest.mark.parametrize("function", list(DISTANCES.values()), ids=named)
def test_gradients(function: DistanceFunction) -> None:
    student, teacher = (side.flatten()[:18].reshape(6, 3).clone() for side in pair(function))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), (student,))


@pytest.mark.parametrize("function", list(DISTANCES.values()), ids=named)
def test_never_computes_in_half(function: DistanceFunction) -> None:
    student, teacher = pair(function)
    for dtype in (torch.float16, torch.bfloat16):
        s, t = student.to(dtype), teacher.to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(s, t)
        assert value.dtype == torch.float32
        assert_close(value.double(), function(s.double(), t.double()), rtol=1e-4, atol=1e-6)
    assert function(student.half(), teacher.float()).dtype == torch.float32
    assert function(student.half(), teacher).dtype == torch.float64


def test_half_would_overflow() -> None:
    student, teacher = torch.full((4,), 300.0).half(), torch.zeros(4).half()
    assert distances.mse(student, teacher).item() == 90_000
    assert torch.isinf(torch.nn.functional.mse_loss(student, teacher))


@pytest.mark.parametrize("function", list(DISTANCES.values()), ids=named)
def test_compiles_to_one_graph(function: DistanceFunction) -> None:
    torch.compiler.reset()
    student, teacher = (side.float() for side in pair(function))
    compiled = torch.compile(Distance(function), fullgraph=True, backend="eager")
    assert_close(compiled(student, teacher), function(student, teacher))


# ---- errors


@pytest.mark.parametrize("function", SAME_SHAPE, ids=named)
def test_shapes_must_agree(function: DistanceFunction) -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 1)  # these would broadcast
    match = (
        r"different shapes; got student \(2, 3, 4, 5\), teacher \(2, 3, 4, 1\)\. Remedy: give the transfer an adapter"
    )
    with pytest.raises(ShapeError, match=match):
        function(student, teacher)
    with pytest.raises(ShapeError, match=match):
        function(student=student, teacher=teacher)


def test_rows_must_agree() -> None:
    for function in (distances.alignment_distance, distances.negative_alignment):
        with pytest.raises(ShapeError, match=r"same samples; got \(5, 3\) and \(6, 3\)"):
            function(torch.randn(5, 3), torch.randn(6, 3))


def test_options_are_checked() -> None:
    student, teacher = pair(distances.mse)
    with pytest.raises(ArgumentError, match="delta must be positive and finite; got 0"):
        distances.huber(student, teacher, delta=0)
    with pytest.raises(ArgumentError, match="eps must be positive and finite; got -1"):
        distances.normalised_mse(student, teacher, eps=-1)
    with pytest.raises(ArgumentError, match="temperature must be positive and finite; got inf"):
        distances.kl(student, teacher, temperature=float("inf"))
    with pytest.raises(ArgumentError, match=r"floating-point tensors only; got torch\.int64"):
        distances.mse(torch.ones(2).long(), torch.ones(2).long())


# ---- marking and binding


def test_every_public_distance_is_registered() -> None:
    marked = {name for name, value in vars(distances).items() if hasattr(value, "divergence") and callable(value)}
    assert marked - {"Distance", "DistanceFunction"} == set(DISTANCES)
    assert all(name == function.__name__ for name, function in DISTANCES.items())


def test_distance_binds_options() -> None:
    bound = Distance(distances.huber, delta=0.5)
    assert repr(bound) == "huber(delta=0.5)"
    assert bound.divergence
    assert not Distance(distances.negative_alignment).divergence
    assert Distance.of(bound) is bound
    assert Distance.of(distances.mse) == Distance(distances.mse) != bound
    student, teacher = pair(distances.mse)
    for twin in (pickle.loads(pickle.dumps(bound)), copy.deepcopy(bound)):
        assert twin == bound
        assert_close(twin(student, teacher), distances.huber(student, teacher, delta=0.5))


def unmarked(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).sum()


@distance(divergence=False)
def signed(student: Tensor, teacher: Tensor, *, factor: float = 1.0) -> Tensor:
    return factor * (student - teacher).sum()


def test_users_mark_their_own() -> None:
    assert Distance(signed, factor=2.0)(torch.ones(2), torch.zeros(2)).item() == 4
    assert not Distance(signed).divergence
    with pytest.raises(ArgumentError, match=r"unmarked doesn't say whether it is a divergence.*@skd\."):
        Distance(unmarked)
    with pytest.raises(ArgumentError, match="huber has no option 'beta'"):
        Distance(distances.huber, beta=1.0)


def test_knowledge_and_distance_make_a_transfer() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 6, 4)
    distances.normalised_mse(mean_std(student), mean_std(teacher)).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
