"""What is compared: each arm changes one thing of its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.ablations import variants
from benchmarks.ablations.variants import Change

BASE = "base"
STATISTICS = "without the guide"

# Written out, so that the figures keep their meaning when the defaults of `StyleTask` change after them.
OPTIONS: dict[str, Any] = {
    "guide": "microast",
    "pixel_weight": 10.0,
    "feature_weight": 1.0,
    "content_weight": 1.0,
    "style_weight": 5.0,
    "feature_weights": {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0},
    "style_weights": {"relu1_1": 0.5, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 0.5},
    "covariance_weights": {"relu2_1": 0.1, "relu3_1": 0.1, "relu4_1": 0.1},
}


@dataclass(frozen=True)
class Arm:
    """One thing changed.

    Parameters
    ----------
    name : str
    group : {"loss", "shapes", "network"}
    options : mapping
        Of the loss, in place of the reference's.
    change : callable, optional
        Of the network.
    equal_bytes : bool
        Fit the widths so that the file is as large as the base's.
    multiple : int
        Of which the widths are.
    reference : str
        The arm that it is compared with, and whose other options it has.
    """

    name: str
    group: str
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Change | None = None
    equal_bytes: bool = True
    multiple: int = 1
    reference: str = BASE

    def loss(self) -> dict[str, Any]:
        """All options of the loss."""
        inherited = OPTIONS if self.name == self.reference else ARMS[self.reference].loss()
        return {**inherited, **self.options}


def _sum_kept(weights: Mapping[str, float]) -> dict[str, float]:
    """Layer weights with the sum of the base's, so that style counts as much in all."""
    scale = sum(OPTIONS["style_weights"].values()) / sum(weights.values())
    return {layer: round(weight * scale, 4) for layer, weight in weights.items()}


def _style(weights: Mapping[str, float]) -> dict[str, Any]:
    return {"style_weights": _sum_kept(weights)}


LAYERS = tuple(OPTIONS["style_weights"])
WEIGHTED = OPTIONS["style_weights"]

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(BASE, "loss"),
        Arm("equal layer weights", "loss", _style(dict.fromkeys(LAYERS, 1.0))),
        Arm("no relu5_1", "loss", _style({layer: WEIGHTED[layer] for layer in LAYERS[:-1]})),
        Arm("shallow layers only (relu1_1, relu2_1)", "loss", _style({layer: WEIGHTED[layer] for layer in LAYERS[:2]})),
        Arm("deep layers only (relu3_1 … relu5_1)", "loss", _style({layer: WEIGHTED[layer] for layer in LAYERS[2:]})),
        Arm("no covariance term", "loss", {"covariance_weights": {}}),
        Arm("covariance term × 3", "loss", {"covariance_weights": dict.fromkeys(LAYERS[1:4], 0.3)}),
        Arm("style weight × ½", "loss", {"style_weight": 2.5}),
        Arm("style weight × 2", "loss", {"style_weight": 10.0}),
        # What keeps shapes.
        Arm(STATISTICS, "shapes", {"guide": None}),
        Arm("no content loss", "shapes", {"content_weight": 0.0}),
        Arm("guide's features alone (no pixels)", "shapes", {"pixel_weight": 0.0}),
        Arm("guide's pixels alone (no features)", "shapes", {"feature_weight": 0.0}),
        Arm("no skip at level 1", "shapes", change=variants.without_skip(1)),
        Arm("no skip at level 2", "shapes", change=variants.without_skip(2)),
        Arm("without the guide: no content loss", "shapes", {"content_weight": 0.0}, reference=STATISTICS),
        Arm(
            "without the guide: content loss on raw features",
            "shapes",
            # ‖F(o) − F(c)‖² / ‖F(c)‖² at the content layer: the photograph itself for a guide, by its features alone.
            {"guide": "content", "content_weight": 0.0, "pixel_weight": 0.0, "feature_weights": {"relu4_1": 1.0}},
            reference=STATISTICS,
        ),
        Arm(
            "without the guide: equal layer weights",
            "loss",
            _style(dict.fromkeys(LAYERS, 1.0)),
            reference=STATISTICS,
        ),
        # The network, at equal bytes.
        Arm("no modulation of the blocks (FiLM)", "network", change=variants.without_film),
        Arm("entrance: 3×3 of stride 2, no space-to-depth", "network", change=variants.strided_entrance),
        Arm("blocks: two plain 3×3", "network", change=variants.plain_blocks),
        Arm("blocks: 3×3 in 4 groups", "network", change=variants.grouped_blocks, multiple=variants.GROUPS),
        Arm("blocks: 3×3 depthwise", "network", change=variants.near_blocks),
        Arm("skips normalised by their own statistics", "network", change=variants.own_statistics),
        Arm("level 1 not modulated", "network", change=variants.without_modulation(1)),
        Arm("level 2 not modulated", "network", change=variants.without_modulation(2)),
        Arm("blocks in the content encoder, too", "network", change=variants.encoder_blocks),
        Arm("no blocks in the style encoder", "network", change=variants.without_style_blocks),
    )
}
