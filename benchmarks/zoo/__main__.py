"""The table of the zoo: ``python -m benchmarks.zoo [names]``. Tiny networks with random weights; nothing is fetched."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.reports import write_report
from benchmarks.zoo.entries import ENTRIES
from benchmarks.zoo.measuring import STEPS, alone, measured

RESULTS = Path(__file__).resolve().parents[1] / "results" / "zoo.json"
HEAD = (
    *("network", "pairs", "narrowed by", "teacher", "budget", "student", "energy kept"),
    *(f"loss, {STEPS} steps", "one graph", "without skd"),
)


def row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one network."""
    if "skipped" in found:
        return (name, found["skipped"], *[""] * (len(HEAD) - 2))
    drawn = "as drawn" if not found["differences"] else "; ".join(found["differences"])
    if found["ambiguous"]:
        drawn += ", said to be ambiguous"
    made, (before, after), wrong = found["compress"], found["loss"], found.get("alone")
    if "refused" in made:
        narrowed = ("refused", "-", "-", "-", "-")
    else:
        sizes = (f"{made[name]:,}" for name in ("teacher", "budget", "bytes"))
        narrowed = (made["by"], *sizes, f"{made['energy']:.0%}")
    return (
        name,
        f"{found['pairs']} {drawn}",
        *narrowed,
        f"{before:.3g} → {after:.3g}",
        found["graph"] or "-",
        "-" if wrong is None else "same" if wrong == 0 else f"{wrong:.1g} off",
    )


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """All of them, aligned."""
    cells = [HEAD, *(row(name, found) for name, found in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Of what was measured with."""
    packages = ["torch", *sorted({entry.package for entry in ENTRIES if entry.package})]
    found = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    return {"python": platform.python_version(), **found}


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run."""
    if not path.exists():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["networks"]
    return rows


def write(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """After every network, so that a run which is stopped isn't lost."""
    ordered = {entry.name: rows[entry.name] for entry in ENTRIES if entry.name in rows}
    report = {"versions": versions(), "steps": STEPS, "networks": ordered}
    write_report(report, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help="networks, whose rows are measured again; by default all")
    parser.add_argument("--no-graph", action="store_true", help="don't compile, which takes most of the time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows are kept")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    known = [entry.name for entry in ENTRIES]
    if unknown := set(options.names) - set(known):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    rows = kept(options.out)
    with tempfile.TemporaryDirectory() as folder:
        for entry in ENTRIES:
            if options.names and entry.name not in options.names:
                continue
            if entry.missing:
                rows[entry.name] = {"skipped": f"{entry.missing} isn't installed"}
                continue
            before = rows.get(entry.name, {})
            rows[entry.name] = measured(entry, Path(folder), compiled=not options.no_graph)
            if options.no_graph:
                rows[entry.name]["graph"] = before.get("graph")
            write(options.out, rows)
            print(entry.name, rows[entry.name]["loss"], rows[entry.name]["graph"], flush=True)
        for name, wrong in alone(Path(folder)).items():
            rows[name]["alone"] = wrong
    write(options.out, rows)
    print(table({name: rows[name] for name in known if name in rows}))


if __name__ == "__main__":
    main()
