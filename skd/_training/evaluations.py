"""Evaluations on the way: what is best so far, and its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skd._training.checkpoints import save_atomically
from skd._training.engine import Engine
from skd._training.randomness import undisturbed
from skd._training.standing import Standing
from skd._training.trained import Average, averaged, modes_kept
from skd.errors import ArgumentError
from skd.recipes import Recipe

BEST = "best.pt"
Evaluate = Callable[[Any], Mapping[str, float] | float]


class Evaluations:
    """Calls the user's function in the main process; all learn what it found."""

    def __init__(
        self,
        engine: Engine,
        module: nn.Module,
        product: nn.Module,
        evaluate: Evaluate,
        *,
        average: Average | None,
        recipe: Recipe,
        out: Path,
    ) -> None:
        self.engine, self.module, self.product, self.evaluate = engine, module, product, evaluate
        self.average, self.recipe, self.out = average, recipe, out

    def run(self, standing: Standing) -> dict[str, float]:
        """Evaluate, keep the weights where they are the best so far, and return the line for the log."""
        values = self.engine.on_main(self._values)
        standing.evaluation, standing.evaluated = values, standing.step
        monitor = self.recipe.monitor or next(iter(values))
        if monitor not in values:
            raise ArgumentError(f"the evaluation has no {monitor!r} to monitor", got=", ".join(values))
        value, best = values[monitor], standing.best
        better = best is None or (value > best[1] if self.recipe.maximize else value < best[1])
        if better and not math.isnan(value):
            standing.best, standing.without_gain = (standing.step, value), 0
            self.engine.on_main(self._keep)
        else:
            standing.without_gain += 1
        return {f"evaluation/{name}": number for name, number in values.items()}

    def _values(self) -> dict[str, float]:
        with averaged(self.average), modes_kept(self.module), undisturbed(), torch.no_grad():
            found = self.evaluate(self.product.eval())
        values = dict(found) if isinstance(found, Mapping) else {"value": found}
        try:
            numbers = {str(name): float(value) for name, value in values.items()}
        except (TypeError, ValueError):
            numbers = {}
        if not numbers:
            got = f"{type(found).__name__}: {str(found)[:60]}"
            raise ArgumentError("the evaluation gives no numbers", got=got, expected="a number, or numbers by name")
        return numbers

    def _keep(self) -> None:
        with averaged(self.average):
            save_atomically(self.product.state_dict(), self.out / BEST, "the best weights")
