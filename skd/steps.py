"""What one training step returns: the student's output and the named losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree


@dataclass(frozen=True)
class Losses:
    """Weighted loss terms by name, and their sum.

    Parameters
    ----------
    terms : mapping of str to Tensor
        Scalars, each already multiplied by its weight.

    Examples
    --------
    >>> import torch
    >>> losses = Losses({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    >>> losses.total, losses["b"]
    (tensor(3.), tensor(2.))
    """

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of all terms, a scalar; zero where there are none."""
        values = list(self.terms.values())
        return torch.stack(values).sum() if values else torch.zeros(())

    def __getitem__(self, name: str) -> Tensor:
        return self.terms[name]

    def values(self) -> dict[str, float]:
        """The terms and their total as plain numbers, for logs (waits for the device)."""
        numbers = {name: float(term.detach()) for name, term in self.terms.items()}
        return {**numbers, "total": sum(numbers.values())}


@dataclass(frozen=True)
class Step:
    """The result of one forward pass of a training module (a `Distiller`, or a task of the user's own).

    Attributes
    ----------
    output : Any
        What the network returned.
    losses : Losses
    teacher_output : Any
        None unless the distiller keeps it.

    Examples
    --------
    >>> import torch
    >>> Step(torch.zeros(1), Losses({"task": torch.tensor(2.0)})).losses.total
    tensor(2.)
    """

    output: Any
    losses: Losses
    teacher_output: Any = field(default=None)


# Parallel modules look for the tensors in an output as in a tree; without these they'd see none of a step's.
for _node in (Losses, Step):
    _pytree.register_dataclass(_node)
