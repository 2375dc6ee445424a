"""What is taken from features: pure functions, feature in, tensor out; `Knowledge` binds their options.

Every function takes ``(feature, *, layout="BCHW", **options)``, computes in float32 (in float64 where given it) and
never in half, and has no state; `Reread` alone holds a network, and is called in the same way.
"""

from __future__ import annotations

from skd.knowledge._bound import Knowledge
from skd.knowledge.alignment import alignment_kernel, kernel_alignment
from skd.knowledge.maps import (
    attention,
    centred,
    channel_distribution,
    class_distribution,
    normalised,
    raw,
    standardised,
)
from skd.knowledge.relations import (
    batch_samples,
    position_affinity,
    position_samples,
    sample_similarity,
)
from skd.knowledge.rereading import Reread
from skd.knowledge.statistics import channel_correlation, covariance, gram, mean_std
from skd.knowledge.subspace import coordinates, energy_kept, lift, principal_angles, projection, subspace_affinity

__all__ = [
    "Knowledge",
    "Reread",
    "alignment_kernel",
    "attention",
    "batch_samples",
    "centred",
    "channel_correlation",
    "channel_distribution",
    "class_distribution",
    "coordinates",
    "covariance",
    "energy_kept",
    "gram",
    "kernel_alignment",
    "lift",
    "mean_std",
    "normalised",
    "position_affinity",
    "position_samples",
    "principal_angles",
    "projection",
    "raw",
    "sample_similarity",
    "standardised",
    "subspace_affinity",
]
