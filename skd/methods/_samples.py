"""The samples that relational methods relate: those of the batch, or positions of its maps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from skd.adapters import Adapter
from skd.errors import ShapeError
from skd.knowledge import batch_samples, position_samples
from skd.methods._layers import Layer
from skd.taps import Layout

Samples = Literal["batch", "positions"]


def rows_of(feature: Tensor, layout: Layout, samples: Samples, count: int, *, least: int = 2) -> Tensor:
    """One row a sample (n, p): the batch's, flattened, or at most `count` positions, spread evenly over batch and map.

    Raises
    ------
    ShapeError
        If there are fewer than `least`.
    """
    if samples == "positions":
        rows = position_samples(feature, layout=layout, count=count)
    else:
        rows = batch_samples(feature, layout=layout)
    if rows.shape[0] < least:
        raise ShapeError(
            f"this relation needs at least {least} samples, with fewer it is constant and teaches nothing",
            got=f"{rows.shape[0]} of the {samples}",
            remedy="use a larger batch, or samples='positions'",
        )
    return rows


def adapter_for(layer: Layer, samples: Samples) -> Adapter | None:
    """What makes the student's samples correspond to the teacher's: positions need equal sizes, a batch nothing."""
    return layer.space() if samples == "positions" else None
