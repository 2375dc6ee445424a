"""The same script in several real processes: the weights of one process, and an end with a reason, never a hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent / "several_processes.py"
LIMIT = 60  # seconds in which all has to end, however it ends: a minute

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
)


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def run(what: str, out: Path, count: int) -> list[tuple[int, str]]:
    """Exit code and output of each process, started as a cluster's scheduler does, with nobody to watch over them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, what, str(out)],
            env=environment(**(meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    deadline = time.monotonic() + LIMIT
    try:
        said = ["".join(process.communicate(timeout=max(1, deadline - time.monotonic()))) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def trained(out: Path, count: int) -> list[dict[str, Any]]:
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("what", ["joined", "fitted"])
def test_two_processes_train_what_one_does_with_the_joined_batch(tmp_path: Path, what: str) -> None:
    """Stages that thaw layers, an adapter (fitted by the main process), an average, evaluations; the log has means."""
    for count, name in ((2, "two"), (1, "one")):
        ended = run(what, tmp_path / name, count)
        assert [code for code, _ in ended] == [0] * count, ended
    two, (one,) = trained(tmp_path / "two", 2), trained(tmp_path / "one", 1)
    for found in two:
        torch.testing.assert_close(found["student"], one["student"], rtol=1e-4, atol=1e-6)
        assert found["best"] == pytest.approx(one["best"])
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        ours.pop("seconds", None), theirs.pop("seconds", None)
        assert ours == pytest.approx(theirs, rel=1e-4)

    # A run that goes on in another number of processes is another run.
    (ended,) = run(what, tmp_path / "two", 1)
    assert ended[0] == 1
    assert "data.processes: 2 there, 1 here" in ended[1]


@pytest.mark.parametrize("what", ["uneven", "stream", "unused"])
def test_uneven_data_end_well(tmp_path: Path, what: str) -> None:
    """The last round is filled up; a stream that is over for one is over for all; a layer may be left out by a step."""
    ended = run(what, tmp_path, 2)
    assert [code for code, _ in ended] == [0, 0], ended
    ours, theirs = trained(tmp_path, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("what", "messages"),
    [
        ("too few", ["DataError: the loader has too few batches; got 1 for 2 processes"] * 2),
        ("die", ["ProcessError: another process of the run died or is stuck", ""]),
        ("fail", ["ProcessError: another process of the run died or is stuck", "KeyError: 'of process 1 alone'"]),
        (
            "missing",
            [
                "ProcessError: another process of the run couldn't load its batch",
                "can't be loaded; got FileNotFoundError",
            ],
        ),
        ("folder", ["FileError: the log can't be written", "ProcessError: process 0 of the run failed; got FileError"]),
    ],
)
def test_faults_end_all_processes_with_a_reason(tmp_path: Path, what: str, messages: list[str]) -> None:
    ended = run(what, tmp_path, 2)
    for (code, said), message in zip(ended, messages, strict=True):
        assert code != 0, said
        assert message in said, said


@pytest.mark.parametrize(
    ("launcher", "count"),
    [
        (["torch.distributed.run", "--nproc-per-node=2"], 2),
        # On CPUs it starts one process, or leaves the starting to mpirun.
        (["accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"], 1),
    ],
    ids=["torchrun", "accelerate launch"],
)
def test_launchers(tmp_path: Path, launcher: list[str], count: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flag = "--master-port" if launcher[0].startswith("torch") else "--main_process_port"
    command = [sys.executable, "-m", *launcher, f"{flag}={port}", str(SCRIPT), "train", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *others = trained(tmp_path, count)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    saved = torch.load(tmp_path / "checkpoints" / "step-000000008.pt", weights_only=True)
    assert saved["identity"]["data"]["processes"] == count
    assert len(saved["random"]) == count
