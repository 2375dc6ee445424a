"""KBStyle as graphs for other runtimes: the whole network, and its two halves, so that a painting is encoded once.

========== ============================== ==========================
graph      inputs                         output
========== ============================== ==========================
whole      content, style: (B, 3, H, W)   picture (B, 3, H, W)
style      style: (B, 3, H, W)            code (B, codes)
paint      content (B, 3, H, W), code     picture (B, 3, H, W)
========== ============================== ==========================

Pictures are in 0..1, of any size from 16 pixels a side; a code holds means and deviations of the three levels, in the
order of `StyleCode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.correction import flat
from kbstyle_example.moments import Moments, StyleCode
from kbstyle_example.networks import KBStyle, padded

EXAMPLE, CHECKS = ((72, 104), (80, 56)), (((67, 90), (33, 49)), ((128, 64), (96, 160)))  # heights and widths
APART = 1 / 255  # of a picture in 0..1, at most


def painted(network: KBStyle, content: Tensor, code: StyleCode) -> Tensor:
    """The picture in 0..1."""
    out: Tensor = network.decoder(network.content_encoder(padded(content)), code).clamp(0, 1)
    if not torch.compiler.is_exporting() and out.shape[-2:] == content.shape[-2:]:
        return out
    # As a slice, which is right as well, torch.export would trace it for multiples of 8 alone, or for none.
    return F.pad(out, (0, content.shape[-1] - out.shape[-1], 0, content.shape[-2] - out.shape[-2]))


class Whole(nn.Module):
    """Content and style → the picture, in 0..1."""

    def __init__(self, network: KBStyle) -> None:
        super().__init__()
        self.network = network

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, 3, H, W) and (B, 3, H′, W′) in 0..1 → (B, 3, H, W) in 0..1."""
        return painted(self.network, content, self.network.encode_style(style))


class Style(nn.Module):
    """A painting → all that is used of it, in one tensor."""

    def __init__(self, network: KBStyle) -> None:
        super().__init__()
        self.encoder, self.correction = network.style_encoder, network.correction
        self.network = [network]  # its other weights aren't this graph's

    def forward(self, style: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 → (B, codes)."""
        return flat(self.network[0].encode_style(style))


class Paint(nn.Module):
    """Content and a code → the picture, in 0..1."""

    def __init__(self, network: KBStyle) -> None:
        super().__init__()
        self.encoder, self.decoder = network.content_encoder, network.decoder
        self.network = [network]
        self.widths = [width for width in network.config.widths for _ in Moments._fields]

    def forward(self, content: Tensor, code: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 and (B, codes) → (B, 3, H, W) in 0..1."""
        parts = [part[..., None, None] for part in torch.split(code, self.widths, 1)]
        levels = StyleCode(*(Moments(*parts[k : k + 2]) for k in (0, 2, 4)))
        return painted(self.network[0], content, levels)


def pictures_of(format: str, size: Sequence[int] = ()) -> list[list[Tensor]]:
    """Noise of the sizes that a format is tried with, photograph and painting."""
    sizes: Sequence[tuple[tuple[int, int], tuple[int, int]]] = (EXAMPLE, *CHECKS)
    if format == "ncnn":
        sizes = [((72, 104), (80, 56)), ((64, 88), (40, 48)), ((128, 64), (96, 160))]
    elif format in ("executorch", "coreml"):
        sizes = [((size[1], size[0]), (size[1], size[0]))]
    noise = torch.Generator().manual_seed(0)
    return [[torch.rand(1, 3, *each, generator=noise) for each in pair] for pair in sizes]


def graphs_of(network: KBStyle, pictures: Sequence[Sequence[Tensor]]) -> list[tuple[str, nn.Module, list[Any], float]]:
    """Suffix, graph, what it is called with, and how far off it may be."""
    whole, style, paint = Whole(network), Style(network), Paint(network)  # the same in either mode
    with torch.no_grad():
        codes = [style(painting) for _, painting in pictures]
    return [
        ("", whole, [(content, painting) for content, painting in pictures], APART),
        ("-style", style, [(painting,) for _, painting in pictures], 1e-3),  # of statistics, not of a picture
        ("-paint", paint, [(content, code) for (content, _), code in zip(pictures, codes, strict=True)], APART),
    ]
