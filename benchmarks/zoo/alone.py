"""Students of the zoo without skd: asked the same again.

Built by their own library and filled with their weights, or loaded as an exported program.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.entries import ENTRIES

SEED = 3  # of networks that draw numbers when they answer


def answer(value: Any, output: str) -> Tensor:
    """The tensor at a path such as ``['logits']`` or ``[0]``; the first where none is given."""
    for key in re.findall(r"\[([^\]]+)\]", output):
        value = value[ast.literal_eval(key)]
    return value if isinstance(value, Tensor) else value[0]


def answers(folder: str) -> None:
    """Print the largest difference of each student's answer, as JSON."""
    found = {}
    for entry in ENTRIES:
        path = Path(folder) / f"{entry.name}.pt"
        if not path.exists():
            continue
        kept = torch.load(path, weights_only=True)
        if "widths" in kept:
            student = entry.make(kept["widths"])
            student.load_state_dict(kept["weights"])
            student.eval()
        else:
            student = torch.export.load(path.with_suffix(".pt2")).module()
        torch.manual_seed(SEED)
        given = kept["given"]
        with torch.no_grad():
            made = answer(student(**given) if isinstance(given, dict) else student(given), entry.output)
        found[entry.name] = float((made - kept["answer"]).abs().max())
    print(json.dumps(found))
