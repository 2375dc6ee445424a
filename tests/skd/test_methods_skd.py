"""SKD in closed form: features of a linear network whose covariances are known exactly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skd import Distiller, Pairing, Plan, Spectra, SymmetricPair, Tap, measure
from skd.adapters import BasisAdapter
from skd.distances import mse
from skd.errors import ArgumentError, ShapeError
from skd.methods import SKD, Transfer
from skd.methods.symmetric import Sides
from skd.schedules import Ramp, Window

C = 6  # of the teacher, on both sides


def hadamard() -> Tensor:
    """(1, C, 4, 4) float64 whose channels have mean 0, variance 1 and no correlation, exactly."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix[1 : C + 1].reshape(1, C, 4, 4)


X = hadamard()


class Linear(nn.Module):
    """Features A x (encoder), B x (decoder) and, as companion, F x at every position."""

    def __init__(self, encoder: Tensor, decoder: Tensor, companion: Tensor | None = None) -> None:
        super().__init__()
        weights = {"enc": encoder, "dec": decoder, "style": encoder if companion is None else companion}
        for name, weight in weights.items():
            layer = nn.Conv2d(C, len(weight), 1, bias=False).to(weight.dtype)
            layer.weight = nn.Parameter(weight[:, :, None, None].clone())
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = [self.enc(x).sum(1), self.style(x).sum(1), self.dec(x).sum(1)]
        return torch.stack(parts, 1)


def matrices(seed: int, *shapes: int, columns: int = C) -> list[Tensor]:
    """Matrices with a spectrum that falls off."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.6 ** torch.arange(columns, dtype=torch.float64)
    return [torch.randn(rows, columns, generator=generator, dtype=torch.float64) * sizes for rows in shapes]


def pair_of(width: int, decoder_width: int, companions: int = 0) -> SymmetricPair:
    return SymmetricPair("full", Tap("enc"), Tap("dec"), width, decoder_width, (1.0, 1.0), (Tap("style"),) * companions)


def set_up(
    encoder: Tensor, decoder: Tensor, width: int, decoder_width: int, *, companion: Tensor | None = None
) -> tuple[Linear, Plan, Spectra]:
    teacher = Linear(encoder, decoder, companion)
    pair = pair_of(len(encoder), len(decoder), companion is not None)
    spectra = measure(teacher, Pairing((pair,)), [X])
    return teacher, Plan(((pair, pair_of(width, decoder_width, companion is not None)),)), spectra


def terms(distiller: Distiller) -> dict[str, float]:
    return {name: value for name, value in distiller(X).losses.values().items() if name != "total"}


def covariances(*weights: Tensor) -> list[np.ndarray]:
    return [(weight @ weight.T).numpy() for weight in weights]


def leading(covariance: np.ndarray, width: int) -> tuple[np.ndarray, float]:
    """Leading eigenvectors and the share of the trace, by numpy."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, ::-1][:, :width].copy(), values[::-1][:width].sum() / values.sum()


# --- closed form ---


def test_the_covariances_are_exact() -> None:
    a, b = matrices(0, C, C)
    _, _, spectra = set_up(a, b, 2, 2)
    for moments, expected in zip((spectra[0].encoder, spectra[0].decoder), covariances(a, b), strict=True):
        np.testing.assert_allclose(moments.cov.numpy(), expected * 16 / 15, atol=1e-12)  # over count − 1


@pytest.mark.parametrize("kind", ["own", "shared", "linked", "subset", "own_subset"])
@pytest.mark.parametrize("width", [1, 3])
def test_a_student_that_is_the_coordinates_has_no_loss(kind: Any, width: int) -> None:
    a, b = matrices(1, C, C)
    teacher, plan, spectra = set_up(a, b, width, width)
    basis = spectra[0].basis(width, kind)
    student = Linear(basis.encoder.T @ a, basis.decoder.T @ b)
    distiller = Distiller(teacher, student, SKD(plan, spectra, basis=kind, output=0))
    assert terms(distiller) == {
        f"full/{side}/{what}": pytest.approx(0, abs=1e-12)
        for side in ("encoder", "decoder")
        for what in ("structure", "statistics")
    }
    with torch.no_grad():
        student.enc.weight.mul_(1.5)  # and the guard: (1.5 − 1)² of the energy
    assert terms(distiller)["full/encoder/structure"] == pytest.approx(0.25, abs=1e-6)


def test_the_energies_are_those_of_the_eigenvalues() -> None:
    a, b = matrices(2, C, C)
    _, plan, spectra = set_up(a, b, 3, 3)
    cov_e, cov_d = covariances(a, b)

    def energies(kind: Any) -> list[float]:
        rows = SKD(plan, spectra, basis=kind, statistics=0, output=0).transfers()
        return [row.info["energy kept"] for row in rows]

    own = [leading(cov_e, 3)[1], leading(cov_d, 3)[1]]
    assert energies("own") == pytest.approx(own, abs=1e-9)
    assert energies("linked") == pytest.approx(own, abs=1e-9)
    shared = (cov_e / np.trace(cov_e) + cov_d / np.trace(cov_d)) / 2
    vectors, energy = leading(shared, 3)
    sides = [np.trace(vectors.T @ cov @ vectors) / np.trace(cov) for cov in (cov_e, cov_d)]
    assert energies("shared") == pytest.approx(sides, abs=1e-9)
    assert sum(sides) / 2 == pytest.approx(energy, abs=1e-12)  # tr(UᵀMU), the sum of M's leading eigenvalues
    assert SKD(plan, spectra).transfers()[0].info == SKD(plan, spectra, basis="shared").transfers()[0].info
    rng = np.random.default_rng(0)
    for _ in range(50):  # no other basis keeps more of both
        other = np.linalg.qr(rng.normal(size=(C, 3)))[0]
        assert np.trace(other.T @ shared @ other) <= energy


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_best_structure_loss_is_the_energy_not_retained(width: int) -> None:
    """Lifted back by a linear map, the best features of this width lose 1 − energy of the own basis (Eckart–Young)."""
    a, b = matrices(3, C, C)
    teacher, plan, spectra = set_up(a, b, width, width)
    cov_e, cov_d = covariances(a, b)
    method = SKD(plan, spectra, basis="learned", statistics=0, output=0)

    def loss_of(weights: list[np.ndarray], lifts: list[np.ndarray]) -> list[float]:
        student = Linear(*(torch.from_numpy(weight.copy()) for weight in weights))
        distiller = Distiller(teacher, student, method)
        with torch.no_grad():
            for row, lift in zip(distiller.transfers, lifts, strict=True):
                learned = row.student_adapters[0].adapters[0]
                learned.double()
                learned.weight.copy_(torch.from_numpy(lift))
        return [*terms(distiller).values()]

    best = [leading(cov, width) for cov in (cov_e, cov_d)]
    features = [vectors.T @ weight.numpy() for (vectors, _), weight in zip(best, (a, b), strict=True)]
    lost = loss_of(features, [vectors for vectors, _ in best])
    assert lost == pytest.approx([1 - energy for _, energy in best], abs=1e-6)
    info = SKD(plan, spectra, basis="own", statistics=0, output=0).transfers()
    assert lost == pytest.approx([1 - row.info["energy kept"] for row in info], abs=1e-6)

    # Subsets: the channels of the subset, lifted by least squares, lose what the info says, too.
    subset = spectra[0].basis(width, "subset")
    picked = list(subset.channels)
    lifts = [cov[:, picked] @ np.linalg.inv(cov[np.ix_(picked, picked)]) for cov in (cov_e, cov_d)]
    energies = [subset.energy_encoder, subset.energy_decoder]
    assert loss_of([a.numpy()[picked], b.numpy()[picked]], lifts) == pytest.approx([1 - e for e in energies], abs=1e-6)

    # No other features of this width, with the best lift of their own, do better.
    rng = np.random.default_rng(width)
    for _ in range(10):
        mixing = rng.normal(size=(width, C))
        fits = [cov @ mixing.T @ np.linalg.inv(mixing @ cov @ mixing.T) for cov in (cov_e, cov_d)]
        others = loss_of([mixing @ a.numpy(), mixing @ b.numpy()], fits)
        assert all(other >= least - 1e-9 for other, least in zip(others, lost, strict=True))


def test_a_student_that_says_nothing_scores_one() -> None:
    a, b = matrices(4, C, C)
    teacher, plan, spectra = set_up(a, b, 2, 2)
    student = Linear(torch.zeros(2, C, dtype=torch.float64), torch.zeros(2, C, dtype=torch.float64))
    found = terms(Distiller(teacher, student, SKD(plan, spectra, basis="own")))
    assert found["full/encoder/structure"] == pytest.approx(1, abs=1e-12)
    assert found["output"] == pytest.approx(1, abs=1e-12)
    for side, cov in zip(("encoder", "decoder"), covariances(a, b), strict=True):
        values, eps = np.linalg.eigvalsh(cov)[::-1][:2], 1e-5  # means 0, deviations √(λ + eps) against √eps
        expected = ((np.sqrt(values + eps) - np.sqrt(eps)) ** 2).sum() / (values + eps).sum()
        assert found[f"full/{side}/statistics"] == pytest.approx(expected, rel=1e-6)


def test_the_statistics_compare_the_means() -> None:
    a, b = matrices(5, C, C)
    teacher, plan, spectra = set_up(a, b, 2, 2)
    basis = spectra[0].basis(2, "own")
    student = Linear(basis.encoder.T @ a, basis.decoder.T @ b)
    student.enc.bias = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))
    found = terms(Distiller(teacher, student, SKD(plan, spectra, basis="own")))
    assert found["full/encoder/structure"] == pytest.approx(0, abs=1e-12)
    values = np.linalg.eigvalsh(covariances(a)[0])[::-1][:2]
    assert found["full/encoder/statistics"] == pytest.approx(1.25 / (values + 1e-5).sum(), rel=1e-6)


# --- options ---


def names(method: SKD) -> list[str]:
    return [row.name.removeprefix("full/") for row in method.transfers()]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ("both", ["encoder/structure", "encoder/statistics", "companion/structure", "companion/statistics",
                  "decoder/structure", "decoder/statistics", "output"]),
        ("encoder", ["encoder/structure", "encoder/statistics", "companion/structure", "companion/statistics",
                     "output"]),
        ("decoder", ["decoder/structure", "decoder/statistics", "output"]),
    ],
)  # fmt: skip
def test_sides(sides: Sides, expected: list[str]) -> None:
    a, b, f = matrices(6, C, C, C)
    teacher, plan, spectra = set_up(a, b, 2, 2, companion=f)
    method = SKD(plan, spectra, sides=sides)
    assert names(method) == expected
    student = Linear(*matrices(7, 2, 2, 2))
    distiller = Distiller(teacher, student, SKD(plan, spectra, sides=sides, output=0))
    distiller(X).losses.total.backward()
    moved = {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None}
    assert moved == {"both": {"enc", "style", "dec"}, "encoder": {"enc", "style"}, "decoder": {"dec"}}[sides]
    without = [name for name in expected if not name.startswith("companion")]
    assert names(SKD(plan, spectra, sides=sides, companions=False)) == without


def test_companions_use_the_pairs_basis() -> None:
    a, b, f = matrices(8, C, C, C)
    teacher, plan, spectra = set_up(a, b, 2, 2, companion=f)
    basis = spectra[0].basis(2, "own")
    student = Linear(basis.encoder.T @ a, basis.decoder.T @ b, basis.encoder.T @ f)
    distiller = Distiller(teacher, student, SKD(plan, spectra, basis="own", output=0))
    assert max(terms(distiller).values()) < 1e-12
    row = next(row for row in distiller.transfers if row.name == "full/companion/structure")
    u, cov = basis.encoder.numpy(), covariances(f)[0]
    assert row.info["energy kept"] == pytest.approx(np.trace(u.T @ cov @ u) / np.trace(cov), abs=1e-9)


def test_a_companion_of_the_decoders_width_uses_the_decoders_basis() -> None:
    a, b, f = matrices(9, C, 4, 4)
    teacher, plan, spectra = set_up(a, b, 3, 2, companion=f)
    basis = spectra[0].basis(3, "own", decoder_width=2)
    student = Linear(basis.encoder.T @ a, basis.decoder.T @ b, basis.decoder.T @ f)
    assert max(terms(Distiller(teacher, student, SKD(plan, spectra, basis="own", output=0))).values()) < 1e-12


@pytest.mark.parametrize("kind", [None, "own", "linked", "own_subset", "learned", "learned_shared"])
def test_unequal_widths_of_the_sides(kind: Any) -> None:
    a, b = matrices(10, C, 4)
    teacher, plan, spectra = set_up(a, b, 3, 2)
    distiller = Distiller(teacher, Linear(*matrices(11, 3, 2)), SKD(plan, spectra, basis=kind))
    step = distiller(X)
    assert all(torch.isfinite(term) for term in step.losses.terms.values())
    if kind is not None and kind.startswith("learned"):
        assert sum(p.numel() for p in distiller.adapters.parameters()) == 3 * C + C + 2 * 4 + 4


def test_a_student_may_have_unequal_widths_where_the_teachers_are_equal() -> None:
    a, b = matrices(12, C, C)
    teacher, plan, spectra = set_up(a, b, 3, 2)
    basis = spectra[0].basis(3, "linked", decoder_width=2)  # what the default falls back to
    student = Linear(basis.encoder.T @ a, basis.decoder.T @ b)
    assert max(terms(Distiller(teacher, student, SKD(plan, spectra, output=0))).values()) < 1e-12
    with pytest.raises(ArgumentError, match="both sides the same width"):
        SKD(plan, spectra, basis="shared").transfers()


@pytest.mark.parametrize("kind", [None, "own", "subset", "learned", "learned_shared"])
def test_a_student_equal_to_its_teacher_has_no_loss_at_all(kind: Any) -> None:
    a, b = matrices(13, C, C)
    teacher, plan, spectra = set_up(a, b, C, C)
    distiller = Distiller(teacher, copy.deepcopy(teacher).requires_grad_(True), SKD(plan, spectra, basis=kind))
    assert set(terms(distiller).values()) == {0.0}
    assert not [*distiller.adapters.parameters()]  # equal widths need no learned map


def test_one_learned_adapter_a_side_or_one_a_pair() -> None:
    a, b = matrices(14, C, C)
    teacher, plan, spectra = set_up(a, b, 2, 2)
    student = Linear(*matrices(15, 2, 2))

    def learned(kind: Any) -> tuple[Distiller, list[nn.Module]]:
        distiller = Distiller(teacher, student, SKD(plan, spectra, basis=kind, output=0))
        return distiller, [row.student_adapters[0].adapters[0] for row in distiller.transfers]

    _, apart = learned("learned")
    assert apart[0] is apart[1]
    assert apart[2] is apart[3]
    assert apart[0] is not apart[2]
    distiller, shared = learned("learned_shared")
    assert len(set(shared)) == 1
    assert sum(p.numel() for p in distiller.adapters.parameters()) == 2 * C + C
    losses = distiller(X).losses
    weight = shared[0].weight
    each = [torch.autograd.grad(term, weight, retain_graph=True)[0] for term in losses.terms.values()]
    assert all(float(g.abs().max()) > 0 for g in each)
    torch.testing.assert_close(torch.autograd.grad(losses.total, weight)[0], sum(each))
    assert all("energy kept" not in row.info for row in distiller.transfers)


def test_two_rows_of_a_side_share_one_projection() -> None:
    _, plan, spectra = set_up(*matrices(16, C, C), 2, 2)
    rows = SKD(plan, spectra).transfers()
    assert isinstance(rows[0].teacher_adapters[0], BasisAdapter)
    assert rows[0].teacher_adapters[0] is rows[1].teacher_adapters[0]


def test_a_basis_adapter_lifts_as_the_basis_does() -> None:
    _, plan, spectra = set_up(*matrices(17, C, C), 2, 2)
    for kind in ("shared", "subset"):
        basis = spectra[0].basis(2, kind)
        rows = SKD(plan, spectra, basis=kind).transfers()
        torch.testing.assert_close(rows[0].teacher_adapters[0].back, basis.lift_encoder.float())
        torch.testing.assert_close(rows[2].teacher_adapters[0].back, basis.lift_decoder.float())


def test_weights_by_side_kind_and_pair() -> None:
    teacher, plan, spectra = set_up(*matrices(18, C, C), 2, 2)
    student = Linear(*matrices(19, 2, 2))
    plain = terms(Distiller(teacher, student, SKD(plan, spectra)))
    method = SKD(plan, spectra, structure=(2.0, 0.5), statistics=(0.0, 3.0), output=4.0, pair_weights={"full": 0.1})
    found = terms(Distiller(teacher, student, method))
    factors = {
        "full/encoder/structure": 0.2,
        "full/decoder/structure": 0.05,
        "full/decoder/statistics": 0.3,
        "output": 4,
    }
    assert found == {name: pytest.approx(factor * plain[name], rel=1e-6) for name, factor in factors.items()}
    nothing = SKD(plan, spectra, pair_weights={"full": 0}, structure=Ramp(1, 0, steps=1))
    assert names(nothing) == ["output"]


def test_schedules_are_scaled_by_the_pairs_weight() -> None:
    teacher, plan, spectra = set_up(*matrices(20, C, C), 2, 2)
    late = Window(2.0, first=3)
    method = SKD(plan, spectra, structure=(1.0, late), statistics=0, output=late, pair_weights={"full": 0.25})
    distiller = Distiller(teacher, Linear(*matrices(21, 2, 2)), method)
    assert distiller.factors.tolist() == [0.25, 0.0, 0.0]
    distiller.advance(3)
    assert distiller.factors.tolist() == [0.25, 0.5, 2.0]


def test_features_fade_in_a_cosine_and_cost_nothing_then() -> None:
    teacher, plan, spectra = set_up(*matrices(20, C, C), 2, 2)
    student = Linear(*matrices(21, 2, 2))
    plain = Distiller(teacher, student, SKD(plan, spectra, output=Window(2.0, last=9)))(X).losses.terms
    distiller = Distiller(teacher, student, SKD(plan, spectra, structure=(3.0, 0.5), output=2.0, fade=4))
    for step in range(6):
        terms = distiller(X).losses.terms
        share = 0.5 + 0.5 * np.cos(np.pi * step / 4)
        if step < 4:
            wanted = {
                name: term
                * {"output": 1.0, "full/encoder/structure": 3 * share}.get(
                    name, share * (0.5 if name == "full/decoder/structure" else 1)
                )
                for name, term in plain.items()
            }
            torch.testing.assert_close(terms, wanted)
        else:
            assert list(terms) == ["output"]
            assert [str(tap) for tap in distiller._runs.student.taps] == [""]
        distiller.advance()


def test_what_is_all_that_is_compared_fades_and_stays() -> None:
    teacher, plan, spectra = set_up(*matrices(20, C, C), 2, 2)
    assert SKD(plan, spectra, fade=4, output=0).stages() == ()
    assert SKD(plan, spectra, fade=4, structure=0, statistics=0).stages() == ()
    assert SKD(plan, spectra).stages() == ()
    distiller = Distiller(teacher, Linear(*matrices(21, 2, 2)), SKD(plan, spectra, fade=4, output=0))
    distiller.advance(4)
    assert set(terms(distiller).values()) == {0.0}
    assert len(terms(distiller)) == 4


def test_another_distance_is_that_of_every_row() -> None:
    _, plan, spectra = set_up(*matrices(22, C, C), 2, 2)
    assert {row.distance for row in SKD(plan, spectra, distance=mse).transfers()} == {mse}


def test_other_sizes_of_the_student_are_brought_to_the_teachers() -> None:
    a, b = matrices(23, C, C)
    teacher, plan, spectra = set_up(a, b, 2, 2)
    student = nn.Sequential()
    student.add_module("enc", nn.Conv2d(C, 2, 2, 2).double())
    student.add_module("dec", nn.ConvTranspose2d(2, 2, 4, 4).double())
    distiller = Distiller(teacher, student, SKD(plan, spectra, output=0, statistics=0))
    structure = distiller(X).losses["full/encoder/structure"]
    up = nn.functional.interpolate(student.enc(X), (4, 4), mode="bilinear", align_corners=False)
    u = spectra[0].basis(2).encoder
    target = torch.einsum("cd,bchw->bdhw", u, teacher.enc(X))
    centred = up - up.mean((2, 3), keepdim=True)
    torch.testing.assert_close(structure, (centred - target).square().sum() / target.square().sum(), rtol=1e-6, atol=0)


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sides": "decoders"}, "no such sides; got 'decoders'"),
        ({"basis": "sharde"}, "no such basis; got 'sharde'; expected shared, own, .*learned_shared"),
        ({"pair_weights": {"fulll": 1.0}}, r"no pair 'fulll' to weigh.*did you mean 'full'"),
        ({"structure": (1.0, 1.0, 1.0)}, "structure takes one weight, or two"),
        ({"structure": 0, "statistics": 0, "output": 0}, "nothing is distilled"),
        ({"fade": 0}, "fade makes schedules of numbers; got 0 steps; expected 1 step or more"),
        ({"fade": 3, "statistics": Ramp(1, 0, steps=1)}, "got a schedule beside it; expected .*plain weights"),
    ],
)
def test_choices_that_can_not_be(options: dict[str, Any], message: str) -> None:
    _, plan, spectra = set_up(*matrices(24, C, C), 2, 2)
    with pytest.raises(ArgumentError, match=message):
        SKD(plan, spectra, **options).transfers()


@pytest.mark.parametrize("options", [{"output": -1.0}, {"structure": -1.0}])
def test_negative_weights_are_refused(options: dict[str, float]) -> None:
    teacher, plan, spectra = set_up(*matrices(25, C, C), 2, 2)
    with pytest.raises(ArgumentError, match="can't have this weight"):
        Distiller(teacher, Linear(*matrices(26, 2, 2)), SKD(plan, spectra, **options))


def test_spectra_of_another_pairing_are_refused() -> None:
    _, plan, spectra = set_up(*matrices(27, C, C), 2, 2)
    teacher, student = plan[0]
    renamed = SymmetricPair("half", teacher.encoder, teacher.decoder, C, C)
    with pytest.raises(ShapeError, match="of another pairing than the plan; got 'half'"):
        SKD(Plan(((renamed, student),)), spectra).transfers()
    elsewhere = SymmetricPair("full", Tap("style"), teacher.decoder, C, C)
    with pytest.raises(ShapeError, match="other layers than the plan's; got enc, dec; expected style, dec"):
        SKD(Plan(((elsewhere, student),)), spectra).transfers()


def test_the_rows_are_plain_transfers() -> None:
    _, plan, spectra = set_up(*matrices(28, C, C), 2, 2)
    rows = SKD(plan, spectra).transfers()
    assert all(type(row) is Transfer for row in rows)
    assert str(rows[0]) == "full/encoder/structure: enc → enc, centred, normalised_mse, weight 1.0"
