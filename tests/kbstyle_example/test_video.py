"""Clips in and out: frames, times, size and sound kept; bad files; nothing left behind."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kbstyle_example import KBStyle, KBStyleConfig, video_reading
from kbstyle_example import video as video_module
from kbstyle_example.__main__ import main
from kbstyle_example.inference import Inference
from kbstyle_example.painting import Painter
from kbstyle_example.parsing import parser
from kbstyle_example.video import stylize_video
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, DataError, FileError, MissingExtraError, ShapeError

av: Any = pytest.importorskip("av")

RATE = 10
TONE = 24_000  # samples a second
PAINTING = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
TIMES = [0, 100, 200, 350, 400, 700]  # milliseconds: a variable rate


def network() -> KBStyle:
    torch.manual_seed(1)
    net = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=1, deep_blocks=1, style_blocks=1)).eval()
    with torch.no_grad():
        net.decoder.output[0].weight.mul_(2)  # noise shows
    return net


NET = network()


def scenes(count: int, height: int, width: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]


def make_clip(
    path: Path,
    frames: list[np.ndarray[Any, Any]],
    *,
    times: list[int] | None = None,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    sound: str | None = "pcm_s16le",
    rotation: int = 0,
    container: str | None = None,
) -> np.ndarray[Any, Any]:
    """Write a clip with frames at `times` (ms), and a tone; returns the tone's samples."""
    times = times or [n * 1000 // RATE for n in range(len(frames))]
    seconds = (times[-1] + 100) / 1000
    samples = np.arange(round(TONE * seconds)) / TONE
    tone = (8000 * np.sin(2 * np.pi * 440 * samples)).astype(np.int16)[None]
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = None
        if sound:
            audio = out.add_stream(sound, rate=TONE, layout="mono")
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        if audio is not None:
            for begin in range(0, tone.shape[1], 1024):
                piece = av.AudioFrame.from_ndarray(tone[:, begin : begin + 1024], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = TONE, begin, Fraction(1, TONE)
                out.mux(audio.encode(piece))
            out.mux(audio.encode(None))
        out.mux(stream.encode(None))
    return tone


def read_clip(path: Path) -> tuple[list[np.ndarray[Any, Any]], list[float]]:
    with av.open(str(path)) as clip:
        frames = list(clip.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in frames], [f.time for f in frames]


def read_sound(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as clip:
        return np.concatenate([f.to_ndarray().reshape(1, -1) for f in clip.decode(audio=0)], 1)


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as clip:
        return [(float(p.pts * p.time_base), bytes(p)) for p in clip.demux(audio=0) if p.size]


def paint(clip: Path, out: Path, **options: Any) -> video_module.VideoReport:
    return stylize_video(clip, PAINTING, out, network=NET, style_size=32, progress=False, **options)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No half-written file and no thread outlives a call, whatever became of it."""
    yield
    assert not list(tmp_path.rglob(".*.part"))
    assert not [t.name for t in threading.enumerate() if t.name in ("read ahead", "write behind")]


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_every_frame_is_the_painters_and_times_and_sound_stay(tmp_path: Path) -> None:
    frames = scenes(6, 33, 47)
    tone = make_clip(tmp_path / "in.mkv", frames, times=TIMES)
    report = paint(tmp_path / "in.mkv", tmp_path / "out.mkv", stability=0.0, lossless=True)
    found, times = read_clip(tmp_path / "out.mkv")
    painter = Painter(PAINTING, network=NET, style_size=32)
    for pixels, result in zip(frames, found, strict=True):
        np.testing.assert_array_equal(result, painter(pixels))
    assert times == [t / 1000 for t in TIMES]
    np.testing.assert_array_equal(read_sound(tmp_path / "out.mkv"), tone)
    assert (report.frames, report.failures, report.width, report.height, report.sound) == (6, 0, 47, 33, "copied")
    assert report.seconds == pytest.approx(0.8)
    assert report.flicker is None
    assert "6 frames of 47×33, 0.80 s; sound: copied" in str(report)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".m4v", ".mkv", ".webm"])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47)])
def test_every_format_keeps_size_times_and_looks(tmp_path: Path, ending: str, height: int, width: int) -> None:
    frames = scenes(6, height, width)
    tone = make_clip(tmp_path / "in.mkv", frames, times=TIMES)
    report = paint(tmp_path / "in.mkv", tmp_path / f"out{ending}", stability=0.0, quality=95, strength=0.1)
    found, times = read_clip(tmp_path / f"out{ending}")
    paint(tmp_path / "in.mkv", tmp_path / "exact.mkv", stability=0.0, lossless=True, strength=0.1)
    exact, _ = read_clip(tmp_path / "exact.mkv")
    for a, b in zip(found, exact, strict=True):
        assert a.shape == (height, width, 3)
        assert np.abs(a.astype(float) - b).mean() < 12  # the codec's loss, of colours above all
    np.testing.assert_allclose(times, [t / 1000 for t in TIMES], atol=6e-4)
    assert report.sound == ("encoded" if ending == ".webm" else "copied")
    sound = read_sound(tmp_path / f"out{ending}")
    assert abs(sound.size / (48_000 if ending == ".webm" else TONE) - tone.size / TONE) < 0.1


def test_sound_of_mp4_is_copied_byte_for_byte_with_its_times(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", scenes(5, 32, 48), codec="mpeg4", pix_fmt="yuv420p", sound="aac")
    report = paint(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert report.sound == "copied"
    before, after = sound_packets(tmp_path / "in.mp4"), sound_packets(tmp_path / "out.mp4")
    assert [data for _, data in before] == [data for _, data in after]
    np.testing.assert_allclose([t for t, _ in before], [t for t, _ in after], atol=1e-3)
    assert read_clip(tmp_path / "in.mp4")[1] == read_clip(tmp_path / "out.mp4")[1]


def test_re_encoded_sound_is_the_same_tone(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mkv", scenes(8, 32, 48))
    assert paint(tmp_path / "in.mkv", tmp_path / "out.webm").sound == "encoded"
    sound = read_sound(tmp_path / "out.webm")[0]
    spectrum = np.abs(np.fft.rfft(sound))
    assert spectrum.argmax() * 48_000 / sound.size == pytest.approx(440, abs=4)


def test_a_clip_without_sound(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mkv", scenes(3, 32, 48), sound=None)
    assert paint(tmp_path / "in.mkv", tmp_path / "out.mp4").sound == "none"
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert not clip.streams.audio


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv444p10le", "yuva420p", "yuv422p"])
def test_other_pixel_formats_are_read(tmp_path: Path, pix_fmt: str) -> None:
    frames = scenes(2, 32, 48)
    make_clip(tmp_path / "in.mkv", frames, pix_fmt=pix_fmt)
    with video_reading.Clip(tmp_path / "in.mkv") as clip:
        read = [piece.pixels for piece in clip.pieces() if isinstance(piece, video_reading.Frame)]
    for pixels, given in zip(read, frames, strict=True):
        expected = np.asarray(Image.fromarray(given).convert("L").convert("RGB")) if pix_fmt == "gray" else given
        assert np.abs(pixels.astype(float) - expected).mean() < 10


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_clip_is_turned_upright(tmp_path: Path, rotation: int) -> None:
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :24] = 255  # light at the upper left, as it is stored
    make_clip(tmp_path / "in.mov", [frame] * 2, codec="mjpeg", pix_fmt="yuvj444p", sound=None, rotation=rotation)
    report = paint(tmp_path / "in.mov", tmp_path / "out.mkv", strength=0.0, lossless=True)
    assert (report.width, report.height) == ((48, 32) if rotation == 180 else (32, 48))
    found = read_clip(tmp_path / "out.mkv")[0][0]
    expected = np.rot90(frame, rotation // 90)  # FFmpeg's angles are counterclockwise
    assert np.abs(found.astype(float) - expected).mean() < 8
    with av.open(str(tmp_path / "out.mkv")) as clip:
        assert next(clip.decode(video=0)).rotation == 0


def test_a_clip_that_begins_late_begins_at_once(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mkv", scenes(4, 32, 48), times=[5000, 5100, 5250, 5300], sound=None)
    with av.open(str(tmp_path / "in.mkv")) as clip:
        assert clip.start_time == 5_000_000
    paint(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert read_clip(tmp_path / "out.mkv")[1] == [0, 0.1, 0.25, 0.3]


def test_the_clip_may_be_its_own_output(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mkv", scenes(3, 32, 48))
    before = read_clip(tmp_path / "clip.mkv")[0]
    paint(tmp_path / "clip.mkv", tmp_path / "clip.mkv", lossless=True)
    after = read_clip(tmp_path / "clip.mkv")[0]
    assert len(after) == 3
    assert not np.array_equal(before[0], after[0])
    assert os.listdir(tmp_path) == ["clip.mkv"]


# --- stability -------------------------------------------------------------------------------------------------------


def test_stability_reduces_flicker(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scene = scenes(1, 32, 48)[0]
    noisy = [(scene + rng.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(8)]
    make_clip(tmp_path / "in.mkv", noisy)
    changes = {}
    for stability in (0.0, 0.5, 0.9):
        report = paint(tmp_path / "in.mkv", tmp_path / "out.mkv", stability=stability, lossless=True)
        frames = np.stack(read_clip(tmp_path / "out.mkv")[0]).astype(float)
        changes[stability] = np.sqrt(np.square(np.diff(frames, axis=0)).mean())
        if stability:
            assert report.flicker is not None
            assert report.flicker_before is not None
            assert report.flicker == pytest.approx(changes[stability], abs=0.5)  # most pixels are unchanged
            assert report.flicker_before == pytest.approx(changes[0.0], abs=0.5)
            assert f"flicker {report.flicker_before:.2f} → {report.flicker:.2f}" in str(report)
    assert changes[0.5] < 0.65 * changes[0.0]
    assert changes[0.9] < 0.35 * changes[0.0]


# --- what can't be done ----------------------------------------------------------------------------------------------


def bad_clips(folder: Path) -> dict[str, tuple[Path, str]]:
    make_clip(folder / "whole.mkv", scenes(20, 32, 48), sound=None)
    whole = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "header.mkv").write_bytes(whole[:60])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this isn't a video")
    Image.fromarray(PAINTING).save(folder / "picture.png")
    with av.open(str(folder / "sound.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=TONE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), format="s16", layout="mono")
        frame.sample_rate = TONE
        out.mux(stream.encode(frame))
    return {
        "missing": (folder / "missing.mp4", "there is no such clip"),
        "empty": (folder / "empty.mp4", "the clip's file is empty"),
        "text": (folder / "text.mp4", "isn't a video that can be read"),
        "picture": (folder / "picture.png", "a picture, not a video"),
        "sound": (folder / "sound.wav", "has no video in it"),
        "folder": (folder, "isn't a video that can be read"),
        "cut": (folder / "cut.mkv", "the clip is cut off"),
        "header": (folder / "header.mkv", "isn't a video that can be read|no video|no frame"),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "picture", "sound", "folder", "cut", "header"])
def test_bad_clips(tmp_path: Path, kind: str) -> None:
    path, message = bad_clips(tmp_path)[kind]
    out = tmp_path / "out.mp4"
    out.write_text("what stood here")
    with pytest.raises(FileError, match=message):
        paint(path, out)
    assert out.read_text() == "what stood here"


def test_damaged_frames_are_left_out_and_counted(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mov", scenes(12, 32, 48), codec="png", pix_fmt="rgb24", sound=None)
    data = bytearray((tmp_path / "in.mov").read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"\x89PNG"]
    data[starts[5] : starts[5] + 8] = bytes(8)
    (tmp_path / "in.mov").write_bytes(bytes(data))
    report = paint(tmp_path / "in.mov", tmp_path / "out.mkv")
    assert (report.frames, report.failures) == (11, 1)
    assert "1 damaged pieces left out" in str(report)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("out.xyz", {}, "no format for this clip"),
        ("out", {}, "no format for this clip"),
        ("out.mp4", {"lossless": True}, "no lossless format"),
        ("out.mp4", {"quality": 0}, "quality of a clip"),
        ("out.mp4", {"quality": 50.0}, "quality of a clip"),
        ("out.mp4", {"stability": 1.0}, "stability"),
        ("out.mp4", {"stability": -0.1}, "stability"),
        ("out.mp4", {"stability": float("nan")}, "stability"),
        ("out.mp4", {"strength": 2.0}, "strength"),
    ],
)
def test_bad_options(tmp_path: Path, out: str, options: dict[str, Any], message: str) -> None:
    make_clip(tmp_path / "in.mkv", scenes(2, 32, 48))
    with pytest.raises(ArgumentError, match=message):
        paint(tmp_path / "in.mkv", tmp_path / out, **options)
    assert os.listdir(tmp_path) == ["in.mkv"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mkv", scenes(2, 32, 48))
    with pytest.raises(FileError, match="the clip can't be written"):
        paint(tmp_path / "in.mkv", tmp_path / "no-such-folder" / "out.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(FileError, match="the clip can't be written"):
        paint(tmp_path / "in.mkv", tmp_path / "folder.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "in.mkv", scenes(12, 32, 48))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    (tmp_path / ".out.mkv.1.part").symlink_to("/dev/full")
    with pytest.raises(FileError, match=r"the clip can't be written.*No space left"):
        paint(tmp_path / "in.mkv", tmp_path / "out.mkv", lossless=True)
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize("error", [ShapeError("too small"), DataError("no memory"), KeyboardInterrupt()])
def test_an_error_of_the_network_closes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    make_clip(tmp_path / "in.mkv", scenes(30, 32, 48))
    calls = []

    def failing(self: Painter, photograph: torch.Tensor) -> torch.Tensor:
        calls.append(photograph)
        if len(calls) > 2:
            raise error
        return photograph

    monkeypatch.setattr(Painter, "__call__", failing)
    with pytest.raises(type(error)):
        paint(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert os.listdir(tmp_path) == ["in.mkv"]
    assert len(calls) == 3


def test_the_style_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "in.mkv", scenes(5, 32, 48))
    encode, calls = Inference.encode_style, []
    monkeypatch.setattr(Inference, "encode_style", lambda self, style: calls.append(1) or encode(self, style))
    paint(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert len(calls) == 1


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_clip(tmp_path / "in.mkv", scenes(4, 32, 48))
    for name in ("a.png", "b.png"):
        Image.fromarray(PAINTING if name == "a.png" else PAINTING[::-1] // 2).save(tmp_path / name)
    Image.fromarray(np.linspace(0, 255, 48).astype(np.uint8)[None].repeat(32, 0)).save(tmp_path / "mask.png")
    save_weights(NET, tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_defaults_are_the_apis() -> None:
    options = vars(parser().parse_args(["video", "a.mp4", "--style", "b.png", "-o", "c.mp4"], argparse.Namespace()))
    defaults = {name: parameter.default for name, parameter in inspect.signature(stylize_video).parameters.items()}
    assert len(defaults) == 17
    for name, value in defaults.items():
        if name not in ("clip", "style", "out", "progress"):
            assert options[{"network": "weights", "masks": "mask"}.get(name, name)] == value, name


def test_every_option_reaches_the_painter(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["video", "in.mkv", "--style", "a.png", "b.png", "-o", "out.mkv", "--weights", "net.safetensors"]
    command += ["--style-weights", "1", "3", "--mask", "mask.png", "none", "--strength", "0.7", "--keep-colour"]
    command += ["--style-size", "32", "--paint-size", "40", "--device", "cpu", "--stability", "0.3", "--lossless"]
    command += ["--precision", "float32"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    facts = json.loads(out)
    report = stylize_video(
        "in.mkv",
        ["a.png", "b.png"],
        "again.mkv",
        network="net.safetensors",
        style_weights=[1, 3],
        masks=["mask.png", None],
        strength=0.7,
        keep_colour=True,
        style_size=32,
        paint_size=40,
        stability=0.3,
        lossless=True,
        progress=False,
    )
    assert facts == {"clip": "in.mkv", "out": "out.mkv", **report.as_dict()}
    assert (facts["frames"], facts["width"], facts["height"], facts["flicker"]) == (4, 48, 32, report.flicker)
    for found, wanted in zip(read_clip(place / "out.mkv")[0], read_clip(place / "again.mkv")[0], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert main(["video", "in.mkv", "--style", "a.png", "-o", "絵.mp4", "--weights", "net.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("絵.mp4: 4 frames of 48×32, ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["missing.mp4", "-o", "out.mkv"], "there is no such clip; got missing.mp4"),
        (["a.png", "-o", "out.mkv"], "the file is a picture, not a video"),
        (["in.mkv", "-o", "out.mp4", "--lossless"], "no lossless format for this clip; got out.mp4"),
        (["in.mkv", "-o", "out.mkv", "--mask", "none", "none"], "masks; got 2 masks; expected 1"),
        (["in.mkv", "-o", "missing/out.mkv"], "the clip can't be written"),
    ],
)
def test_mistakes_of_the_command(
    place: Path, capsys: pytest.CaptureFixture[str], changed: list[str], message: str
) -> None:
    before = sorted(os.listdir())
    assert main(["video", *changed, "--style", "a.png", "--weights", "net.safetensors"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"video needs the package 'av'.*skd\[video\]"):
        paint(tmp_path / "in.mkv", tmp_path / "out.mkv")
