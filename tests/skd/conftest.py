"""What the tests of training engines share: several processes of gloo, and the examples of docs/engines.rst.

This file is run by each process, too. They are forked by a server that has torch loaded already, so a process starts in
a moment; and they are killed when they take too long, so a hang is a failed test.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for `_engines`, in the tests and in their processes

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = [
    "pytest",
    "torch._dynamo",  # which DDP imports
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
    "lightning_fabric",
    "skd",
]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), what it printed, and what its function returned."""

    code: int
    said: str
    result: Any
    seconds: float


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[..., list[Ended]]:
    """Runs a function of the test's own file, ``work(rank, *args)``, in several processes of one gloo group.

    `group` is the seconds after which a collective is given up; 0 makes no group. A process that still runs after
    `limit` seconds fails the test. The function returns what `torch.save` takes, or None.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("needs gloo")
    calls = iter(range(99))

    def run(work: Callable[..., Any], *args: Any, count: int = 2, limit: float = 180, group: float = 90) -> list[Ended]:
        folder = tmp_path / f"ranks{next(calls)}"
        folder.mkdir()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        task = {"file": work.__code__.co_filename, "name": work.__name__, "args": args}
        task |= {"count": count, "folder": str(folder), "group": group}
        processes = [
            context.Process(target=runpy.run_path, args=(__file__, {"TASK": task, "RANK": rank}, "rank"))
            for rank in range(count)
        ]
        start = time.monotonic()
        try:
            for process in processes:
                process.start()
            seconds = []
            for process in processes:
                process.join(max(0.0, start + limit - time.monotonic()))
                seconds.append(time.monotonic() - start)
            late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
        said = [file.read_text(errors="replace") if file.exists() else "" for file in _files(folder, count, "log")]
        if late:
            pytest.fail(f"processes {late} still ran after {limit} s; they said:\n" + "\n---\n".join(said))
        saved = [torch.load(f, weights_only=True) if f.exists() else None for f in _files(folder, count, "pt")]
        codes = [int(process.exitcode or 0) for process in processes]
        return [Ended(*ended) for ended in zip(codes, said, saved, seconds, strict=True)]

    return run


@pytest.fixture(scope="session")
def examples() -> dict[str, str]:
    """The Python of docs/engines.rst, by the ``:name:`` of each block."""
    text = (ROOT / "docs" / "engines.rst").read_text(encoding="utf-8")
    found = re.findall(r"^\.\. code-block:: python\n   :name: (\S+)\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return {name: re.sub(r"^ {3}", "", block, flags=re.MULTILINE) for name, block in found}


def _files(folder: Path, count: int, kind: str) -> list[Path]:
    return [folder / f"{rank}.{kind}" for rank in range(count)]


def _work(task: dict[str, Any], rank: int) -> None:
    """In a process of its own: meet the others, call the function, save what it returns."""
    log = os.open(f"{task['folder']}/{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if task["group"]:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{task['folder']}/meet",
            rank=rank,
            world_size=task["count"],
            timeout=timedelta(seconds=task["group"]),
        )
    spec = importlib.util.spec_from_file_location("work", task["file"])
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["work"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    result = getattr(module, task["name"])(rank, *task["args"])
    torch.save(result, f"{task['folder']}/{rank}.pt")
    # Not where the work failed: a process that crashes says no farewell either.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "rank":
    _work(globals()["TASK"], globals()["RANK"])
