"""What benchmark.rst shows of time: latency, whole pictures, other libraries, training; `drawn` has the pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tables import list_table

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def speed_marks() -> dict[str, str]:
    """A text for every mark."""
    latency, libraries, caching, whole, training, large, teachers = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("latency", "libraries", "caching", "end_to_end", "training", "large_images", "teachers")
    )
    return {
        "latency": _latency(latency["rows"]),
        "denoiser": _denoiser(teachers["denoising"]),
        "speller": f"{teachers['pronunciation']['phoneme error rate, %']:.2f} %",
        "goals": _goals(latency["rows"]),
        "gpu": _gpu(RESULTS / "gpu.json"),
        "large": _large(large["rows"]),
        "line": _line(large["lines"]["seconds"]),
        "tiled": _tiled(large["in_tiles"]),
        "libraries": _libraries(libraries["libraries"]),
        "caching": list_table(
            ["step", "times the student's own"], [[name, _spread(each)] for name, each in caching["steps"].items()]
        ),
        "sample": f"{caching['bytes a sample']:,}",
        "stages": _seconds("stage", "times the painting", whole["stages"]),
        "folders": _seconds("folder", "times overlapping", whole["folder"]),
        "photographs": str(whole["photographs"]),
        "starts": _seconds("process", "times torch's import", whole["starts"]),
        "training": "\n\n".join(_training(name, each) for name, each in training["tasks"].items()),
    }


def _spread(row: Mapping[str, float]) -> str:
    return f"{row['ratio']:.2f} ({row['least']:.2f}–{row['greatest']:.2f})"


def _latency(rows: list[dict[str, Any]]) -> str:
    """A table for each size; the numbers of threads stand beside each other."""
    threads = list(dict.fromkeys(row["threads"] for row in rows))
    head = ["system", "multiply-adds or bytes"]
    head += [each for count in threads for each in (f"{count} thread{'s' * (count > 1)}", "× KBStyle's")]
    parts = []
    for size in dict.fromkeys(tuple(row["size"]) for row in rows):
        found = [row for row in rows if tuple(row["size"]) == size]
        lines = []
        for name, each in found[0]["systems"].items():
            lines.append([name, f"{each['multiply_adds'] / 1e9:.2f} G" if "multiply_adds" in each else "–"])
            for row in found:
                wall = row["systems"][name]["wall"]
                lines[-1] += [f"{1000 * wall['seconds']:.0f} ms", _spread(wall)]
        lines.append(["the floor", f"{found[0]['floor']['bytes'] / 1e6:.0f} MB"])
        for row in found:
            lines[-1] += [f"{1000 * row['floor']['seconds']:.0f} ms", "–"]
        parts.append(f"**{size[0]}×{size[1]}**\n\n{list_table(head, lines)}")
    return "\n\n".join(parts)


def _denoiser(found: Mapping[str, Any]) -> str:
    reached = found["PSNR, dB"]
    ahead = reached["teacher"] - reached["BM3D"]
    said = f"{abs(ahead):.2f} dB {'ahead of' if ahead > 0 else 'behind'} BM3D on {found['pictures']} test pictures"
    return f"The denoiser is {said}, where 0.3 dB were asked for."


def _goals(rows: list[dict[str, Any]]) -> str:
    """What was to be reached with two threads, and what was."""
    found = {tuple(row["size"]): row for row in rows if row["threads"] == 2}

    def wall(size: tuple[int, int], name: str) -> Any:
        return found[size]["systems"][name]["wall"]

    def times(size: tuple[int, int], slow: str, quick: str = "KBStyle") -> str:
        return f"{wall(size, slow)['ratio'] / wall(size, quick)['ratio']:.1f} times"

    def milliseconds(name: str) -> str:
        return f"{1000 * wall(hd, name)['seconds']:.0f} ms"

    hd, small, square = (2048, 1080), (384, 384), (512, 512)
    table = [
        ["2048×1080, content and style", "60 ms", milliseconds("KBStyle"), milliseconds("KBStyle, bfloat16")],
        [
            "the same, the style scaled to 512 as the tool does",
            "60 ms",
            milliseconds("KBStyle, style scaled to 512"),
            milliseconds("KBStyle, bfloat16, style scaled to 512"),
        ],
        [
            "2048×1080, style known",
            "40 ms",
            milliseconds("KBStyle, style known"),
            milliseconds("KBStyle, bfloat16, style known"),
        ],
        [
            "MicroAST at 2048×1080, each in the same",
            "30 times",
            times(hd, "MicroAST"),
            times(hd, "MicroAST, bfloat16", "KBStyle, bfloat16"),
        ],
        ["AdaIN with VGG-19 in float32, 512×512", "100 times", times(square, "AdaIN with VGG-19"), "–"],
        [
            "Magenta's transform, 384×384, style known",
            "8 times",
            times(small, "Magenta, style known", "KBStyle, style known"),
            times(small, "Magenta, style known", "KBStyle, bfloat16, style known"),
        ],
        ["memory at 2048×1080", "300 MiB", f"{found[hd]['peak_mib']} MiB", "–"],
    ]
    return list_table(["two threads", "goal", "float32", "bfloat16"], table)


def _gpu(path: Path) -> str:
    if not path.exists():
        return "**Not measured**: no GPU was at hand. The script's parts are tested on the CPU alone."
    parts = []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        lines = [
            [name, f"{each['milliseconds']:.2f} ms", f"{each['frames a second']:.0f}", f"{each['apart']:.2f}"]
            for name, each in row["variants"].items()
        ]
        lines += [[name, "–", "–", f"failed: {why}"] for name, why in row["failed"].items()]
        lines.append(["the floor", f"{row['floor']:.2f} ms", "–", "–"])
        title = f"**{row['size'][0]}×{row['size'][1]}, {row['batch']} at once**"
        parts.append(f"{title}\n\n{list_table(['variant', 'a frame', 'frames a second', 'of 255 apart'], lines)}")
    return "\n\n".join(parts)


def _large(rows: list[dict[str, Any]]) -> str:
    table = [
        [
            "×".join(map(str, row["size"])),
            f"{row['seconds']:.1f} s",
            f"{row['cpu_seconds']:.1f} s",
            str(row["peak_mib"]),
        ]
        for row in rows
    ]
    return list_table(["photograph", "wall", "processor", "peak MiB"], table)


def _line(found: Mapping[str, float]) -> str:
    off = 100 * found["greatest_relative_error"]
    return f"{found['fixed']:.1f} s and {found['a_megapixel']:.3f} s a megapixel, off by {off:.0f} % at most"


def _tiled(found: Mapping[str, Any]) -> str:
    size = "×".join(map(str, found["size"]))
    apart = f"the pictures are at most {found['apart']} of 255 apart"
    return f"{size} takes {found['tiles']:.1f} s where it takes {found['whole']:.1f} s whole; {apart}"


def _libraries(found: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{name} {each['version']}",
            str(each["lines"]),
            _spread(each),
            "–" if each["mib"] is None else f"{each['mib']:.0f}",
            f"{each['apart']:.0e}",
        ]
        for name, each in found.items()
    ]
    return list_table(["library", "lines", "step, times skd's", "MiB a step", "losses apart"], rows)


def _seconds(what: str, ratio: str, found: Mapping[str, Any]) -> str:
    rows = [[name, f"{1000 * each['seconds']:.0f} ms", _spread(each)] for name, each in found.items()]
    return list_table([what, "time", ratio], rows)


def _training(title: str, found: Mapping[str, Any]) -> str:
    rows = [[name, f"{each['steps a second']:.1f}", _spread(each)] for name, each in found["steps"].items()]
    rows += [[name, "–", f"fails in PyTorch: `{why.split(':')[0]}`"] for name, why in found["failed"].items()]
    steps = list_table([title, "steps a second", "time, × the student's own"], rows)
    parts = list(next(iter(found["profile"].values())))
    shares = [[name, *(f"{1000 * each[part]:.1f}" for part in parts)] for name, each in found["profile"].items()]
    return f"{steps}\n\n{list_table([f'{title}, ms a step', *parts], shares)}"
