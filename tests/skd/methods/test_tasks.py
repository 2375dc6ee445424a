"""Methods of one kind of network: through the teacher's decoder, stage by stage, of sequences, of class scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skd import Plan, SymmetricPair, Tap
from skd.distiller import Distiller
from skd.errors import ArgumentError, ShapeError
from skd.methods import PCAKD, AttentionMSE, Collaborative, HiddenStates, Hinton

# --- Collaborative ---


def test_collaborative_runs_the_teacher_on_the_student_s_features(case: Any) -> None:
    made = case()
    method = Collaborative(made.plan, weight=2.0, output=0)
    distiller, both = made.distiller(method), made.both()
    losses = distiller(made.x).losses.terms
    rows = {row.name: row for row in distiller.transfers}
    assert [*losses] == [
        "1/2/encoder/embedding",
        "1/4/encoder/embedding",
        "reconstruction",
        "1/2/decoder/perception",
        "1/4/decoder/perception",
    ]
    embedded = {}
    for pair in ("1/2", "1/4"):
        (adapter,) = rows[f"{pair}/encoder/embedding"].student_adapters
        weight = next(adapter.parameters())
        student, teacher = both[f"{pair}/encoder"]
        embedded[pair] = torch.einsum("bchw,dc->bdhw", student, weight)
        torch.testing.assert_close(losses[f"{pair}/encoder/embedding"], 20 * (embedded[pair] - teacher).square().mean())
    # The inner feature decides everything behind it, as this network has no connections around it.
    net = made.teacher
    inner = net.dec2(net.act2(embedded["1/4"]))
    outer = net.dec1(net.up2(inner))
    output = net.up1(outer)
    for name, value, place in (
        ("reconstruction", output, ""),
        ("1/4/decoder/perception", inner, "1/4/decoder"),
        ("1/2/decoder/perception", outer, "1/2/decoder"),
    ):
        torch.testing.assert_close(losses[name], 2 * (value - both[place][1]).square().mean())
    sum(losses.values()).backward()
    moved = {name.split(".")[0] for name, p in made.student.named_parameters() if p.grad is not None}
    assert moved == {"enc1", "enc2"}
    assert all(p.grad is None for p in made.teacher.parameters())


def test_collaborative_s_terms_can_be_left_out(case: Any) -> None:
    plan = case().plan
    assert [row.name for row in Collaborative(plan, embedding=0, perception=0, output=0).transfers()] == [
        "reconstruction"
    ]
    names = [row.name for row in Collaborative(plan, reconstruction=0, sides="encoder").transfers()]
    assert names[0] == "1/2/encoder/embedding"
    assert "reconstruction" not in names
    with pytest.raises(ArgumentError, match=r"trains the encoder.*got sides='both'; expected 'encoder'"):
        Collaborative(plan, sides="both")


# --- PCA-KD ---


def test_pca_kd_is_the_error_among_the_leading_components(case: Any) -> None:
    made = case(batch=8)
    losses = made.losses(PCAKD(made.plan, made.spectra(), weight=2.0, output=0))
    for name, (student, teacher) in made.both().items():
        if not name:
            continue
        width = student.shape[1]
        observed = teacher.transpose(0, 1).flatten(1).numpy()
        vectors = np.linalg.eigh(np.cov(observed))[1]
        leading = vectors[:, ::-1][:, :width].copy()
        leading *= np.sign(leading[np.abs(leading).argmax(0), range(width)])  # the sign of a component is free
        theirs = torch.einsum("bchw,cd->bdhw", teacher, torch.from_numpy(leading))
        centred = [one - one.mean((2, 3), keepdim=True) for one in (student, theirs)]
        expected = 2 * (centred[0] - centred[1]).square().mean()
        torch.testing.assert_close(losses[f"{name}/components"], expected, rtol=1e-5, atol=0)


def test_pca_kd_s_error_has_the_paper_s_gradient(case: Any) -> None:
    """Lifting the student's components to all channels adds a constant, as the basis is orthonormal."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64))[0]
    teacher = torch.randn(50, 8, dtype=torch.float64)
    student = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    (small,) = torch.autograd.grad((student - teacher @ basis).square().sum(), student)
    (large,) = torch.autograd.grad((student @ basis.T - teacher).square().sum(), student)
    torch.testing.assert_close(small, large)


def test_pca_kd_trains_pair_after_pair(case: Any) -> None:
    made = case()
    distiller = made.distiller(PCAKD(made.plan, made.spectra(), steps=10))
    first, second = (
        [f"{pair}/{side}/components" for side in ("encoder", "decoder")] + ["output"] for pair in ("1/2", "1/4")
    )
    assert list(distiller(made.x).losses.terms) == first
    assert all(p.requires_grad for p in made.student.parameters())
    distiller.advance(4)
    assert list(distiller(made.x).losses.terms) == first
    distiller.advance()
    assert list(distiller(made.x).losses.terms) == second
    frozen = {name.split(".")[0] for name, p in made.student.named_parameters() if not p.requires_grad}
    assert frozen == {"enc1", "dec1"}
    distiller.advance(1000)
    assert list(distiller(made.x).losses.terms) == second
    assert [stage.transfers for stage in PCAKD(made.plan, made.spectra(), steps=2, output=0).stages()] == [
        ("1/2",),
        ("1/4",),
    ]
    assert PCAKD(made.plan, made.spectra()).stages() == ()


def test_pca_kd_needs_the_spectra_of_the_plan(case: Any) -> None:
    made, other = case(), case()
    with pytest.raises(ArgumentError, match="needs spectra"):
        PCAKD(made.plan)
    other.plan = Plan(made.plan.rows[1:])
    with pytest.raises(ShapeError, match="of other layers than the plan's; got enc2, dec2; expected enc1"):
        PCAKD(made.plan, other.spectra()).transfers()
    for options in ({"steps": 1}, {"steps": 10, "weight": 0}):
        with pytest.raises(ArgumentError, match="each pair needs a step and a weight"):
            PCAKD(made.plan, made.spectra(), **options)


# --- sequences ---


def test_hidden_states(case: Any) -> None:
    made = case("tokens")
    for variant in ("mse", "cosine"):
        distiller = made.distiller(HiddenStates(made.plan, variant=variant, weight=2.0, output=0))
        losses, both = distiller(made.x).losses.terms, made.both()
        for row in distiller.transfers:
            student, teacher = both[row.name.removesuffix("/hidden")]
            mapped = student @ row.student_adapters[0].weight.T
            cosines = nn.functional.cosine_similarity(mapped, teacher, dim=2)
            expected = (mapped - teacher).square().mean() if variant == "mse" else (1 - cosines).mean()
            torch.testing.assert_close(losses[row.name], 2 * expected)
    with pytest.raises(ArgumentError, match="no such variant; got 'l1'; expected mse or cosine"):
        HiddenStates(made.plan, variant="l1")


def test_attention_of_hidden_states(case: Any) -> None:
    made = case("tokens")
    losses = made.losses(AttentionMSE(made.plan, output=0))
    for name, sides in made.both().items():
        if not name:
            continue
        matrices = []
        for side in sides:
            products = side.detach().numpy() @ side.detach().numpy().transpose(0, 2, 1) / np.sqrt(side.shape[2])
            matrices.append(np.exp(products) / np.exp(products).sum(2, keepdims=True))
        expected = ((matrices[0] - matrices[1]) ** 2).mean()
        assert losses[f"{name}/attention"].item() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ShapeError, match=r"from two up to the most.*got \(4, 9, \d+\).*N from 2 to 8.*give most="):
        made.losses(AttentionMSE(made.plan, most=8))


class Attending(nn.Module):
    """Returns what its attention matrices are read of: (B, heads, N, N), or PyTorch's average over the heads."""

    def __init__(self, heads: int, average: bool) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(4, heads, batch_first=True)
        self.average = average
        self.enc, self.dec = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enc(x)
        out: Tensor = self.dec(self.heads(x, x, x, average_attn_weights=self.average)[0])
        return out


def test_attention_matrices_where_the_networks_have_them() -> None:
    torch.manual_seed(0)
    teacher, student = Attending(4, False), Attending(2, True)
    pair = SymmetricPair("block", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 4, 4)
    taps = [("heads[1]", Tap("heads", path=(1,), layout="BNC"))]
    x = torch.randn(2, 5, 4)
    distiller = Distiller(teacher, student, AttentionMSE(Plan(((pair, pair),)), attention=taps, weight=3.0, output=0))
    found = distiller(x).losses.terms
    theirs, ours = (net.heads(*[net.enc(x)] * 3, average_attn_weights=True)[1] for net in (teacher, student))
    torch.testing.assert_close(found["attention/heads[1]"], 3 * (ours - theirs).square().mean())


# --- class scores ---


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_hinton(case: Any, kind: str) -> None:
    made = case(kind)
    method = Hinton(made.plan, temperature=2.0, weight=3.0, layout="BCHW" if kind == "maps" else None, output=0)
    (loss,) = made.losses(method).values()
    scores = [side.detach().movedim(1, -1) if kind == "maps" else side.detach() for side in made.both()[""]]
    student, teacher = (np.exp(side.numpy() / 2) / np.exp(side.numpy() / 2).sum(-1, keepdims=True) for side in scores)
    expected = 3 * 4 * (teacher * np.log(teacher / student)).sum(-1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_hinton_reads_the_scores_where_it_is_told(case: Any) -> None:
    made = case("tokens")
    (row,) = Hinton(made.plan, logits=Tap("out", layout="BNC"), output=0).transfers()
    assert row.student_taps == row.teacher_taps == (Tap("out", layout="BNC"),)
    assert Hinton(case().plan, logits=Tap("up1", layout="BCHW")).logits == Tap("up1", layout="BCHW")
    with pytest.raises(ArgumentError, match="temperature must be positive"):
        Hinton(made.plan, temperature=0)
