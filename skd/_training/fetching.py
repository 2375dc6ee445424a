"""Loading one batch, in whichever process, and how its errors are told."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from skd._training.randomness import seeded
from skd.errors import DataError, ProcessError, SkdError


class Place(NamedTuple):
    """Where the data are read: the pass over them, and the batch in it that comes next."""

    epoch: int = 0
    batch: int = 0


CALIBRATION = Place(2**32)  # a pass that no training comes to: other crops, another order


class Key(NamedTuple):
    """What is loaded: where it stands, which samples, and the seed for it."""

    place: Place
    following: Place
    indices: Any
    seed: tuple[int, ...]


class Fetch(Dataset[Any]):
    """Loads a whole batch under its own seed, in whichever process that is."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, whole: bool) -> None:
        self.dataset, self.collate, self.whole = dataset, collate, whole

    def __getitem__(self, key: Key) -> tuple[Any, Place, Place] | Failed:
        with seeded(*key.seed):
            step = "loaded"
            try:
                if self.whole:
                    samples = self.dataset[key.indices]
                elif getattr(self.dataset, "__getitems__", None):
                    samples = self.dataset.__getitems__(key.indices)
                else:
                    samples = [self.dataset[index] for index in key.indices]
                step = "put together"
                return self.collate(samples), key.place, key.following
            except Exception as error:
                return Failed.of(error, f"{name_of(key.place)} can't be {step}", key.indices)


class Failed(NamedTuple):
    """An error of the data, in a form that comes through from any process with nothing lost."""

    kind: type[SkdError]
    what: str
    details: dict[str, Any]
    trace: str

    @classmethod
    def of(cls, error: Exception, what: str, indices: Any) -> Failed:
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, SkdError) and type(error).__init__ is SkdError.__init__:
            details = {"got": error.got, "expected": error.expected, "remedy": error.remedy}
            return cls(type(error), error.what, {k: v if v is None else str(v) for k, v in details.items()}, trace)
        got = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        samples = indices if isinstance(indices, list) else [indices]
        got += f" (samples {', '.join(map(str, samples[:8]))}{' …' if len(samples) > 8 else ''})"
        remedy = "look at these samples; samples of different sizes want a collate_fn, or a crop in the dataset"
        return cls(DataError, what, {"got": got, "remedy": remedy}, trace)

    def error(self) -> SkdError:
        made = self.kind(self.what, **self.details)
        made.add_note(f"The error of the data:\n{self.trace}")
        return made


class loading:
    """Errors of a loader say which batch; a loading process that died is told as such."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, (SkdError, StopIteration)):
            return
        text = str(error).strip().partition("\n")[0]
        died = isinstance(error, RuntimeError) and ("DataLoader worker" in text or "DataLoader timed out" in text)
        if died or isinstance(error, (ConnectionError, EOFError)):  # the latter where batches were still under way
            remedy = "num_workers=0 shows its error, if it has one; training goes on from the last checkpoint"
            raise ProcessError("a process that loads data died or is stuck", got=text, remedy=remedy) from error
        raise DataError(f"{name_of(self.place)} can't be loaded", got=f"{type(error).__name__}: {text}") from error


def name_of(place: Place) -> str:
    of = "the calibration" if place.epoch >= CALIBRATION.epoch else f"pass {place.epoch + 1}"
    return f"batch {place.batch} of {of}"
