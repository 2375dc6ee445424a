"""The files of a published network: found by name, told by checksum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kbstyle_example.files import digest
from skd.errors import FileError


def find_files(files: Mapping[str, str], folder: str | os.PathLike[str], *, source: str) -> dict[str, Path]:
    """Where each file lies in the folder or the folders in it.

    Parameters
    ----------
    files : mapping of str to str
        Name of each file, and its SHA-256 in hexadecimal.
    folder : path
    source : str
        Where they are published, for the error.

    Raises
    ------
    FileError
        No such folder; a file isn't there, or only ones of that name with another checksum.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     find_files({"net.pt": "0" * 64}, folder, source="https://example.org")
    Traceback (most recent call last):
    skd.errors.FileError: a file of a published network is missing; got no net.pt in ... Remedy: get it from https://example.org.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError("no folder of published networks", got=str(folder), remedy=f"get the files from {source}")
    found: dict[str, Path] = {}
    for name, sha256 in files.items():
        candidates = {path: digest(path) for path in sorted(folder.rglob(name)) if path.is_file()}
        if not candidates:
            raise FileError(
                "a file of a published network is missing",
                got=f"no {name} in {folder} or the folders in it",
                remedy=f"get it from {source}",
            )
        fitting = [path for path, other in candidates.items() if other == sha256]
        if not fitting:
            path, other = next(iter(candidates.items()))
            raise FileError(
                "a file of a published network isn't the one that was published",
                got=f"{path} with sha256 {other}",
                expected=sha256,
                remedy=f"get it from {source}",
            )
        found[name] = fitting[0]
    return found


def state_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, by name.

    Raises
    ------
    FileError
        It can't be read as such.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": {"bias": torch.zeros(1)}, "epoch": 3}, Path(folder, "net.pt"))
    ...     state_of(Path(folder, "net.pt"))
    {'bias': tensor([0.])}
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("not tensors by name")
    except Exception as error:  # the unpickler raises nearly anything
        raise FileError("not a file of weights", got=f"{path} ({type(error).__name__})") from None
    return dict(state)
