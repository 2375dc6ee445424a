"""Measure systems on pairs of a photograph and a painting that none of them was trained on.

Everything lands in results.json: what was measured on (the plan), under which code and machine, each pair's values, and
the means. A run goes on where it stopped; another plan needs another folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from kbstyle_example.evaluation.costs import ROUNDS, latencies, peak_memory, surroundings
from kbstyle_example.evaluation.measures import Judge, measuring_layers
from kbstyle_example.evaluation.pairs import PAIRS, SIZE, choose_pairs, open_for, square
from kbstyle_example.evaluation.results import RESULTS, Results
from kbstyle_example.files import digest, writable_folder, write_atomically
from kbstyle_example.networks import KBStyle
from kbstyle_example.peers.system import Size, System, as_system
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.splits import split
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError, closest

FORMAT = 1
TIMED: tuple[Size, ...] = ((256, 256), (512, 512))
Comparable: TypeAlias = System | KBStyle | str | os.PathLike[str]
# How a network takes its pictures: it stands beside every table.
INPUTS = {
    "squeezenet1_1": "BGR in 0..255 minus (104, 117, 123)",
    "vgg16_hed": "BGR in 0..255 minus (104.007, 116.669, 122.679)",
    "vgg19": "RGB in 0..1, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
    "vgg19_distilled_16x": "a 1×1 convolution of its own, near BGR in 0..255 minus (103.939, 116.779, 123.68)",
}


def evaluate(
    systems: Sequence[Comparable] | Mapping[str, Comparable],
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptuals: Sequence[Perceptual],
    out: str | os.PathLike[str],
    *,
    size: int = SIZE,
    pairs: int | None = PAIRS,
    seed: int = 0,
    reference: str | None = None,
    never_trained_on: bool = False,
    timed: Sequence[Size] = TIMED,
    rounds: int = ROUNDS,
    memory: bool = False,
) -> Results:
    """Measure each system on the same pairs under each perceptual network.

    Parameters
    ----------
    systems : sequence, or mapping of name to, System, KBStyle, path or str
        See `as_system`.
    contents, styles : sequence of Path
        See `pictures_to_measure`. Their names tell them apart.
    perceptuals : sequence of Perceptual
        See `load_perceptual`.
    out : path
        Folder for results.json. What was measured there of the same plan isn't measured again.
    size : int
        Each picture's largest centred square is scaled to this side.
    pairs : int, optional
        How many, see `choose_pairs`; all of them where None or more than there are.
    seed : int
        Of the choice of pairs.
    reference : str, optional
        The system that differences and times are relative to; the first one otherwise.
    never_trained_on : bool
        You declare that no system was trained on any of these pictures. Otherwise those whose name says "train"
        (`splits.split`) are refused.
    timed : sequence of (width, height)
        Sizes to time at; none skips it.
    rounds : int
        Of timing.
    memory : bool
        Measure the peak memory, too, at the sizes that are timed.

    Raises
    ------
    DataError
        Pictures meant for training, too small, of equal names; or none.
    FileError
        A picture can't be read; results.json is damaged, of another plan, or can't be written.
    ArgumentError
        No system or network, or two of one name; a size, number or seed that makes no sense.
    NonFiniteError, ShapeError
        A system's picture can't be measured.

    Examples
    --------
    >>> import tempfile
    >>> from kbstyle_example.networks import STUDENT
    >>> from kbstyle_example.perceptual import SqueezeNet
    >>> folder = Path(__file__).parents[1] / "samples"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     results = evaluate(
    ...         {"untrained": KBStyle(STUDENT)},
    ...         [folder / "content" / "coffee.jpg"],
    ...         [folder / "style" / "harvest.jpg"],
    ...         [SqueezeNet()],
    ...         out,
    ...         size=64,
    ...         never_trained_on=True,
    ...         timed=(),
    ...     )
    >>> sorted(results.means("untrained"))
    ['detail', 'squeezenet1_1/content', 'squeezenet1_1/luminance_style', 'squeezenet1_1/style', 'ssim']
    """
    compared = _systems(systems)
    names = [system.name for system in compared]
    reference = names[0] if reference is None else reference
    if reference not in names:
        raise ArgumentError("no such system to refer to", got=repr(reference), remedy=closest(reference, names))
    plan = _plan(contents, styles, perceptuals, size=size, pairs=pairs, seed=seed, never_trained_on=never_trained_on)
    path = writable_folder(out) / RESULTS
    data = _resumed(path, plan)
    if (here := surroundings()) not in data["runs"]:
        data["runs"].append(here)
    _measure(compared, contents, styles, perceptuals, data, path)
    _time(compared, data, timed=timed, rounds=rounds, memory=memory, reference=reference)
    data["reference"] = reference
    data["systems"] = [_facts(system, size) for system in compared]
    results = Results(data)
    results.save(path)
    return results


def _systems(systems: Sequence[Comparable] | Mapping[str, Comparable]) -> list[System]:
    if isinstance(systems, Mapping):
        found = [as_system(thing, name=name) for name, thing in systems.items()]
    else:
        found = [as_system(thing) for thing in systems]
    _distinct("systems", [system.name for system in found])
    return found


def _distinct(what: str, names: Sequence[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise ArgumentError(f"{what} to measure", got=list(names), expected="at least one, each of another name")


def _plan(
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptuals: Sequence[Perceptual],
    *,
    size: int,
    pairs: int | None,
    seed: int,
    never_trained_on: bool,
) -> dict[str, Any]:
    """What is measured on what: figures of one plan can be compared, and those of another can't."""
    _distinct("perceptual networks", [net.name for net in perceptuals])
    if size < 16:
        raise ArgumentError("size of the pictures", got=size, expected="16 pixels or more")
    digests: dict[str, dict[str, str]] = {}
    for kind, paths in (("contents", contents), ("styles", styles)):
        files = [Path(path) for path in paths]
        if not files or len({path.name for path in files}) != len(files):
            raise DataError(f"{kind} to measure on", got=f"{len(files)} files", expected="some, each of another name")
        trained = [path.name for path in files if split(path) == "train"]
        if trained and not never_trained_on:
            raise DataError(
                f"{kind} that are for training",
                got=f"{len(trained)} of {len(files)}: {', '.join(trained[:3])}",
                remedy="take the validation or test pictures, or declare that none of them was ever trained on",
            )
        digests[kind] = {path.name: _digest(path) for path in files}
    chosen = choose_pairs(len(contents), len(styles), pairs, seed=seed)
    return {
        "format": FORMAT,
        "size": size,
        "seed": seed,
        "pairs": [[Path(contents[c]).name, Path(styles[s]).name] for c, s in chosen],
        **digests,
        "never_trained_on": never_trained_on,
        "perceptuals": {
            net.name: {
                "sha256": net.sha256,
                "input": INPUTS.get(net.name, "its own"),
                "layers": list(measuring_layers(net)),
                "content_layer": net.content_layer,
            }
            for net in perceptuals
        },
    }


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise FileError("a picture can't be read", got=f"{path} ({error.strerror or error})") from None


def _resumed(path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What stands in the folder already, if it is of this plan."""
    if not path.exists():
        return {"plan": plan, "runs": [], "measured": {}, "timings": {}}
    data = Results.load(path).data
    if data["plan"] != plan:
        differing = ", ".join(sorted(key for key in plan if data["plan"].get(key) != plan[key]))
        raise FileError(
            "the folder holds results of another plan",
            got=f"{path}: other {differing}",
            remedy="name another output folder, or remove these results",
        )
    return data


def _measure(
    systems: Sequence[System],
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptuals: Sequence[Perceptual],
    data: dict[str, Any],
    path: Path,
) -> None:
    """Fill in what is missing, pair by pair, and write after each."""
    measured = data["measured"]
    files = {Path(p).name: Path(p) for p in contents}, {Path(p).name: Path(p) for p in styles}
    pairs = [(content, style) for content, style in data["plan"]["pairs"]]

    def missing(pair: tuple[str, str]) -> list[System]:
        return [s for s in systems if pair[1] not in measured.get(s.sha256, {}).get(pair[0], {})]

    unmeasured = [pair for pair in pairs if missing(pair)]
    for side in (0, 1):  # a picture that can't be used shows now, and not after hours
        for name in sorted({pair[side] for pair in unmeasured}):
            open_for(files[side][name], data["plan"]["size"])
    left = sum(len(missing(pair)) for pair in pairs)
    with tqdm(total=len(pairs) * len(systems), initial=len(pairs) * len(systems) - left, desc="evaluate") as bar:
        for content_name, style_name in unmeasured:
            content = square(files[0][content_name], data["plan"]["size"])
            style = square(files[1][style_name], data["plan"]["size"])
            judge = Judge(content, style, perceptuals)
            for system in missing((content_name, style_name)):
                values = judge(system.stylize(content, style))
                if bad := {name: value for name, value in values.items() if not math.isfinite(value)}:
                    raise NonFiniteError(f"{system.name} on {content_name} and {style_name}", got=bad)
                measured.setdefault(system.sha256, {}).setdefault(content_name, {})[style_name] = values
                bar.update()
            write_atomically(json.dumps(data, allow_nan=False) + "\n", path)


def _time(
    systems: Sequence[System],
    data: dict[str, Any],
    *,
    timed: Iterable[Size],
    rounds: int,
    memory: bool,
    reference: str,
) -> None:
    """Ratios hold within one run alone: all systems are timed again, unless the very same ones stand there."""
    sizes = list(timed)
    labels = [f"{width}×{height}" for width, height in sizes]
    setting = {
        "systems": sorted(system.sha256 for system in systems),
        "reference": next(system.sha256 for system in systems if system.name == reference),
        "sizes": labels,
        "rounds": rounds,
        "memory": memory,
        "threads": torch.get_num_threads(),
    }
    if data["timings"].get("setting") == setting:
        return
    rows: dict[str, dict[str, Any]] = {system.sha256: {} for system in systems}
    for size, label in zip(sizes, labels, strict=True):
        found = latencies(systems, size, reference=reference, rounds=rounds)
        for system in systems:
            rows[system.sha256][label] = found[system.name]._asdict()
            if memory:
                rows[system.sha256][label]["peak_memory"] = peak_memory(system, size)
    data["timings"] = {"setting": setting, "rows": rows}


def _facts(system: System, size: int) -> dict[str, Any]:
    return {
        "name": system.name,
        "sha256": system.sha256,
        "bytes": system.size,
        "parameters": system.parameters,
        "multiply_adds": system.multiply_adds((size, size), (size, size)),
        "precision": system.precision,
        "source": system.source,
        "licence": system.licence,
    }
