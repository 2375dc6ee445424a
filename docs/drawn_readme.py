"""What the README shows: a picture by the bundled weights, and tables drawn from committed results.

``python docs/drawn_readme.py`` in a checkout makes both again; tests say when they are stale.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import kbstyle_example
from kbstyle_example import stylize
from kbstyle_example.weights_file import bundled

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "_static" / "kbstyle.jpg"
WORTH = ROOT / "benchmarks" / "results" / "worth.json"
SAMPLES = Path(str(kbstyle_example.__file__)).parent / "samples"
# Photographs and paintings that are free of any condition (samples/SOURCES.md).
PHOTOGRAPHS = ("chelsea_cat", "astronaut")
PAINTINGS = ("cafe_terrace_at_night", "harvest", "church_at_auvers")
SIDE, GAP = 190, 5
ARMS = {"from scratch": "random weights", "L1 slicing": "sliced from the teacher", "both": "`skd.compress`"}


def weights_digest() -> str:
    """Of the bundled KBStyle; it stands in the picture's comment."""
    return hashlib.sha256(bundled()["kbstyle"].read_bytes()).hexdigest()


def picture() -> bytes:
    """Photographs in the first column, paintings in the first row, and each photograph painted like each painting."""
    photographs, paintings = ([_square(f"{kind}/{name}.jpg") for name in names]
                              for kind, names in (("content", PHOTOGRAPHS), ("style", PAINTINGS)))  # fmt: skip
    rows: list[list[Image.Image | None]] = [[None, *paintings]]
    rows += [[photo, *(stylize(photo, style).resize((SIDE, SIDE)) for style in paintings)] for photo in photographs]
    step = SIDE + GAP
    sheet = Image.new("RGB", (len(rows[0]) * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if cell is not None:
                sheet.paste(cell.resize((SIDE, SIDE)), (x * step, y * step))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=85, optimize=True, comment=f"kbstyle.safetensors {weights_digest()}")
    return file.getvalue()


def digest_in_picture(picture: Path = PICTURE) -> str:
    """Of the weights that painted a committed picture."""
    with Image.open(picture) as image:
        return bytes(image.info["comment"]).decode().split()[-1]


def results() -> str:
    """The denoising U-Net of benchmarks/results/worth.json, as a table in Markdown."""
    report = json.loads(WORTH.read_text(encoding="utf-8"))
    task: Mapping[str, Any] = report["tasks"]["denoising"]
    steps = sorted({n for seeds in task["cells"].values() for cells in seeds.values() for n in cells}, key=int)
    kept = [name for name in ARMS if name in task["cells"]]
    size = max(widths["bytes"] for widths in task["widths"].values())
    lines = [f"| student of {size:,} bytes, begun from | " + " | ".join(f"{int(n):,} steps" for n in steps) + " |",
             "|---" * (1 + len(steps)) + "|"]  # fmt: skip
    for name in kept:
        means = [np.mean([cells[n]["psnr"] for cells in task["cells"][name].values() if n in cells]) for n in steps]
        lines.append(f"| {ARMS[name]} | " + " | ".join(f"{mean:.1f} dB" for mean in means) + " |")
    teacher = task["teacher"]
    seeds = min(sum(n in cells for cells in task["cells"][name].values()) for name in kept for n in steps)
    note = (
        f"PSNR of a denoising U-Net on held-out pictures, mean of {seeds} seeds or more, after steps of distillation; "
    )
    lines += ["", note + f"the teacher ({teacher['bytes']:,} bytes): {teacher['psnr']:.1f} dB."]
    return "\n".join(lines)


def with_results(text: str) -> str:
    """The README with the table between its markers."""
    new, count = re.subn(r"(<!-- results -->\n).*?(\n<!-- /results -->)", lambda found: found[1] + results() + found[2],
                         text, flags=re.DOTALL)  # fmt: skip
    if count != 1:
        raise ValueError("the README has no pair of markers <!-- results --> … <!-- /results -->")
    return new


def _square(name: str) -> Image.Image:
    with Image.open(SAMPLES / name) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    PICTURE.write_bytes(picture())
    README.write_text(with_results(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes; {README.name}: the table")
