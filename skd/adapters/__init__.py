"""The maps that make the two sides' features comparable: channels, space, tokens, and chains of these.

Every adapter is called as ``adapter(feature, reference)``. `reference` is the other side's feature, which only the
adapters without a fixed target size look at. One adapter used in two places is shared: the same module object.
"""

from __future__ import annotations

from skd.adapters.base import Adapter, Chain, Identity
from skd.adapters.channelwise import BasisAdapter, ChannelAdapter, OrthogonalAdapter
from skd.adapters.spatial import MapToTokens, SpaceAdapter, TokenAdapter, map_to_tokens, tokens_to_map

__all__ = [
    "Adapter",
    "BasisAdapter",
    "Chain",
    "ChannelAdapter",
    "Identity",
    "MapToTokens",
    "OrthogonalAdapter",
    "SpaceAdapter",
    "TokenAdapter",
    "map_to_tokens",
    "tokens_to_map",
]
