"""The record of a reproduction: what is done, of which plan, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kbstyle_example.record import Record
from skd.errors import FileError

PLAN: dict[str, Any] = {"pictures": "3 files", "recipe": {"steps": 4, "seed": 0}, "widths": (4, 5, 6), "size": 64}


def test_what_is_done_is_found_again(tmp_path: Path) -> None:
    path, made = tmp_path / "record.json", tmp_path / "made"
    record = Record(path, PLAN)
    assert not record.has("bake", made)
    before = time.time()
    record.note("bake", made)
    again = Record(path, {**PLAN, "widths": [4, 5, 6]})  # JSON knows no tuples
    assert before - 1 <= again.done["bake"] <= time.time() + 1
    assert not again.has("bake", made)  # it was removed
    made.touch()
    assert again.has("bake", made)
    assert not again.has("eat", made)
    again.note("eat", made)
    assert list(json.loads(path.read_text())["done"]) == ["bake", "eat"]
    assert json.loads(path.read_text())["plan"] == json.loads(json.dumps(PLAN))


def test_a_plan_binds_the_folder_once_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    Record(path, {"size": 1})
    assert not path.exists()
    Record(path, PLAN).keep()
    assert Record(path, PLAN).done == {}
    with pytest.raises(FileError, match="size: 64 there, 1 here"):
        Record(path, {**PLAN, "size": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 65}, "got size: 64 there, 65 here"),
        ({"recipe": {"steps": 5, "seed": 0}}, "got recipe, steps: 4 there, 5 here"),
        ({"recipe": {"steps": 4}}, "got recipe, seed: 0 there, None here"),
        ({"recipe": 3}, r"got recipe: \{'steps': 4, 'seed': 0\} there, 3 here"),
        ({"new": 1}, "got new: None there, 1 here"),
        (
            {"size": 1, "widths": [4], "pictures": "no", "recipe": {}},
            "got pictures: 3 files there, no here; recipe, steps: 4 there, None here; recipe, seed: 0 there, None here "
            "and 2 more",
        ),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "record.json"
    Record(path, PLAN).note("bake", path)
    before = path.read_bytes()
    reason = (
        rf"the folder holds another reproduction; {message}\. Remedy: name another output folder, or remove .*record"
    )
    with pytest.raises(FileError, match=reason):
        Record(path, {**PLAN, **changes})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"3", b'{"done": {}}', b'{"plan": {}}', b'{"plan": [1], "done": {}}',
     b'{"plan": {}, "done": 5}', b'{"plan": {}, "done": "ab"}', b'{"plan": null, "done": {}}'],
)  # fmt: skip
def test_a_damaged_record_is_refused_and_kept(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(damaged)
    with pytest.raises(
        FileError, match=r"the record of the reproduction can't be read; got .*json \(\w+\)\. Remedy: name"
    ):
        Record(path, PLAN)
    assert path.read_bytes() == damaged


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"the record of the reproduction can't be read; got .* \(IsADirectoryError\)"):
        Record(tmp_path, PLAN)


def test_a_record_that_cant_be_written(tmp_path: Path) -> None:
    record = Record(tmp_path / "missing" / "record.json", PLAN)
    for write in (record.keep, lambda: record.note("bake", tmp_path)):
        with pytest.raises(FileError, match="the file can't be written"):
            write()
