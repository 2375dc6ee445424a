"""How much of the teacher's output the student has before any training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skd._compression.analysis import Data
from skd._measuring import arguments, quiet
from skd._values import tensors

BATCHES = 4


def output_energy(teacher: nn.Module, student: nn.Module, data: Data) -> float:
    """1 − Σ(y_T − y_S)² / Σ(y_T − ȳ_T)², all floating point outputs together, of up to four batches.

    Outputs that a factory made narrower aren't compared.
    """
    missed, there = 0.0, 0.0
    for index, item in enumerate(data):
        if index == BATCHES:
            break
        args, kwargs = arguments(teacher, item if data.inputs is None else data.inputs(item), index)
        outputs: list[list[Any]] = []
        for model in (teacher, student):
            with quiet(model):
                torch.manual_seed(0)
                outputs.append([value for _, value in tensors(model(*args, **kwargs)) if value.is_floating_point()])
        for theirs, ours in zip(*outputs, strict=True):
            if theirs.shape != ours.shape:
                continue
            missed += float((theirs.double() - ours.double()).square().sum())
            there += float((theirs.double() - theirs.double().mean()).square().sum())
    return 1 - missed / there if there else float("nan")
