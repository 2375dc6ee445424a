"""What a training step sends, in bytes a process: ``python -m benchmarks.scaling``. Linux only.

A distillation runs in 1, 2 and 4 processes on this machine, joined by gloo over TCP. What each sends is counted from
the networks' shapes (`count`), and read from the kernel, which keeps for each TCP connection how many bytes went
through it (TCP_INFO): torch's own accounting takes no part. Bytes don't depend on how fast or busy the machine is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import platform
import runpy
import socket
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import skd
from benchmarks.reports import write_report
from skd.adapters import ChannelAdapter
from skd.methods import Transfer

WIDTH, TEACHER_WIDTH = 64, 160
LIMIT = 120  # seconds for a process
PARTS = 4  # batches whose gradients are accumulated
MODES = {
    "ddp": "DDP",
    "ddp, no buffers": "DDP, forward_sync_buffers=False",
    "ddp, accumulated": f"DDP, {PARTS} batches a step (no_sync)",
    "fsdp": "FSDP2",
}


class Net(nn.Module):
    """An encoder-decoder network with batch norm, whose buffers DDP broadcasts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.code = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up1 = nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up1(self.up2(self.code(self.down2(self.down1(x)))).relu())


def build() -> skd.Distiller:
    """The teacher has several times the student's parameters; two learned adapters are trained along."""
    torch.manual_seed(0)
    rows = [
        Transfer(name, name, name, student_adapters=ChannelAdapter(times * WIDTH, times * TEACHER_WIDTH))
        for name, times in (("down1", 1), ("code", 2))
    ]
    return skd.Distiller(Net(TEACHER_WIDTH), Net(WIDTH), [*rows, Transfer("output", "", "")])


# --- the count ---


def size(tensor: Tensor) -> int:
    """Bytes."""
    return tensor.numel() * tensor.element_size()


def count(distiller: skd.Distiller, processes: int, mode: str) -> float:
    """Bytes that a process sends in one optimizer step, in the mean over the processes; messages' headers left out.

    DDP: a ring all-reduce sends 2 (n − 1) / n of the trained parameters; a broadcast reaches n − 1 processes, so it is
    (n − 1) / n of the buffers in the mean. FSDP2: a ring all-gather sends (n − 1) / n of the parameters, each padded to
    n equal slices along its first dimension, forward and, but for the root's own, backward once more; the
    reduce-scatter of the gradients the same again, and twice that with gloo, which makes it out of an all-reduce.
    """
    share = (processes - 1) / processes
    if mode == "fsdp":
        padded = {name: pad(p, processes) for name, p in distiller.named_parameters()}
        everything = sum(padded.values())
        student = sum(value for name, value in padded.items() if name.startswith("student."))
        return share * (everything + student + 2 * everything)
    gradients = sum(size(p) for p in distiller.parameters() if p.requires_grad)
    # With accumulation only the first forward after a synchronised backward broadcasts.
    buffers = 0 if mode == "ddp, no buffers" else sum(size(b) for b in distiller.buffers())
    return share * (2 * gradients + buffers)


def pad(parameter: Tensor, processes: int) -> int:
    """Bytes of a parameter that is padded to equal slices."""
    rows = parameter.shape[0]
    return size(parameter) // rows * math.ceil(rows / processes) * processes


# --- the measurement ---


def traffic() -> dict[str, int]:
    """Bytes that this process' TCP connections have sent and received so far, by the kernel."""
    total = {"sent": 0, "received": 0}
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                continue
        except OSError:  # the folder's own descriptor, which is closed by now
            continue
        connection = socket.socket(fileno=os.dup(int(entry)))
        with connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
                continue
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
            # struct tcp_info of linux/tcp.h: bytes received; bytes sent, and how many of these were sent again.
            received, sent, again = (struct.unpack_from("=Q", info, offset)[0] for offset in (128, 200, 208))
            total["sent"] += sent - again
            total["received"] += received
    return total


def since(before: dict[str, int]) -> dict[str, int]:
    """What came on top. All processes meet first, so that nothing is on its way."""
    dist.barrier()
    return {name: value - before[name] for name, value in traffic().items()}


def work(rank: int, processes: int, mode: str, steps: int, folder: str) -> None:
    """One of the processes: writes its bytes a step."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    distiller = build()
    if mode == "fsdp":
        for module in (*distiller.student.children(), distiller.student, distiller):
            fully_shard(module)
        module: nn.Module = distiller
    else:
        module = DistributedDataParallel(distiller, forward_sync_buffers=mode != "ddp, no buffers")
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-3)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    parts = PARTS if mode == "ddp, accumulated" else 1

    def step() -> None:
        for part in range(parts):
            with module.no_sync() if part < parts - 1 else contextlib.nullcontext():
                module(x).losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        distiller.advance()

    step()  # DDP sets its buckets anew after the first
    step()
    dist.barrier()
    barrier = since(traffic())
    before = traffic()
    for _ in range(steps):
        step()
    found = {name: (value - barrier[name]) / steps for name, value in since(before).items()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()  # whoever ends closes its connections, which the others are still reading
    dist.destroy_process_group()


def measure(processes: int, mode: str, steps: int = 3) -> list[dict[str, float]]:
    """Bytes a step that each of the processes sent and received."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "torch._dynamo"])  # once, and not in each process
    with tempfile.TemporaryDirectory() as folder:
        task = {"processes": processes, "mode": mode, "steps": steps, "folder": folder}
        started = [
            context.Process(target=runpy.run_path, args=(__file__, {"TASK": {"rank": rank, **task}}, "rank"))
            for rank in range(processes)
        ]
        try:
            for process in started:
                process.start()
            for process in started:
                process.join(LIMIT)
            codes = [process.exitcode for process in started]
        finally:
            for process in started:
                process.kill()
                process.join()
        if any(codes) or None in codes:
            raise RuntimeError(f"{processes} processes, {mode}: exit codes {codes} (None: it took too long)")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]


# --- the report ---


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of text, as docs/engines.rst has them."""
    lines = [f"{'engine':<38}{'processes':>9}{'counted':>13}{'measured':>13}{'difference':>12}"]
    for row in rows:
        counted, found = row["counted, bytes"], row["measured, bytes"]
        numbers = f"{counted / 1e6:>10.3f} MB{found / 1e6:>10.3f} MB"
        difference = f"{found / counted - 1:+.2%}" if counted else "–"
        lines.append(f"{MODES[row['mode']]:<38}{row['processes']:>9}{numbers}{difference:>12}")
    return lines


def main() -> None:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scaling.json")
    options = parser.parse_args()
    distiller = build()
    rows = []
    for mode in MODES:
        for processes in (1, 2, 4):
            found = measure(processes, mode, options.steps)
            sent = [one["sent"] for one in found]
            rows.append(
                {
                    "mode": mode,
                    "processes": processes,
                    "counted, bytes": count(distiller, processes, mode),
                    "measured, bytes": sum(sent) / processes,
                    "of each process": sent,
                    "received by each": [one["received"] for one in found],
                }
            )
    print("\n".join(table(rows)))
    report = {
        "what": "bytes that a process sends in an optimizer step, the mean over the processes",
        "how": "counted: from shapes, without headers; measured: TCP_INFO of gloo's connections over loopback",
        "bytes of": {
            "trained parameters": sum(size(p) for p in distiller.parameters()),
            "student": sum(size(p) for p in distiller.student.parameters()),
            "adapters": sum(size(p) for p in distiller.adapters.parameters()),
            "buffers": sum(size(b) for b in distiller.buffers()),
            "teacher, never sent": sum(size(p) for p in distiller.teacher.parameters()),
        },
        "steps": options.steps,
        "rows": rows,
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {
            "kernel": platform.release().split("-")[0],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "skd": skd.__version__,
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_report(report, options.out)


if __name__ == "__main__":
    main()
elif __name__ == "rank":
    work(**globals()["TASK"])
