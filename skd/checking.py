"""The faults worth refusing before training starts: set-ups that would train without complaint."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skd._check_run import Call, check_equal, check_features, check_step
from skd._check_setup import check_frozen, check_optimizer, check_wrappers
from skd._looking import undisturbed, unwrapped
from skd._measuring import arguments
from skd.distiller import Distiller
from skd.errors import DataError

__all__ = ["check"]


def check(distiller: nn.Module, batch: Any, *, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Refuse a distillation that would run and learn nothing, or the wrong thing.

    The transfers of the present stage are looked at, with a few forward runs and gradients of one batch. Afterwards
    everything is as before, also after an error: gradients, train flags, buffers, random states.

    Parameters
    ----------
    distiller : Distiller
        Or the DDP or compiled module around it.
    batch : Tensor, tuple or dict
        What the distiller is called with: one argument, several, or keyword arguments. Of the size that is trained
        with, as relations between samples need more than one.
    optimizer : torch.optim.Optimizer, optional
        Checked to hold the student's and the adapters' parameters, and not the teacher's.

    Raises
    ------
    CheckError
        - a tapped student layer, or one that ran on the way to the output, gets no gradient;
        - a loss is constant: it doesn't depend on the feature, or no weight of the student moves it;
        - the teacher isn't frozen, isn't in eval mode, or shares parameters that the student trains;
        - parameters of an adapter or of the student are missing from the optimizer, or it holds the teacher's;
        - a feature was changed in place after it was read;
        - the student was wrapped or replaced after the distiller was made, so that the wrapper is bypassed, or several
          processes run and nothing averages the gradients;
        - teacher and student are equal and a divergence between them isn't zero.
    NonFiniteError
        A loss or its gradient is NaN or infinite.
    ShapeError
        Two features don't fit; says of which transfer.
    DataError
        The batch isn't what the student takes.
    ArgumentError
        This isn't a distiller.

    Examples
    --------
    >>> from skd.methods import Transfer
    >>> teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> distiller = Distiller(teacher, student, [Transfer("output", "", "")])
    >>> check(distiller, torch.randn(4, 3))
    >>> check(distiller, torch.randn(4, 3), optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1))
    Traceback (most recent call last):
    ...
    skd.errors.CheckError: the optimizer doesn't train everything; got without student.weight, student.bias. Remedy: \
build it from distiller.parameters().
    """
    inner = unwrapped(distiller)
    check_wrappers(distiller, inner)
    check_unwrapped(inner, batch, optimizer=optimizer)


def check_unwrapped(inner: Distiller, batch: Any, *, optimizer: torch.optim.Optimizer | None = None) -> None:
    """The same of a plain distiller that is going to be wrapped, which another process' presence doesn't forbid."""
    check_frozen(inner)
    if optimizer is not None:
        check_optimizer(inner, optimizer)
    call = _arguments(inner, batch)
    with undisturbed(inner), torch.enable_grad():
        check_features(inner, call)
        check_step(inner, call)
        check_equal(inner, call)


def _arguments(distiller: Distiller, batch: Any) -> Call:
    try:
        return arguments(distiller.student, batch, 0)
    except DataError as error:
        remedy = "give what the distiller is called with, as distiller(*batch) or distiller(**batch) takes it"
        what = "the batch isn't what the student takes"
        raise DataError(what, got=error.got, expected=error.expected, remedy=remedy) from None
