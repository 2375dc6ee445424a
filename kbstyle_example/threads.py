"""Reading ahead and writing behind in threads, so that work overlaps; and no more in hand than there is room for."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
WAIT = 0.05  # seconds between two looks whether the other side has given up


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _End:
    pass


@contextlib.contextmanager
def read_ahead(items: Generator[T, None, None], size: int) -> Iterator[Iterator[T]]:
    """The items, made in a thread that is at most `size` of them ahead; its errors are raised here.

    On leaving, the thread has ended and the generator is closed, however far it was.

    Examples
    --------
    >>> with read_ahead((n * n for n in range(4)), 2) as squares:
    ...     list(squares)
    [0, 1, 4, 9]
    """
    ready: queue.Queue[T | _Failed | _End] = queue.Queue(size)
    stop = threading.Event()

    def put(item: T | _Failed | _End) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=WAIT)
        return None

    def work() -> None:
        last: _Failed | _End = _End()
        try:
            with contextlib.closing(items):
                for item in items:
                    put(item)
                    if stop.is_set():
                        break
        except BaseException as error:
            last = _Failed(error)
        put(last)

    def taken() -> Iterator[T]:
        while not isinstance(item := ready.get(), _End):
            if isinstance(item, _Failed):
                raise item.error
            yield item

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()


class WriteBehind(Generic[T]):
    """Hands items to a function in a thread, at most `size` behind; a context that waits for it to be done.

    The function's error is raised by the next call, or on leaving. When the context is left by an error of its own,
    items that wait are dropped.

    Examples
    --------
    >>> written = []
    >>> with WriteBehind(written.append, 2) as write:
    ...     for n in range(4):
    ...         write(n)
    >>> written
    [0, 1, 2, 3]
    """

    def __init__(self, function: Callable[[T], object], size: int) -> None:
        self._function = function
        self._waiting: queue.Queue[T | _End] = queue.Queue(size)
        self._error: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)

    def _work(self) -> None:
        # It takes items even after an error, so that nobody waits in front of a full queue.
        while not isinstance(item := self._waiting.get(), _End):
            if self._error is None and not self._dropping:
                try:
                    self._function(item)
                except BaseException as error:
                    self._error = error

    def __call__(self, item: T) -> None:
        """Hand over one item; waits while too many do."""
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __enter__(self) -> WriteBehind[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropping = kind is not None
        self._waiting.put(_End())
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error


class Room:
    """So much may be in hand at a time; a single thing may be larger, if it is alone.

    Examples
    --------
    >>> room = Room(10)
    >>> room.take(25)
    >>> room.give(25)
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Waits until there is room, or until it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + size <= self._limit)
            self._used += size

    def give(self, size: int) -> None:
        """Back, from whichever thread."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
