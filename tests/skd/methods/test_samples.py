"""Methods that compare how samples relate to each other, against their formulas written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from skd.errors import ArgumentError, ShapeError
from skd.knowledge import position_samples
from skd.methods import CC, PKT, RKD, SP, KernelAlignment
from skd.methods.rkd import pair_distances, triplet_angles

Of = Callable[[np.ndarray, np.ndarray], float]


def expected(made: Any, term: str, of: Of, samples: str = "batch", count: int = 20) -> dict[str, float]:
    """`of` the student's rows and the teacher's, by row name."""
    found = {}
    for name, sides in made.both().items():
        if not name:
            continue
        layout = "BCHW" if sides[0].ndim == 4 else "BNC"
        if samples == "batch":
            rows = [side.detach().flatten(1).numpy() for side in sides]
        else:
            rows = [position_samples(side.detach(), layout=layout, count=count).numpy() for side in sides]
        found[f"{name}/{term}"] = of(*rows)
    return found


def close(losses: dict[str, torch.Tensor], wanted: dict[str, float]) -> None:
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-8), name


def cosines(rows: np.ndarray) -> np.ndarray:
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return directions @ directions.T


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_sp(case: Any, kind: str) -> None:
    def loss(student: np.ndarray, teacher: np.ndarray) -> float:
        ours, theirs = (r @ r.T / np.linalg.norm(r @ r.T, axis=1, keepdims=True) for r in (student, teacher))
        return 3000 * float(((ours - theirs) ** 2).sum()) / len(ours) ** 2

    made = case(kind)
    close(made.losses(SP(made.plan, output=0)), expected(made, "similarity", loss))


@pytest.mark.parametrize(("kind", "samples"), [("maps", "batch"), ("tokens", "batch"), ("maps", "positions")])
def test_pkt(case: Any, kind: str, samples: Any) -> None:
    def mean(student: np.ndarray, teacher: np.ndarray) -> float:
        ours, theirs = ((1 + cosines(side)) / 2 for side in (student, teacher))
        p, q = theirs / theirs.sum(1, keepdims=True), ours / ours.sum(1, keepdims=True)
        return 30000 * float((p * np.log((p + 1e-7) / (q + 1e-7))).mean())

    def total(student: np.ndarray, teacher: np.ndarray) -> float:
        n, loss = len(student), 0.0
        kernels = [(1 + cosines(side)) / 2 for side in (student, teacher)]
        for i in range(n):
            q, p = (np.delete(one[i], i) / np.delete(one[i], i).sum() for one in kernels)
            loss += float((p * np.log(p / q)).sum())
        return loss

    made = case(kind)
    options = {"samples": samples, "count": 20, "output": 0}
    losses, wanted = made.losses(PKT(made.plan, **options)), expected(made, "neighbours", mean, samples)
    for name, value in wanted.items():  # 10⁻⁷ under the logarithm, on both sides
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    losses, wanted = (
        made.losses(PKT(made.plan, variant="paper", **options)),
        expected(made, "neighbours", total, samples),
    )
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name


def huber(values: np.ndarray) -> float:
    size = np.abs(values)
    return float(np.where(size <= 1, size**2 / 2, size - 0.5).mean())


def distances(rows: np.ndarray) -> np.ndarray:
    found = np.array([[np.linalg.norm(one - other) for other in rows] for one in rows])
    return found / found[~np.eye(len(rows), dtype=bool)].mean()


def angles(rows: np.ndarray) -> np.ndarray:
    n = len(rows)
    found = np.zeros((n, n, n))
    for j, i, k in itertools.product(range(n), repeat=3):
        if j not in (i, k):
            one, other = rows[i] - rows[j], rows[k] - rows[j]
            found[j, i, k] = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    return found


@pytest.mark.parametrize(("kind", "samples"), [("maps", "batch"), ("tokens", "batch"), ("maps", "positions")])
def test_rkd(case: Any, kind: str, samples: Any) -> None:
    made = case(kind)
    wanted = expected(made, "distances", lambda s, t: 25 * huber(distances(s) - distances(t)), samples)
    wanted |= expected(made, "angles", lambda s, t: 50 * huber(angles(s) - angles(t)), samples)
    close(made.losses(RKD(made.plan, samples=samples, count=20, output=0)), wanted)
    names = [row.name for row in RKD(made.plan, angles=0, sides="encoder", output=0).transfers()]
    assert names == ["1/2/encoder/distances", "1/4/encoder/distances"]


def test_rkd_of_samples_that_coincide() -> None:
    """Neither the values nor the gradients are NaN."""
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0], [4.0, 6.0]], requires_grad=True)
    found = pair_distances(rows, layout="BC")
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 1.5, 1.5]))
    corners = triplet_angles(rows, layout="BC")
    torch.testing.assert_close(corners[0], torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]))
    (found.sum() + corners.sum()).backward()
    assert torch.isfinite(rows.grad).all()
    same = torch.ones(4, 3, requires_grad=True)
    (pair_distances(same, layout="BC").sum() + triplet_angles(same, layout="BC").sum()).backward()
    assert torch.isfinite(same.grad).all()


def test_rkd_keeps_its_precision_far_from_the_origin() -> None:
    rows = torch.randn(5, 400)
    there = pair_distances(rows + 300, layout="BC")
    torch.testing.assert_close(there, torch.from_numpy(distances(rows.double().numpy())).float(), rtol=1e-3, atol=1e-3)


def test_rkd_needs_three_samples(case: Any) -> None:
    made = case(batch=2)
    with pytest.raises(ShapeError, match=r"needs at least 3 samples.*got 2 of the batch.*samples='positions'"):
        made.losses(RKD(made.plan))
    assert math.isfinite(made.losses(RKD(made.plan, samples="positions"))["1/2/encoder/angles"].item())


@pytest.mark.parametrize(("kind", "samples"), [("maps", "batch"), ("tokens", "batch"), ("maps", "positions")])
def test_cc(case: Any, kind: str, samples: Any) -> None:
    """With many terms the series is the Gaussian kernel of the directions, exp(−γ ‖x − y‖²)."""
    made = case(kind)

    def gaussian(rows: np.ndarray) -> np.ndarray:
        directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        squares = ((directions[:, None] - directions[None]) ** 2).sum(2)
        return np.exp(-0.4 * squares)

    def second(rows: np.ndarray) -> np.ndarray:
        c = cosines(rows)
        return math.exp(-0.8) * (1 + 0.8 * c + 0.32 * c**2)

    for order, kernel in ((25, gaussian), (2, second)):
        wanted = expected(made, "kernel", lambda s, t, k=kernel: 100 * float(((k(s) - k(t)) ** 2).mean()), samples)
        close(made.losses(CC(made.plan, order=order, samples=samples, count=20, output=0)), wanted)


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_kernel_alignment(case: Any, kind: str) -> None:
    def loss(student: np.ndarray, teacher: np.ndarray) -> float:
        ours, theirs = student @ student.T, teacher @ teacher.T
        return -float((ours * theirs).sum() / (np.linalg.norm(ours) * np.linalg.norm(theirs)))

    made = case(kind)
    close(made.losses(KernelAlignment(made.plan, output=0)), expected(made, "alignment", loss))


def test_kernel_alignment_debiased(case: Any) -> None:
    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        """Song et al. 2012, eq. 5."""
        k, m, n = one @ one.T, other @ other.T, len(one)
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        middle = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
        return float((np.trace(k @ m) + middle) / (n * (n - 3)))

    def loss(student: np.ndarray, teacher: np.ndarray) -> float:
        return 1 - hsic(student, teacher) / math.sqrt(hsic(student, student) * hsic(teacher, teacher))

    made = case()
    found = made.losses(KernelAlignment(made.plan, variant="debiased", count=30, output=0))
    close(found, expected(made, "alignment", loss, "positions", 30))


def test_independent_features_align_only_without_the_bias(case: Any) -> None:
    """METHODS' trap: after a ReLU, 8 samples of unrelated features score nearly −1."""
    from skd.distances import alignment_distance, negative_alignment
    from skd.knowledge import batch_samples

    torch.manual_seed(0)
    one, other = torch.randn(2, 8, 16, 12, 20).relu()
    rows = batch_samples(one), batch_samples(other)
    assert negative_alignment(*rows).item() < -0.99
    positions = position_samples(one, count=512), position_samples(other, count=512)
    assert alignment_distance(*positions).item() > 0.95


def test_position_samples_need_equal_sizes_and_get_them(case: Any) -> None:
    """Samples of the batch may have any size; positions are brought to the teacher's."""
    made = case()
    for method in (PKT, CC, RKD):
        batch = method(made.plan).transfers()[0]
        positions = method(made.plan, samples="positions").transfers()[0]
        assert batch.student_adapters == (None,)
        assert positions.student_adapters != (None,)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (PKT, {"variant": "papers"}, "no such variant; got 'papers'; expected code or paper"),
        (PKT, {"samples": "rows"}, "no such samples; got 'rows'; expected batch or positions"),
        (CC, {"samples": "rows"}, "no such samples"),
        (CC, {"gamma": 0.0}, "γ and order above 0; got gamma=0"),
        (CC, {"order": 0}, "γ and order above 0"),
        (RKD, {"samples": "rows"}, "no such samples"),
        (KernelAlignment, {"variant": "plain"}, "no such variant; got 'plain'; expected paper or debiased"),
    ],
)
def test_choices_that_can_not_be(case: Any, method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        method(case().plan, **options)
