"""The bytes that a step sends: the count against the kernel's, and the committed table against both."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import scaling

ROOT = Path(__file__).resolve().parents[2]
REPORT = json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text(encoding="utf-8"))


def test_the_count_in_closed_form() -> None:
    distiller = scaling.build()
    w, t = scaling.WIDTH, scaling.TEACHER_WIDTH
    student = sum(
        o * i * k * k + o for o, i, k in ((w, 3, 3), (2 * w, w, 3), (2 * w, 2 * w, 3), (w, 2 * w, 2), (3, w, 2))
    )
    student += 2 * (w + 2 * w + 2 * w)  # batch norm
    adapters = t * w + t + 2 * t * 2 * w + 2 * t
    buffers = 4 * 2 * (w + 2 * w + 2 * w) + 3 * 8 + 4 * 3  # means and variances, three counters, three weights
    assert scaling.count(distiller, 1, "ddp") == 0
    assert scaling.count(distiller, 2, "ddp, no buffers") == 4 * (student + adapters)
    assert scaling.count(distiller, 2, "ddp") == 4 * (student + adapters) + buffers / 2
    assert scaling.count(distiller, 4, "ddp, accumulated") == 1.5 * 4 * (student + adapters) + 0.75 * buffers
    # Only 3 outputs aren't a multiple of two: a weight's dimensions (64, 3, 2, 2) are, its bias of 3 isn't.
    expected = (4 * (student + 1) * 2 + 4 * adapters + 2 * 4 * (student + 1 + adapters)) / 2
    assert scaling.count(distiller, 2, "fsdp") == expected
    assert scaling.count(distiller, 10**6, "ddp") == pytest.approx(2 * 4 * (student + adapters) + buffers, rel=1e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and TCP_INFO")
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("mode", ["ddp", "ddp, accumulated", "fsdp"])
def test_two_processes_send_what_was_counted(mode: str) -> None:
    found = scaling.measure(2, mode, steps=2)
    counted = scaling.count(scaling.build(), 2, mode)
    sent, received = (sum(one[name] for one in found) for name in ("sent", "received"))
    assert sent / 2 == pytest.approx(counted, rel=0.02)
    assert received == pytest.approx(sent, rel=1e-3)
    # The guards: the teacher would show, and so would the count of another number of processes.
    teacher = sum(p.numel() * 4 for p in scaling.build().teacher.parameters())
    assert teacher > 2 * counted
    assert sent / 2 != pytest.approx(scaling.count(scaling.build(), 3, mode), rel=0.2)


def test_traffic_leaves_no_descriptor_open() -> None:
    before = set(Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").exists() else pytest.skip("needs /proc")
    scaling.traffic()
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == {path.name for path in before}


def rows() -> list[dict[str, Any]]:
    return REPORT["rows"]


def test_the_committed_figures_agree_with_the_count() -> None:
    distiller = scaling.build()
    assert {(row["mode"], row["processes"]) for row in rows()} == {(m, n) for m in scaling.MODES for n in (1, 2, 4)}
    for row in rows():
        assert row["counted, bytes"] == scaling.count(distiller, row["processes"], row["mode"])
        assert row["measured, bytes"] == pytest.approx(row["counted, bytes"], rel=0.02)
        assert row["measured, bytes"] == pytest.approx(sum(row["of each process"]) / row["processes"])


def test_the_documentation_has_the_committed_table() -> None:
    text = (ROOT / "docs" / "engines.rst").read_text(encoding="utf-8")
    assert "\n".join("   " + line for line in scaling.table(rows())) in text
