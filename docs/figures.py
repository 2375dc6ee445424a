"""The figures of "How it works": drawn when the docs are built, by running what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import kbstyle_example
import skd
from benchmarks.methods import draw as methods
from benchmarks.methods.cells import read_lines
from benchmarks.worth.unet import UNet
from kbstyle_example.distill import kbstyle_pairing
from kbstyle_example.tiles import render_tiles, tiles
from kbstyle_example.weights_file import load_weights

ROOT = Path(__file__).resolve().parents[1]
FIGURES = Path(__file__).parent / "drawn_figures"
SAMPLES = Path(kbstyle_example.__file__).parent / "samples"
ENCODER, DECODER, BOTH = "#3b6fb6", "#c8553d", "#4a4a4a"
mpl.rcParams["svg.hashsalt"] = "skd"  # the same figure is the same file


def pairs_figure() -> Figure:
    """Every layer of a U-Net's dry run in the order of calls, at its scale; the pairs that are found are linked."""
    network, example = UNet((16, 32, 64)).eval(), torch.zeros(1, 3, 32, 32)
    trace, found = skd.dry_run(network, example), skd.pair(network, example)
    records = [record for record in trace.records if record.leaf and record.scale]
    place = {record.name: (k, np.log2(record.scale[0])) for k, record in enumerate(records)}
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*place.values(), strict=True), color="#bbbbbb", lw=1.2, marker="o", ms=5, zorder=1)
    for tap in (found.bottleneck, *found.taps):  # a container stands at its last layer
        if tap is not None and tap.layer not in place:
            place[tap.layer] = [place[name] for name in place if name.startswith(f"{tap.layer}.")][-1]
    bottleneck = str(found.bottleneck)
    axes.annotate(f"bottleneck\n{bottleneck}", place[bottleneck], (0, -30), textcoords="offset points", ha="center")
    axes.plot(*place[bottleneck], "s", color=BOTH, ms=9)
    for pair in found:
        ends = place[pair.encoder.layer], place[pair.decoder.layer]
        axes.annotate(
            "", ends[1], ends[0], arrowprops={"arrowstyle": "<->", "color": BOTH, "lw": 1.4, "shrinkA": 7, "shrinkB": 7}
        )
        middle = (ends[0][0] + ends[1][0]) / 2
        axes.text(middle, ends[0][1] + 0.07, f"pair {pair.name}, {pair.width} channels", ha="center")
        for end, tap, colour in zip(ends, (pair.encoder, pair.decoder), (ENCODER, DECODER), strict=True):
            axes.plot(*end, "o", color=colour, ms=10)
            axes.annotate(str(tap), end, (0, 11), textcoords="offset points", ha="center", color=colour, weight="bold")
    levels = sorted({level for _, level in place.values()})
    axes.set_yticks(levels, [f"1/{2**-level:.0f}" for level in levels])
    axes.set_ylim(min(levels) - 0.75, max(levels) + 0.45)
    axes.set_xticks([])
    axes.set_xlabel("layers in the order in which they run")
    axes.set_ylabel("scale")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def basis_figure() -> Figure:
    """What a shared basis keeps of both sides of KBStyle's teacher, beside each side's own basis."""
    teacher = load_weights("teacher")
    style = _picture("style/harvest.jpg", 160)
    batches = [(_picture(f"content/{path.name}", 160), style) for path in sorted((SAMPLES / "content").iterdir())]
    spectra = skd.measure(teacher, kbstyle_pairing(teacher), batches)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(spectra), sharey=True)
    for axes, pair in zip(panels, spectra, strict=True):
        widths = sorted({*range(1, 9), *range(8, pair.width + 1, 4), pair.width})
        for kind, dash in (("own", ":"), ("shared", "-")):
            bases = [pair.basis(width, kind=kind) for width in widths]
            axes.plot(widths, [basis.energy_encoder for basis in bases], dash, color=ENCODER, label=f"encoder, {kind}")
            axes.plot(widths, [basis.energy_decoder for basis in bases], dash, color=DECODER, label=f"decoder, {kind}")
        axes.set_title(f"pair {pair.name}", fontsize=10)
        axes.set_xlabel(f"width kept, of {pair.width}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("energy kept")
    panels[-1].legend(fontsize=8, loc="lower right")
    return figure


def tiles_figure() -> Figure:
    """A picture painted whole, in tiles that share the whole picture's statistics, and in tiles that don't."""
    network, side = load_weights("kbstyle"), 64
    photograph = np.asarray(Image.open(SAMPLES / "content/coffee.jpg").convert("RGB").resize((192, 128)))
    style = _picture("style/cafe_terrace_at_night.jpg", 256)
    with torch.no_grad():
        code = network.encode_style(style)
        content = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None] / 255
        whole = _array(network.render(content, code))
        exact = render_tiles(network, photograph, code, side=side)
        apart = np.empty_like(whole)
        for top, left, bottom, right, _ in tiles(128, 192, side=side, margin=0):
            apart[top:bottom, left:right] = _array(network.render(content[..., top:bottom, left:right], code))
    figure = Figure(figsize=(8, 1.95), layout="constrained")
    shown = {
        "photograph": photograph,
        "painted whole": whole,
        "in tiles, as skd does": exact,
        "each tile by itself": apart,
    }
    for axes, (name, picture) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        off = np.abs(picture.astype(int) - whole.astype(int)).max()
        axes.set_title(
            name + ("" if name in ("photograph", "painted whole") else f"\nup to {off} of 255 off"), fontsize=9
        )
    return figure


def growth_figure() -> Figure:
    """Seconds over pixels, batch, pairs and steps, as they were measured, and the lines through them."""
    report = json.loads((ROOT / "benchmarks" / "results" / "growth.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    for axes, (name, row) in zip(figure.subplots(1, len(report["rows"])), report["rows"].items(), strict=True):
        quantities = [float(each) for each in row["seconds"]]
        ends = np.array([0, max(quantities)])
        axes.plot(ends, row["fixed"] + row["slope"] * ends, color="#bbbbbb")
        axes.plot(quantities, row["seconds"].values(), "o", color=ENCODER, ms=5)
        axes.set_xlabel(name, fontsize=9)
        axes.set_title(f"a line to within {row['greatest error']:.0%}", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("CPU seconds")
    return figure


def _picture(name: str, longest: int) -> torch.Tensor:
    with Image.open(SAMPLES / name) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((longest, longest))
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


def _array(picture: torch.Tensor) -> np.ndarray[Any, Any]:
    return (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()


DRAWN = {"pairs": pairs_figure, "basis": basis_figure, "tiles": tiles_figure, "growth": growth_figure}


def draw_figures(app: object = None) -> None:
    """Write each figure as SVG where the pages look for it."""
    FIGURES.mkdir(exist_ok=True)
    for name, make in DRAWN.items():
        make().savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
    lines = list(read_lines(methods.RESULTS))
    for task, split in methods.drawn(lines):
        methods.plot(lines, task, split, FIGURES / f"methods-{task}-{split}.svg")


if __name__ == "__main__":
    draw_figures()
