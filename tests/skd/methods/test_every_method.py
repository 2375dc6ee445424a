"""What holds for every method: gradients, equal networks, one sample, tokens, vectors, large maps, copies."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skd.methods
from skd import Distiller, Plan, SymmetricPair, Tap
from skd.errors import ArgumentError, ShapeError
from skd.methods import SKD, LayerMethod, Method, Transfer

# The variants that differ in more than a number.
VARIANTS: dict[str, Callable[..., Method]] = {
    "AT paper": functools.partial(skd.methods.AT, variant="paper"),
    "AttentionMSE": skd.methods.AttentionMSE,
    "HiddenStates cosine": functools.partial(skd.methods.HiddenStates, variant="cosine"),
    "Hinton dense": functools.partial(skd.methods.Hinton, layout="BCHW"),
    "ICKD paper": functools.partial(skd.methods.ICKD, variant="paper"),
    "KernelAlignment debiased": functools.partial(skd.methods.KernelAlignment, variant="debiased"),
    "PKT paper": functools.partial(skd.methods.PKT, variant="paper"),
    **{
        f"{name} of positions": functools.partial(getattr(skd.methods, name), samples="positions")
        for name in ("CC", "PKT", "RKD")
    },
}
METHODS: dict[str, Callable[..., Method]] = {
    **{
        name: method
        for name in skd.methods.__all__
        if inspect.isclass(method := getattr(skd.methods, name))
        and issubclass(method, LayerMethod)
        and method is not LayerMethod
    },
    **VARIANTS,
}
BASELINES = [name for name in METHODS if name != "OutputOnly"]

# Why a method has no meaning for a kind of feature.
NOT_OF_MAPS = {"HiddenStates", "HiddenStates cosine", "AttentionMSE", "Hinton"}
NOT_OF_TOKENS = {"CIRKD", "Collaborative", "OMGD", "PCAKD", "Hinton dense"}
NEED_SAMPLES = {"CC", "KernelAlignment", "PKT", "PKT paper", "RKD", "SP"}
# Zero isn't their least value, or something learned stands between the features.
LEARNED = {"MGD", "ReviewKD", "VID"}
NO_DIVERGENCE = {"KernelAlignment", "OMGD", *LEARNED}


def kind_for(name: str) -> str:
    return "tokens" if name in NOT_OF_MAPS else "maps"


def make(name: str, made: Any, **options: Any) -> Method:
    spectra = made.spectra() if name == "PCAKD" else None
    return METHODS[name](made.plan, spectra, **options)


def test_all_methods_of_the_issue_are_there() -> None:
    wanted = """OutputOnly FitNets AT NST FSP PKT SP CC RKD VID OFD StructuredKD CWD ICKD MGD PKD ReviewKD
        KernelAlignment GANCompression OMGD CIRKD Collaborative PCAKD HiddenStates AttentionMSE Hinton"""
    assert set(wanted.split()) == {name for name in METHODS if " " not in name}


@pytest.mark.parametrize("name", METHODS)
def test_it_is_called_as_skd_is(name: str) -> None:
    """`distill(method=…)` calls it with the plan and the spectra."""
    parameters = inspect.signature(METHODS[name]).parameters
    assert [*parameters][:2] == [*inspect.signature(SKD).parameters][:2] == ["plan", "spectra"]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in [*parameters.values()][2:])


@pytest.mark.parametrize("name", BASELINES)
def test_every_layer_named_learns(case: Any, name: str) -> None:
    made = case(kind_for(name))
    distiller = made.distiller(make(name, made, output=0))
    losses = distiller(made.x).losses
    parameters = dict(made.student.named_parameters())
    for row in distiller.transfers:
        assert torch.isfinite(losses[row.name]), row.name
        assert not row.distance.divergence or losses[row.name].item() > 0, row.name
        found = torch.autograd.grad(losses[row.name], [*parameters.values()], retain_graph=True, allow_unused=True)
        moved = {
            parameter.split(".")[0]
            for parameter, gradient in zip(parameters, found, strict=True)
            if gradient is not None and float(gradient.abs().max()) > 0
        }
        taps = row.student_taps if row.through is None else [*row.through.put.values()]
        layers = {tap.layer for tap in taps} - {""}
        assert layers <= moved, row.name
        assert all(torch.isfinite(gradient).all() for gradient in found if gradient is not None)
    learned = [*distiller.adapters.parameters()]
    if learned:
        gradients = torch.autograd.grad(losses.total, learned, allow_unused=True)
        assert all(g is not None and float(g.abs().max()) > 0 for g in gradients)


@pytest.mark.parametrize("name", BASELINES)
def test_a_student_equal_to_its_teacher_has_no_loss(case: Any, name: str) -> None:
    made = case(kind_for(name), equal=True)
    distiller = made.distiller(make(name, made))
    losses = distiller(made.x).losses
    divergences = {row.name for row in distiller.transfers if row.distance.divergence}
    for row in distiller.transfers:
        if row.name in divergences and not (name in LEARNED and row.name != "output"):
            assert losses[row.name].item() == pytest.approx(0, abs=1e-9), row.name
    assert (len(divergences) < len(distiller.transfers)) == (name in NO_DIVERGENCE - {"MGD", "ReviewKD"})


@pytest.mark.parametrize("name", BASELINES)
def test_one_sample_is_enough_or_refused(case: Any, name: str) -> None:
    made = case(kind_for(name), batch=1)
    if name in NEED_SAMPLES:
        with pytest.raises(ShapeError, match=r"need.*samples, with (one they are|fewer it is) constant"):
            made.losses(make(name, made, output=0))
        return
    made.student.zero_grad()
    sum(made.losses(make(name, made, output=0)).values()).backward()
    gradient = made.student.enc1.weight.grad
    assert float(gradient.abs().max()) > 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", BASELINES)
def test_tokens_or_why_not(case: Any, name: str) -> None:
    made = case("tokens")
    if name in NOT_OF_TOKENS - {"Hinton dense"}:
        with pytest.raises(ArgumentError, match=rf"{name} has no meaning here: .*; got features in layout BNC"):
            make(name, made)
    elif name != "Hinton dense":
        assert all(torch.isfinite(loss) for loss in made.losses(make(name, made)).values())


@pytest.mark.parametrize("name", sorted(NOT_OF_MAPS))
def test_methods_of_sequences_refuse_maps(case: Any, name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"{name.split()[0]} has no meaning here: .*maps"):
        make(name, case("maps"))


OF_VECTORS = {"FitNets", "GANCompression", "KernelAlignment", "KernelAlignment debiased", "OFD", "SP", "VID"} | {
    f"{name}{variant}" for name in ("CC", "Hinton", "PKT", "RKD") for variant in ("", " paper", " of positions")
}


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "Hinton dense"])
def test_vectors_or_why_not(name: str) -> None:
    """Autoencoders of linear layers: what compares positions says that there are none."""
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(5, w), nn.Linear(w, w), nn.Linear(w, 5)) for w in (6, 3))
    pairs = [SymmetricPair("v", Tap("0", layout="BC"), Tap("1", layout="BC"), w, w) for w in (6, 3)]
    plan = Plan(((pairs[0], pairs[1]),))
    if name in OF_VECTORS:
        losses = Distiller(teacher, student, METHODS[name](plan))(torch.randn(6, 5)).losses
        assert all(torch.isfinite(loss) for loss in losses.terms.values())
    else:
        with pytest.raises(ArgumentError, match="has no meaning here"):
            METHODS[name](plan)


def most_saved(made: Any, method: Method) -> int:
    """Numbers in the largest tensor that is kept for the backward."""
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made.losses(method)
    return max(sizes)


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in NOT_OF_MAPS])
def test_memory_is_not_quadratic_in_the_positions(case: Any, name: str) -> None:
    """The outer features have 2048 positions, so relations between all of them would be 4 million numbers."""
    made = case(batch=3 if name in NEED_SAMPLES else 1, size=(64, 128))
    assert most_saved(made, make(name, made)) < 2048**2 / 8


def test_memory_would_be_seen(case: Any) -> None:
    made = case(batch=1, size=(64, 128))
    assert most_saved(made, skd.methods.StructuredKD(made.plan, count=2048)) == 2048**2


@pytest.mark.parametrize("name", ["FSP", "MGD", "OFD", "ReviewKD", "VID", "Collaborative"])
def test_what_is_learned_survives_copies_and_state_dicts(case: Any, name: str) -> None:
    made = case()
    distiller = made.distiller(make(name, made)).eval()
    other = case().distiller(make(name, made)).eval()
    with torch.no_grad():
        for parameter in distiller.adapters.parameters():
            parameter.add_(0.1)
    losses = distiller(made.x).losses.values()
    for twin in (copy.deepcopy(distiller), pickle.loads(pickle.dumps(distiller))):
        assert twin(made.x).losses.values() == losses
        with torch.no_grad():
            for parameter in twin.adapters.parameters():
                parameter.add_(0.1)
        assert twin(made.x).losses.values() != losses  # it reads its own
    assert distiller(made.x).losses.values() == losses
    other.load_state_dict(distiller.state_dict())
    assert other(made.x).losses.values() == pytest.approx(losses)


@pytest.mark.parametrize("name", BASELINES)
def test_half_precision(case: Any, name: str) -> None:
    """Under autocast, knowledge is computed in float32 and nothing overflows."""
    made = case(kind_for(name))
    method = make(name, made)
    made.x = made.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        losses = made.distiller(method)(made.x).losses
    assert all(torch.isfinite(loss) for loss in losses.terms.values())
    losses.total.backward()


@pytest.mark.parametrize("name", BASELINES)
def test_weights_scale_every_term_but_the_output_s(case: Any, name: str) -> None:
    made = case(kind_for(name))

    def losses(weight: float) -> dict[str, float]:
        distiller = made.distiller(make(name, made, weight=weight))
        for parameter in distiller.adapters.parameters():
            nn.init.constant_(parameter, 0.1)
        return {name: loss.item() for name, loss in distiller.eval()(made.x).losses.terms.items()}

    once, thrice = losses(1.0), losses(3.0)
    assert once.keys() == thrice.keys()
    for term, loss in once.items():
        assert thrice[term] == pytest.approx(loss if term == "output" else 3 * loss, rel=1e-6), term


def test_a_list_of_transfers_is_still_a_method(case: Any) -> None:
    """Methods combine: their rows are plain transfers."""
    made = case()
    rows: Sequence[Transfer] = [
        *skd.methods.AT(made.plan, sides="encoder", output=0).transfers(),
        *skd.methods.FitNets(made.plan, sides="decoder").transfers(),
    ]
    assert [row.name for row in rows] == [
        "1/2/encoder/attention",
        "1/4/encoder/attention",
        "1/2/decoder/hint",
        "1/4/decoder/hint",
        "output",
    ]
    assert len(made.losses(rows)) == 5
