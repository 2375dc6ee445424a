"""KBStyle for other runtimes: the whole network, and its two halves, so that a painting is encoded once.

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

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.files import writable_folder
from kbstyle_example.moments import Moments
from kbstyle_example.networks import KBStyle, StyleCode, padded
from kbstyle_example.weights_file import load_weights
from skd.errors import ArgumentError
from skd.exporting import Exported, export

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
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
        self.encoder = network.style_encoder
        self.network = [network]  # its weights aren't this graph's

    def forward(self, style: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 → (B, codes)."""
        code = self.network[0].encode_style(style)
        return torch.cat([value.flatten(1) for level in code for value in level], 1)


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


def export_kbstyle(
    weights: KBStyle | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "onnx",
    name: str | None = None,
) -> list[Exported]:
    """Write the three graphs: ``NAME``, ``NAME-style`` and ``NAME-paint``, with the format's ending.

    Each is read again and compared with torch at three sizes; one that is further than 1/255 away isn't written.

    Parameters
    ----------
    weights : KBStyle, path or str
        A network, its file, or the name of bundled weights.
    out : path
        A folder.
    format : {"onnx", "torch-export"}
    name : str, optional
        Of the files; the weights' name otherwise.

    Raises
    ------
    ArgumentError
        A format that isn't known.
    MissingExtraError, ExportError, FileError
        See `skd.export`.

    Examples
    --------
    >>> import tempfile
    >>> from kbstyle_example.networks import KBStyleConfig
    >>> tiny = KBStyle(KBStyleConfig(widths=(2, 3, 4), fine_blocks=0, deep_blocks=0, style_blocks=0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export_kbstyle(tiny, folder, format="torch-export", name="tiny")
    >>> [each.path.name for each in done]
    ['tiny.pt2', 'tiny-style.pt2', 'tiny-paint.pt2']
    """
    if format not in FORMATS:
        raise ArgumentError("there is no such format", got=repr(format), expected=" or ".join(FORMATS))
    network = weights if isinstance(weights, KBStyle) else load_weights(weights)
    name = name or ("kbstyle" if isinstance(weights, KBStyle) else Path(weights).stem)
    folder = writable_folder(out)
    noise = torch.Generator().manual_seed(0)
    pictures = [[torch.rand(1, 3, *size, generator=noise) for size in sizes] for sizes in (EXAMPLE, *CHECKS)]
    whole, style, paint = Whole(network), Style(network), Paint(network)
    with torch.no_grad():
        codes = [style.eval()(each) for _, each in pictures]
    graphs = (
        ("", whole, [(content, painting) for content, painting in pictures], APART),
        ("-style", style, [(painting,) for _, painting in pictures], 1e-3),  # of statistics, not of a picture
        ("-paint", paint, [(content, code) for (content, _), code in zip(pictures, codes, strict=True)], APART),
    )
    return [
        export(graph, calls[0], folder / f"{name}{suffix}{FORMATS[format]}", checks=calls[1:], tolerance=tolerance)
        for suffix, graph, calls, tolerance in graphs
    ]
