"""Pairs of crops from two folders of pictures. Sample i of a seed is the same on every machine and in every order."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from kbstyle_example.images import FORMATS, open_picture
from kbstyle_example.recolouring import Pixels, recoloured
from kbstyle_example.sharpening import AMOUNT, mirrored, sharpened
from kbstyle_example.splits import digest_of_names
from skd.errors import ArgumentError, DataError, FileError

SUFFIXES = frozenset(FORMATS)
LARGEST_UPSCALE = 1.35  # beyond it a painting's strokes are blur, not strokes


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """Picture files of a folder and the folders in it, by name.

    Raises
    ------
    DataError
        There is no such folder, or nothing in it is named like a picture.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.JPG", "a.png", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in list_pictures(folder)]
    ['a.png', 'b.JPG']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no folder of pictures", got=str(folder))
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise DataError("no pictures in the folder", got=str(folder), expected=f"files ending in {sorted(SUFFIXES)}")
    return paths


class Pictures:
    """Readable pictures among some files; those that can't be read, or are too small, are skipped and counted.

    Parameters
    ----------
    paths : sequence of Path
    smallest : int
        Pixels that the short side must have.

    Attributes
    ----------
    skipped : dict of Path to str
        What was left out so far, and why. Each process that loads data keeps its own.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (30, 20)).save(Path(folder, "good.png"))
    ...     pictures = Pictures([Path(folder, "missing.png"), Path(folder, "good.png")], smallest=16)
    ...     pictures.open(0).size, len(pictures.skipped)
    ((30, 20), 1)
    """

    def __init__(self, paths: Sequence[Path], *, smallest: int = 1) -> None:
        if not paths:
            raise DataError("no pictures", got="an empty list of files")
        self.paths, self.smallest = list(paths), smallest
        self.skipped: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> Image.Image:
        """The picture at `index`, upright and in RGB; the next usable one in its place if it can't be used.

        Raises
        ------
        DataError
            None of them can be used.
        """
        for offset in range(len(self.paths)):
            path = self.paths[(index + offset) % len(self.paths)]
            if path in self.skipped:
                continue
            try:
                picture = open_picture(path)
            except (FileError, DataError) as error:
                self.skipped[path] = str(error).removesuffix(".")
                continue
            if min(picture.size) < self.smallest:
                self.skipped[path] = f"{picture.width}×{picture.height} is too small for this crop"
                continue
            return picture
        path, reason = next(iter(self.skipped.items()))
        raise DataError("none of the pictures can be used", got=f"{len(self.skipped)} skipped; {path.name}: {reason}")


class StylePairs(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of photographs beside random crops of paintings.

    Parameters
    ----------
    contents, styles : sequence of Path
    crop : int
        Side of the crops in pixels.
    length : int
        How many samples there are (steps × batch size).
    seed : int
        Sample i depends on the seed and i alone.
    smallest_zoom : float
        The smallest share of a picture's short side that a crop may show.
    vary_colours : float
        Share of the paintings whose colours are changed (`kbstyle_example.recolouring`).
    vary_strokes : float
        Share of the paintings whose strokes are finer than they are (`kbstyle_example.sharpening`): every other one is
        sharpened, every other one shown at half the size and mirrored.

    Raises
    ------
    ArgumentError, DataError
        A number that can't be; no files. `__getitem__`: none of the pictures can be used.

    Notes
    -----
    The painting's scale is drawn independently of the photograph's, so that strokes of every size are seen.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "grey.png")
    ...     Image.new("L", (40, 30), 51).save(path)
    ...     content, style = StylePairs([path], [path], crop=16, length=10)[7]
    >>> content.shape, round(float(style.mean()), 4)
    (torch.Size([3, 16, 16]), 0.2)
    """

    def __init__(
        self,
        contents: Sequence[Path],
        styles: Sequence[Path],
        *,
        crop: int,
        length: int,
        seed: int = 0,
        smallest_zoom: float = 0.5,
        vary_colours: float = 0.0,
        vary_strokes: float = 0.0,
    ) -> None:
        if crop < 16 or crop % 8:
            raise ArgumentError("side of the crops", got=crop, expected="a multiple of 8 from 16 up")
        if length < 1:
            raise ArgumentError("number of samples", got=length, expected="1 or more")
        if seed < 0:
            raise ArgumentError("seed of the samples", got=seed, expected="0 or more")
        if not 0 < smallest_zoom <= 1:
            raise ArgumentError("smallest zoom", got=smallest_zoom, expected="above 0, at most 1")
        if not 0 <= vary_colours <= 1:
            raise ArgumentError("share of paintings in other colours", got=vary_colours, expected="0 to 1")
        if not 0 <= vary_strokes <= 1:
            raise ArgumentError("share of paintings with finer strokes", got=vary_strokes, expected="0 to 1")
        smallest = math.ceil(crop / LARGEST_UPSCALE)
        self.contents, self.styles = Pictures(contents, smallest=smallest), Pictures(styles, smallest=smallest)
        self.crop, self.length, self.seed, self.smallest_zoom = crop, length, seed, smallest_zoom
        self.vary_colours, self.vary_strokes = vary_colours, vary_strokes

    def __len__(self) -> int:
        return self.length

    def about(self) -> dict[str, str | int | float]:
        """What the samples depend on beside their number, for `skd.fit`: a run goes on with the same alone."""
        return {
            "contents": digest_of_names(self.contents.paths),
            "styles": digest_of_names(self.styles.paths),
            "crop": self.crop,
            "smallest_zoom": self.smallest_zoom,
            "pairs_seed": self.seed,
            # Left out where they are 0, so that runs from before go on.
            **({"vary_colours": self.vary_colours} if self.vary_colours else {}),
            **({"vary_strokes": self.vary_strokes} if self.vary_strokes else {}),
        }

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Sample `index`: a photograph and a painting, (3, crop, crop) in 0..1 each."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        random = np.random.default_rng([self.seed, index])
        content, style = self._crop(self.contents, random, self.crop), self._style(random)
        if self.vary_colours and random.random() < self.vary_colours:
            style = recoloured(style, random)
        return torch.from_numpy(content).permute(2, 0, 1), torch.from_numpy(style).permute(2, 0, 1)

    def _style(self, random: np.random.Generator) -> Pixels:
        if not self.vary_strokes or random.random() >= self.vary_strokes:
            return self._crop(self.styles, random, self.crop)
        if random.random() < 0.5:
            return mirrored(self._crop(self.styles, random, self.crop // 2))
        return sharpened(self._crop(self.styles, random, self.crop), random.uniform(0, AMOUNT))

    def _crop(self, pictures: Pictures, random: np.random.Generator, crop: int) -> Pixels:
        picture = pictures.open(int(random.integers(len(pictures))))
        short = min(picture.size)
        sharp = math.ceil(crop / LARGEST_UPSCALE)
        smallest = max(crop / LARGEST_UPSCALE, self.smallest_zoom * short)
        side = max(sharp, round(smallest * (short / smallest) ** random.random())) if short > smallest else short
        left = int(random.integers(picture.width - side + 1))
        top = int(random.integers(picture.height - side + 1))
        picture = picture.resize(
            (crop, crop), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=2.0
        )
        pixels = np.asarray(picture)
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        found: Pixels = pixels.astype(np.float32) / np.float32(255)
        return found
