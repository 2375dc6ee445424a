"""What a system costs: time in ratios within one process, peak memory; and the facts that stand beside figures."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import skd
from kbstyle_example.peers.system import STYLE_SIDE, Size, System
from skd.errors import ArgumentError, closest

ROUNDS = 7
PACKAGES = ("torch", "numpy", "pillow", "onnxruntime")


class Latency(NamedTuple):
    """Milliseconds (median), and how many times the reference's: median, lower and upper quartile over the rounds."""

    milliseconds: float
    ratio: float
    low: float
    high: float


def latencies(
    systems: Sequence[System],
    size: Size,
    *,
    reference: str | None = None,
    rounds: int = ROUNDS,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """How long each system takes for one picture: the style encoded, the content rendered, batch 1.

    The systems take turns, each round begins with another one, and every ratio is taken within a round: what slows the
    machine for a while slows all of them.

    Parameters
    ----------
    systems : sequence of System
    size : (width, height)
        Of the content; the style has the same, but 512 pixels a side at most.
    reference : str, optional
        The system that ratios are to; the first one otherwise.
    rounds, warm_up : int
        Rounds that count, and before them rounds that don't.
    clock : callable
        Seconds.

    Raises
    ------
    ArgumentError
        No round, no system of the reference's name, or a size without pixels.

    Examples
    --------
    >>> from kbstyle_example.peers import as_system
    >>> teacher = as_system("teacher")
    >>> found = latencies([teacher], (32, 32), rounds=1)
    >>> found["teacher"].ratio
    1.0
    """
    names = [system.name for system in systems]
    reference = names[0] if reference is None and names else reference
    if reference not in names:
        raise ArgumentError("no such system to refer to", got=repr(reference), remedy=closest(str(reference), names))
    if rounds < 1 or warm_up < 0 or min(size) < 1:
        raise ArgumentError("rounds of timing", got=(rounds, warm_up, size), expected="1 or more, of a picture")
    noise = torch.Generator().manual_seed(0)
    content = torch.rand(1, 3, size[1], size[0], generator=noise)
    style = torch.rand(1, 3, min(size[1], STYLE_SIDE), min(size[0], STYLE_SIDE), generator=noise)
    seconds: list[dict[str, float]] = []
    for turn in range(warm_up + rounds):
        taken = {}
        for index in range(len(systems)):
            system = systems[(turn + index) % len(systems)]
            started = clock()
            system.stylize(content, style)  # its result comes to the CPU, so an accelerator has finished
            taken[system.name] = clock() - started
        seconds.append(taken)
    counted = seconds[warm_up:]
    found = {}
    for name in names:
        ratios = [taken[name] / taken[reference] for taken in counted]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else (ratios[0],) * 3
        median = 1000 * statistics.median(taken[name] for taken in counted)
        found[name] = Latency(median, statistics.median(ratios), low, high)
    return found


def peak_memory(system: System, size: Size) -> int | None:
    """Bytes that stylising one picture adds to the process at its peak; None where the system doesn't tell.

    Linux alone: the kernel's own peak (VmHWM) is set back before the picture and read after it. Memory that earlier
    pictures left to the allocator is given back first.

    Parameters
    ----------
    system : System
    size : (width, height)

    Examples
    --------
    >>> from kbstyle_example.peers import as_system
    >>> found = peak_memory(as_system("teacher"), (64, 64))
    >>> found is None or found >= 0
    True
    """
    content = torch.zeros(1, 3, size[1], size[0])
    style = torch.zeros(1, 3, min(size[1], STYLE_SIDE), min(size[0], STYLE_SIDE))
    system.stylize(content[..., :64, :64], style[..., :64, :64])  # what is loaded once doesn't count
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status("VmRSS")
        system.stylize(content, style)
        return max(0, _status("VmHWM") - before)
    except (OSError, KeyError):
        return None


def _status(name: str) -> int:
    """A line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024


def surroundings() -> dict[str, Any]:
    """The machine, the versions and the commit of this code: what stands beside every figure.

    Examples
    --------
    >>> sorted(surroundings())
    ['code', 'machine', 'python', 'threads', 'versions']
    """
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "code": code_version(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def machine() -> str:
    """Processor and system, in words.

    Examples
    --------
    >>> "processors" in machine()
    True
    """
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    words = [model, f"{os.cpu_count()} processors", platform.system()]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def code_version() -> str:
    """The commit, with "+changes" where tracked files differ from it; the version where this is no checkout.

    Examples
    --------
    >>> code_version() != ""
    True
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an environment may lie within another project's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return f"skd {skd.__version__}"
