"""Which pictures are for training, for validation and for tests: their names decide, on every machine alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from skd.errors import ArgumentError

Split: TypeAlias = Literal["train", "validation", "test"]


def split(path: str | os.PathLike[str]) -> Split:
    """What a picture is for: training, tuning, or final tables only.

    It is fixed here, by the picture's name alone, so that no picture of a final table is ever trained on: whatever
    else lies in the folder, wherever the folder lies, and whoever trains. A list of files or a seed could be changed.

    Parameters
    ----------
    path : path
        The SHA-256 of its last part (UTF-8), as a number modulo 20, decides: 0 is validation, 1 is test, the rest
        train. About 5, 5 and 90 % of all pictures. A renamed picture may change sides.

    Raises
    ------
    ArgumentError
        The path has no last part.

    Examples
    --------
    >>> split("photos/tower.jpg"), split("photos/picture5.jpg"), split("photos/wave.jpg")
    ('validation', 'test', 'train')
    """
    remainder = _number(path) % 20
    return "validation" if remainder == 0 else "test" if remainder == 1 else "train"


def half(path: str | os.PathLike[str]) -> Split:
    """What a picture of a folder that is never trained on is for: tuning, or final tables only.

    Such a folder needs no part to train on, and one in twenty would leave too few. No picture changes its side: those
    for validation and for tests by `split` are in the half of the same name.

    Parameters
    ----------
    path : path
        The same number as in `split`: even is validation, odd is test.

    Raises
    ------
    ArgumentError
        The path has no last part.

    Examples
    --------
    >>> half("photos/tower.jpg"), half("photos/picture5.jpg"), half("photos/wave.jpg")
    ('validation', 'test', 'validation')
    """
    return "test" if _number(path) % 2 else "validation"


def _number(path: str | os.PathLike[str]) -> int:
    name = Path(path).name
    if not name:
        raise ArgumentError("a path without a file name", got=repr(os.fspath(path)))
    # Names that aren't UTF-8 on disk come as surrogates: hash the bytes that stand there.
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), "big")


def of_split(paths: Iterable[Path], name: Split) -> list[Path]:
    """Those of the pictures that are for training, for validation or for tests, in the order given.

    Parameters
    ----------
    paths : iterable of Path
    name : {"train", "validation", "test"}

    Raises
    ------
    ArgumentError
        There is no such split, or a path without a file name.

    Examples
    --------
    >>> [path.name for path in of_split([Path("a/tower.jpg"), Path("a/wave.jpg"), Path("b/wave.jpg")], "train")]
    ['wave.jpg', 'wave.jpg']
    """
    if name not in get_args(Split):
        raise ArgumentError("no such split", got=repr(name), expected=f"one of {', '.join(get_args(Split))}")
    return [path for path in paths if split(path) == name]


def digest_of_names(paths: Sequence[Path]) -> str:
    """Tells one list of pictures from another: their number, and a digest of their names, in order.

    Examples
    --------
    >>> digest_of_names([Path("a/x.jpg"), Path("b/y.jpg")]) == digest_of_names([Path("c/x.jpg"), Path("y.jpg")])
    True
    """
    names = "\n".join(path.name for path in paths).encode("utf-8", "surrogateescape")
    return f"{len(paths)} files {hashlib.sha256(names).hexdigest()[:16]}"
