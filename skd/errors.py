"""Typed errors: each says what is wrong, what was got, what was expected, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SkdError(Exception):
    """Base of every error that skd raises on purpose.

    Parameters
    ----------
    what : str
        The fact, in one sentence without its full stop.
    got, expected : object, optional
        What was found and what would have been right.
    remedy : str, optional
        What the user can do about it.

    Examples
    --------
    >>> str(SkdError("the loader is empty", got="0 batches", remedy="give at least one batch"))
    'the loader is empty; got 0 batches. Remedy: give at least one batch.'
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        text = what
        if got is not None:
            text += f"; got {got}"
        if expected is not None:
            text += f"; expected {expected}"
        text += "."
        if remedy is not None:
            text += f" Remedy: {remedy}."
        super().__init__(text)


class ArgumentError(SkdError, ValueError):
    """An argument has a value that can't be used."""


class LayerNotFoundError(SkdError, LookupError):
    """A tap names a layer (or a call of it) that the network doesn't have."""


class ShapeError(SkdError, ValueError):
    """A tensor's shape or layout doesn't fit."""


class FeatureError(SkdError, RuntimeError):
    """A tap was reached, but what it holds can't be used (not a tensor, changed in place, never run)."""


class PairingError(SkdError, ValueError):
    """No pairing can be made, or two pairings can't be matched."""


class CompressionError(SkdError, ValueError):
    """A network can't be compressed as asked: its channels can't be followed, or the size is impossible."""


class NonFiniteError(SkdError, FloatingPointError):
    """A feature, loss or statistic is NaN or infinite."""


class DataError(SkdError, ValueError):
    """The data can't be used: empty, ragged, of the wrong kind, or too few."""


class FileError(SkdError, OSError):
    """A file is missing, truncated, or not what it should be."""


class CheckError(SkdError, RuntimeError):
    """A set-up that would train without complaint and learn the wrong thing."""


class ExportError(SkdError, RuntimeError):
    """A network can't be exported, or the file doesn't answer as the network does."""


class ProcessError(SkdError, RuntimeError):
    """Another process of the run (one that trains, or one that loads data) failed, died or is stuck."""


class MissingExtraError(SkdError, ImportError):
    """An optional package is needed for this and isn't installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which isn't installed",
            remedy=f"pip install 'skd[{extra}]'",
        )


def closest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Known names nearest to `name`, quoted and joined, for a remedy.

    Examples
    --------
    >>> closest("encoder.2", ["encoder.1", "decoder.9"])
    "did you mean 'encoder.1', 'decoder.9'?"
    """
    candidates = list(known)
    near = difflib.get_close_matches(name, candidates, n=count, cutoff=0.4) or candidates[:count]
    return "did you mean " + ", ".join(repr(n) for n in near) + "?" if near else "there are none"
