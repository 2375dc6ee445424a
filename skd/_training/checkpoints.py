"""A run's folder: checkpoints that are whole or not there, and the lock that keeps a second run out."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from skd.errors import FileError, MissingExtraError

FORMAT = 1
FOLDER, LOCK = "checkpoints", ".lock"
State = dict[str, Any]


class Found(NamedTuple):
    """The newest checkpoint that can be used, if any, and why newer ones can't be."""

    state: State | None
    refused: tuple[str, ...]


@contextlib.contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Failures to write become a `FileError`. PyTorch says RuntimeError where the disk is full or the folder gone."""
    try:
        yield
    except FileError:
        raise
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        remedy = "make room there, or name another output folder; a run goes on from its last checkpoint"
        raise FileError(f"{what} can't be written", got=f"{path} ({reason})", remedy=remedy) from error


def save_atomically(state: Any, path: Path, what: str = "the checkpoint") -> None:
    """`torch.save` beside the path, flush to the disk, then rename: a reader never meets half a file.

    Raises
    ------
    FileError
        It can't be written there; what stood there before is kept.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with writing(what, path):
            with beside.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the error above is the one that tells
            beside.unlink(missing_ok=True)


class Store:
    """The checkpoints of one run, newest last; `keep` of them stay."""

    def __init__(self, out: Path, keep: int) -> None:
        self.folder, self.keep = out / FOLDER, keep

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def prepare(self, *, made_only: bool = False) -> None:
        """Make the folder, and (once it is ours alone) drop what a killed run left half-written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if made_only:
                return
            for half in [*self.folder.glob(".*.part"), *self.folder.parent.glob(".*.part")]:
                half.unlink()
        except OSError as error:
            got = f"{self.folder} ({error.strerror or error})"
            remedy = "name another output folder"
            raise FileError("the output folder can't be written into", got=got, remedy=remedy) from error

    def save(self, state: State) -> Path:
        """Write a checkpoint; the oldest go once it is there."""
        path = self.folder / f"step-{state['step']:09}.pt"
        save_atomically({"format": FORMAT, **state}, path)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def find(self, identity: Mapping[str, Any]) -> Found:
        """The newest checkpoint that is whole and of this very run.

        Raises
        ------
        FileError
            There are checkpoints, and none of them can be used.
        """
        refused: list[str] = []
        for path in reversed(self.paths()):
            try:
                return Found(_read(path, identity), tuple(refused))
            except FileError as error:
                if path.name == "step-000000000.pt":
                    continue  # nothing was trained yet, so nothing is lost: a set-up that was mended begins anew
                refused.append(f"{path.name}: {error.what}" + (f" ({error.got})" if error.got else ""))
        if refused:
            raise FileError(
                f"no checkpoint in {self.folder} can be gone on from",
                got="; ".join(refused),
                remedy="name another output folder for another run, or remove this one to begin anew",
            )
        return Found(None, ())

    def put_aside(self, step: int) -> None:
        """Rename the checkpoints of later steps, which were refused: they would be taken for the newest."""
        for path in self.paths():
            if path.name > f"step-{step:09}.pt":
                path.replace(path.with_name(path.name + ".refused"))


def _read(path: Path, identity: Mapping[str, Any]) -> State:
    """A checkpoint whose every byte is as it was written, and that belongs to this run."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load itself doesn't compare checksums
        if damaged is not None:
            raise FileError("it is damaged", got=f"the checksum of {damaged} doesn't fit")
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        version, theirs, _ = state["format"], state["identity"], int(state["step"])
    except FileError:
        raise
    except zipfile.BadZipFile:
        raise FileError("it is truncated, or no checkpoint", got=f"{path.stat().st_size:,} bytes") from None
    except Exception as error:  # the unpickler raises nearly anything
        raise FileError("it can't be read", got=type(error).__name__) from None
    if version != FORMAT:
        raise FileError("it is in another version's format", got=str(version), expected=str(FORMAT))
    differing = list(differences(theirs, identity))
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise FileError("it is of another run", got="; ".join(differing[:4]) + more)
    return state


def differences(theirs: Any, ours: Any, name: str = "") -> Iterator[str]:
    """What differs between two nested mappings of plain values, in words."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in {**theirs, **ours}:
            inner = f"{name}.{key}" if name else str(key)
            if key not in ours:
                yield f"{inner} is there and not here"
            elif key not in theirs:
                yield f"{inner} is here and not there"
            else:
                yield from differences(theirs[key], ours[key], inner)
    elif theirs != ours:
        there, here = (text if len(text := str(value)) <= 40 else text[:37] + "…" for value in (theirs, ours))
        yield f"{name}: {there} there, {here} here"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile. The lock goes with the process, however that ends."""
    try:
        import filelock
    except ImportError:
        raise MissingExtraError("filelock", extra="train", purpose="training") from None
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        remedy = "wait for it to end, or name another folder"
        raise FileError("another run writes into this folder", got=str(out), remedy=remedy) from None
    except OSError as error:
        got = f"{out} ({error.strerror or error})"
        raise FileError("the output folder can't be written into", got=got, remedy="name another one") from error
    try:
        yield
    finally:
        lock.release()
