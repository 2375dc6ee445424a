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
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.data import list_pictures
from kbstyle_example.evaluation.pairs import square
from kbstyle_example.files import writable_folder, write_atomically
from kbstyle_example.moments import Moments
from kbstyle_example.networks import SMALLEST_SIDE, KBStyle, StyleCode, padded
from kbstyle_example.quantising import Quantised, quantised, session, signal_to_noise
from kbstyle_example.weights_file import load_weights
from skd._training.trained import modes_kept
from skd.errors import ArgumentError, ExportError
from skd.exporting import Exported, export

FORMATS = {
    "onnx": ".onnx",
    "onnx-int8": "-int8.onnx",
    "onnx-int8-static": "-int8.onnx",
    "torch-export": ".pt2",
    "openvino": ".xml",
    "ncnn": ".ncnn.param",
    "executorch": ".pte",
    "coreml": ".mlpackage",
}
# Down to how many dB activations take eight bits; None: they stay float32.
INT8: Mapping[str, float | None] = {"onnx-int8": None, "onnx-int8-static": 40.0}
BUDGET = 90_000  # bytes of the whole graph in eight bits
LEAST = 30.0  # dB
CALIBRATION = 8  # pairs
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


@dataclass(frozen=True)
class Rounded(Exported):
    """An ONNX file of eight bits, and what that costs.

    Attributes
    ----------
    noise : float
        Peak signal-to-noise ratio in dB, from torch's answers to the pictures: the least of them.
    found : Quantised
        What each layer loses, and which stayed in float32.
    """

    noise: float
    found: Quantised

    def __str__(self) -> str:
        layers = len(self.found.losses)
        wide = f"{len(self.found.kept)} of {layers} layers in float32"
        if self.found.activation_losses:
            wide += f", activations of {len(self.found.rounded)} of {len(self.found.activation_losses)} in eight bits"
        return f"{super().__str__()}, {self.noise:.1f} dB at least; {wide}"


def export_kbstyle(
    weights: KBStyle | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "onnx",
    name: str | None = None,
    size: Sequence[int] = (512, 512),
    photographs: str | os.PathLike[str] | None = None,
    paintings: str | os.PathLike[str] | None = None,
) -> list[Exported]:
    """Write the three graphs: ``NAME``, ``NAME-style`` and ``NAME-paint``, with the format's ending.

    Each is read again and compared with torch at three sizes, or at the one it has; one that is further than 1/255 away
    isn't written. Those of eight bits are compared on photographs and paintings, and may be further away, but not
    below 30 dB.

    Parameters
    ----------
    weights : KBStyle, path or str
        A network, its file, or the name of bundled weights.
    out : path
        A folder.
    format : str
        "onnx" and "torch-export" take any size; "openvino" as well. "ncnn" takes one picture whose sides are multiples
        of 8. "executorch" and "coreml" take `size` alone. "onnx-int8" has weights of eight bits, "onnx-int8-static" most
        activations, too.
    name : str, optional
        Of the files; the weights' name otherwise.
    size : (int, int)
        Width and height, multiples of 8, of photograph and painting, for formats that have one.
    photographs, paintings : path, optional
        Folders to calibrate eight bits on; the bundled samples otherwise. Some pictures of each suffice.

    Raises
    ------
    ArgumentError
        A format that isn't known; a size that can't be.
    MissingExtraError, ExportError, FileError
        See `skd.export`.
    DataError
        No pictures in a folder.

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
    if len(size) != 2 or any(side < SMALLEST_SIDE or side % 8 for side in size):
        raise ArgumentError("a size to export", got=tuple(size), expected="width and height, multiples of 8 from 16 up")
    network = weights if isinstance(weights, KBStyle) else load_weights(weights)
    name = name or ("kbstyle" if isinstance(weights, KBStyle) else Path(weights).stem)
    folder = writable_folder(out)
    if format in INT8:
        return _export_rounded(network, folder, name, INT8[format], photographs, paintings)
    return [
        export(graph, calls[0], folder / f"{name}{suffix}{FORMATS[format]}", checks=calls[1:], tolerance=tolerance)
        for suffix, graph, calls, tolerance in _graphs(network, _pictures(format, size))
    ]


def _pictures(format: str, size: Sequence[int]) -> list[list[Tensor]]:
    """Noise of the sizes that a format is tried with, photograph and painting."""
    sizes: Sequence[tuple[tuple[int, int], tuple[int, int]]] = (EXAMPLE, *CHECKS)
    if format == "ncnn":
        sizes = [((72, 104), (80, 56)), ((64, 88), (40, 48)), ((128, 64), (96, 160))]
    elif format in ("executorch", "coreml"):
        sizes = [((size[1], size[0]), (size[1], size[0]))]
    noise = torch.Generator().manual_seed(0)
    return [[torch.rand(1, 3, *each, generator=noise) for each in pair] for pair in sizes]


def _graphs(network: KBStyle, pictures: Sequence[Sequence[Tensor]]) -> list[tuple[str, nn.Module, list[Any], float]]:
    """Suffix, graph, what it is called with, and how far off it may be."""
    whole, style, paint = Whole(network).eval(), Style(network).eval(), Paint(network).eval()
    with modes_kept(network), torch.no_grad():
        network.eval()
        codes = [style(painting) for _, painting in pictures]
    return [
        ("", whole, [(content, painting) for content, painting in pictures], APART),
        ("-style", style, [(painting,) for _, painting in pictures], 1e-3),  # of statistics, not of a picture
        ("-paint", paint, [(content, code) for (content, _), code in zip(pictures, codes, strict=True)], APART),
    ]


def _export_rounded(
    network: KBStyle,
    folder: Path,
    name: str,
    activations: float | None,
    photographs: str | os.PathLike[str] | None,
    paintings: str | os.PathLike[str] | None,
) -> list[Exported]:
    """Each graph in float32 first, then in eight bits; nothing is written before all three are good."""
    pictures = calibration_pictures(photographs, paintings)
    noise = _graphs(network, _pictures("onnx", ()))
    made: list[tuple[Path, Rounded]] = []
    with tempfile.TemporaryDirectory() as scratch:
        floats = [
            export(graph, calls[0], Path(scratch, f"{name}{suffix}.onnx"), checks=calls[1:], tolerance=tolerance)
            for suffix, graph, calls, tolerance in noise
        ]
        for wide, (suffix, graph, calls, _) in zip(floats, _graphs(network, pictures), strict=True):
            budget = BUDGET * wide.bytes // floats[0].bytes  # each part the same share
            feeds = [
                dict(zip(wide.inputs, (each.numpy() for each in call), strict=True)) for call in calls[:CALIBRATION]
            ]
            found = quantised(wide.path.read_bytes(), feeds, budget=budget, activations=activations)
            with torch.no_grad():
                wanted = [graph(*call).numpy() for call in calls]
            run = session(found.content)
            got = [
                run.run(None, dict(zip(wide.inputs, (each.numpy() for each in call), strict=True)))[0] for call in calls
            ]
            quality = min(signal_to_noise(one, two) for one, two in zip(wanted, got, strict=True))
            if not quality >= LEAST:
                raise ExportError(
                    f"the graph {name}{suffix} of eight bits answers otherwise than torch does",
                    got=f"{quality:.1f} dB",
                    expected=f"{LEAST:.0f} dB at least",
                    remedy="calibrate on more of your own pictures, or export float32",
                )
            path = folder / f"{name}{suffix}{FORMATS['onnx-int8']}"
            furthest = max(float(abs(one - two).max()) for one, two in zip(wanted, got, strict=True))
            made.append((path, Rounded(path, len(found.content), wide.inputs, furthest, quality, found)))
    for path, done in made:
        write_atomically(done.found.content, path)
    return [done for _, done in made]


def calibration_pictures(
    photographs: str | os.PathLike[str] | None = None, paintings: str | os.PathLike[str] | None = None
) -> list[list[Tensor]]:
    """Pairs of a photograph and a painting, (1, 3, 256, 256) in 0..1: the bundled ones, or of folders.

    The first `CALIBRATION` are calibrated on. The rest are of two further sizes, and only measured.

    Examples
    --------
    >>> pairs = calibration_pictures()
    >>> len(pairs), tuple(pairs[-1][0].shape)
    (10, (1, 3, 384, 384))
    """
    samples = Path(__file__).parent / "samples"
    found = [
        list_pictures(folder or samples / kind) for folder, kind in ((photographs, "content"), (paintings, "style"))
    ]
    pairs = []
    for k, side in enumerate([256] * CALIBRATION + [200, 384]):
        pairs.append([square(paths[k % len(paths)], side) for paths in found])
    return pairs
