"""compress(start="fitted"): layers fitted by least squares to what the teacher says, with its deviations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from _small import UNet, noise, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from skd import measure, pair
from skd._compression.analysis import Data
from skd._compression.refitting import RIDGE, refit
from skd._compression.unfolding import kernel, patches, put
from skd.compressing import compress

pytest.importorskip("torch_pruning")

LAYERS = [
    (nn.Linear(5, 3), (4, 5)),
    (nn.Linear(5, 3, bias=False), (2, 3, 5)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (2, 4, 11)),
    (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1)), (2, 3, 7, 6)),
    (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), (2, 3, 7, 6)),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4, bias=False), (1, 4, 5, 6)),
    (nn.Conv2d(3, 4, 3), (3, 6, 5)),  # without a batch
    (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 4, 5)),
    (nn.ConvTranspose1d(4, 6, 4, stride=3, padding=1, output_padding=1, groups=2), (2, 4, 5)),
    (nn.ConvTranspose2d(3, 2, 2, stride=2), (2, 3, 4, 5)),
    (nn.ConvTranspose2d(3, 2, 3, stride=(2, 1), padding=(2, 0), dilation=(1, 2)), (2, 3, 4, 5)),
    (nn.ConvTranspose2d(3, 2, 1, padding=1), (2, 3, 4, 5)),  # it cuts what is there
    (nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2, bias=False), (1, 2, 2, 3, 2)),
]


def flat(layer: Any, output: Tensor) -> Tensor:
    """(positions, channels)."""
    if isinstance(layer, nn.Linear):
        return output.flatten(0, -2)
    batched = output if output.ndim == layer.weight.ndim else output[None]
    return batched.movedim(1, -1).flatten(0, -2)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda case: str(case).replace(" ", ""))
def test_a_layer_is_its_patches_times_its_kernel(layer: Any, shape: tuple[int, ...]) -> None:
    seeded()
    x = torch.randn(shape)
    with torch.no_grad():
        product = torch.einsum("pgn,gon->pgo", patches(layer, x), kernel(layer)).flatten(1)
        wanted = flat(layer, layer(x))
    assert_close(product + (0 if layer.bias is None else layer.bias), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda case: str(case).replace(" ", ""))
def test_what_is_put_in_is_the_kernel(layer: Any, shape: tuple[int, ...]) -> None:
    other, old = copy.deepcopy(layer), kernel(layer).clone()
    new = torch.randn(*old.shape[:2], old.shape[2] + (layer.bias is not None))
    put(other, new)
    assert_close(kernel(other), new[..., : old.shape[2]], rtol=0, atol=0)
    if layer.bias is not None:
        assert_close(other.bias.detach(), new[..., -1].flatten(), rtol=0, atol=0)
    put(other, old if layer.bias is None else torch.cat((old, layer.bias.detach().view(old.shape[0], -1, 1)), -1))
    assert_close(other(torch.ones(shape)), layer(torch.ones(shape)), rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.booleans(), st.integers(0, 1000))
def test_against_numpy_s_least_squares(wide: int, out: int, bias: bool, seed: int) -> None:
    """The last layer isn't stretched: it has the least error, but for the ridge towards the weights that were there."""
    seeded(seed)
    teacher, student = nn.Linear(wide, out, bias=bias).double(), nn.Linear(wide, out, bias=bias).double()
    x = torch.randn(100, wide, dtype=torch.float64) + 1  # few enough that all are taken
    old = [parameter.detach().clone() for parameter in student.parameters()]
    (done,) = refit(teacher, student, Data([x]), {}, plainly=[""])
    given_ = np.concatenate([x.numpy(), np.ones((100, 1))], 1) if bias else x.numpy()
    known = np.concatenate([p.numpy().reshape(out, -1) for p in old], 1)
    ridge = np.sqrt(RIDGE * (given_**2).sum(0).mean())
    tall = np.concatenate([given_, ridge * np.eye(given_.shape[1])])
    wanted = np.concatenate([teacher(x).detach().numpy(), ridge * known.T])
    best = np.linalg.lstsq(tall, wanted, rcond=None)[0].T
    found = np.concatenate([p.detach().numpy().reshape(out, -1) for p in student.parameters()], 1)
    np.testing.assert_allclose(found, best, rtol=1e-6, atol=1e-8)
    missed = ((given_ @ best.T - teacher(x).detach().numpy()) ** 2).sum() / (teacher(x).detach().numpy() ** 2).sum()
    assert done.after == pytest.approx(missed, rel=1e-4, abs=1e-9)
    assert done.after <= done.before


@pytest.mark.parametrize("bias", [True, False])
def test_deviations_are_the_teacher_s(bias: bool) -> None:
    """Inputs that a narrower student hasn't got can't be explained; what is left is stretched about its mean."""
    seeded()

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, width), nn.Linear(width, 4, bias=bias)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x).tanh())
            return out

    teacher, student, x = Net(8), Net(2), torch.randn(120, 6)  # few enough that all are taken
    kept = torch.eye(8, dtype=torch.float64)[:, [1, 5]]
    refit(teacher, student, Data([x[:50], x[50:]]), {"first": kept})
    ours, theirs = student(x).detach(), teacher(x).detach()
    if bias:
        assert_close(ours.mean(0), theirs.mean(0), rtol=0, atol=1e-5)
        assert_close(ours.std(0), theirs.std(0), rtol=1e-3, atol=0)
    else:
        assert_close(ours.square().mean(0), theirs.square().mean(0), rtol=1e-3, atol=0)
    assert float((ours - theirs).square().mean()) > 0.1 * float(theirs.var())  # there was something to stretch
    # The first layer can say just what the teacher's kept channels say.
    assert_close(student.first.weight, teacher.first.weight[[1, 5]], rtol=0, atol=2e-3)


def lively() -> nn.Sequential:
    """An encoder and a decoder whose features don't fade on the way, so that errors add up."""
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 1, 1),
        nn.ReLU(), nn.ConvTranspose2d(24, 12, 2, 2), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)
    return net.eval()


def test_it_corrects_what_narrower_layers_before_got_wrong() -> None:
    seeded()
    net, data = lively(), noise(8, 1, 24, 20)
    spectra = measure(net, pair(net, data[0]), data)
    ways = {start: compress(net, spectra, data=data, ratio=3, start=start) for start in ("cut", "projected", "fitted")}
    energies = {start: done.output_energy for start, done in ways.items()}
    assert energies["cut"] < energies["projected"] < energies["fitted"] - 0.02
    assert ways["fitted"].widths == ways["projected"].widths
    assert not ways["fitted"].notes
    unseen = torch.randn(4, 1, 24, 20)
    errors = {
        start: float((done.student(unseen) - net(unseen)).detach().square().mean()) for start, done in ways.items()
    }
    assert errors["fitted"] < errors["projected"]


def test_what_is_exact_stays_so() -> None:
    from test_compressing_weights import Linear

    seeded()
    net = Linear().double().eval()
    data = [torch.randn(4, 2, 12, 12, dtype=torch.float64) for _ in range(4)]
    done = compress(net, None, data=data, widths={"head": 5, "down": 4, "up": 4}, start="fitted")
    x = torch.randn(3, 2, 16, 20, dtype=torch.float64)
    assert_close(done.student(x), net(x), rtol=1e-5, atol=1e-5 * float(net(x).detach().abs().max()))
    whole = compress(net, None, data=data, ratio=1, start="fitted")
    assert_close(whole.student(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", ["function", "computed", "kept"])
def test_scaled_queries_are_fitted_to_scaled_ones(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_compressing_attention import HEADS, LEFT, WIDTH, lossless

    net = lossless(how)
    data = [torch.randn(40, 7, 6) for _ in range(4)]
    (name,) = [row.group for row in compress(net, None, data=data, ratio=1).rows if row.width == WIDTH]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # something for the fit to do
    folded = compress(net, None, data=data, widths={name: HEADS * LEFT})
    monkeypatch.setattr("skd._compression.refitting.output_energy", lambda *_: 2.0)  # take it, better or not
    done = compress(net, None, data=data, widths={name: HEADS * LEFT}, start="fitted")
    assert not done.notes
    for side in "qk":  # what they are given is the teacher's, so they were right already, scales and all
        weights = [each.student[1].get_submodule(f"{side}_proj").weight for each in (done, folded)]  # type: ignore[index]
        assert_close(*weights, rtol=1e-3, atol=1e-5)


def test_a_network_that_is_built_is_fitted_alike() -> None:
    seeded()
    net, data = UNet().eval(), noise(8, 1, 24, 20)
    spectra = measure(net, pair(net, data[0]), data)
    done = compress(net, spectra, data=data, ratio=2, start="fitted")
    built = compress(net, spectra, data=data, widths=(4, 10, 12), build=UNet, full=(8, 16, 24), start="fitted")
    folded = compress(net, spectra, data=data, widths=(4, 10, 12), build=UNet, full=(8, 16, 24))
    assert built.output_energy > folded.output_energy + 0.02
    assert type(built.student) is UNet
    assert done.student is not net


def test_too_few_positions_leave_the_layers() -> None:
    seeded()
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    data = [torch.randn(14, 6)]
    done = compress(net, None, data=data, widths={"0": 6}, start="fitted")
    folded = compress(net, None, data=data, widths={"0": 6})
    assert done.notes == ("no layer could be fitted, so the weights are as they were projected",)
    assert_close(done.student(data[0]), folded.student(data[0]), rtol=0, atol=0)


def test_a_fit_that_loses_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded()
    net, data = UNet().eval(), noise(8, 1, 24, 20)
    spectra = measure(net, pair(net, data[0]), data)
    folded = compress(net, spectra, data=data, ratio=2)

    def spoilt(module: Any, weight: Tensor) -> None:
        put(module, 3 * weight)

    monkeypatch.setattr("skd._compression.refitting.put", spoilt)
    done = compress(net, spectra, data=data, ratio=2, start="fitted")
    assert len(done.notes) == 1
    assert "so the weights are as they were projected" in done.notes[0]
    assert_close(done.student(data[0]), folded.student(data[0]), rtol=0, atol=0)
    assert done.output_energy == folded.output_energy


def test_data_that_come_shuffled_or_once_are_kept() -> None:
    """Teacher and student must see the same batches: every pass of a shuffling loader has another order."""
    seeded()
    net, data = UNet().eval(), noise(8, 1, 24, 20)
    spectra = measure(net, pair(net, data[0]), data)

    class Shuffled:
        passes = 0

        def __iter__(self) -> Iterator[Tensor]:
            Shuffled.passes += 1
            return iter(data if Shuffled.passes % 2 else data[::-1])

    wanted = compress(net, spectra, data=data, ratio=2, start="fitted").output_energy
    assert compress(net, spectra, data=Shuffled(), ratio=2, start="fitted").output_energy == pytest.approx(wanted, 1e-3)
    assert compress(net, spectra, data=iter(data), ratio=2, start="fitted").output_energy == pytest.approx(wanted)


def test_teacher_and_student_draw_the_same_numbers() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    seeded()
    teacher, student = (nn.Sequential(Noisy(), nn.Linear(4, 3)) for _ in range(2))
    (done,) = refit(teacher, student, Data([torch.randn(100, 4), torch.randn(100, 4)]), {})
    assert done.after < 1e-3 < done.before


def test_networks_are_left_as_they_were() -> None:
    seeded()
    net, data = UNet().train(), noise(8, 1, 24, 20)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    student = UNet().train()
    numbers = torch.get_rng_state()
    flags = [module.training for module in (*net.modules(), *student.modules())]
    refit(net, student, Data(data), {})
    assert [module.training for module in (*net.modules(), *student.modules())] == flags
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in (*net.modules(), *student.modules()))
    assert all(parameter.requires_grad for parameter in student.parameters())
