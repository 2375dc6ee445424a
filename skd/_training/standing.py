"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skd._training.fetching import Place


@dataclass
class Standing:
    """Where a run stands: what a checkpoint holds beside weights and random states."""

    step: int = 0
    seconds: float = 0.0
    place: Place = field(default_factory=Place)
    best: tuple[int, float] | None = None
    evaluation: dict[str, float] | None = None
    evaluated: int = 0  # the step of the last evaluation
    without_gain: int = 0
    ended: str | None = None

    def values(self) -> dict[str, Any]:
        return {**vars(self), "place": tuple(self.place)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Standing:
        best = values["best"]
        return cls(**{**values, "place": Place(*values["place"]), "best": None if best is None else tuple(best)})
