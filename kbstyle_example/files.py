"""Files that are written whole or not at all, and the folders they go into."""

from __future__ import annotations

import contextlib
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
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        got = f"{path} ({error.strerror or error})"
        raise FileError(f"{what} can't be written", got=got, remedy=ELSEWHERE) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one that tells
            beside.unlink(missing_ok=True)


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
