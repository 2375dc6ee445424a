"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import os
from pathlib import Path

from skd.errors import FileError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write beside the target, flush to disk, then rename over it; an error leaves the old file untouched."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise FileError(f"{str(target)!r} can't be written", got=error.strerror or error) from error
    finally:
        beside.unlink(missing_ok=True)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file; FileError where there is none."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{str(path)!r} can't be read", got=error.strerror or error) from error
