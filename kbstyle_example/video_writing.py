"""Clips out, with PyAV: frames encoded, the sound copied where the format can hold it, renamed when they are whole."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kbstyle_example.files import ELSEWHERE, beside
from kbstyle_example.video_reading import BT709, Clip, Frame, Piece, need_av, told
from skd.errors import ArgumentError, FileError, closest

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# The ending → FFmpeg's container; encoders of video, the first that is there; of sound, where it can't be copied.
FORMATS = {
    ".mp4": ("mp4", ("libx264", "mpeg4"), ("aac",)),
    ".m4v": ("mp4", ("libx264", "mpeg4"), ("aac",)),
    ".mov": ("mov", ("libx264", "mpeg4"), ("aac",)),
    ".mkv": ("matroska", ("libx264", "mpeg4"), ("flac",)),
    ".webm": ("webm", ("libvpx-vp9", "libvpx"), ("libopus", "opus")),
}
KEPT_FACTS = ("title", "artist", "date", "creation_time", "comment", "description", "copyright")


class Output:
    """A clip to write, beside its path; renamed on leaving the context without an error, else taken away.

    Raises
    ------
    ArgumentError
        The path's ending names none of the formats, or one that has no lossless encoder here.
    FileError
        It can't be written there.
    """

    def __init__(self, path: str | os.PathLike[str], clip: Clip, *, quality: int, lossless: bool) -> None:
        self._av = need_av()
        self.path, self._clip, self._quality = Path(path), clip, quality
        self._container_name, codecs, self._sound_codecs = format_of(path, lossless=lossless)
        self._codec = "ffv1" if lossless else _first_there(codecs)
        self._beside = beside(self.path)
        self._stream: VideoStream | None = None
        self.sound = "none"
        try:
            self._container: OutputContainer = self._av.open(str(self._beside), "w", format=self._container_name)
        except (self._av.FFmpegError, OSError) as error:
            self._remove()
            raise self._unwritable(error) from None
        self._container.metadata.update({k: v for k, v in clip.container.metadata.items() if k in KEPT_FACTS})

    def _unwritable(self, error: Exception) -> FileError:
        return FileError("the clip can't be written", got=told(str(self.path), error), remedy=ELSEWHERE)

    def start(self, width: int, height: int) -> None:
        """Make the streams, once the size of the frames is known; settles which sound streams are copied.

        Raises
        ------
        FileError
            It can't be written there.
        """
        try:
            self._add_streams(width, height)
            self._container.start_encoding()
        except (self._av.FFmpegError, OSError) as error:
            raise self._unwritable(error) from None

    def _add_streams(self, width: int, height: int) -> None:
        clip, time_base = self._clip, self._clip.time_base
        options = {}
        if self._codec == "libx264":
            options = {"crf": str(round(45 - 0.34 * self._quality)), "preset": "medium"}
        elif self._codec.startswith("libvpx"):
            options = {"crf": str(round(60 - 0.4 * self._quality)), "b": "0", "cpu-used": "4", "row-mt": "1"}
            options |= {"deadline": "good"}
        stream: Any = self._container.add_stream(self._codec, rate=clip.rate, options=options)
        if self._codec == "mpeg4":
            stream.bit_rate = int(width * height * float(clip.rate) * 0.002 * self._quality) + 100_000
            if time_base.denominator > 65_535:  # more, MPEG-4 doesn't have
                time_base = Fraction(1, 60_000)
        stream.width, stream.height = width, height
        # H.264 halves the colour's resolution for even sizes only; the size of the clip comes first.
        odd = (width % 2 or height % 2) and self._codec == "libx264"
        stream.pix_fmt = "bgr0" if self._codec == "ffv1" else "yuv444p" if odd else "yuv420p"
        stream.codec_context.time_base = time_base
        if self._codec != "ffv1":
            stream.colorspace = stream.color_primaries = stream.color_trc = BT709
            stream.color_range = 1
        ratio = clip.video.sample_aspect_ratio
        turned = clip.video.width != width and clip.video.width == height
        if ratio:
            stream.codec_context.sample_aspect_ratio = 1 / ratio if turned else ratio
        self._stream = stream
        self._sounds = [self._add_sound(index, sound) for index, sound in enumerate(clip.sounds)]

    def _add_sound(self, index: int, sound: AudioStream) -> AudioStream:
        if sound.codec_context.codec.canonical_name in self._container.supported_codecs:
            with contextlib.suppress(self._av.FFmpegError, ValueError):
                copy: AudioStream = self._container.add_stream_from_template(sound)
                self._clip.copied.add(index)
                self.sound = "copied" if self.sound != "encoded" else "encoded"
                return copy
        self.sound = "encoded"
        name = _first_there(self._sound_codecs)
        rates = self._av.Codec(name, "w").audio_rates
        rate = sound.rate if not rates or sound.rate in rates else max(rates)
        return self._container.add_stream(name, rate=rate, layout=sound.layout.name)  # type: ignore[return-value]

    def write(self, piece: Piece) -> None:
        """Encode and write.

        Raises
        ------
        FileError
            The disk is full, say.
        """
        try:
            if isinstance(piece, Frame):
                self._write_frame(piece)
            elif piece.stream in self._clip.copied:
                piece.piece.stream = self._sounds[piece.stream]
                self._container.mux(piece.piece)
            else:
                self._container.mux(self._sounds[piece.stream].encode(piece.piece))
        except (self._av.FFmpegError, OSError) as error:
            raise self._unwritable(error) from None

    def _write_frame(self, frame: Frame) -> None:
        stream = self._stream
        if stream is None:
            raise RuntimeError("the output wasn't started")
        picture = self._av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
        matrix = {} if self._codec == "ffv1" else {"dst_colorspace": BT709, "dst_color_range": 1}
        picture = picture.reformat(format=stream.pix_fmt, **matrix)
        ours = stream.codec_context.time_base or self._clip.time_base
        scale = self._clip.time_base / ours
        picture.pts, picture.time_base = round(frame.time * scale), ours
        picture.duration = round(frame.duration * scale)
        self._container.mux(stream.encode(picture))

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with contextlib.suppress(Exception):  # the error above is the one that tells
                self._container.close()
            self._remove()

    def _finish(self) -> None:
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
                for index, sound in enumerate(self._sounds):
                    if index not in self._clip.copied:
                        self._container.mux(sound.encode(None))
            self._container.close()
            self._clip.container.close()  # it may be the same file, which some systems replace only when it's closed
            self._beside.replace(self.path)
        except (self._av.FFmpegError, OSError) as error:
            raise self._unwritable(error) from None

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._beside.unlink(missing_ok=True)


def format_of(path: str | os.PathLike[str], *, lossless: bool) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Container, video encoders and sound encoders for a path.

    Raises
    ------
    ArgumentError
        The path's ending names none of the formats, or one without a lossless codec.

    Examples
    --------
    >>> format_of("clip.webm", lossless=False)
    ('webm', ('libvpx-vp9', 'libvpx'), ('libopus', 'opus'))
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ArgumentError("no format for this clip", got=str(path), expected=f"an ending of {', '.join(FORMATS)}")
    if lossless and ending != ".mkv":
        raise ArgumentError("no lossless format for this clip", got=str(path), expected="an ending of .mkv")
    return FORMATS[ending]


def _first_there(names: tuple[str, ...]) -> str:
    known = need_av().codecs_available
    for name in names:
        if name in known:
            return name
    raise ArgumentError(
        "PyAV was built without an encoder for this format", got=", ".join(names), remedy=closest(names[0], known)
    )
