"""Files that are written whole or not at all, and the folders they go into."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from skd.errors import FileError

ELSEWHERE = "make room there, or name another place"


def write_atomically(content: str | bytes, path: str | os.PathLike[str], *, what: str = "the file") -> None:
    """Write beside the path, then rename: what stood there is replaced whole or not at all.

    Parameters
    ----------
    content : str or bytes
        Text is written as UTF-8. What of a file's name isn't text is escaped, as JSON and Python read it back.
    path : path
    what : str
        What the error says can't be written.

    Raises
    ------
    FileError
        It can't be written there; what stood there is kept.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically("σ", Path(folder, "note.md"))
    ...     Path(folder, "note.md").read_text(encoding="utf-8")
    'σ'
    """
    path = Path(path)
    unfinished = beside(path)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        got = f"{path} ({error.strerror or error})"
        raise FileError(f"{what} can't be written", got=got, remedy=ELSEWHERE) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one that tells
            unfinished.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Where a file is written before it is renamed; hidden, and not longer than file systems allow.

    Examples
    --------
    >>> beside(Path("out", "cat.png")).name == f".cat.png.{os.getpid()}.part"
    True
    """
    return path.with_name(f".{path.name[:50]}.{os.getpid()}.part")


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made if it is missing, so that work isn't done for nothing.

    Raises
    ------
    FileError
        It can't be made, or nothing can be written into it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writable_folder(Path(folder, "new", "one")).is_dir()
    True
    """
    folder, remedy = Path(path), "name another output folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{folder} ({error.strerror or error})"
        raise FileError("the output folder can't be made", got=got, remedy=remedy) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError("nothing can be written into the output folder", got=str(folder), remedy=remedy)
    return folder


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     empty = Path(folder, "empty")
    ...     empty.touch()
    ...     digest(empty)[:8]
    'e3b0c442'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
