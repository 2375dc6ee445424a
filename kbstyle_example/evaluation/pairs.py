"""Which pictures are measured, in which pairs, and how each is cut."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from kbstyle_example.data import LARGEST_UPSCALE, Split, half, list_pictures, of_split
from kbstyle_example.images import load_image, open_picture
from skd.errors import ArgumentError, DataError, SkdError

SIZE, PAIRS = 512, 64  # pixels a side, and how many pairs of a content and a style


def pictures_to_measure(
    folder: str | os.PathLike[str],
    *,
    part: Split | None = None,
    never_trained_on: bool = False,
    size: int = SIZE,
) -> tuple[list[Path], dict[Path, str]]:
    """The pictures of a folder that may be measured on, and those among them that can't be used, with the reason.

    Parameters
    ----------
    folder : path
    part : {"validation", "test"}, optional
        Validation (the default) while a system is being made; test for final tables only.
    never_trained_on : bool
        The whole folder was never trained on, whatever its files are called: all of it may be measured on, or, where
        a part is named, the half of it that `data.half` tells.
    size : int
        Pictures that would have to be stretched by more than 1.35 to it can't be used.

    Raises
    ------
    DataError
        No folder, or nothing in it that can be used.
    ArgumentError
        The part is "train".

    Examples
    --------
    >>> paintings = Path(__file__).parents[1] / "samples/style"
    >>> found, skipped = pictures_to_measure(paintings, never_trained_on=True, size=256)
    >>> len(found), skipped
    (8, {})
    """
    if part == "train":
        raise ArgumentError("pictures for training measure nothing", got=part, expected="'validation' or 'test'")
    paths = list_pictures(folder)
    if never_trained_on:
        allowed = [path for path in paths if part is None or half(path) == part]
    else:
        part = part or "validation"
        allowed = of_split(paths, part)
    usable, skipped = [], {}
    for path in allowed:
        try:
            open_for(path, size)
            usable.append(path)
        except SkdError as error:
            skipped[path] = str(error).removesuffix(".")
    if not usable:
        raise DataError(
            f"no pictures to measure on in {Path(folder).name}",
            got=f"{len(paths)} pictures, {len(allowed)} for {part or 'any use'}, {len(skipped)} of them not usable",
            remedy="add pictures, or declare the folder as never trained on",
        )
    return usable, skipped


def choose_pairs(contents: int, styles: int, count: int | None, *, seed: int = 0) -> list[tuple[int, int]]:
    """Which content goes with which style: `count` different pairs, each picture about equally often.

    Examples
    --------
    >>> pairs = choose_pairs(4, 6, 12)
    >>> len(set(pairs)), [sum(content == c for c, _ in pairs) for content in range(4)]
    (12, [3, 3, 3, 3])
    """
    if count is not None and count < 1:
        raise ArgumentError("number of pairs", got=count, expected="1 or more")
    if seed < 0:
        raise ArgumentError("seed of the pairs", got=seed, expected="0 or more")
    random = np.random.default_rng(seed)
    first, second = random.permutation(contents), random.permutation(styles)
    around = math.lcm(contents, styles)  # after so many steps along both, the pairs would repeat: shift by one
    total = contents * styles if count is None else min(count, contents * styles)
    return sorted((int(first[k % contents]), int(second[(k + k // around) % styles])) for k in range(total))


def square(path: Path, size: int) -> Tensor:
    """A picture as it is measured and shown: its largest centred square as (1, 3, size, size) in 0..1.

    Raises
    ------
    FileError, DataError
        It can't be read, or would have to be stretched by more than 1.35.

    Examples
    --------
    >>> square(Path(__file__).parents[1] / "samples/content/coffee.jpg", 64).shape
    torch.Size([1, 3, 64, 64])
    """
    picture = open_for(path, size)
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    return load_image(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def open_for(path: Path, size: int) -> Image.Image:
    """The picture, if it is large enough to be measured at `size`.

    Raises
    ------
    FileError, DataError
        It can't be read, or would have to be stretched by more than 1.35.

    Examples
    --------
    >>> open_for(Path(__file__).parents[1] / "samples/content/coffee.jpg", 64).mode
    'RGB'
    """
    picture = open_picture(path)
    short = min(picture.size)
    if short * LARGEST_UPSCALE < size:
        raise DataError(
            "a picture too small to measure on",
            got=f"{path.name}, {picture.width}×{picture.height}",
            expected=f"a short side of at least {math.ceil(size / LARGEST_UPSCALE)}",
            remedy="leave it out, or measure at a smaller size",
        )
    return picture
