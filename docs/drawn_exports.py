"""What export.rst shows of benchmarks/results/exports.json; `drawn` has the pages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tables import list_table

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "exports.json"
BITS = {
    "onnx": "ONNX, float32",
    "onnx-float16": "ONNX, float16",
    "onnx-int8": "ONNX, int8",
    "onnx-int8-static": "ONNX, int8, activations too",
    "kbstyle": "safetensors, float32",
    "kbstyle-float16": "safetensors, float16",
    "kbstyle-int8": "safetensors, int8",
}


def export_marks() -> dict[str, str]:
    """A text for every mark of export.rst."""
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    losses = report["losses"]
    wide, static = losses["onnx-int8"], losses["onnx-int8-static"]
    return {
        "formats": _formats(report),
        "times": _times(report),
        "bits": _bits(report),
        "rounds": str(report["rounds"]),
        "machine": report["machine"],
        "runtimes": ", ".join(f"{name} {version}" for name, version in sorted(report["runtimes"].items())),
        "earlier": _earlier(report.get("earlier")),
        "pairs": str(report["judged"]["pairs"]),
        "side": str(report["judged"]["size"]),
        "layers": str(len(wide["weights"])),
        "kept": "\n".join(f"- `{name}`" for name in wide["kept"]),
        "activations": str(len(static["activations"])),
        "rounded": str(len(static["rounded"])),
        "worst": _worst(static["activations"]),
        "weights_noise": f"{_noise(static['weights']):.0f}",
        "all_noise": f"{_noise(static['activations']):.0f}",
    }


def _formats(report: dict[str, Any]) -> str:
    head = ["format", "bytes", *(f"{w}×{h}" for w, h in (row["size"] for row in report["rows"]))]
    rows = []
    for name in (each for each in report["rows"][0]["formats"] if each != "torch"):
        found = [row["formats"][name] for row in report["rows"]]
        apart = [f"{255 * each['largest']:.2g} ({255 * each['mean']:.1g})" for each in found]
        rows.append([name, f"{report['bytes'][name]:,}" if name in report["bytes"] else "–", *apart])
    return list_table(head, rows)


def _times(report: dict[str, Any]) -> str:
    rows = []
    for name, found in report["rows"][-1]["formats"].items():
        peak = report["peak_mib"].get(name)
        spread = f"{found['ratio']:.2f} ({found['least']:.2f}–{found['greatest']:.2f})"
        rows.append([name, spread if name != "torch" else "1", "–" if peak is None else str(peak)])
    return list_table(["format", "time, × torch", "MiB"], rows)


def _earlier(kept: dict[str, dict[str, str]] | None) -> str:
    if kept is None:  # a report that doesn't tell
        return ""
    if not kept:
        return "All was measured in one run."
    told = (f"{name} at {said['code']} ({said['why'].rstrip('.')})" for name, said in kept.items())
    return f"From an earlier run: {'; '.join(told)}."


def _bits(report: dict[str, Any]) -> str:
    networks, means = report["judged"]["networks"], report["judged"]["means"]
    distances = [f"{network}/{what}" for network in networks for what in ("style", "content")]
    sizes = report["bytes"] | report["judged"]["bytes"]
    head = ["file", "bytes", "dB from float32: mean, least"]
    head += [f"{what} distance, {network}" for network, what in (each.split("/") for each in distances)]
    rows = []
    for name, told in BITS.items():
        found = means[name]
        noise = f"{found['psnr']:.1f}, {found['least_psnr']:.1f}" if "psnr" in found else "–"
        rows.append([told, f"{sizes[name]:,}", noise, *(f"{found[each]:.4f}" for each in distances)])
    return list_table(head, rows)


def _noise(losses: dict[str, float]) -> float:
    """In dB, where every layer is rounded: their squared errors add up, about."""
    return -10 * math.log10(sum(losses.values()))


def _worst(losses: dict[str, float]) -> str:
    most = sorted(losses, key=losses.__getitem__, reverse=True)[:4]
    return ", ".join(f"`{name.removesuffix('.weight')}`" for name in most)
