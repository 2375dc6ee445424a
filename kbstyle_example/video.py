"""Paint a clip: frame by frame, with its sound, and with less flicker if one wishes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Unpack

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from kbstyle_example.options import PainterOptions, with_options_of
from kbstyle_example.painting import Painter
from kbstyle_example.photograph import Source
from kbstyle_example.strips import as_numbers, as_pixels
from kbstyle_example.threads import WriteBehind, read_ahead
from kbstyle_example.video_reading import Clip, Frame, Piece, need_av
from kbstyle_example.video_stability import Steadier, squared_change
from kbstyle_example.video_writing import Output, format_of
from skd.errors import ArgumentError

AHEAD = 4  # frames (and pieces of sound) between two stages: all that memory holds of a clip


@dataclass(frozen=True)
class VideoReport:
    """What became of a clip.

    Parameters
    ----------
    frames : int
        Painted and written.
    failures : int
        Pieces of the file that couldn't be decoded; the clip goes on without them.
    seconds : float
        The clip's length, by its frames.
    width, height : int
        Pixels; as one sees the clip, whichever way the camera was held.
    sound : str
        "none", "copied" as it was, or "encoded" anew since the format can't hold it as it was.
    flicker, flicker_before : float or None
        With stability and without, see `video_stability.flicker`; None at stability 0.
    """

    frames: int
    failures: int
    seconds: float
    width: int
    height: int
    sound: str
    flicker: float | None = None
    flicker_before: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.frames} frames of {self.width}×{self.height}, {self.seconds:.2f} s", f"sound: {self.sound}"]
        if self.failures:
            parts.append(f"{self.failures} damaged pieces left out")
        if self.flicker is not None:
            parts.append(f"flicker {self.flicker_before:.2f} → {self.flicker:.2f}")
        return "; ".join(parts)


@with_options_of(Painter)
def stylize_video(
    clip: str | os.PathLike[str],
    style: Source | Sequence[Source],
    out: str | os.PathLike[str],
    *,
    stability: float = 0.5,
    quality: int = 80,
    lossless: bool = False,
    progress: bool = True,
    **options: Unpack[PainterOptions],
) -> VideoReport:
    """Paint every frame of a clip like the painting; times, size, length and sound stay.

    Parameters
    ----------
    clip : path
        Whatever PyAV reads. Frames are turned upright; 8 bits a channel are used; subtitles are left out.
    style : picture, or several
        See `painting.Painter`. It is encoded once.
    out : path
        .mp4, .m4v, .mov, .mkv (H.264) or .webm (VP9). May be the clip itself, which is replaced at the end.
    stability : float
        0 (every frame by itself) up to 1, exclusive: the share of the frame before, moved along with the camera, in
        the new one, where the content is the same. It divides flicker (the result's root mean squared change from frame
        to frame where the content hardly changes, see `video_stability.flicker`) by 2 to 2.4 at 0.5 and 7 to 12 at 0.9,
        and by 1.8 and 2.7 behind a thing that passes; the price is softer strokes where the camera moves (detail falls
        by a quarter to two fifths), since the network paints them anew in every frame.
    quality : int
        1 to 100, of the encoder.
    lossless : bool
        FFV1 in RGB, .mkv only, very large.
    progress : bool
        Show a bar, on a terminal.
    network, strength, keep_colour, style_weights, masks, style_size, paint_size, precision, device,
    max_pixels
        See `painting.Painter`; masks lie still.

    Raises
    ------
    MissingExtraError
        PyAV isn't installed.
    FileError
        The clip is missing, empty, no video, cut off or damaged; the result can't be written. Nothing is left behind,
        and what stood at `out` stays.
    ArgumentError
        An option out of range; an ending that names no format.
    DataError, ShapeError
        See `painting.Painter`.

    Examples
    --------
    >>> stylize_video("no-such-clip.mp4", torch.rand(3, 32, 32), "out.mp4")
    Traceback (most recent call last):
    skd.errors.FileError: there is no such clip; got no-such-clip.mp4.
    """
    need_av()
    format_of(out, lossless=lossless)
    if type(quality) is not int or not 1 <= quality <= 100:
        raise ArgumentError("quality of a clip", got=quality, expected="an integer from 1 to 100")
    painting = _Frames(Steadier(stability))
    with Clip(clip) as source:
        painter = Painter(style, **options)
        with (
            Output(out, source, quality=quality, lossless=lossless) as target,
            tqdm(total=source.expected_frames, unit="frame", disable=None if progress else True) as bar,
        ):
            _run(source, target, painter, painting, bar)
            length = float((painting.end - painting.begin) * source.time_base)
    return VideoReport(
        painting.count, source.failures, length, *painting.size, target.sound, painting.flicker(1), painting.flicker(0)
    )


def _run(source: Clip, target: Output, painter: Painter, painting: _Frames, bar: tqdm[None]) -> None:
    """Decoding in one thread, painting here, encoding in another."""
    height, width = source.first_size()
    target.start(width, height)
    with read_ahead(source.pieces(), AHEAD) as pieces, WriteBehind[Piece](target.write, AHEAD) as write:
        for piece in pieces:
            if isinstance(piece, Frame):
                piece = painting(piece, painter)
                bar.update()
            write(piece)


class _Frames:
    """Paints frames in order and keeps count."""

    def __init__(self, steadier: Steadier) -> None:
        self._steadier = steadier
        self._before: tuple[Tensor, Tensor, Tensor] | None = None
        self._changes = [[0.0, 0.0], [0.0, 0.0]]  # without stability, with it: squared changes, and how many
        self.count, self.begin, self.end, self.size = 0, 0, 0, (0, 0)

    @torch.inference_mode()
    def __call__(self, frame: Frame, painter: Painter) -> Frame:
        content, painted = as_numbers(frame.pixels), as_numbers(painter(frame.pixels))
        result = self._steadier(content, painted)
        if self._steadier.stability:
            new = content, painted, result
            if self._before is not None:
                for sums, i in zip(self._changes, (1, 2), strict=True):
                    found = squared_change(self._before[0], content, self._before[i], new[i])
                    sums[0], sums[1] = sums[0] + found[0], sums[1] + found[1]
            self._before = new
        if not self.count:
            self.begin, self.size = frame.time, (content.shape[-1], content.shape[-2])
        self.count, self.end = self.count + 1, frame.time + frame.duration
        return Frame(as_pixels(result), frame.time, frame.duration)

    def flicker(self, which: int) -> float | None:
        """Of the network's own results (0) and of those that are written (1)."""
        total, count = self._changes[which]
        return (255 * math.sqrt(total / count) if count else 0.0) if self._steadier.stability else None
