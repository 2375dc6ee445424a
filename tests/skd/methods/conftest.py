"""A teacher and a student with two pairs, as maps or as tokens, and what the tests of methods do with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skd import Distiller, Plan, Spectra, SymmetricPair, Tap, measure, pairing
from skd.methods import Method, Transfer

TEACHER, STUDENT = (8, 12, 12, 6), (4, 5, 5, 3)  # widths of enc1, enc2, dec2, dec1
LAYERS = {"1/2/encoder": "enc1", "1/4/encoder": "enc2", "1/4/decoder": "dec2", "1/2/decoder": "dec1"}


class Maps(nn.Sequential):
    """(B, 3, H, W) in and out."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        one, two, three, four = widths
        self.enc1 = nn.Conv2d(3, one, 3, 2, 1)
        self.act1 = nn.LeakyReLU(0.1)
        self.enc2 = nn.Conv2d(one, two, 3, 2, 1)
        self.act2 = nn.LeakyReLU(0.1)
        self.dec2 = nn.Conv2d(two, three, 3, 1, 1)
        self.up2 = nn.ConvTranspose2d(three, three, 2, 2)
        self.dec1 = nn.Conv2d(three, four, 3, 1, 1)
        self.up1 = nn.ConvTranspose2d(four, 3, 2, 2)


class Tokens(nn.Sequential):
    """(B, N, 7) in and out."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        one, two, three, four = widths
        self.enc1 = nn.Linear(7, one)
        self.act1 = nn.Tanh()
        self.enc2 = nn.Linear(one, two)
        self.dec2 = nn.Linear(two, three)
        self.act2 = nn.Tanh()
        self.dec1 = nn.Linear(three, four)
        self.out = nn.Linear(four, 7)


@dataclass
class Case:
    teacher: nn.Module
    student: nn.Module
    plan: Plan
    x: Tensor

    def spectra(self) -> Spectra:
        return measure(self.teacher, pairing.Pairing(tuple(teacher for teacher, _ in self.plan)), [self.x])

    def distiller(self, method: Method | Sequence[Transfer]) -> Distiller:
        return Distiller(self.teacher, self.student, method).to(self.x.dtype)

    def losses(self, method: Method | Sequence[Transfer]) -> dict[str, Tensor]:
        return dict(self.distiller(method)(self.x).losses.terms)

    def features(self, network: nn.Module) -> dict[str, Tensor]:
        """By plain hooks, under the names of the rows, and the output as ""."""
        found: dict[str, Tensor] = {}
        handles = [
            network.get_submodule(layer).register_forward_hook(
                lambda _module, _given, value, name=name: found.update({name: value})
            )
            for name, layer in LAYERS.items()
        ]
        found[""] = network(self.x)
        for handle in handles:
            handle.remove()
        return found

    def both(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The student's feature and the teacher's, by layer."""
        ours, theirs = self.features(self.student), self.features(self.teacher)
        return {name: (ours[name], theirs[name].detach()) for name in ours}


@pytest.fixture
def case() -> Callable[..., Any]:
    """Makes a case: of maps (12×20 pixels) or tokens (9 of them), in double precision."""

    def make(kind: str = "maps", *, batch: int = 4, equal: bool = False, size: tuple[int, int] = (12, 20)) -> Case:
        torch.manual_seed(0)
        network = Maps if kind == "maps" else Tokens
        teacher = network(TEACHER).double()
        student = copy.deepcopy(teacher) if equal else network(STUDENT).double()
        x = torch.randn(batch, 3, *size) if kind == "maps" else torch.randn(batch, 9, 7)
        layout: Any = "BCHW" if kind == "maps" else "BNC"

        def pairs(widths: Sequence[int]) -> tuple[SymmetricPair, SymmetricPair]:
            one, two, three, four = widths
            taps = {name: Tap(name, layout=layout) for name in LAYERS.values()}
            return (
                SymmetricPair("1/2", taps["enc1"], taps["dec1"], one, four),
                SymmetricPair("1/4", taps["enc2"], taps["dec2"], two, three),
            )

        plan = Plan(tuple(zip(pairs(TEACHER), pairs(TEACHER if equal else STUDENT), strict=True)))
        return Case(teacher, student, plan, x.double())

    return make
