"""How fast KBStyle paints on a GPU: ``python -m benchmarks.gpu``.

Content and style have the same size and both are encoded, or the style is known. The variants: the network module by
module, under autocast, by `torch.compile`; the passes that the CPU paints with (`kbstyle_example.inference`), whole
pictures at once; and a CUDA graph of each, recorded once and replayed. They take turns in one process; times are those
of the GPU (events around one batch, medians over the rounds), and the pictures are compared with the first variant's.
Beside them stands the floor: how long the GPU takes to copy as many bytes as must move, or for as many multiply-adds in
a matrix product, whichever is longer.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.latency import floor
from benchmarks.reports import write_report
from kbstyle_example import quick_layers
from kbstyle_example.devices import exact
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.inference import Inference
from kbstyle_example.networks import KBStyle
from kbstyle_example.weights_file import load_weights

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SIZES, BATCHES = ((2048, 1080), (4096, 2160)), (1, 8)
GOALS = {"2048×1080": 1.0, "4096×2160": 4.0}  # milliseconds a frame, one H200, content and style encoded
Run = Callable[[], Tensor]
Make = Callable[[KBStyle, Tensor, Tensor, torch.dtype], Run]


def eager(network: KBStyle, content: Tensor, style: Tensor, dtype: torch.dtype) -> Run:
    """Module by module."""
    return _cast(network, content, style, dtype)


def compiled(network: KBStyle, content: Tensor, style: Tensor, dtype: torch.dtype) -> Run:
    """By inductor, for this size."""
    return _cast(torch.compile(network, dynamic=False), content, style, dtype)


def passes(network: KBStyle, content: Tensor, style: Tensor, dtype: torch.dtype) -> Run:
    """As the CPU paints, picture by picture."""
    quick = Inference(network, dtype)
    pairs = list(zip(content.split(1), style.split(1), strict=True))
    return lambda: torch.cat([quick.render(one, quick.encode_style(other)) for one, other in pairs])


def known(network: KBStyle, content: Tensor, style: Tensor, dtype: torch.dtype) -> Run:
    """`passes`, the style encoded before."""
    quick = Inference(network, dtype)
    codes = [quick.encode_style(other) for other in style.split(1)]
    return lambda: torch.cat([quick.render(one, code) for one, code in zip(content.split(1), codes, strict=True)])


def graph(make: Make) -> Make:
    """What `make` runs, recorded once and replayed: no time goes to starting kernels."""

    def recorded(network: KBStyle, content: Tensor, style: Tensor, dtype: torch.dtype) -> Run:
        run = make(network, content, style, dtype)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        tape = torch.cuda.CUDAGraph()
        with torch.cuda.graph(tape):
            out = run()

        def replay() -> Tensor:
            tape.replay()
            return out

        return replay

    return recorded


# What is timed: how it is run, and in which type. The first is what pictures are compared with.
VARIANTS: dict[str, tuple[Make, torch.dtype]] = {
    "float32": (eager, torch.float32),
    "float16": (eager, torch.float16),
    "bfloat16": (eager, torch.bfloat16),
    "float16, graph": (graph(eager), torch.float16),
    "float16, compiled": (compiled, torch.float16),
    "float16, compiled, graph": (graph(compiled), torch.float16),
    "passes, float16": (passes, torch.float16),
    "passes, bfloat16": (passes, torch.bfloat16),
    "passes, float16, graph": (graph(passes), torch.float16),
    "passes, float16, graph, style known": (graph(known), torch.float16),
}


def _cast(network: Callable[..., Any], content: Tensor, style: Tensor, dtype: torch.dtype) -> Run:
    def run() -> Tensor:
        half = dtype != torch.float32
        with torch.autocast(content.device.type, dtype if half else None, enabled=half, cache_enabled=False):
            out: Tensor = network(content, style)
        return out

    return run


def timed(runs: Mapping[str, Run], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round, in an order drawn anew; one round before doesn't count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for turn in range(rounds + 1):
        for name in order.sample(list(runs), len(runs)):
            seconds = _seconds(runs[name], device)
            if turn:
                taken[name].append(seconds)
    return taken


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000


def rates(device: torch.device, side: int = 8192) -> dict[str, float]:
    """Multiply-adds a second in float16 (float32 on a CPU), and bytes a second read or written, the best of five."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    matrix, stream = torch.rand(side, side, device=device).to(dtype), torch.rand(4 * side**2, device=device)
    product, copied = torch.empty_like(matrix), torch.empty_like(stream)
    work: dict[str, tuple[int, Callable[[], Any]]] = {
        "multiply_adds": (side**3, lambda: torch.mm(matrix, matrix, out=product)),
        "bytes": (2 * stream.nbytes, lambda: copied.copy_(stream)),
    }
    return {name: amount / min(_seconds(run, device) for _ in range(5)) for name, (amount, run) in work.items()}


@torch.inference_mode()
def measured(
    network: KBStyle,
    size: tuple[int, int],
    batch: int,
    device: torch.device,
    can: Mapping[str, float],
    *,
    rounds: int,
    variants: Sequence[str] = tuple(VARIANTS),
) -> dict[str, Any]:
    """The variants of one size and batch: milliseconds a frame, frames a second, and how far their pictures are apart.

    A variant that fails is named with the error.
    """
    noise = torch.Generator().manual_seed(0)
    pictures = [torch.rand(batch, 3, size[1], size[0], generator=noise) for _ in range(2)]
    content, style = (x.to(device, memory_format=torch.channels_last) for x in pictures)
    placed = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last)
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name in variants:
        make, dtype = VARIANTS[name]
        try:
            run = make(placed, content, style, dtype)
            run()
            runs[name] = run
        except RuntimeError as error:  # out of memory, or no compiler
            failed[name] = str(error).splitlines()[0]
    taken = timed(runs, device, rounds)
    first = next(iter(runs))
    wanted = runs[first]().float()
    rows = {}
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        rows[name] = {
            "milliseconds": 1000 * median / batch,
            "frames a second": batch / median,
            "least": 1000 * min(seconds) / batch,
            "greatest": 1000 * max(seconds) / batch,
            "apart": 255 * float((runs[name]().float() - wanted).clamp(-1, 1).abs().mean()),
        }
    with FlopCounterMode(display=False) as counter:
        network(*(x[:1] for x in pictures))
    least = max(floor(network, size)["bytes"] / 2 / can["bytes"], counter.get_total_flops() / 2 / can["multiply_adds"])
    return {"size": list(size), "batch": batch, "variants": rows, "failed": failed, "floor": 1000 * least}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("error: there is no GPU here; nothing was measured, and nothing written.")
    device, network = torch.device("cuda"), load_weights("kbstyle").eval()
    quick_layers.STRIP = 2**40  # whole pictures: a GPU's cache holds no strip, and each kernel takes time to start
    with exact():
        can = rates(device)
        rows = [
            measured(network, size, batch, device, can, rounds=options.rounds) for size in SIZES for batch in BATCHES
        ]
    for row in rows:
        print(f"{row['size'][0]}×{row['size'][1]}, batch {row['batch']}; {row['floor']:.3f} ms a frame at least")
        for name, each in row["variants"].items():
            print(f"  {name:40}{each['milliseconds']:8.3f} ms a frame, {each['apart']:.2f} of 255 apart")
    report = {
        "command": "python -m benchmarks.gpu",
        "gpu": torch.cuda.get_device_name(),
        "rounds": options.rounds,
        "goals": GOALS,
        "rates": can,
        **surroundings(),
        "rows": rows,
    }
    write_report(report, options.out)


if __name__ == "__main__":
    main()
