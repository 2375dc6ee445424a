"""Files whole or not at all, and the folders they go into: nothing half-written, nothing left behind, remedies told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from kbstyle_example.files import writable_folder, write_atomically
from kbstyle_example.images import save_image
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.weights_file import save_weights
from skd.errors import FileError


def test_text_and_bytes(tmp_path: Path) -> None:
    write_atomically("σ\n", tmp_path / "text")
    write_atomically(b"\xff\x00\r\n", str(tmp_path / "bytes"))
    assert (tmp_path / "text").read_bytes() == b"\xcf\x83\n"
    assert (tmp_path / "bytes").read_bytes() == b"\xff\x00\r\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "text"]


def test_names_that_arent_text_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"pic\xff.png")
    write_atomically(json.dumps([name], ensure_ascii=False), tmp_path / "names.json")
    assert json.loads((tmp_path / "names.json").read_bytes()) == [name]


def all_writers(path: Path) -> None:
    """Each kind of file that the application writes, in its turn."""
    tiny = KBStyle(KBStyleConfig((4, 5, 6), fine_blocks=0, deep_blocks=0, style_blocks=0))
    for what, write in (
        ("the file", lambda: write_atomically("second", path)),
        ("the weights", lambda: save_weights(tiny, path)),
        ("the picture", lambda: save_image(torch.zeros(3, 4, 5), path)),
    ):
        with pytest.raises(FileError, match=f"{what} can't be written; got .*No space left.* Remedy: make room there"):
            write()


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_what_stood_there_is_kept_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    path = tmp_path / "file.png"
    write_atomically("first", path)

    def full(self: Path, _: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, method, full)
    all_writers(path)
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.png"]


def test_it_comes_by_a_rename_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.md"
    write_atomically("first", path)

    def stop(self: Path, target: Path) -> None:
        assert (self.read_text(), target.read_text()) == ("second", "first")  # whole before it is renamed
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically("second", path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.md"]


@pytest.mark.parametrize("name", ["missing/file.md", "file/below.md", "folder"])
def test_places_that_cant_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=f"the file can't be written; got .*{name}"):
        write_atomically("text", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    assert writable_folder(str(tmp_path / "a" / "b")).is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match=r"the output folder can't be made; got .*file.* Remedy: name another"):
            writable_folder(path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root, nothing is read-only
    with pytest.raises(FileError, match=r"nothing can be written into the output folder; got .*Remedy: name another"):
        writable_folder(tmp_path)
