"""The same distillation written by hand in plain torch, and through skd: equal losses, gradients and final weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skd
from skd.adapters import ChannelAdapter
from skd.distances import frobenius, mse
from skd.knowledge import attention, raw
from skd.methods import SKD, Transfer

STEPS = 6


class UNet(nn.Module):
    """Two levels with skips, batch norms and dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)  # beside a norm, Adam would blow up its rounding
        self.norm = nn.BatchNorm2d(width)
        self.down2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.code = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.drop = nn.Dropout(0.1)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up2 = nn.ConvTranspose2d(2 * width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)["image"]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """All features, by an explicit forward."""
        norm = self.norm(self.down1(x))
        skip = F.relu(norm)
        down2 = self.down2(skip)
        code = self.code(F.relu(down2))
        up1 = self.up1(F.relu(self.drop(code)))
        image = self.up2(torch.cat([F.relu(up1), skip], 1))
        return {"norm": norm, "down2": down2, "code": code, "up1": up1, "image": image}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """In float64 two ways to compute the same agree to twelve digits, which no mistake does."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(11)
    return [
        (torch.randn(2, 3, 16, 24, generator=generator), torch.randn(2, 3, 16, 24, generator=generator))
        for _ in range(STEPS)
    ]


def networks() -> tuple[UNet, UNet]:
    torch.manual_seed(5)
    return UNet(6), UNet(3)


Losses = dict[str, Tensor]
StepFunction = Callable[[Tensor], tuple[Tensor, Losses]]  # image, terms


def train(step: StepFunction, parameters: dict[str, nn.Parameter]) -> list[dict[str, Tensor]]:
    """Losses and gradients of every step, by name."""
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    history = []
    for index, (x, y) in enumerate(batches()):
        torch.manual_seed(index)  # of the dropout
        image, terms = step(x)
        optimizer.zero_grad()
        (F.l1_loss(image, y) + sum(terms.values())).backward()
        record = {name: term.detach() for name, term in terms.items()}
        record |= {f"gradient of {name}": p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        history.append(record)
        optimizer.step()
    return history


def compare(
    make: Callable[[], tuple[StepFunction, dict[str, nn.Parameter]]],
    other: Callable[[], tuple[StepFunction, dict[str, nn.Parameter]]],
) -> None:
    (one_step, one), (two_step, two) = make(), other()
    assert one.keys() == two.keys()
    start = {name: p.detach().clone() for name, p in one.items()}
    torch.testing.assert_close({name: p.detach() for name, p in two.items()}, start, rtol=0, atol=0)
    for by_hand, through_skd in zip(train(one_step, one), train(two_step, two), strict=True):
        torch.testing.assert_close(through_skd, by_hand, rtol=1e-9, atol=1e-12)
    for name, p in one.items():
        torch.testing.assert_close(two[name], p, rtol=1e-9, atol=1e-12)
        assert float((p.detach() - start[name]).abs().max()) > 1e-3, f"{name} wasn't trained"


def student_parameters(student: nn.Module, **adapters: nn.Module) -> dict[str, nn.Parameter]:
    named = dict(student.named_parameters())
    return named | {f"{a}.{n}": p for a, module in adapters.items() for n, p in module.named_parameters()}


# --- SKD ---


def skd_by_hand() -> tuple[StepFunction, dict[str, nn.Parameter]]:
    teacher, student = networks()
    teacher.eval().requires_grad_(False)
    calibration = [teacher.parts(x) for x, _ in batches()]

    def covariance(name: str) -> np.ndarray:
        rows = np.concatenate([f[name].permute(0, 2, 3, 1).reshape(-1, f[name].shape[1]).numpy() for f in calibration])
        return np.cov(rows.T)

    def shared_basis(encoder: str, decoder: str, width: int) -> Tensor:
        one, other = covariance(encoder), covariance(decoder)
        vectors = np.linalg.eigh(one / np.trace(one) + other / np.trace(other))[1][:, ::-1][:, :width].copy()
        vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(width)])
        return torch.from_numpy(vectors)

    basis = shared_basis("norm", "up1", 3)
    weights = {"norm": (1.0, 0.5), "up1": (1.0, 0.25)}
    names = {"norm": "encoder", "up1": "decoder"}

    def statistics(f: Tensor) -> Tensor:
        deviation = (f.var((2, 3), correction=0) + 1e-5).sqrt()
        return torch.cat([f.mean((2, 3)), deviation], 1)

    def step(x: Tensor) -> tuple[Tensor, Losses]:
        with torch.no_grad():
            theirs = teacher.parts(x)
        ours = student.parts(x)
        terms = {}
        for layer, (structure, spread) in weights.items():
            target = torch.einsum("bchw,cd->bdhw", theirs[layer], basis)
            s, t = (f - f.mean((2, 3), keepdim=True) for f in (ours[layer], target))
            terms[f"1/2/{names[layer]}/structure"] = structure * ((s - t) ** 2).sum() / (t**2).sum()
            s, t = statistics(ours[layer]), statistics(target)
            terms[f"1/2/{names[layer]}/statistics"] = spread * ((s - t) ** 2).sum() / (t**2).sum()
        terms["output"] = 2 * ((ours["image"] - theirs["image"]) ** 2).sum() / (theirs["image"] ** 2).sum()
        return ours["image"], terms

    return step, student_parameters(student)


def skd_through_skd() -> tuple[StepFunction, dict[str, nn.Parameter]]:
    teacher, student = networks()
    example = batches()[0][0]
    pairing = skd.pair(teacher, example)
    spectra = skd.measure(teacher, pairing, [x for x, _ in batches()])
    plan = skd.match(pairing, skd.pair(student, example))
    method = SKD(plan, spectra, statistics=(0.5, 0.25), output=2.0)
    distiller = skd.Distiller(teacher, student, method)

    def step(x: Tensor) -> tuple[Tensor, Losses]:
        result = distiller(x)
        return result.output, dict(result.losses.terms)

    return step, student_parameters(student)


def test_skd() -> None:
    compare(skd_by_hand, skd_through_skd)


# --- FitNets' hint with a learned adapter, and attention transfer ---


def hints_by_hand() -> tuple[StepFunction, dict[str, nn.Parameter]]:
    teacher, student = networks()
    teacher.eval().requires_grad_(False)
    torch.manual_seed(9)
    adapter = ChannelAdapter(6, 12)
    weight, bias = nn.Parameter(adapter.weight.detach().clone()), nn.Parameter(torch.zeros(12))
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        return hook

    for role, network in (("t", teacher), ("s", student)):  # the way it is mostly done: hooks that stay
        for layer in ("code", "up1"):
            network.get_submodule(layer).register_forward_hook(keep(f"{role}.{layer}"))

    def flat_attention(f: Tensor) -> Tensor:
        q = (f**2).mean(1).flatten(1)
        return q / q.norm(dim=1, keepdim=True)

    def step(x: Tensor) -> tuple[Tensor, Losses]:
        with torch.no_grad():
            teacher(x)
        image = student(x)
        difference = flat_attention(seen["s.up1"]) - flat_attention(seen["t.up1"])
        terms = {
            "hint": 0.5 * ((F.conv2d(seen["s.code"], weight[:, :, None, None], bias) - seen["t.code"]) ** 2).mean(),
            "attention": 3 * difference.norm(dim=1).mean(),
        }
        return image, terms

    return step, dict(student.named_parameters()) | {"adapter.weight": weight, "adapter.bias": bias}


def hints_through_skd() -> tuple[StepFunction, dict[str, nn.Parameter]]:
    teacher, student = networks()
    torch.manual_seed(9)
    adapter = ChannelAdapter(6, 12)
    rows = [
        Transfer("hint", "code", "code", raw, mse, 0.5, student_adapters=adapter),
        Transfer("attention", "up1", "up1", attention, frobenius, 3.0),
    ]
    distiller = skd.Distiller(teacher, student, rows)

    def step(x: Tensor) -> tuple[Tensor, Losses]:
        result = distiller(x)
        return result.output, dict(result.losses.terms)

    return step, student_parameters(student, adapter=adapter)


def test_hints_and_attention() -> None:
    compare(hints_by_hand, hints_through_skd)


# --- the comparison itself ---


def test_the_comparison_notices_another_weight() -> None:
    def other() -> tuple[StepFunction, dict[str, nn.Parameter]]:
        step, parameters = skd_through_skd()

        def changed(x: Tensor) -> tuple[Tensor, Losses]:
            image, terms = step(x)
            return image, {**terms, "output": 1.001 * terms["output"]}

        return changed, parameters

    with pytest.raises(AssertionError, match="are not close"):
        compare(skd_by_hand, other)


def test_a_networks_explicit_forward_is_its_forward() -> None:
    teacher = networks()[0].eval()
    x = batches()[0][0]
    assert torch.equal(copy.deepcopy(teacher)(x), teacher.parts(x)["image"])
