"""Which layers of a KBStyle network mirror each other: declared by hand, the same for teacher and student."""

from __future__ import annotations

import torch

import skd
from kbstyle_example.networks import KBStyle

EXAMPLE = (torch.zeros(1, 3, 64, 80), torch.zeros(1, 3, 64, 64))


def kbstyle_pairing(network: KBStyle) -> skd.Pairing:
    """The three symmetric pairs of a KBStyle network, each with the style encoder's layer for a companion.

    All are read where features are signed, as coordinates in a basis are: before a nonlinearity, or after the blocks
    of a level, which end in a sum.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> print(kbstyle_pairing(KBStyle(STUDENT)))
    Pairing, 3 pairs, bottleneck content_encoder.level3.0
      pair  encoder                   decoder               channels  scale  companions
      1/2   content_encoder.level1.1  decoder.level1:input  8         0.5    style_encoder.level1.1
      1/4   content_encoder.level2.0  decoder.level2        20        0.25   style_encoder.level2.0
      1/8   content_encoder.level3.0  decoder.level3        32        0.125  style_encoder.level3
    """
    return skd.Pairing.declare(
        {
            "1/2": ("content_encoder.level1.1", "decoder.level1:input"),
            "1/4": ("content_encoder.level2.0", "decoder.level2"),
            "1/8": ("content_encoder.level3.0", "decoder.level3"),
        },
        network,
        EXAMPLE,
        companions={
            "1/2": ["style_encoder.level1.1"],
            "1/4": ["style_encoder.level2.0"],
            "1/8": ["style_encoder.level3"],
        },
        bottleneck="content_encoder.level3.0",
    )
