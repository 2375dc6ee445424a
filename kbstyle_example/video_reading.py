"""Clips in, with PyAV: upright RGB frames with their times, and the sound beside them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from skd.errors import FileError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

BT709, BT601 = 1, 5  # FFmpeg's numbers of these matrices; BT709 also of its primaries and its transfer curve
UNSPECIFIED = 2
HIGH_DEFINITION = 720  # lines from which a clip that doesn't name its matrix has BT.709


def need_av() -> Any:
    """The module PyAV.

    Raises
    ------
    MissingExtraError
        It isn't installed.

    Examples
    --------
    >>> need_av().__name__
    'av'
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", extra="video", purpose="video") from None
    return av


@dataclass(frozen=True)
class Frame:
    """A picture of the clip: (H, W, 3) uint8, its time and duration in units of the clip's time base."""

    pixels: npt.NDArray[np.uint8]
    time: int
    duration: int


@dataclass(frozen=True)
class Sound:
    """A piece of one of the clip's sound streams, encoded where it can be copied, else decoded."""

    stream: int
    piece: Any  # a packet or an AudioFrame


Piece: TypeAlias = Frame | Sound


class Clip:
    """A clip to read, a context that closes it.

    Raises
    ------
    FileError
        It is missing, empty, not a video, or damaged so that nothing can be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        av = need_av()
        self.path, self.failures = os.fspath(path), 0
        try:
            if not Path(path).stat().st_size:
                raise FileError("the clip's file is empty", got=self.path)
            self.container: InputContainer = av.open(self.path)
        except FileError:
            raise
        except FileNotFoundError:
            raise FileError("there is no such clip", got=self.path) from None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise FileError("the file isn't a video that can be read", got=told(self.path, error)) from None
        try:
            self.video = self._video_stream()
        except BaseException:
            self.container.close()
            raise
        self.sounds = list(self.container.streams.audio)
        self.copied: set[int] = set()  # the sound streams whose packets are taken as they are
        self.video.thread_type = "AUTO"
        self.time_base: Fraction = self.video.time_base or Fraction(1, 1000)
        self.rate: Fraction = self.video.average_rate or self.video.guessed_rate or Fraction(25)
        # A recording that starts at noon begins at 0, and sound and picture stay together.
        start = self.container.start_time or 0
        self.start = Fraction(max(0, start), 1_000_000)

    def _video_stream(self) -> VideoStream:
        streams = [s for s in self.container.streams.video if not int(s.disposition) & 0x400]  # not a cover picture
        kinds = self.container.format.name.split(",")
        if not streams or any(kind.endswith("_pipe") or kind == "image2" for kind in kinds):
            what = "the file is a picture, not a video" if streams else "the file has no video in it"
            raise FileError(what, got=self.path)
        return streams[0]

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    @property
    def expected_frames(self) -> int | None:
        """As the file says, or by its duration; None if it doesn't tell."""
        if self.video.frames:
            return self.video.frames
        return round(float(self.container.duration / 1e6 * self.rate)) if self.container.duration else None

    def first_size(self) -> tuple[int, int]:
        """Height and width of the first frame, upright: only a decoded frame tells which way the camera was held.

        Raises
        ------
        FileError
            No frame can be read.
        """
        av = need_av()
        with av.open(self.path) as again:
            stream, frame = again.streams[self.video.index], None
            for packet in again.demux(stream):
                with contextlib.suppress(av.FFmpegError):
                    frame = next(iter(packet.decode()), None)
                if frame is not None:
                    sides = frame.height, frame.width
                    return sides if round(frame.rotation / 90) % 2 == 0 else sides[::-1]
        raise FileError("no frame of the clip can be read", got=self.path)

    def pieces(self) -> Generator[Piece, None, None]:
        """Frames and sound in the file's order; what can't be decoded is counted in `failures`.

        Raises
        ------
        FileError
            No frame can be read, or the file ends long before the time it names.
        """
        av = need_av()
        first: Frame | None = None
        last, reached, gap = -1, Fraction(0), self.time_base
        try:
            for packet in self.container.demux([self.video, *self.sounds]):
                if packet.pts is not None and packet.time_base:
                    reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream.type == "audio":
                    yield from self._sound(packet, av)
                    continue
                try:
                    decoded = self.video.decode(packet)
                except av.FFmpegError:
                    self.failures += 1
                    continue
                for picture in decoded:
                    frame = self._frame(picture, last, first)
                    if first is not None:
                        gap = max(gap, (frame.time - last) * self.time_base)
                    first, last = first or frame, frame.time
                    yield frame
        except (av.FFmpegError, OSError) as error:
            raise FileError("the clip can't be read to its end", got=told(self.path, error)) from None
        if first is None:
            raise FileError("no frame of the clip can be read", got=self.path)
        self._check_complete(reached, gap)

    def _check_complete(self, reached: Fraction, gap: Fraction) -> None:
        """A file that was cut off names a longer duration than it has."""
        if self.container.duration is None:
            return
        duration = Fraction(self.container.duration, 1_000_000)
        tolerance = max(Fraction(1, 4), 2 * gap, duration / 50)
        if reached < duration - tolerance:  # some formats count from 0, others from their start: only the larger tells
            raise FileError(
                "the clip is cut off",
                got=f"{self.path} ends after {float(reached):.2f} s",
                expected=f"{float(duration):.2f} s, as it says itself",
            )

    def _frame(self, picture: VideoFrame, last: int, first: Frame | None) -> Frame:
        step = max(1, round(1 / (self.rate * self.time_base)))
        time = last + step if picture.pts is None else picture.pts - round(self.start / self.time_base)
        if last >= 0 or first is not None:
            time = max(time, last + 1)
        pixels = upright(picture)
        if first is not None and pixels.shape != first.pixels.shape:  # some streams change their size on the way
            height, width = first.pixels.shape[:2]
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height)))
        return Frame(pixels, time, picture.duration or step)

    def _sound(self, packet: Any, av: Any) -> Generator[Sound, None, None]:
        index = self.sounds.index(packet.stream)
        if index in self.copied:
            if packet.dts is not None:
                shift = round(self.start / packet.time_base)
                packet.dts -= shift
                packet.pts = None if packet.pts is None else packet.pts - shift
                yield Sound(index, packet)
            return
        try:
            decoded = self.sounds[index].decode(packet)
        except av.FFmpegError:
            self.failures += 1
            return
        for frame in decoded:
            if frame.pts is not None and frame.time_base:
                frame.pts -= round(self.start / frame.time_base)
            yield Sound(index, frame)


def upright(picture: VideoFrame) -> npt.NDArray[np.uint8]:
    """The frame as one sees it: RGB, 8 bits, turned as its metadata says; (H, W, 3)."""
    known = picture.colorspace not in (0, UNSPECIFIED)
    matrix = None if known else (BT709 if picture.height >= HIGH_DEFINITION else BT601)
    subsampled = "rgb" not in picture.format.name and "gb" not in picture.format.name
    pixels = picture.to_ndarray(format="rgb24", src_colorspace=matrix if subsampled else None)
    turned: npt.NDArray[np.uint8] = np.rot90(pixels, round(picture.rotation / 90) % 4)
    return np.ascontiguousarray(turned)


def told(path: str, error: Exception) -> str:
    """A path and what the system says of it, for an error.

    Examples
    --------
    >>> told("clip.mp4", OSError(28, "No space left on device"))
    'clip.mp4 (No space left on device)'
    """
    return f"{path} ({getattr(error, 'strerror', None) or error})"
