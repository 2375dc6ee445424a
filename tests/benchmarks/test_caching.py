"""The benchmark of the cache: cached steps find every sample and train as the others do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch_pruning")
from benchmarks import caching


def test_it_runs_and_every_sample_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(caching, "TEACHER", (4, 6, 8))
    monkeypatch.setattr(caching, "STUDENT", (2, 3, 4))
    caches = []
    before = caching.skd.TeacherCache

    def kept(folder: Path) -> object:
        caches.append(before(folder))
        return caches[-1]

    monkeypatch.setattr(caching.skd, "TeacherCache", kept)
    out = tmp_path / "caching.json"
    caching.main(["--rounds", "2", "--batches", "10", "--out", str(out)])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["steps"].keys() == {"student alone", *(f"{m}{c}" for m in caching.METHODS for c in ("", ", cached"))}
    assert report["steps"]["student alone"]["ratio"] == 1
    assert all((cache.misses, cache.hits) == (40, 12) for cache in caches)  # three rounds of four
    assert len(caches) == len(caching.METHODS)
    assert "bytes a sample" in capsys.readouterr().out
