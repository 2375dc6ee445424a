"""KBStyle's graphs in eight bits, calibrated on photographs and paintings and compared with torch on them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kbstyle_example.data import list_pictures
from kbstyle_example.evaluation.pairs import square
from kbstyle_example.files import write_atomically
from kbstyle_example.graphs import graphs_of, pictures_of
from kbstyle_example.networks import KBStyle
from kbstyle_example.quantising import Quantised, quantised, session, signal_to_noise
from skd.errors import ExportError
from skd.exporting import Exported, export

# Down to how many dB activations take eight bits; None: they stay float32.
INT8: Mapping[str, float | None] = {"onnx-int8": None, "onnx-int8-static": 40.0}
BUDGET = 90_000  # bytes of the whole graph in eight bits
LEAST = 30.0  # dB
CALIBRATION = 8  # pairs


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


def export_rounded(
    network: KBStyle,
    folder: Path,
    name: str,
    ending: str,
    activations: float | None,
    photographs: str | os.PathLike[str] | None = None,
    paintings: str | os.PathLike[str] | None = None,
) -> list[Rounded]:
    """Each graph in float32 first, then in eight bits; nothing is written before all three are good.

    Raises
    ------
    ExportError
        The answers are further than 30 dB from torch's on one of the pictures.
    """
    pictures = calibration_pictures(photographs, paintings)
    done: list[Rounded] = []
    with tempfile.TemporaryDirectory() as scratch:
        floats = [
            export(graph, calls[0], Path(scratch, f"{name}{suffix}.onnx"), checks=calls[1:], tolerance=tolerance)
            for suffix, graph, calls, tolerance in graphs_of(network, pictures_of("onnx"))
        ]
        for wide, (suffix, graph, calls, _) in zip(floats, graphs_of(network, pictures), strict=True):
            budget = BUDGET * wide.bytes // floats[0].bytes  # each part the same share
            feeds = [dict(zip(wide.inputs, (each.numpy() for each in call), strict=True)) for call in calls]
            found = quantised(wide.path.read_bytes(), feeds[:CALIBRATION], budget=budget, activations=activations)
            with torch.no_grad():
                wanted = [graph(*call).numpy() for call in calls]
            run = session(found.content)
            got = [run.run(None, each)[0] for each in feeds]
            quality = min(signal_to_noise(one, two) for one, two in zip(wanted, got, strict=True))
            if not quality >= LEAST:
                raise ExportError(
                    f"the graph {name}{suffix} in eight bits answers otherwise than torch does",
                    got=f"{quality:.1f} dB",
                    expected=f"{LEAST:.0f} dB at least",
                    remedy="calibrate on pictures of your own, or export float32",
                )
            furthest = max(float(np.abs(one - two).max()) for one, two in zip(wanted, got, strict=True))
            path = folder / f"{name}{suffix}{ending}"
            done.append(Rounded(path, len(found.content), wide.inputs, furthest, quality, found))
    for each in done:
        write_atomically(each.found.content, each.path)
    return done


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
