"""Painting by ONNX Runtime, without PyTorch: a single picture stands before PyTorch would be imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from kbstyle_example.options import DEFAULT, LONGEST_STYLE_SIDE, SMALLEST_SIDE, check_painting, checked_weights
from kbstyle_example.photograph import Photograph, Source
from kbstyle_example.strips import Pixels, strips
from skd.errors import ArgumentError, DataError, FileError, MissingExtraError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    import torch

    from kbstyle_example.networks import KBStyle

Numbers: TypeAlias = npt.NDArray[np.float32]
BUNDLED = Path(__file__).parent / "web"  # where the page in the browser has its networks
HALVES = ("-style", "-paint")


class OnnxPainter:
    """Paintings read and encoded once, for as many photographs as there are; as `painting.Painter`, in another runtime.

    What it paints differs by 1 of 255 in single pixels. It takes the same options, and refuses those that need PyTorch:
    masks, the photograph's colours, bfloat16, another device than the CPU.

    Parameters
    ----------
    styles : one picture, or a list or tuple of them
        See `Photograph.of`.
    network : str or path
        "kbstyle", the bundled weights, or the file of a network that ``export --format onnx`` wrote: NAME.onnx, with
        NAME-style.onnx and NAME-paint.onnx beside it.
    strength, style_weights, style_size, paint_size, max_pixels
        See `painting.Painter`.
    keep_colour, masks, precision, device
        As they are by default, or "cpu".

    Raises
    ------
    MissingExtraError
        onnxruntime isn't installed.
    ArgumentError
        An option that can't be, or that this runtime doesn't have.
    FileError, DataError, ShapeError
        A picture or the network can't be read; a painting is too small.

    Examples
    --------
    >>> painter = OnnxPainter(np.random.default_rng(0).random((32, 40, 3)))
    >>> painter(np.zeros((20, 30, 3), np.uint8)).shape
    (20, 30, 3)
    """

    def __init__(
        self,
        styles: Source | Sequence[Source],
        *,
        network: KBStyle | str | os.PathLike[str] = DEFAULT,
        strength: float = 1.0,
        keep_colour: bool = False,
        style_weights: Sequence[float] | None = None,
        masks: Sequence[Source | None] | None = None,
        style_size: int = LONGEST_STYLE_SIDE,
        paint_size: int | None = None,
        precision: str = "float32",
        device: str | torch.device | None = None,
        max_pixels: int | None = None,
    ) -> None:
        given: list[Source] = list(styles) if isinstance(styles, list | tuple) else [styles]  # type: ignore[list-item]
        check_painting(given, strength, paint_size, None if masks is None else len(masks))
        for name, there, plain in (
            ("masks", masks, (None,)),
            ("keep_colour", keep_colour, (False,)),
            ("precision", precision, ("float32",)),
            ("device", device, (None, "cpu")),
        ):
            if not any(there is each or there == each for each in plain):
                expected = " or ".join(map(repr, plain))
                raise ArgumentError(
                    f"painting by ONNX Runtime has no {name}",
                    got=there,
                    expected=expected,
                    remedy="paint with PyTorch: leave out --backend onnx, or use Painter",
                )
        if style_size < SMALLEST_SIDE:
            raise ArgumentError("style size", got=style_size, expected=f"{SMALLEST_SIDE} pixels or more")
        self.strength, self.paint_size = strength, paint_size
        shares = checked_weights(style_weights, len(given))
        paintings = [_painting(style, style_size, max_pixels) for style in given]
        encoder, self.session = (_session(path) for path in _halves(network))
        codes = [_run(encoder, numbers(painting)) for painting in paintings]
        self.code = np.average(np.stack(codes), axis=0, weights=shares).astype(np.float32)

    def __call__(self, photograph: Pixels) -> Pixels:
        """The photograph painted: (H, W, 3) of 8 bits → the same.

        Raises
        ------
        ArgumentError
            It isn't such an array.
        DataError
            There isn't enough memory for it.
        NonFiniteError
            The picture would hold NaN or infinite values.
        """
        if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3 or not photograph.size:
            got = f"{photograph.dtype} of {photograph.shape}"
            raise ArgumentError("no photograph to paint", got=got, expected="(H, W, 3) of uint8")
        if self.strength == 0:
            return photograph
        height, width = photograph.shape[:2]
        canvas = photograph if self.paint_size is None else _fitted(photograph, self.paint_size)
        missing = [(0, max(0, SMALLEST_SIDE - side)) for side in canvas.shape[:2]]
        grown = np.pad(canvas, (*missing, (0, 0)), mode="edge") if any(m for _, m in missing) else canvas
        try:
            painted = _pixels(_run(self.session, numbers(grown), self.code))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "alloc" not in str(error).lower():
                raise
            raise DataError(
                "the picture needs more memory than there is",
                got=f"{width}×{height}",
                remedy="paint it with PyTorch, in strips, or smaller with paint_size (--paint-size)",
            ) from None
        painted = _resized(painted[: canvas.shape[0], : canvas.shape[1]], (height, width))
        return painted if self.strength == 1 else _mixed(photograph, painted, self.strength)


def numbers(pixels: Pixels) -> Numbers:
    """(H, W, 3) of 8 bits → (1, 3, H, W) in 0..1.

    Examples
    --------
    >>> numbers(np.full((2, 4, 3), 51, np.uint8)).shape
    (1, 3, 2, 4)
    """
    return pixels.transpose(2, 0, 1)[None].astype(np.float32, order="C") / np.float32(255)


def _pixels(picture: Numbers) -> Pixels:
    if not np.isfinite(picture).all():
        raise NonFiniteError("a picture holds NaN or infinite values")
    return np.ascontiguousarray((picture[0] * np.float32(255)).clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))


def _mixed(below: Pixels, above: Pixels, share: float) -> Pixels:
    """As `strips.blended`, all over the same."""
    out = np.empty_like(below, order="C")
    for rows in strips(*below.shape[:2]):
        low, high = (pixels[rows].astype(np.float32) for pixels in (below, above))
        out[rows] = (low + np.float32(share) * (high - low)).round().astype(np.uint8)
    return out


def _painting(style: Source, longest: int, max_pixels: int | None) -> Pixels:
    """As `painting.style_tensor`, in 8 bits."""
    found = Photograph.of(style, max_pixels=max_pixels)
    painting = found.pixels
    if found.alpha is not None:
        share = found.alpha[..., None].astype(np.float32) / np.float32(255)
        painting = (255 + share * (painting.astype(np.float32) - 255)).round().astype(np.uint8)
    scaled = _fitted(painting, longest)
    for picture, what in ((painting, "painting"), (scaled, f"painting, scaled to {longest} pixels,")):
        height, width = picture.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise ShapeError(
                f"the {what} is too small", got=f"{width}×{height}", expected=f"{SMALLEST_SIDE} pixels a side or more"
            )
    return scaled


def _fitted(pixels: Pixels, longest: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    return _resized(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """As `strips.resized`: PyTorch's bicubic without aliasing is made after Pillow's."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))


def _halves(network: object) -> tuple[Path, Path]:
    """The graphs of the style and of the painting."""
    if network == DEFAULT:
        whole = BUNDLED / f"{DEFAULT}.onnx"
    elif isinstance(network, str | os.PathLike) and Path(network).suffix == ".onnx":
        whole = Path(network)
        stem = next((whole.stem.removesuffix(half) for half in HALVES if whole.stem.endswith(half)), whole.stem)
        whole = whole.with_name(f"{stem}.onnx")
    else:
        got = network if isinstance(network, str | os.PathLike) else type(network).__name__
        raise ArgumentError(
            "no network for ONNX Runtime",
            got=got,
            expected=f"{DEFAULT}, or a file ending in .onnx",
            remedy="python -m kbstyle_example export --format onnx --weights WEIGHTS -o FOLDER",
        )
    style, paint = (whole.with_name(f"{whole.stem}{half}.onnx") for half in HALVES)
    for path in (style, paint):
        if not path.is_file():
            raise FileError("there is no such network", got=str(path), remedy="export writes all three files of it")
    return style, paint


def _session(path: Path) -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="painting by ONNX Runtime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is said in our error
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no type in common
        raise FileError("the network can't be read", got=f"{path} ({' '.join(str(error).split())})") from None
    names = [given.name for given in session.get_inputs()]
    expected = ["style"] if path.stem.endswith("-style") else ["content", "code"]
    if names != expected:
        raise FileError(
            "the file holds another network", got=f"{path} with {', '.join(names)}", expected=", ".join(expected)
        )
    return session


def _run(session: Any, *given: Numbers) -> Numbers:
    names = [each.name for each in session.get_inputs()]
    found: Numbers = session.run(None, dict(zip(names, given, strict=True)))[0]
    return found
