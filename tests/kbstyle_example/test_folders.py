"""Many photographs: where paintings go, what is refused before the work, and that one failure doesn't keep the rest."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kbstyle_example import KBStyle, KBStyleConfig, folders
from kbstyle_example.folders import Job, Outcome, plan, stylize_files
from kbstyle_example.painting import Painter
from skd.errors import ArgumentError, DataError, FileError

torch.manual_seed(0)
NET = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=0, deep_blocks=0, style_blocks=0)).eval()
RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (20, 24, 3), dtype=np.uint8)
PAINTER = Painter(RANDOM.random((32, 32, 3)), network=NET, style_size=32)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "sea").mkdir(parents=True)
    for name in ("photos/a.png", "photos/b.JPG", "photos/sea/c.webp", "d.png"):
        Image.fromarray(PHOTO).save(tmp_path / name)
    for name in ("photos/.hidden.png", "photos/._a.png", "photos/notes.txt"):
        (tmp_path / name).write_text("something else")
    return tmp_path


def names(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(content.replace(os.sep, "/"), out.replace(os.sep, "/")) for content, out in (job.names for job in jobs)]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- where paintings go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "out", "kind", "expected"),
    [
        (["d.png"], "out.jpg", None, [("d.png", "out.jpg")]),
        (["d.png"], "new/out.tif", None, [("d.png", "new/out.tif")]),
        (["d.png"], "photos", None, [("d.png", "photos/d.png")]),
        (["d.png"], "photos", "JPEG", [("d.png", "photos/d.jpg")]),
        (["-"], "-", None, [("-", "-")]),
        (["-"], "out.png", None, [("-", "out.png")]),
        (["d.png"], "-", None, [("d.png", "-")]),
        (["missing.png"], "out.png", None, [("missing.png", "out.png")]),
        (
            ["photos"],
            "out",
            None,
            [("photos/a.png", "out/a.png"), ("photos/b.JPG", "out/b.JPG"), ("photos/sea/c.webp", "out/sea/c.webp")],
        ),
        (["photos/sea", "d.png"], "out", "PNG", [("photos/sea/c.webp", "out/c.png"), ("d.png", "out/d.png")]),
        (["photos/*.png"], "out.png", None, [("photos/a.png", "out.png")]),
        (["photos/*.*"], "out", None, [("photos/a.png", "out/a.png"), ("photos/b.JPG", "out/b.JPG")]),
        (["*.gif"], "out.png", None, [("*.gif", "out.png")]),
        (["d.png"], "new place/", None, [("d.png", "new place/d.png")]),
        (["d.png", "photos/a.png"], "ü.png/", None, [("d.png", "ü.png/d.png"), ("photos/a.png", "ü.png/a.png")]),
    ],
)
def test_where_paintings_go(
    photos: Path, contents: list[str], out: str, kind: str | None, expected: list[tuple[str, str]]
) -> None:
    (photos / "photos" / "notes.txt").unlink()
    assert names(plan(contents, out, kind=kind)) == expected


def test_formats_that_cant_be_written_become_png(photos: Path) -> None:
    for name in ("e.gif", "d.gif"):
        (photos / name).touch()
    found = names(plan(["d.png", "d.gif", "e.gif", "photo.v2"], "out"))
    assert [out for _, out in found] == ["out/d.png", "out/d.gif.png", "out/e.png", "out/photo.v2.png"]


def test_long_names_are_written(photos: Path) -> None:
    name = "ü" * 120 + ".png"  # 244 bytes, of 255 at most
    Path("d.png").rename(name)
    (outcome,) = stylize_files(plan([name], "out/"), PAINTER)
    assert outcome.error is None
    assert files(photos / "out") == {name}


def test_a_name_with_brackets_isnt_a_pattern(photos: Path) -> None:
    Image.fromarray(PHOTO).save("photo[1].png")
    assert names(plan(["photo[1].png"], "out.png")) == [("photo[1].png", "out.png")]


def test_earlier_paintings_arent_painted_again(photos: Path) -> None:
    once = plan(["photos"], "photos/painted")
    assert [outcome.error for outcome in stylize_files(once, PAINTER)] == [None] * 3
    assert plan(["photos"], "photos/painted") == once
    assert len(plan(["photos"], "elsewhere")) == 6


@pytest.mark.parametrize(
    ("contents", "out", "kind", "message"),
    [
        ([], "out", None, "no photograph to paint"),
        (["d.png"], "out", None, r"no format for this file; got out; expected an ending of \.jpg"),
        (["d.png"], "out.gif", None, "no format for this file; got out.gif"),
        (["-"], "photos", None, "no format for this file; got photos"),
        (
            ["d.png"],
            "out.png",
            "JPEG",
            "the file's ending says another format; got out.png; expected an ending for JPEG",
        ),
        (["photos"], "-", None, "stdin and stdout take one photograph"),
        (["-", "d.png"], "out", None, "stdin and stdout take one photograph; got 2 contents"),
        (["photos"], "out.png", None, "several photographs need a folder to write into; got out.png"),
        (["d.png", "photos"], "out.png", None, "several photographs need a folder"),
        (["d.png"], "d.png", None, "would replace a picture that is read; got d.png. Remedy: name another output"),
        (["d.png"], "./photos/../d.png", None, "would replace a picture that is read"),
        (["photos"], "photos", None, "would replace a picture that is read; got photos.a.png"),
        (["d.png", "photos/a.png"], ".", None, "would replace a picture that is read"),
        (["d.png", "photos/../d.png"], "out", None, "two paintings would have one name; got out.d.png for d.png and"),
        (["d.png"], "style.png", None, "would replace a picture that is read; got style.png"),
    ],
)
def test_what_is_refused_before_the_work(
    photos: Path, contents: list[str], out: str, kind: str | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        plan(contents, out, kind=kind, keep=["style.png", "-"])
    assert not (photos / "out").exists()


def test_names_that_differ_in_case(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "other").mkdir()
    (photos / "other" / "D.png").touch()
    monkeypatch.setattr(folders.sys, "platform", "linux")
    assert len(plan(["d.png", "other/D.png"], "out")) == 2
    for platform in ("win32", "darwin"):
        monkeypatch.setattr(folders.sys, "platform", platform)
        with pytest.raises(ArgumentError, match="two paintings would have one name"):
            plan(["d.png", "other/D.png"], "out")
    composed, decomposed = Path("other", "\u00e9.png"), Path("photos", "e\u0301.png")  # é, and e with an accent
    composed.touch()
    decomposed.touch()
    with pytest.raises(ArgumentError, match="two paintings would have one name"):
        plan([composed, decomposed], "out")
    monkeypatch.setattr(folders.sys, "platform", "win32")
    assert len(plan([composed, decomposed], "out")) == 2


def test_a_folder_without_pictures(photos: Path) -> None:
    (photos / "none").mkdir()
    with pytest.raises(DataError, match=r"no pictures in the folder; got none; expected files ending in \.avif"):
        plan(["none"], "out")


# --- what becomes of them --------------------------------------------------------------------------------------------


def test_paintings_are_the_painters(photos: Path) -> None:
    seen: list[Outcome] = []
    outcomes = stylize_files(plan(["photos", "d.png"], "out"), PAINTER, done=seen.append)
    assert seen == outcomes
    assert files(photos / "out") == {"a.png", "b.JPG", "sea/c.webp", "d.png"}
    with Image.open("out/d.png") as image:
        np.testing.assert_array_equal(np.asarray(image), PAINTER(PHOTO))
    for outcome in outcomes:
        assert (outcome.size, outcome.error) == ((24, 20), None)
        assert outcome.job.out is not None
        with Image.open(outcome.job.out) as image:
            assert image.size == (24, 20)
            assert image.format == {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[outcome.job.out.suffix.lower()]


def test_the_same_bytes_each_time(photos: Path) -> None:
    for name in ("first", "second"):
        stylize_files(plan(["photos"], name), PAINTER)
    for name in files(photos / "first"):
        assert (photos / "first" / name).read_bytes() == (photos / "second" / name).read_bytes()


def test_one_failure_doesnt_keep_the_rest(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (photos / "photos" / "a.png").read_bytes()
    for name, content in {
        "0 empty.png": b"",
        "1 text.png": b"text",
        "2 cut.png": whole[: len(whole) // 2],
        "3 large.png": whole,
        "4 float.tif": b"",
    }.items():
        (photos / "photos" / name).write_bytes(content)
    Image.new("F", (20, 20)).save(photos / "photos" / "4 float.tif")
    Image.new("L", (50, 50)).save(photos / "photos" / "3 large.png")
    outcomes = stylize_files(plan(["photos", "missing.png"], "out"), PAINTER, max_pixels=2499)
    assert [" ".join(str(outcome.error).split())[:34] for outcome in outcomes] == [
        "the picture's file is empty; got p",
        "the file isn't a picture; got phot",
        "the picture can't be read; got pho",
        "the picture is too large; got phot",
        "a picture of floating point number",
        "None",
        "None",
        "None",
        "there is no such picture; got miss",
    ]
    assert files(photos / "out") == {"a.png", "b.JPG", "sea/c.webp"}
    facts = [outcome.as_dict() for outcome in outcomes]
    assert [fact.get("kind") for fact in facts] == ["FileError"] * 4 + ["DataError"] + [None] * 3 + ["FileError"]
    assert all(("width" in fact) != ("error" in fact) for fact in facts)


def test_unreadable_and_unwritable(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "out").mkdir()
    (photos / "out" / "a.png").write_text("kept")
    access = os.access

    def read_only(path: Any, mode: int) -> bool:  # for root, nothing is read-only
        return Path(path).name != "a.png" and access(path, mode)

    monkeypatch.setattr(os, "access", read_only)
    found = stylize_files(plan(["photos"], "out"), PAINTER)
    assert [type(outcome.error) for outcome in found] == [FileError, type(None), type(None)]
    assert str(found[0].error) == f"the picture can't be written; got {Path('out/a.png')} (Permission denied)."
    assert (photos / "out" / "a.png").read_text() == "kept"


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_a_full_disk_leaves_nothing_half_written(photos: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    jobs = plan(["photos"], "out")
    original = getattr(Path, method)

    def full(self: Path, *arguments: Any) -> Any:
        if "b.JPG" in self.name:
            raise OSError(28, "No space left on device")
        return original(self, *arguments)

    monkeypatch.setattr(Path, method, full)
    outcomes = stylize_files(jobs, PAINTER)
    assert [type(outcome.error) for outcome in outcomes] == [type(None), FileError, type(None)]
    assert "No space left on device" in str(outcomes[1].error)
    assert files(photos / "out") == {"a.png", "sea/c.webp"}


def test_the_output_folder_is_a_file(photos: Path) -> None:
    (photos / "out").write_text("kept")
    outcomes = stylize_files(plan(["photos"], "out"), PAINTER)
    assert all("the output folder can't be made; got out" in str(outcome.error) for outcome in outcomes)


def test_too_little_memory_for_one(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = folders.Photograph.of

    def fail(source: Any, **options: Any) -> Any:
        if Path(source).name == "a.png":
            raise MemoryError
        return original(source, **options)

    monkeypatch.setattr(folders.Photograph, "of", fail)
    outcomes = stylize_files(plan(["photos"], "out"), PAINTER)
    assert str(outcomes[0].error) == f"the picture needs more memory than there is; got {Path('photos/a.png')}."
    assert [outcome.error for outcome in outcomes[1:]] == [None, None]


def test_defects_arent_taken_for_failures(photos: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        stylize_files(plan(["photos"], "out"), lambda _: 1 / 0)  # type: ignore[arg-type,return-value]


# --- side by side ----------------------------------------------------------------------------------------------------


class Watched:
    """Events of reading, painting and writing by a picture's name; a painter that waits for one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: dict[tuple[str, str], threading.Event] = defaultdict(threading.Event)
        self.order: list[tuple[str, str]] = []
        self.waits: dict[str, tuple[str, str]] = {}
        self.painting = ""
        of, write = folders.Photograph.of, folders.write_atomically

        def read(source: Any, **options: Any) -> Any:
            photograph = of(source, **options)
            self.seen("read", Path(source).name)
            return photograph

        def written(content: bytes, path: Path, **options: Any) -> None:
            self.seen("written", path.name)
            write(content, path, **options)

        monkeypatch.setattr(folders.Photograph, "of", read)
        monkeypatch.setattr(folders, "write_atomically", written)

    def seen(self, what: str, name: str) -> None:
        self.order.append((what, name))
        self.events[what, name].set()

    def __call__(self, pixels: Any) -> Any:
        name = f"{pixels[0, 0, 0]}.png"
        if name in self.waits:
            assert self.events[self.waits[name]].wait(20), f"not while {name} was painted"
        self.seen("painted", name)
        return pixels


def numbered(folder: Path, count: int) -> list[Job]:
    """Pictures of 8×8 whose colour is their number."""
    folder.mkdir()
    for n in range(count):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    return plan([folder], "out")


def test_the_next_is_read_and_the_last_written_while_one_is_painted(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    watched.waits = {"0.png": ("read", "1.png"), "1.png": ("written", "0.png"), "2.png": ("read", "3.png")}
    outcomes = stylize_files(numbered(photos / "four", 4), watched)  # type: ignore[arg-type]
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert [outcome.job.names[1] for outcome in outcomes] == [str(Path("out", f"{n}.png")) for n in range(4)]


def test_no_more_is_in_hand_than_there_is_room_for(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "IN_HAND", 64)  # one picture; another is read, and waits
    watched = Watched(monkeypatch)
    stylize_files(numbered(photos / "four", 4), watched)  # type: ignore[arg-type]
    for n in range(2):
        assert watched.order.index(("written", f"{n}.png")) < watched.order.index(("read", f"{n + 2}.png"))


@pytest.mark.parametrize("where", ["painting", "written", "done", "reading"])
def test_a_defect_or_an_interruption_ends_it_all(photos: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(folders, "IN_HAND", 64)  # the reader waits for room when it happens
    jobs = numbered(photos / "many", 9)

    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    if where == "written":
        monkeypatch.setattr(folders, "write_atomically", fail)
    elif where == "reading":
        monkeypatch.setattr(folders.Photograph, "of", fail)
    with pytest.raises(KeyboardInterrupt):
        stylize_files(jobs, fail if where == "painting" else PAINTER, done=fail if where == "done" else None)
    assert not {thread.name for thread in threading.enumerate()} & {"read ahead", "write behind"}
    assert len(files(photos / "out") if (photos / "out").exists() else []) <= (where == "done")


class Pipe:
    """A standard stream with bytes underneath."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize(
    ("given", "kind", "expected"), [("JPEG", None, "JPEG"), ("GIF", None, "PNG"), ("PNG", "WEBP", "WEBP")]
)
def test_stdin_and_stdout(monkeypatch: pytest.MonkeyPatch, given: str, kind: str | None, expected: str) -> None:
    photo = io.BytesIO()
    Image.fromarray(PHOTO).save(photo, given)
    out = Pipe()
    monkeypatch.setattr(sys, "stdin", Pipe(photo.getvalue()))
    monkeypatch.setattr(sys, "stdout", out)
    (outcome,) = stylize_files(plan(["-"], "-", kind=kind), PAINTER, kind=kind)
    monkeypatch.undo()
    assert outcome.error is None
    with Image.open(io.BytesIO(out.buffer.getvalue())) as image:
        assert (image.format, image.size) == (expected, (24, 20))
    assert outcome.as_dict()["content"] == outcome.as_dict()["out"] == "-"


def test_an_empty_stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe())
    (outcome,) = stylize_files(plan(["-"], tmp_path / "out.png"), PAINTER)
    assert str(outcome.error) == "the picture's file is empty; got stdin."
    assert not list(tmp_path.iterdir())
