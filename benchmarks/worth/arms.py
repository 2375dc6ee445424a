"""The arms: what a student of the named size begins with. Widths and weights are changed one at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import skd
from kbstyle_example.layers import Block, StyledBlocks
from skd._compression.analysis import Data, analyse
from skd._compression.groups import Group
from skd._compression.plan import names_of
from skd._compression.projection import project

# name → (widths, weights)
ARMS: dict[str, tuple[str, str]] = {
    "from scratch": ("uniform", "random"),
    "L1 slicing": ("uniform", "largest L1 norms"),
    "spectral widths": ("energy", "random"),
    "projection": ("uniform", "projected"),
    "both": ("energy", "projected"),
}


class Starts:
    """The students of one task; what they share is made once, when it is first asked for.

    Parameters
    ----------
    teacher : nn.Module
    spectra : Spectra
    calibration : sequence
        Batches of what the teacher is called with.
    size : int
        Bytes of the student's file.
    """

    def __init__(self, teacher: nn.Module, spectra: skd.Spectra, calibration: Sequence[Any], size: int) -> None:
        self.teacher, self.spectra, self.calibration, self.size = teacher, spectra, calibration, size
        self._compressed: dict[str, skd.Compressed] = {}
        self._sliced: nn.Module | None = None

    def compressed(self, widths: Any) -> skd.Compressed:
        """The projected student with widths by "energy" or "uniform"."""
        if widths not in self._compressed:
            self._compressed[widths] = skd.compress(
                self.teacher, self.spectra, data=self.calibration, size=self.size, allocation=widths
            )
        return self._compressed[widths]

    def student(self, arm: str, seed: int) -> nn.Module:
        """A student of its own; the seed is that of random weights."""
        widths, weights = ARMS[arm]
        made = self.compressed(widths)
        if weights == "random":
            return fresh(made.student, seed)
        if weights == "projected":
            return copy.deepcopy(made.student)
        if self._sliced is None:
            self._sliced = sliced(self.teacher, self.spectra, self.calibration, made)
        return copy.deepcopy(self._sliced)


def fresh(network: nn.Module, seed: int) -> nn.Module:
    """A copy with random weights, as its layers' and KBStyle's constructors draw them."""
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        for module in network.modules():
            if isinstance(module, Block):
                module.out.weight.mul_(0.3)
            elif isinstance(module, StyledBlocks) and len(module.blocks) > 0:
                module.film[-1].weight.zero_()  # type: ignore[operator]
    return network


def sliced(teacher: nn.Module, spectra: skd.Spectra, calibration: Sequence[Any], like: skd.Compressed) -> nn.Module:
    """The teacher cut to the widths of another student: of each group the channels with the largest filters.

    Their size is the sum of the absolute weights that make them, in all layers that do (Li et al. 2017, "Pruning
    filters for efficient convnets").
    """
    found = analyse(teacher, spectra, Data(calibration), rotated=False)
    numbers = {name: k for k, name in enumerate(names_of(found))}
    widths = {numbers[name]: width for name, width in like.widths.items()}
    for k, choice in found.choices.items():
        choice.order = by_l1(teacher, found.groups[k])
    student = project(teacher, found.groups, found.choices, widths, found.wanted, found.moments, lifted=False)
    return student.eval()


def by_l1(network: nn.Module, group: Group) -> list[int]:
    """A group's channels, those with the largest filters first; one of each cell in every round."""
    scores = torch.zeros(group.width, dtype=torch.float64)
    for port, places in group.ports.items():
        if port.side == "out":
            filters = filter_norms(network.get_submodule(port.layer))
            scores += filters[places].sum(1)
    order = scores.argsort(descending=True, stable=True).tolist()
    rounds: dict[int, int] = {}
    ranks = {}
    for channel in order:
        cell = int(group.cells[channel])
        ranks[channel] = rounds[cell] = rounds.get(cell, -1) + 1
    return sorted(order, key=ranks.__getitem__)


def filter_norms(layer: Any) -> Tensor:
    """The sum of the absolute weights of each output channel of a layer."""
    weight = layer.weight.detach().double().abs()
    if getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)
    found: Tensor = weight.flatten(1).sum(1)
    return found
