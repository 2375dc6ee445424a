"""What `stylize_video`'s stability does: ``python -m benchmarks.video_stability --content FOLDER --style FOLDER``.

Clips are made from photographs, so that the motion, and what doesn't change, is known. For each clip and stability:

flicker
    root mean squared change of the result from one frame to the next, in 1/255, where the scene doesn't change: the
    result before is moved by the clip's known motion; noise doesn't count as a change of the scene, and pixels that a
    moving object covers or uncovers are left out.
detail
    mean absolute difference of neighbouring pixels, as a share of the network's own results'. Below 1: strokes are
    softer, since the network doesn't paint the same strokes in the next frame.
ghosting
    the same blend with the clip itself instead of the network's results, without noise: how much of the frame before is
    found in it, unmoved, by least squares (0: none; `stability`: the mere mean of the two), and the root mean squared
    difference from the clip in 1/255. A blend that follows the motion leaves nothing.

Beside it stands what was not taken: "in place", the same blend without following the camera.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import skd
from benchmarks.reports import write_report
from kbstyle_example import video_stability
from kbstyle_example.data import list_pictures
from kbstyle_example.images import grid, load_image, save_image
from kbstyle_example.options import DEFAULT
from kbstyle_example.painting import Painter
from kbstyle_example.strips import as_numbers, as_pixels
from kbstyle_example.video_stability import Steadier, camera_motion, warped

HEIGHT, WIDTH, FRAMES, EDGE = 216, 320, 12, 16
STABILITIES = (0.0, 0.5, 0.9)


class Scene(NamedTuple):
    """A clip without noise, its noise (standard deviation in 1/255), and the map of the frame before to the next."""

    frames: list[Tensor]
    noise: float
    motion: Tensor
    same: list[Tensor]  # 1 where the scene is that of the frame before


def crops(photograph: Tensor, offset: tuple[float, float], zoom: float) -> list[Tensor]:
    """Crops of half the photograph's resolution, free of aliasing; `offset` in pixels of the clip a frame, (x, y)."""
    smooth = F.avg_pool2d(F.pad(photograph, (1, 1, 1, 1), mode="replicate"), 3, 1)
    height, width = photograph.shape[-2:]
    frames = []
    for n in range(FRAMES):
        scale = 2 * zoom ** -(n - FRAMES / 2) * 0.9
        shift = [2 * 0.9 * step * (n - FRAMES / 2) for step in offset]
        matrix = torch.tensor(
            [[scale * WIDTH / width, 0, 2 * shift[0] / width], [0, scale * HEIGHT / height, 2 * shift[1] / height]]
        )
        positions = F.affine_grid(matrix[None], [1, 3, HEIGHT, WIDTH], align_corners=False)
        frames.append(F.grid_sample(smooth, positions, mode="bicubic", align_corners=False).clamp(0, 1))
    return frames


def scenes(photograph: Tensor, other: Tensor) -> dict[str, Scene]:
    """The clips of a photograph."""
    scale = max(2 * HEIGHT / photograph.shape[-2], 2 * WIDTH / photograph.shape[-1]) * 1.1
    large = F.interpolate(photograph, scale_factor=max(scale, 1), mode="bicubic").clamp(0, 1)
    everywhere = [torch.ones(1, 1, HEIGHT, WIDTH)] * FRAMES
    made = {}
    for name, offset, zoom, noise in (
        ("still, noise 2/255", (0.0, 0.0), 1.0, 2.0),
        ("still, noise 5/255", (0.0, 0.0), 1.0, 5.0),
        ("pan 3 px", (3.0, 1.0), 1.0, 0.0),
        ("pan 3 px, noise 2/255", (3.0, 1.0), 1.0, 2.0),
        ("pan 0.4 px, noise 2/255", (0.4, 0.13), 1.0, 2.0),
        ("zoom 1 %, noise 2/255", (0.0, 0.0), 1.01, 2.0),
    ):
        motion = torch.tensor([[1 / zoom, 0, 2 * offset[0] / WIDTH], [0, 1 / zoom, 2 * offset[1] / HEIGHT]])
        made[name] = Scene(crops(large, offset, zoom), noise, motion, everywhere)
    still, thing = crops(large, (0.0, 0.0), 1.0), F.interpolate(other, (HEIGHT // 2, WIDTH // 3), mode="area")
    frames, covers = [], []
    for n, frame in enumerate(still):
        left, cover = 4 + 16 * n, torch.zeros(1, 1, HEIGHT, WIDTH)
        cover[..., HEIGHT // 4 : HEIGHT // 4 + HEIGHT // 2, left : left + WIDTH // 3] = 1
        moved = frame.clone()
        visible = min(WIDTH // 3, WIDTH - left)
        moved[..., HEIGHT // 4 : HEIGHT // 4 + HEIGHT // 2, left : left + visible] = thing[..., :visible]
        frames.append(moved)
        covers.append(cover)
    same = [1 - torch.maximum(covers[max(n - 1, 0)], covers[n]) for n in range(FRAMES)]
    made["an object passes, noise 1/255"] = Scene(frames, 1.0, torch.eye(2, 3), same)
    return made


def with_noise(scene: Scene) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    noisy = (f + scene.noise / 255 * torch.randn(f.shape, generator=generator) for f in scene.frames)
    return [(frame.clamp(0, 1) * 255).round() / 255 for frame in noisy]


def steadied(contents: list[Tensor], results: list[Tensor], stability: float, *, follow: bool = True) -> list[Tensor]:
    steadier = Steadier(stability)
    original = video_stability.camera_motion
    try:
        if not follow:
            video_stability.camera_motion = lambda before, after: None
        return [steadier(c, r) for c, r in zip(contents, results, strict=True)]
    finally:
        video_stability.camera_motion = original


def flicker(scene: Scene, results: list[Tensor]) -> float:
    still = bool((scene.motion == torch.eye(2, 3)).all())
    total, count = 0.0, 0.0
    for n in range(2, FRAMES):
        before = results[n - 1] if still else warped(results[n - 1], scene.motion)
        mask = scene.same[n].clone()
        mask[..., :EDGE, :], mask[..., -EDGE:, :], mask[..., :EDGE], mask[..., -EDGE:] = 0, 0, 0, 0
        total += float(((results[n] - before).square() * mask).sum())
        count += 3 * float(mask.sum())
    return 255 * math.sqrt(total / count)


def detail(results: list[Tensor]) -> float:
    return sum(float((r[..., 1:] - r[..., :-1]).abs().mean()) for r in results[2:])


def ghosting(scene: Scene, stability: float, *, follow: bool) -> dict[str, float]:
    """Of the blend with the clip itself; nothing to see where nothing moves."""
    blended = steadied(scene.frames, scene.frames, stability, follow=follow)
    left, size, error = 0.0, 0.0, 0.0
    for n in range(2, FRAMES):
        before = scene.frames[n - 1] - scene.frames[n]
        rest = blended[n] - scene.frames[n]
        left, size = left + float((rest * before).sum()), size + float(before.square().sum())
        error += float(rest.square().mean()) / (FRAMES - 2)
    return {"share of the frame before": left / size if size else 0.0, "difference": 255 * math.sqrt(error)}


@torch.inference_mode()
def measure(contents: list[Path], styles: list[Path], network: str, sheet: Path | None) -> list[dict[str, Any]]:
    """One row for each clip and stability: means over the photographs."""
    found: dict[tuple[str, float, str], list[dict[str, float]]] = {}
    pictures: list[list[Tensor | None]] = []
    for index, (content, style) in enumerate(zip(contents, styles, strict=True)):
        painter = Painter(style, network=network)
        others = load_image(contents[(index + 1) % len(contents)])
        for name, scene in scenes(load_image(content), others).items():
            clip = with_noise(scene)
            plain = [as_numbers(painter(as_pixels(frame))) for frame in clip]
            for way in ("following", "in place"):
                for stability in STABILITIES if way == "following" else STABILITIES[1:]:
                    follow = way == "following"
                    begin = time.process_time()
                    results = steadied(clip, plain, stability, follow=follow)
                    spent = (time.process_time() - begin) / FRAMES
                    row = {
                        "flicker": flicker(scene, results),
                        "detail": detail(results) / detail(plain),
                        "CPU ms a frame": 1e3 * spent,
                        **ghosting(scene, stability, follow=follow),
                    }
                    found.setdefault((name, stability, way), []).append(row)
                    if sheet and name in ("pan 3 px", "an object passes, noise 1/255") and index == 0:
                        pictures.append([clip[-1], results[-2], results[-1]])
            print(f"{content.name} with {style.name}: {name}", flush=True)
    if sheet:
        save_image(grid(pictures), sheet)
    return [
        {
            "clip": name,
            "stability": stability,
            "way": way,
            **{key: round(sum(row[key] for row in rows) / len(rows), 4) for key in rows[0]},
        }
        for (name, stability, way), rows in found.items()
    ]


def motion_error(contents: list[Path]) -> dict[str, float]:
    """Greatest error of the camera's motion found between frames, in pixels at the frame's centre, by clip."""
    errors: dict[str, float] = {}
    for content in contents:
        photograph = load_image(content)
        for name, scene in scenes(photograph, photograph).items():
            clip = with_noise(scene)
            matrix = camera_motion(clip[5], clip[6])
            off = (torch.eye(2, 3) if matrix is None else matrix) - scene.motion
            pixels = float((off[:, 2] * torch.tensor([WIDTH / 2, HEIGHT / 2])).abs().max())
            errors[name] = max(errors.get(name, 0.0), round(pixels, 3))
    return errors


def main() -> None:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--content", type=Path, required=True, help="folder of photographs, short side 512 or more")
    parser.add_argument("--style", type=Path, required=True, help="folder of paintings")
    parser.add_argument("--count", type=int, default=4, help="photographs, each with one painting (%(default)s)")
    parser.add_argument("--weights", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="a picture of some frames, for looking at")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "video_stability.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = []
    for folder in (options.content, options.style):
        paths = list_pictures(folder)
        chosen.append([paths[n * len(paths) // options.count] for n in range(options.count)])
    rows = measure(*chosen, options.weights, options.sheet)
    print("clip                           stability  way        flicker  detail  ghost   difference")
    for row in rows:
        print(
            f"{row['clip']:<32}{row['stability']:>8}  {row['way']:<10}{row['flicker']:>7.2f}{row['detail']:>8.3f}"
            f"{row['share of the frame before']:>+8.3f}{row['difference']:>9.2f}"
        )
    report = {
        "what": f"{FRAMES} frames of {WIDTH}×{HEIGHT} from {options.count} photographs, network {options.weights!r}",
        "measures": " ".join(__doc__.split("flicker\n", 1)[1].split()),
        "pictures": [[path.name for path in paths] for paths in chosen],
        "rows": rows,
        "greatest error of the camera's motion, pixels": motion_error(chosen[0]),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "skd": skd.__version__},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_report(report, options.out)


if __name__ == "__main__":
    main()
