"""How long one picture takes, in ratios within one run: ``python -m benchmarks.latency``.

Content and style have the same size, and both are encoded; "style known" is the picture alone, "style scaled to 512"
encodes the style as the tool does, its longest side 512 pixels. All systems run in one process on the same input, take
turns, and each ratio is taken within a round, so that what slows the machine for a while slows all of them. On
processors that multiply in bfloat16 KBStyle and MicroAST are timed in it, too. MicroAST and AdaIN with VGG-19 have
random weights: they take the same time. Seconds are of the processor, all threads together, and of the wall.

Beside them stands the floor: multiply-adds, and the least bytes that must move if everything between two statistics
were one pass (pictures read and written once; what is normalised, and what the decoder takes from the content encoder,
written once and read once); and how long the machine takes for as many in a matrix product, or for as many bytes in a
copy, whichever is longer.

``--peers DIR`` adds Magenta's published network at the size its files name, its style known as well.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reports import write_report
from kbstyle_example.devices import has_bfloat16
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.inference import Inference
from kbstyle_example.networks import STUDENT, KBStyle
from kbstyle_example.options import LONGEST_STYLE_SIDE
from kbstyle_example.peers import load_peer
from kbstyle_example.peers.magenta import STYLE_SIDE, Magenta, last
from kbstyle_example.peers.microast import MicroAST
from kbstyle_example.peers.system import of_module

RESULTS = Path(__file__).parent / "results" / "latency.json"
KBSTYLE, KNOWN, MODULES = "KBStyle", "KBStyle, style known", "KBStyle, module by module"
ONNX, MICROAST, ADAIN = "KBStyle, ONNX Runtime", "MicroAST", "AdaIN with VGG-19"
MAGENTA = "Magenta, style known"
REDUCED, HALF_REDUCED = "KBStyle, style scaled to 512", "KBStyle, bfloat16, style scaled to 512"
HALF, HALF_KNOWN, MICROAST_HALF = "KBStyle, bfloat16", "KBStyle, bfloat16, style known", "MicroAST, bfloat16"
OURS = (KBSTYLE, REDUCED, KNOWN, HALF, HALF_REDUCED, HALF_KNOWN)
# What is timed at which size: at 2K AdaIN takes minutes, and gigabytes.
SIZES = {
    (384, 384): (KBSTYLE, KNOWN, HALF, HALF_KNOWN, MAGENTA),
    (512, 512): (KBSTYLE, KNOWN, HALF, HALF_KNOWN, MODULES, MICROAST, MICROAST_HALF, ADAIN, ONNX),
    (2048, 1080): (*OURS, MODULES, MICROAST, MICROAST_HALF, ONNX),
    (4096, 2160): (*OURS, MODULES),
}
Run = Callable[[Tensor, Tensor], Any]


def vgg(widths: Sequence[int | str]) -> nn.Sequential:
    """3×3 convolutions with reflected borders; "down" halves, "up" doubles."""
    layers: list[nn.Module] = []
    width = int(widths[0])
    for each in widths[1:]:
        if each == "down":
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        elif each == "up":
            layers.append(nn.Upsample(scale_factor=2.0))
        else:
            layers += [nn.Conv2d(width, int(each), 3, padding=1, padding_mode="reflect"), nn.ReLU()]
            width = int(each)
    return nn.Sequential(*layers)


class AdaIN(nn.Module):
    """Huang & Belongie 2017: VGG-19 up to relu4_1 for both, their statistics exchanged, and a mirrored decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = vgg((3, 64, 64, "down", 128, 128, "down", 256, 256, 256, 256, "down", 512))
        self.decoder = vgg((512, 256, "up", 256, 256, 256, 128, "up", 128, 64, "up", 64, 3))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, 3, H, W) twice → (B, 3, H, W), sides multiples of 8."""
        x, y = self.encoder(content), self.encoder(style)
        (v, m), (w, n) = (torch.var_mean(each, (2, 3), keepdim=True) for each in (x, y))
        out: Tensor = self.decoder((x - m) * ((w + 1e-5) / (v + 1e-5)).sqrt() + n)
        return out


def systems(onnx: bool, folder: Path, peers: Path | None = None) -> dict[str, tuple[Run, nn.Module | None]]:
    """What takes turns; the first is what ratios are to."""
    torch.manual_seed(0)
    ours = KBStyle(STUDENT).eval().to(memory_format=torch.channels_last)
    microast, adain = MicroAST().eval(), AdaIN().eval()
    quick = Inference(ours)  # as `stylize` paints
    found: dict[str, tuple[Run, nn.Module | None]] = {
        KBSTYLE: (lambda c, s: quick.render(_last(c), quick.encode_style(_last(s))), ours),
        REDUCED: (_scaling(quick), None),
        KNOWN: (_knowing(quick), None),
        MODULES: (lambda c, s: ours(_last(c), _last(s)), None),
        MICROAST: (microast, microast),
        ADAIN: (adain, adain),
    }
    if has_bfloat16():
        half = Inference(ours, torch.bfloat16)
        found[HALF] = (lambda c, s: half.render(_last(c), half.encode_style(_last(s))), None)
        found[HALF_REDUCED] = (_scaling(half), None)
        found[HALF_KNOWN] = (_knowing(half), None)
        found[MICROAST_HALF] = (_in_bfloat16(microast), None)
    if onnx:
        found[ONNX] = (_onnx(KBStyle(STUDENT).eval(), folder), None)
    if peers is not None:
        found[MAGENTA] = (_magenta(peers), None)
    return found


def _knowing(quick: Inference) -> Run:
    """Painting alone: of each size the first style is encoded and kept."""
    known: dict[tuple[int, ...], Any] = {}

    def render(content: Tensor, style: Tensor) -> Tensor:
        if style.shape not in known:
            known[style.shape] = quick.encode_style(_last(style))
        return quick.render(_last(content), known[style.shape])

    return render


def _scaling(quick: Inference) -> Run:
    """The style seen at the size that `stylize` shows it in; scaling it counts."""

    def render(content: Tensor, style: Tensor) -> Tensor:
        scale = LONGEST_STYLE_SIDE / max(style.shape[-2:])
        smaller = F.interpolate(_last(style), scale_factor=scale, mode="bilinear", antialias=True)
        return quick.render(_last(content), quick.encode_style(_last(smaller)))

    return render


def _in_bfloat16(network: nn.Module) -> Run:
    half = copy.deepcopy(network).to(torch.bfloat16).to(memory_format=torch.channels_last)
    return lambda content, style: half(_last(content).bfloat16(), _last(style).bfloat16())


def _last(picture: Tensor) -> Tensor:
    return picture.contiguous(memory_format=torch.channels_last)


def _onnx(network: KBStyle, folder: Path) -> Run:
    import onnxruntime

    from kbstyle_example.exporting import export_kbstyle

    whole = export_kbstyle(network, folder)[0].path
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would slow the next system
    session = onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    return lambda content, style: session.run(None, {"content": content.numpy(), "style": style.numpy()})


def _magenta(peers: Path) -> Run:
    """Its transform alone, on a style that is encoded before."""
    net = load_peer("magenta", peers).run
    assert isinstance(net, Magenta)
    painting = torch.rand(1, 3, STYLE_SIDE, STYLE_SIDE, generator=torch.Generator().manual_seed(0))
    code = net.predict.run(None, {net.predict.get_inputs()[0].name: last(painting)})[0]
    return lambda content, _: net.transform.run(None, dict(zip(net.names, (last(content), code), strict=True)))


def timed(runs: dict[str, Run], size: tuple[int, int], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each, and ratios to the first: medians over the rounds, and their least and greatest."""
    noise = torch.Generator().manual_seed(0)
    content, style = (torch.rand(1, 3, size[1], size[0], generator=noise) for _ in range(2))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    names, order = list(runs), random.Random(0)
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name in order.sample(names, len(names)):  # or one would always come after the same other
                wall, cpu = time.perf_counter(), time.process_time()
                runs[name](content, style)
                if turn > 0:  # the first warms up
                    taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = {}
    for name, pairs in taken.items():
        row: dict[str, Any] = {}
        for place, what in enumerate(("wall", "cpu")):
            ratios = [pair[place] / own[place] for pair, own in zip(pairs, taken[names[0]], strict=True)]
            row[what] = {
                "seconds": round(statistics.median(pair[place] for pair in pairs), 4),
                "ratio": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "greatest": round(max(ratios), 2),
            }
        rows[name] = row
    return rows


def floor(network: KBStyle, size: tuple[int, int]) -> dict[str, int]:
    """Least bytes that move for one picture, style encoded, in float32."""
    width, height = size
    pixels = width * height
    one, two, three = (pixels // side**2 * count for side, count in zip((2, 4, 8), network.config.widths, strict=True))
    pictures = 3 * 3 * pixels  # content and style read, the result written
    normalised = 2 * (one + two + three)  # statistics stand between writing and reading
    kept = 2 * (one + two)  # of the content encoder, until the decoder is there
    return {"bytes": 4 * (pictures + normalised + kept), "parameters": 4 * sum(p.numel() for p in network.parameters())}


def rates(rounds: int = 5) -> dict[str, float]:
    """What the machine can do with the threads that are set: multiply-adds a second, and bytes read or written."""
    matrix, stream = torch.rand(1024, 1024), torch.rand(2**25)
    other, target = torch.empty_like(matrix), torch.empty_like(stream)
    taken: dict[str, list[float]] = {"multiply_adds": [], "bytes": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        torch.mm(matrix, matrix, out=other)
        between = time.perf_counter()
        target.copy_(stream)
        taken["multiply_adds"].append(matrix.shape[0] ** 3 / (between - begun))
        taken["bytes"].append(2 * stream.nbytes / (time.perf_counter() - between))
    return {name: max(each) for name, each in taken.items()}


_PEAK = """
import sys, torch
from pathlib import Path
def peak(name):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024
torch.set_num_threads(int(sys.argv[3]))
before = peak("VmHWM")
from kbstyle_example.inference import Inference
from kbstyle_example.networks import STUDENT, KBStyle
network = Inference(KBStyle(STUDENT).eval())
with torch.inference_mode():
    content, style = (torch.rand(1, int(sys.argv[2]), int(sys.argv[1]), 3).permute(0, 3, 1, 2) for _ in range(2))
    network.render(content, network.encode_style(style))
print(round(peak("VmHWM") - before))
"""


def peak_mib(size: tuple[int, int]) -> int | None:
    """MiB above a process that has imported torch, for one picture with its style; None where no /proc tells."""
    if not Path("/proc/self/status").exists():
        return None
    arguments = [str(size[0]), str(size[1]), str(torch.get_num_threads())]
    done = subprocess.run([sys.executable, "-c", _PEAK, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def measured(every: dict[str, tuple[Run, nn.Module | None]], size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """The systems of one size with the floor."""
    runs = {name: every[name][0] for name in SIZES[size] if name in every}
    found = timed(runs, size, rounds)
    for name, row in found.items():
        module = every[name][1]
        if module is not None:
            row["multiply_adds"] = of_module(module, name, sha256="0" * 64, size=0).multiply_adds(size, size)
    ours = every[KBSTYLE][1]
    assert isinstance(ours, KBStyle)
    least, can = floor(ours, size), rates()
    seconds = max(found[KBSTYLE]["multiply_adds"] / can["multiply_adds"], least["bytes"] / can["bytes"])
    return {
        "size": list(size),
        "systems": found,
        "floor": {**least, "seconds": round(seconds, 4)},
        "peak_mib": peak_mib(size),
    }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="that count, after one that doesn't (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one table for each (1 and 2)")
    parser.add_argument("--no-onnx", action="store_true", help="leave ONNX Runtime out (extra onnx)")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="holds Magenta's files (extra peers)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:  # ONNX Runtime takes the number of threads once
            every = systems(not options.no_onnx, Path(folder), options.peers)
            for size in SIZES:
                rows.append({"threads": threads, **measured(every, size, options.rounds)})
                print("\n".join(lines(rows[-1])), flush=True)
    report = {
        "command": "python -m benchmarks.latency",
        "rounds": options.rounds,
        **surroundings(),
        "threads": options.threads,
    }
    report["rows"] = rows
    write_report(report, options.out)


def lines(row: dict[str, Any]) -> list[str]:
    """One size, for people."""
    moved, seconds = row["floor"]["bytes"], row["floor"]["seconds"]
    least = f"{moved / 1e6:.0f} MB and {1000 * seconds:.0f} ms at least, {row['peak_mib']} MiB"
    shown = [f"{'×'.join(map(str, row['size']))}, threads: {row['threads']}; {least}"]
    for name, each in row["systems"].items():
        counted = f"{each['multiply_adds'] / 1e9:8.2f} G" if "multiply_adds" in each else " " * 10
        wall = each["wall"]
        spread = f"{wall['ratio']:7.2f} ({wall['least']:.2f} to {wall['greatest']:.2f})"
        shown.append(f"  {name:24}{counted}{1000 * wall['seconds']:10.0f} ms {spread}")
    return shown


if __name__ == "__main__":
    main()
