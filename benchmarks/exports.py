"""Each exported format beside torch: the same picture, bytes, time and memory. ``python -m benchmarks.exports``.

The whole graph of the bundled network (photograph and painting in, picture out), exported, read by its own runtime with
one thread, and asked for noise at three sizes. Times are of the processor, all threads together: runtimes take turns,
and each ratio is taken within a round. Memory is what a process of its own takes at 1280×720 above what it had before
it read the file.

With ``--data`` (a folder with content_large, style_large and weights) the formats of fewer bits are judged, too: by
what they lose of the picture, and in style and content distance. What can't be measured, as its runtime isn't installed
or no pictures are given, is taken from the report that is there, which then says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reports import write_report
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.exporting import FORMATS
from kbstyle_example.graphs import APART, Whole
from kbstyle_example.quantising import halved, quantised, session, signal_to_noise
from kbstyle_example.rounding import BUDGET, CALIBRATION, INT8, calibration_pictures
from kbstyle_example.weights_file import bundled, load_weights
from skd.errors import ExportError, MissingExtraError
from skd.exporting import export

RESULTS = Path(__file__).parent / "results" / "exports.json"
SIZES = ((256, 256), (512, 384), (1280, 720))  # width and height
RUNTIMES = ("onnxruntime", "openvino", "ncnn", "pnnx", "executorch", "coremltools")
WEIGHTS = ("kbstyle", "kbstyle-float16", "kbstyle-int8")  # bundled, as safetensors
Run = Callable[[Tensor, Tensor], Tensor]


def of_onnx(path: Path) -> Run:
    run = session(path.read_bytes())
    return lambda c, s: torch.from_numpy(run.run(None, {"content": c.numpy(), "style": s.numpy()})[0])


def of_program(path: Path) -> Run:
    run: Run = torch.export.load(path).module()
    return run


def of_openvino(path: Path) -> Run:
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(path, "CPU", options)
    return lambda c, s: torch.from_numpy(run({"content": c.numpy(), "style": s.numpy()})[0].copy())


def of_ncnn(path: Path) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))

    def run(content: Tensor, style: Tensor) -> Tensor:
        turn = net.create_extractor()
        for name, picture in (("in0", content), ("in1", style)):
            turn.input(name, ncnn.Mat(picture[0].numpy()).clone())  # it doesn't hold the array
        return torch.from_numpy(np.array(turn.extract("out0")[1]))[None]

    return run


def of_executorch(path: Path) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(content: Tensor, style: Tensor) -> Tensor:
        found: Tensor = method.execute([content, style])[0]
        return found

    return run


def of_torch(_: Path) -> Run:
    return of_weights("kbstyle")


def of_weights(name: str) -> Run:
    """Torch with bundled weights; they are widened to float32 when they are read."""
    whole: Run = Whole(load_weights(name)).eval()
    return whole


READERS: dict[str, Callable[[Path], Run]] = {
    "torch": of_torch,
    "onnx": of_onnx,
    "onnx-int8": of_onnx,
    "onnx-int8-static": of_onnx,
    "torch-export": of_program,
    "openvino": of_openvino,
    "ncnn": of_ncnn,
    "executorch": of_executorch,
}


def noise(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A photograph and a painting, of noise."""
    drawn = torch.Generator().manual_seed(0)
    one, two = (torch.rand(1, 3, size[1], size[0], generator=drawn) for _ in range(2))
    return one, two


def written(
    folder: Path, names: Iterable[str] = tuple(FORMATS)
) -> tuple[dict[str, dict[str, Path]], dict[str, int], dict[str, str], dict[str, Any]]:
    """Each format's file by size, its bytes, why others aren't there, and what rounding each layer loses."""
    whole = Whole(load_weights("kbstyle")).eval()
    files: dict[str, dict[str, Path]] = {}
    sizes: dict[str, int] = {}
    missing: dict[str, str] = {}
    labels = ["×".join(map(str, size)) for size in SIZES]
    for name in names:
        if name in INT8:
            continue
        ending = FORMATS[name]
        try:
            one_size = name == "executorch"
            given = [noise(size) for size in (SIZES if one_size else SIZES[:1] if name == "coreml" else ((104, 72),))]
            paths = [folder / f"{name}{k if one_size else ''}{ending}" for k in range(len(given))]
            done = [export(whole, each, path, tolerance=APART) for each, path in zip(given, paths, strict=True)]
            files[name] = dict(zip(labels, paths if one_size else paths * len(labels), strict=True))
            sizes[name] = done[0].bytes
        except (MissingExtraError, ExportError) as error:
            missing[name] = " ".join(str(error).split())
        print(name, sizes.get(name, missing.get(name)), flush=True)
    losses: dict[str, Any] = {}
    if "onnx" in files:
        wide = files["onnx"][labels[0]].read_bytes()
        feeds = [{"content": c.numpy(), "style": s.numpy()} for c, s in calibration_pictures()[:CALIBRATION]]
        for name, activations in INT8.items():
            found = quantised(wide, feeds, budget=BUDGET, activations=activations)
            path = folder / f"{name}.onnx"
            path.write_bytes(found.content)
            files[name], sizes[name] = dict.fromkeys(labels, path), len(found.content)
            losses[name] = {
                "weights": {layer: float(f"{loss:.3g}") for layer, loss in found.losses.items()},
                "activations": {layer: float(f"{loss:.3g}") for layer, loss in found.activation_losses.items()},
                "kept": list(found.kept),
                "rounded": list(found.rounded),
            }
            print(name, sizes[name], flush=True)
        half = folder / "onnx-float16.onnx"
        half.write_bytes(halved(wide))
        files["onnx-float16"], sizes["onnx-float16"] = dict.fromkeys(labels, half), half.stat().st_size
    return files, sizes, missing, losses


def beside_torch(runs: Mapping[str, Run], size: Sequence[int], rounds: int) -> dict[str, dict[str, Any]]:
    """Differences from the first, and ratios of the processor's time to it: medians, least and greatest."""
    content, style = noise(size)
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    apart: dict[str, Tensor] = {}
    with torch.inference_mode():
        wanted = runs[names[0]](content, style)
        for name in names:
            apart[name] = (runs[name](content, style) - wanted).abs()  # this one warms up
        for turn in range(rounds):
            for k in range(len(names)):
                name = names[(turn + k) % len(names)]
                begun = time.process_time()
                runs[name](content, style)
                taken[name].append(time.process_time() - begun)
    rows = {}
    for name in names:
        ratios = [one / own for one, own in zip(taken[name], taken[names[0]], strict=True)]
        rows[name] = {
            "largest": float(f"{float(apart[name].max()):.2g}"),
            "mean": float(f"{float(apart[name].mean()):.2g}"),
            "seconds": round(statistics.median(taken[name]), 4),
            "ratio": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2),
            "greatest": round(max(ratios), 2),
        }
    return rows


_PEAK = """
import sys, torch
from pathlib import Path
from benchmarks.exports import READERS, noise
def kib(name):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0])
torch.set_num_threads(1)
pictures = noise((1280, 720))
if sys.argv[1] == "executorch": from executorch.runtime import Runtime
if sys.argv[1] in ("ncnn", "openvino", "onnxruntime"): __import__(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
with torch.inference_mode():
    READERS[sys.argv[1]](Path(sys.argv[2]))(*pictures)
print("MiB", round((kib("VmHWM") - before) / 1024))
"""


def peak_mib(name: str, path: Path) -> int | None:
    """MiB that a picture takes; None where no /proc tells."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PEAK, name, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.rpartition("MiB")[2])


def judged(files: Mapping[str, Path], data: Path, count: int, size: int) -> dict[str, Any]:
    """Of what has fewer bits: signal to noise, and the distances of `evaluation`, on pictures not trained on."""
    from kbstyle_example.evaluation.measures import Judge
    from kbstyle_example.evaluation.pairs import choose_pairs, pictures_to_measure, square
    from kbstyle_example.perceptual_files import load_perceptual

    names = ("squeezenet1_1_imagenet_ndf.pt", "cd_vgg19_16x/5SE.pth")
    networks = [load_perceptual(next((data / "weights").rglob(Path(name).name))) for name in names]
    found = [
        pictures_to_measure(data / kind, never_trained_on=True, size=size)[0]
        for kind in ("content_large", "style_large")
    ]
    runs = {name: of_onnx(path) for name, path in files.items()}
    runs |= {name: of_weights(name) for name in WEIGHTS}
    values: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for one, two in choose_pairs(len(found[0]), len(found[1]), count):
        content, style = square(found[0][one], size), square(found[1][two], size)
        judge = Judge(content, style, networks)
        wanted = runs["onnx"](content, style)
        for name, run in runs.items():
            with torch.inference_mode():
                got = run(content, style)
            noise_db = signal_to_noise(wanted.numpy(), got.numpy())
            values[name].append({**judge(got), "psnr": noise_db})
    means = {
        name: {
            **{key: round(statistics.fmean(row[key] for row in rows), 5) for key in rows[0] if key != "psnr"},
            **(
                {}
                if name == "onnx"
                else {
                    "psnr": round(statistics.fmean(row["psnr"] for row in rows), 1),
                    "least_psnr": round(min(row["psnr"] for row in rows), 1),
                }
            ),
        }
        for name, rows in values.items()
    }
    return {
        "pairs": count,
        "size": size,
        "code": surroundings()["code"],
        "networks": [net.name for net in networks],
        "bytes": {name: bundled()[name].stat().st_size for name in WEIGHTS},
        "means": means,
    }


def judge(files: Mapping[str, Mapping[str, Path]], options: argparse.Namespace) -> dict[str, Any]:
    onnx = {name: next(iter(paths.values())) for name, paths in files.items() if name.startswith("onnx")}
    found = judged(onnx, options.data, options.pairs, options.size)
    print(json.dumps(found["means"], indent=1), flush=True)
    return found


def completed(report: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """The report, and what couldn't be measured here as an earlier one has it; `earlier` says what, why, and of which
    code that is."""
    found: dict[str, dict[str, str]] = {}
    for name in [name for name in earlier.get("bytes", {}) if name not in report["bytes"]]:
        why = report["missing"].pop(name, None) or report["missing"].get("onnx", "it isn't measured any more")
        found[name] = {"why": why, "code": earlier["code"]}
        for key in ("bytes", "peak_mib", "losses"):
            if name in earlier[key]:
                report[key][name] = earlier[key][name]
        for row in report["rows"]:
            for old in earlier["rows"]:
                if old["size"] == row["size"] and name in old["formats"]:
                    row["formats"][name] = old["formats"][name]
    if "judged" not in report and "judged" in earlier:
        found["judged"] = {"why": "no --data was given", "code": earlier["code"]}
        report["judged"] = earlier["judged"]
    for name, said in found.items():  # it may have been kept before
        said["code"] = earlier.get("earlier", {}).get(name, said)["code"]
    runtimes = {**earlier.get("runtimes", {}), **report["runtimes"]} if found else report["runtimes"]
    return {**report, "runtimes": runtimes, "earlier": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--pairs", type=int, default=16, help="to judge (%(default)s)")
    parser.add_argument("--size", type=int, default=384, help="of those, a side (%(default)s)")
    data = os.environ.get("SKD_DATA")
    parser.add_argument(
        "--data", type=Path, default=data, help="folder with pictures and perceptual networks (the variable SKD_DATA)"
    )
    parser.add_argument("--judge", action="store_true", help="judge alone; the rest stays as the report there has it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.judge and (options.data is None or not options.out.exists()):
        parser.error(f"--judge needs pictures (--data) and a report to put it into; got {options.data}, {options.out}")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    earlier = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        files, sizes, missing, losses = written(Path(place), ("onnx",) if options.judge else tuple(FORMATS))
        if options.judge:
            report = {**earlier, "judged": judge(files, options)}
            write_report(report, options.out)
            return
        rows = []
        for size in SIZES:
            label = "×".join(map(str, size))
            runs = {"torch": of_torch(Path())}
            runs |= {name: READERS[name](files[name][label]) for name in READERS if name in files}
            rows.append({"size": list(size), "formats": beside_torch(runs, size, options.rounds)})
            print(json.dumps(rows[-1]), flush=True)
        last = "×".join(map(str, SIZES[-1]))
        peaks = {name: peak_mib(name, files[name][last] if name in files else Path()) for name in runs}
        print(peaks, flush=True)
        report: dict[str, Any] = {
            "command": "python -m benchmarks.exports",
            "rounds": options.rounds,
            "load": round(load, 1),
            **surroundings(),
            "runtimes": {
                each.metadata["Name"]: each.version
                for each in importlib.metadata.distributions()
                if each.metadata["Name"] in RUNTIMES
            },
            "bytes": sizes,
            "missing": missing,
            "rows": rows,
            "peak_mib": peaks,
            "losses": losses,
        }
        if options.data is not None:
            report["judged"] = judge(files, options)
    report = completed(report, earlier)
    for name, said in report["earlier"].items():
        print(f"{name} is as it was measured at {said['code']}: {said['why']}", flush=True)
    write_report(report, options.out)


if __name__ == "__main__":
    main()
