"""Many photographs: which there are, where their paintings go, and what became of each."""

from __future__ import annotations

import contextlib
import errno
import glob
import math
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kbstyle_example.files import writable_folder, write_atomically
from kbstyle_example.images import FORMATS
from kbstyle_example.photograph import ENDINGS, Photograph
from kbstyle_example.reading import READABLE
from kbstyle_example.strips import Pixels
from kbstyle_example.threads import Room, WriteBehind, read_ahead
from skd.errors import ArgumentError, DataError, FileError, SkdError

Paint: TypeAlias = Callable[[Pixels], Pixels]  # a `Painter`, or one of another runtime
STREAM = "-"  # stdin as a photograph, stdout as the place for its painting
IN_HAND = 2**24  # pixels of photographs that are read, and whose paintings aren't written yet; one more may wait


@dataclass(frozen=True)
class Job:
    """One photograph to paint: paths, or None for stdin and stdout.

    Examples
    --------
    >>> Job(None, Path("out.png")).names
    ('-', 'out.png')
    """

    content: Path | None
    out: Path | None

    @property
    def names(self) -> tuple[str, str]:
        """Both as they are written on a command line."""
        content, out = (STREAM if path is None else str(path) for path in (self.content, self.out))
        return content, out


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph.

    Parameters
    ----------
    job : Job
    seconds : float
        Of its reading, painting and writing, without what it waited in between.
    size : (int, int), optional
        Width and height, where it was painted.
    error : Exception, optional
        Why it wasn't.
    """

    job: Job
    seconds: float
    size: tuple[int, int] | None = None
    error: SkdError | OSError | None = None

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON: content, out, seconds; width and height, or error and its kind.

        Examples
        --------
        >>> Outcome(Job(Path("a.png"), Path("b.png")), 0.5, (64, 48)).as_dict()
        {'content': 'a.png', 'out': 'b.png', 'seconds': 0.5, 'width': 64, 'height': 48}
        """
        content, out = self.job.names
        facts: dict[str, object] = {"content": content, "out": out, "seconds": round(self.seconds, 3)}
        if self.size is not None:
            return {**facts, "width": self.size[0], "height": self.size[1]}
        return {**facts, "error": " ".join(str(self.error).split()), "kind": type(self.error).__name__}


def plan(
    contents: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    kind: str | None = None,
    keep: Sequence[str | os.PathLike[str]] = (),
) -> list[Job]:
    """The photographs that are meant, and where each one's painting goes.

    Parameters
    ----------
    contents : sequence of paths
        Pictures, folders (with the folders in them; hidden files and what isn't named like a picture are passed over),
        patterns such as ``photos/*.jpg`` where the shell doesn't unfold them, or "-" for stdin.
    out : path
        For one photograph a file, "-" for stdout, or a folder that is there. For more, or for a folder, a folder: each
        painting has the photograph's name, and its place among the folders. A name that ends in a separator is a
        folder's.
    kind : str, optional
        PIL's name of the format to write; that of `out`'s ending, or of the photograph's, where not given, and PNG for
        photographs whose format can't be written: cat.gif becomes cat.png (cat.gif.png beside a photograph cat.png).
    keep : sequence of paths
        Further files that mustn't be written over: paintings, masks.

    Raises
    ------
    ArgumentError
        `out` isn't what the contents need; two paintings would have one path, or one the path of a photograph or of
        another file to keep.
    DataError
        There is no photograph in a folder.

    Examples
    --------
    >>> [job.names for job in plan(["photo.jpg"], "painted.png")]
    [('photo.jpg', 'painted.png')]
    """
    names = [name for content in contents for name in _unfolded(os.fspath(content))]
    if not names:
        raise ArgumentError("no photograph to paint")
    if len(names) == 1 and not (names[0] != STREAM and Path(names[0]).is_dir()):
        jobs = [_single(names[0], os.fspath(out), kind)]
    else:
        jobs = _many(names, os.fspath(out), kind)
    _check_collisions(jobs, [Path(path) for path in keep if os.fspath(path) != STREAM])
    return jobs


def stylize_files(
    jobs: Sequence[Job],
    painter: Paint,
    *,
    kind: str | None = None,
    quality: int = 95,
    max_pixels: int | None = None,
    done: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Paint one photograph after the other; one that fails doesn't keep the rest.

    While one is painted, the next is read and the last is written, in threads, as far as `IN_HAND` pixels allow.

    Parameters
    ----------
    jobs : sequence of Job
        See `plan`.
    painter : Painter or OnnxPainter
        Or anything that makes (H, W, 3) of 8 bits of the same.
    kind : str, optional
        PIL's name of the format to write; that of the path's ending where not given.
    quality : int
        Of JPEG and WebP, 1 to 100.
    max_pixels : int, optional
        See `reading.opened`.
    done : callable, optional
        Is told each outcome as it comes; in another thread, where there are several jobs.

    Returns
    -------
    list of Outcome
        One for each job, in its order.

    Examples
    --------
    >>> import tempfile, torch
    >>> from kbstyle_example.networks import STUDENT, KBStyle
    >>> from kbstyle_example.painting import Painter
    >>> painter = Painter(torch.rand(3, 32, 32), network=KBStyle(STUDENT))
    >>> coffee = Path(__file__).parent / "samples/content/coffee.jpg"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = stylize_files(plan([coffee, "missing.png"], Path(folder, "painted")), painter)
    >>> [type(outcome.error).__name__ for outcome in found]
    ['NoneType', 'FileError']
    """
    outcomes: list[Outcome] = []
    room = Room(IN_HAND)

    def read(job: Job) -> _Work:
        work = _Work(job)
        with work.noted():
            source = sys.stdin.buffer.read() if job.content is None else job.content
            work.photograph = Photograph.of(source, max_pixels=max_pixels)
        room.take(work.pixels)
        return work

    def write(work: _Work) -> None:
        try:
            with work.noted():
                _write(work, kind, quality)
            outcomes.append(work.outcome())
            if done is not None:
                done(outcomes[-1])
        except BaseException:
            room.close()  # what waits to be written is dropped now, and gives nothing back
            raise
        room.give(work.pixels)

    if len(jobs) == 1:  # nothing to overlap with
        write(_painted(read(jobs[0]), painter))
        return outcomes
    with (
        read_ahead((read(job) for job in jobs), 1) as photographs,
        WriteBehind[_Work](write, 1) as written,
        contextlib.closing(room),  # first of the three on the way out, or the reader would wait for room forever
    ):
        for work in photographs:
            written(_painted(work, painter))
    return outcomes


class _Work:
    """A job on its way: its photograph, its painting, or why there is none."""

    def __init__(self, job: Job) -> None:
        self.job, self.seconds = job, 0.0
        self.photograph: Photograph | None = None
        self.painted: Pixels | None = None
        self.error: SkdError | OSError | None = None

    @property
    def pixels(self) -> int:
        return 0 if self.photograph is None else math.prod(self.photograph.size)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Time and errors of the block are the job's; a defect of the program isn't kept."""
        start = time.perf_counter()
        try:
            yield
        except (SkdError, OSError) as reason:
            self.error = reason
        except MemoryError:
            self.error = DataError("the picture needs more memory than there is", got=self.job.names[0])
        self.seconds += time.perf_counter() - start

    def outcome(self) -> Outcome:
        size = None if self.photograph is None or self.error is not None else self.photograph.size
        return Outcome(self.job, self.seconds, size, self.error)


def _painted(work: _Work, painter: Paint) -> _Work:
    with work.noted():
        if work.photograph is not None:
            work.painted = painter(work.photograph.pixels)
    return work


def _write(work: _Work, kind: str | None, quality: int) -> None:
    photograph, painted, out = work.photograph, work.painted, work.job.out
    if photograph is None or painted is None:
        return
    known = photograph.format or "PNG" if out is None else FORMATS.get(out.suffix.lower(), "PNG")
    content = photograph.encoded(painted, kind or known, quality=quality)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    writable_folder(out.parent)
    if out.exists() and not os.access(out, os.W_OK):  # a rename would replace it all the same
        raise FileError("the picture can't be written", got=f"{out} ({os.strerror(errno.EACCES)})")
    write_atomically(content, out, what="the picture")


def _unfolded(name: str) -> list[str]:
    """A pattern's files; all else as it is."""
    if name == STREAM or os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _single(name: str, out: str, kind: str | None) -> Job:
    content = None if name == STREAM else Path(name)
    if out == STREAM:
        return Job(content, None)
    path = Path(out)
    if content is not None and (path.is_dir() or _is_folders(out)):
        return Job(content, path / _named(content.name, kind)[0])
    known = FORMATS.get(path.suffix.lower())
    if known is None:
        raise ArgumentError("no format for this file", got=out, expected=f"an ending of {', '.join(FORMATS)}")
    if kind not in (None, known):
        raise ArgumentError("the file's ending says another format", got=out, expected=f"an ending for {kind}")
    return Job(content, path)


def _is_folders(name: str) -> bool:
    """Whether a name ends as only a folder's does, be it there or not."""
    return name.endswith((os.sep, os.altsep or os.sep))


def _many(names: Sequence[str], out: str, kind: str | None) -> list[Job]:
    folder = Path(out)
    if out == STREAM or STREAM in names:
        raise ArgumentError("stdin and stdout take one photograph", got=f"{len(names)} contents", expected="one file")
    if folder.suffix.lower() in FORMATS and not folder.is_dir() and not _is_folders(out):
        raise ArgumentError("several photographs need a folder to write into", got=out, expected="a folder's name")
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += [(content, content.relative_to(path).parent) for content in _pictures(path, besides=folder)]
        else:
            found.append((path, Path()))
    jobs = []
    kept = {_identity(folder / place / content.name) for content, place in found if content.suffix.lower() in FORMATS}
    for content, place in found:
        first, second = (folder / place / name for name in _named(content.name, kind))
        jobs.append(Job(content, second if first.name != content.name and _identity(first) in kept else first))
    return jobs


def _pictures(folder: Path, *, besides: Path) -> list[Path]:
    """Pictures of a folder and those in it: no hidden ones (macOS leaves ._photo.jpg), none that earlier runs wrote."""
    out = besides.resolve()
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inside)
        if not hidden and path.suffix.lower() in READABLE and path.is_file():
            # Where the output is the folder itself, the check for collisions says so.
            earlier = out != folder.resolve() and out in path.resolve().parents
            found += [] if earlier else [path]
    if not found:
        raise DataError("no pictures in the folder", got=str(folder), expected=f"files ending in {', '.join(READABLE)}")
    return found


def _named(name: str, kind: str | None) -> tuple[str, str]:
    """A painting's name, and another for where that is taken: cat.gif becomes cat.png, or cat.gif.png."""
    path = Path(name)
    suffix = path.suffix.lower()
    known = FORMATS.get(suffix)
    if known is not None and kind in (None, known):
        return name, name
    ending = ENDINGS[kind or "PNG"]
    return (path.stem if suffix in READABLE else name) + ending, name + ending


def _check_collisions(jobs: Sequence[Job], keep: Sequence[Path]) -> None:
    """No painting on another's place, nor on a file that is read."""
    read = {_identity(path): path for path in (*keep, *(job.content for job in jobs if job.content is not None))}
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.out is None:
            continue
        place = _identity(job.out)
        if place in read:
            raise ArgumentError(
                "a painting would replace a picture that is read", got=job.names[1], remedy="name another output"
            )
        if place in taken:
            raise ArgumentError(
                "two paintings would have one name",
                got=f"{job.names[1]} for {taken[place].names[0]} and {job.names[0]}",
                remedy="give the folders one at a time, or put them into one",
            )
        taken[place] = job


def _identity(path: Path) -> str:
    """What a file is known by: on Windows and macOS, names that differ in case alone are one; on macOS, é is e´."""
    whole = str(path.resolve())
    whole = unicodedata.normalize("NFC", whole) if sys.platform == "darwin" else whole
    return whole.casefold() if sys.platform in ("win32", "darwin") else whole
