"""Which weights of the loss and which shape of the network do what: ``python -m benchmarks.ablations``.

Each arm changes one thing of the base and trains a student from random weights, all for the same few steps on the same
crops; then it is measured on validation pairs, under a network that it wasn't trained under. What differs by less than
another seed could make of it is called not shown. It is a short training of a small network from scratch: what matters
after ten thousand steps may not show here, and what shows here may fade.

``--data`` holds content/, style/ and weights/ (cd_vgg19_16x/5SE.pth to train under, squeezenet1_1_imagenet_ndf.pt to
measure under); ``--peers`` holds MicroAST's published files: its pictures are what the base imitates. An arm that
stands in ``--out`` already isn't run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablations.arms import ARMS, BASE, Arm
from benchmarks.ablations.running import TIMED, Crops, Pairs, Setting, time_beside, train
from benchmarks.ablations.table import table
from benchmarks.ablations.variants import build, fitted
from benchmarks.reports import resumed, write_report
from kbstyle_example.data import list_pictures
from kbstyle_example.evaluation.costs import surroundings
from kbstyle_example.evaluation.pairs import choose_pairs, pictures_to_measure, square
from kbstyle_example.networks import STUDENT, KBStyleConfig
from kbstyle_example.peers import load_peer
from kbstyle_example.perceptual_files import load_perceptual
from kbstyle_example.splits import digest_of_names, of_split
from kbstyle_example.weights_file import encoded

RESULTS = Path(__file__).parents[1] / "results" / "ablations.json"
WHAT = "each arm changes one thing of the base, and trains a student from random weights for a short while"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--smallest-zoom", type=float, default=0.35, help="of a picture's short side that a crop shows")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the base; other arms: the first")
    parser.add_argument("--size", type=int, default=256, help="of the pictures that are measured on")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7, help="of timing; 0 leaves it out")
    parser.add_argument("--widths", type=int, nargs=3, default=list(STUDENT.widths))
    parser.add_argument("--sheets", type=Path, help="folder for pictures of each arm")
    parser.add_argument("--show", action="store_true", help="print the table of what stands in --out, and run nothing")
    return parser.parse_args(arguments)


def description(arm: Arm, config: KBStyleConfig) -> dict[str, Any]:
    """What an arm is: figures under another description are those of another arm."""
    shape = fitted(config, arm.change, multiple=arm.multiple) if arm.change else config
    return {
        "group": arm.group,
        "reference": arm.reference,
        "loss": arm.loss(),
        "network": " ".join((arm.change.__doc__ or "").split()) if arm.change else "the base's",
        "widths": list(shape.widths),
        "bytes": len(encoded(build(shape, arm.change, 0))),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run what is missing; the report is written after each arm."""
    torch.set_num_threads(1)
    data = options.data
    config = KBStyleConfig(**{**STUDENT.as_dict(), "widths": tuple(options.widths)})
    setting = Setting(
        config,
        *(of_split(list_pictures(data / kind), "train") for kind in ("content", "style")),
        load_perceptual(data / "weights" / "cd_vgg19_16x" / "5SE.pth"),
        load_peer("microast", options.peers),
        options.steps,
        options.batch,
        options.crop,
        options.smallest_zoom,
        options.learning_rate,
    )
    judging = load_perceptual(data / "weights" / "squeezenet1_1_imagenet_ndf.pt")
    contents, styles = (
        pictures_to_measure(data / kind, part="validation", size=options.size)[0] for kind in ("content", "style")
    )
    pairs = [(contents[c], styles[s]) for c, s in choose_pairs(len(contents), len(styles), options.pairs)]
    plan = {
        "steps": options.steps,
        "batch": options.batch,
        "crop": options.crop,
        "smallest zoom": options.smallest_zoom,
        "learning_rate": options.learning_rate,
        "base": config.as_dict() | {"widths": list(config.widths)},
        "contents": digest_of_names(setting.contents),
        "styles": digest_of_names(setting.styles),
        "trained under": f"{setting.perceptual.name} {setting.perceptual.sha256}",
        "measured under": f"{judging.name} {judging.sha256}",
        "guide": f"{setting.guide.name} {setting.guide.sha256}",
        "size": options.size,
        "pairs": [[content.name, style.name] for content, style in pairs],
        "timed": f"{TIMED[0]}×{TIMED[1]}, style 512×512, 1 thread",
    }
    report = resumed(options.out, plan, {"what": WHAT, "arms": {}})
    measured = Pairs([(square(c, options.size), square(s, options.size)) for c, s in pairs], judging)
    if (here := surroundings()) not in report["runs"]:
        report["runs"].append(here)
    crops = None
    for name in options.arms:
        arm = ARMS[name]
        found = description(arm, config)
        stored = report["arms"].get(name, {})
        if {key: stored.get(key) for key in found} != found:
            stored = report["arms"][name] = {**found, "time": None, "seeds": {}}
        shape = KBStyleConfig(**{**config.as_dict(), "widths": tuple(found["widths"])})
        if arm.change and options.rounds and not stored["time"]:
            both = build(config, None, 0).eval(), build(shape, arm.change, 0).eval()
            stored["time"] = time_beside(*both, options.rounds)
        for seed in reversed(options.seeds if name == BASE else options.seeds[:1]):  # the first seed's crops are kept
            if str(seed) in stored["seeds"]:
                continue
            if crops is None or crops.seed != seed:
                crops = Crops(setting, seed)
            network, seconds = train(arm, shape, crops, setting)
            sheet = None
            if options.sheets:
                options.sheets.mkdir(parents=True, exist_ok=True)
                file_name = "".join(letter if letter.isalnum() else "_" for letter in name)
                sheet = options.sheets / f"{file_name}_{seed}.jpg"
            stored["seeds"][str(seed)] = {"CPU seconds": round(seconds, 1), "values": measured.measure(network, sheet)}
            write_report(report, options.out, indent=None)
            print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    report["arms"] = {name: report["arms"][name] for name in ARMS if name in report["arms"]}
    write_report(report, options.out, indent=None)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the tables."""
    options = parse(arguments)
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.show else run(options)
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
