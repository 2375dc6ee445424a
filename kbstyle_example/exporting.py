"""KBStyle as files for other runtimes: the three graphs of `graphs`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kbstyle_example.files import writable_folder
from kbstyle_example.graphs import graphs_of, pictures_of
from kbstyle_example.networks import KBStyle
from kbstyle_example.options import SMALLEST_SIDE
from kbstyle_example.rounding import INT8, export_rounded
from kbstyle_example.weights_file import load_weights
from skd.errors import ArgumentError, FileError
from skd.exporting import Exported, export

FORMATS = {
    "onnx": ".onnx",
    "onnx-int8": "-int8.onnx",
    "onnx-int8-static": "-int8-static.onnx",
    "torch-export": ".pt2",
    "openvino": ".xml",
    "ncnn": ".ncnn.param",
    "executorch": ".pte",
    "coreml": ".mlpackage",
}


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

    Each is read again and compared with torch at three sizes, or at the one it has; if one is further than 1/255 away,
    none is written. Those of eight bits are compared on photographs and paintings, and may be further away, but not
    below 30 dB.

    Parameters
    ----------
    weights : KBStyle, path or str
        A network, its file, or the name of bundled weights.
    out : path
        A folder.
    format : str
        "onnx" and "torch-export" take any size; "openvino" as well. "ncnn" takes one picture whose sides are multiples
        of 8. "executorch" and "coreml" take `size` alone. "onnx-int8" has weights of eight bits, "onnx-int8-static"
        most activations, too.
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
        ending = FORMATS[format]
        return [*export_rounded(network, folder, name, ending, INT8[format], photographs, paintings)]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:  # all three, or none
        done = [
            export(graph, calls[0], Path(scratch, f"{name}{suffix}{FORMATS[format]}"), checks=calls[1:], tolerance=off)
            for suffix, graph, calls, off in graphs_of(network, pictures_of(format, size))
        ]
        for path in sorted(Path(scratch).iterdir()):
            try:
                if path.is_dir() and (folder / path.name).is_dir():
                    shutil.rmtree(folder / path.name)
                path.replace(folder / path.name)
            except OSError as error:
                got = error.strerror or error
                raise FileError(f"{str(folder / path.name)!r} can't be written", got=got) from error
    return [replace(each, path=folder / each.path.name) for each in done]
