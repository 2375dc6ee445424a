"""What is compared: anything that stylises a picture, with its size, its digest and what it costs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kbstyle_example.devices import as_precision
from kbstyle_example.files import digest
from kbstyle_example.inference import Inference
from kbstyle_example.networks import KBStyle
from kbstyle_example.weights_file import bundled, encoded, load_weights
from skd.errors import ArgumentError, NonFiniteError, ShapeError

Size: TypeAlias = tuple[int, int]  # width and height in pixels, as pictures' sizes are said
STYLE_SIDE = 512  # pixels of the style where costs are counted


@dataclass(frozen=True)
class System:
    """A system under comparison.

    Parameters
    ----------
    name : str
        What the tables call it.
    run : callable
        Content (1, 3, H, W) and style (1, 3, H′, W′) in 0..1 → result (1, 3, H, W).
    sha256 : str
        Digest of its weights: figures are kept under it.
    size : int
        Bytes on disk.
    parameters : int
    count : callable
        Content's size (width, height) and style's → multiply-adds of one picture, the style's encoding included.
    precision : str
        Of the computation.
    source, licence : str
        Where its weights are published, and under what terms.

    Examples
    --------
    >>> untouched = System("untouched", lambda content, style: content, "0" * 64, 0, 0, lambda content, style: 0)
    >>> untouched.stylize(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    name: str
    run: Callable[[Tensor, Tensor], Tensor]
    sha256: str
    size: int
    parameters: int
    count: Callable[[Size, Size], int]
    precision: str = "float32"
    source: str = ""
    licence: str = ""

    def stylize(self, content: Tensor, style: Tensor) -> Tensor:
        """The content painted like the style: (1, 3, H, W) on the CPU, clamped to 0..1.

        Raises
        ------
        ShapeError, NonFiniteError
            The system gave another shape than the content's, or NaN or infinite values.
        """
        result = self.run(content, style).float().cpu()
        if result.shape != content.shape:
            raise ShapeError(f"{self.name} gave another shape", got=tuple(result.shape), expected=tuple(content.shape))
        if not torch.isfinite(result).all():
            raise NonFiniteError(f"{self.name} gave a picture with NaN or infinite values")
        return result.clamp(0, 1)

    def multiply_adds(self, size: Size, style_size: Size | None = None) -> int:
        """Multiply-adds for a content of this size (width, height), and a style of 512² or less unless told."""
        return self.count(size, style_size or (min(size[0], STYLE_SIDE), min(size[1], STYLE_SIDE)))


def of_module(module: nn.Module, name: str, *, sha256: str, size: int, source: str = "", licence: str = "") -> System:
    """A system from a module that is called with (content, style).

    Multiply-adds are half of what `torch.utils.flop_counter` counts: convolutions and matrix products, nothing else.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> system = of_module(KBStyle(STUDENT), "student", sha256="0" * 64, size=200_000)
    >>> system.multiply_adds((32, 32)) < system.multiply_adds((64, 32))
    True
    """
    module = module.eval()
    first = next(module.parameters())

    @torch.inference_mode()
    def run(content: Tensor, style: Tensor) -> Tensor:
        result: Tensor = module(content.to(first), style.to(first))
        return result

    def count(content: Size, style: Size) -> int:
        counter = FlopCounterMode(display=False)
        with counter:
            run(torch.zeros(1, 3, *content[::-1]), torch.zeros(1, 3, *style[::-1]))
        return int(counter.get_total_flops()) // 2

    parameters = sum(p.numel() for p in module.parameters())
    precision = str(first.dtype).removeprefix("torch.")
    return System(name, run, sha256, size, parameters, count, precision, source, licence)


def as_system(thing: System | KBStyle | str | os.PathLike[str], *, name: str | None = None) -> System:
    """A system, from a network, a weights file, the name of bundled weights, or a system.

    Parameters
    ----------
    thing : System, KBStyle, path or str
        A network without a file is taken as the file that `save_weights` would write.
    name : str, optional
        Its own name, the file's, or "KBStyle" otherwise.

    Raises
    ------
    FileError
        There are no such weights, or they aren't KBStyle's.
    ArgumentError
        Something else.

    Examples
    --------
    >>> as_system("teacher").name
    'teacher'
    """
    if isinstance(thing, System):
        return thing if name is None else replace(thing, name=name)
    if isinstance(thing, KBStyle):
        content = encoded(thing)
        sha256 = hashlib.sha256(content).hexdigest()
        return of_module(thing, name or "KBStyle", sha256=sha256, size=len(content))
    if isinstance(thing, str | os.PathLike):
        network = load_weights(thing)
        path = bundled().get(str(thing), Path(thing))
        return of_module(network, name or path.stem, sha256=digest(path), size=path.stat().st_size)
    raise ArgumentError(
        "not a system to compare", got=type(thing).__name__, expected="a System, a KBStyle or a file of its weights"
    )


def in_bfloat16(weights: str | os.PathLike[str]) -> System:
    """KBStyle's weights as the CPU paints with them in bfloat16 (see `inference`), a system of its own.

    Raises
    ------
    FileError
        There are no such weights, or they aren't KBStyle's.
    ArgumentError
        This processor can't multiply in bfloat16.
    """
    plain = as_system(weights)
    quick = Inference(load_weights(weights), as_precision("bfloat16", torch.device("cpu")))

    @torch.inference_mode()
    def run(content: Tensor, style: Tensor) -> Tensor:
        return quick.render(content, quick.encode_style(style))

    sha256 = hashlib.sha256(f"{plain.sha256} in bfloat16".encode()).hexdigest()  # figures are kept under it
    return replace(plain, name=f"{plain.name}, bfloat16", run=run, sha256=sha256, precision="bfloat16")
