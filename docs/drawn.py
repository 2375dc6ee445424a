"""What pages show of benchmarks: drawn from the committed results when the docs are built, and never typed."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawn_exports import export_marks
from drawn_speed import speed_marks
from tables import list_table

import skd
from benchmarks.ablations import table as ablations
from benchmarks.methods import draw as methods
from benchmarks.methods.arms import METHODS
from benchmarks.methods.cells import read_lines
from benchmarks.worth import table as worth

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def page_table(text: str) -> str:
    """A table that was written for a terminal: its title is a heading, its notes follow."""
    title, head, *lines = text.splitlines()
    heading, _, about = title.partition(": ")
    rows = [re.split(r" {2,}", line.strip()) for line in (head, *lines) if not line.startswith("  note: ")]
    rows = [
        ["–" if cell == "-" else re.sub(r"^-", "−", cell).replace(" ± ", "\u00a0±\u00a0") for cell in row]
        for row in rows
    ]
    if {len(row) for row in rows} != {len(rows[0])}:
        raise ValueError(f"the rows of {title!r} have different numbers of cells")
    notes = "; ".join(line.removeprefix("  note: ") for line in lines if line.startswith("  note: "))
    heading = heading[0].upper() + heading[1:]
    return "\n\n".join((f"**{heading}**: {about}", list_table(rows[0], rows[1:]), f"{notes[0].upper()}{notes[1:]}."))


def figure(value: float) -> str:
    """Three digits that count, and no power of ten where thousands say it."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def zoo_row(name: str, found: Mapping[str, Any]) -> list[str]:
    """A network of benchmarks/results/zoo.json."""
    made, (before, after) = found["compress"], found["loss"]
    sizes = ["–"] * 4
    if "refused" not in made:
        energy = f"{made['energy']:.0%}".replace("-", "−")
        sizes = [*(f"{made[key]:,}" for key in ("teacher", "budget", "bytes")), energy]
    alone = "same" if found["alone"] == 0 else f"{found['alone']:.1g} off"
    return [name, *sizes, f"{figure(before)} → {figure(after)}", found["graph"].partition(":")[0], alone]


def zoo_tables() -> dict[str, str]:
    """What stands in the place of each mark of zoo.rst: drawn from what was measured and from the expected pairings."""
    report = json.loads((BENCHMARKS / "results" / "zoo.json").read_text(encoding="utf-8"))
    networks = {name: found for name, found in report["networks"].items() if "skipped" not in found}
    head = ["network", "teacher", "budget", "student", "energy kept", f"loss, {report['steps']} steps", "one graph"]
    drawn = {name: json.loads((BENCHMARKS / "zoo" / "pairings" / f"{name}.json").read_text()) for name in networks}
    pairs = [
        [name, "; ".join(f"`{pair[1]}` – `{pair[2]}`" for pair in each["pairs"]), each["about"]]
        for name, each in drawn.items()
    ]
    made = {name: found["compress"] for name, found in networks.items()}
    refused = [f"- {name}: *{each['refused']}*" for name, each in made.items() if "refused" in each]
    whole = [f"- {name}: *{reason}*" for name, each in made.items() for reason in each.get("whole", ())]
    graphs = [f"- {name}: *{found['graph'][4:]}*" for name, found in networks.items() if found["graph"] != "yes"]
    return {
        "measured": list_table([*head, "without skd"], [zoo_row(*item) for item in networks.items()]),
        "pairs": list_table(["network", "encoder – decoder", "how it is built"], pairs),
        "refused": "\n".join(refused) or "None.",
        "whole": "\n".join(whole) or "None.",
        "graphs": "\n".join(graphs) or "None.",
        "versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    }


def ablation_marks() -> dict[str, str]:
    """What ablations.rst shows, of what was measured."""
    report = json.loads((BENCHMARKS / "results" / "ablations.json").read_text(encoding="utf-8"))
    seeds = {name: len(arm["seeds"]) for name, arm in report["arms"].items()}
    most = ", ".join(f"{name} {count}" for name, count in seeds.items() if count > 1)
    return {"tables": "\n".join(ablations.table(report)), "arms": str(len(seeds)), "seeds": most}


def worth_marks() -> dict[str, str]:
    """What worth.rst shows, of what was measured."""
    report = json.loads((BENCHMARKS / "results" / "worth.json").read_text(encoding="utf-8"))
    return {"tables": "\n\n".join(map(page_table, worth.table(report)))}


def compress_marks() -> dict[str, str]:
    """What compress.rst shows of the two kinds of bases, and of folded and fitted weights."""
    report = json.loads((BENCHMARKS / "results" / "bases.json").read_text(encoding="utf-8"))
    rows = []
    for name, runs in report["networks"].items():
        rotated, groups = runs[0]["groups"]
        kept = [" ".join(f"{run[bases]:.3f}" for run in runs) for bases in ("subset", "rotated")]
        rows.append([name, f"{rotated} of {groups}", *kept])
    return {"bases": list_table(["network", "groups rotated", "channels", "directions"], rows), "starts": starts()}


def starts() -> str:
    """Students that `compress` folded and fitted, untrained and trained, of benchmarks/results/methods.jsonl."""
    lines = list(read_lines(methods.RESULTS))
    rows = []
    for task, higher in methods.HIGHER_IS_BETTER.items():
        mine = methods.latest(lines, task)
        found = {row["arm"]: row for row in methods.rows(mine, task, "validation", higher=higher) if "mean" in row}
        arms = [f"{start} start, {what}" for what in ("not trained", "output only") for start in ("SKD's", "fitted")]
        if all(arm in found for arm in arms):
            name, steps = next(iter(found[arms[0]]["figures"])), max(line["steps"] for line in mine)
            rows.append([f"{task}: {name}", *(f"{found[arm]['mean']:.3g}" for arm in arms), str(steps)])
    head = ["task", "folded, untrained", "fitted, untrained", "folded, trained", "fitted, trained", "steps"]
    return list_table(head, rows)


def methods_marks() -> dict[str, str]:
    """What methods.rst shows of what each method costs."""
    report = json.loads((BENCHMARKS / "results" / "cost.json").read_text(encoding="utf-8"))
    middle, pixels = report["rows"][1], report["growth"]["pixels"]
    rows = []
    for name, ratio in sorted(middle["ratio"].items(), key=lambda item: float(item[1])):
        grows = [pixels[name][what] for what in ("time", "memory")]
        mib = middle["mib"][name]
        rows.append([name, f"{ratio:.2f}", "–" if mib is None else f"{mib:.0f}", *(f"{b:.2f}" for b in grows)])
    head = ["method", "time of a step ×", "MiB", "time ~ pixels to the", "memory ~ pixels to the"]
    return {"costs": list_table(head, rows), "size": str(middle["size"]), "batch": str(middle["batch"])}


def benchmark_marks() -> dict[str, str]:
    """What benchmark.rst shows."""
    return {**speed_marks(), "methods": compared_methods(), "unfinished": unfinished(), "long": long_runs()}


def unfinished() -> str:
    """Which methods have no line in a task's table yet, neither figures nor a reason why there are none."""
    lines, said = list(read_lines(methods.RESULTS)), []
    for task, higher in methods.HIGHER_IS_BETTER.items():
        ran = {row["arm"] for row in methods.rows(methods.latest(lines, task), task, "validation", higher=higher)}
        missing = [name for name in METHODS if name not in ran]
        if missing:
            said.append(f"Of {task} {', '.join(missing)} haven't been run yet.")
    return " ".join(said) or "All methods have been run on all three."


def long_runs() -> str:
    """How many seeds of each task are whole: all that ran have them."""
    lines, said = list(read_lines(methods.RESULTS)), []
    for task, higher in methods.HIGHER_IS_BETTER.items():
        ran = [row for row in methods.rows(methods.latest(lines, task), task, "test", higher=higher) if "mean" in row]
        said.append(f"{min((row['seeds'] for row in ran), default=0)} of {task}")
    return f"Seeds that are whole so far: {', '.join(said)}."


def compared_methods() -> str:
    """A plot and a table for every task and split of benchmarks/results/methods.jsonl."""
    parts = []
    for (task, split), lines in methods.drawn(list(read_lines(methods.RESULTS))).items():
        picture = f".. image:: drawn_figures/methods-{task}-{split}.svg\n   :alt: The table below as a plot."
        parts += [f"**{task.capitalize()}**, {split} split:", picture, "\n".join(lines)]
    return "\n\n".join(parts) or "**There are no figures yet.**"


def web_marks() -> dict[str, str]:
    """What web.rst shows of the page's start and speed."""
    report = json.loads((BENCHMARKS / "results" / "web.json").read_text(encoding="utf-8"))
    rows = [
        [
            f"{run['threads']}",
            f"{run['first_visit']:.1f} s",
            f"{run['second_visit']:.1f} s",
            *(f"{row['seconds']:.2f} s ({row['megapixels_a_second']:.1f})" for row in run["rows"]),
        ]
        for run in report["runs"]
    ]
    sizes = [f"{width}×{height}" for width, height in (row["size"] for row in report["runs"][0]["rows"])]
    sizes[0] += " (megapixels a second)"
    return {
        "figures": list_table(["threads", "first picture", "on a second visit", *sizes], rows),
        "networks": f"{report['bytes']['networks'] / 1000:.0f}",
        "runtime": f"{report['bytes']['runtime'] / 1e6:.0f}",
        "where": f"Chromium {report['chromium']}, {report['runtime'].replace('@', ' ')}, {report['cpus']} cores "
        f"({report['processor']}) with other work on them (load {report['load']}), the browser ahead of it; medians of "
        f"{report['rounds']} rounds",
    }


def notes_of(method: type) -> list[str]:
    """The paragraphs of a docstring's Notes: first the source, then what is said of it."""
    found = re.search(r"^Notes\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}\n|\Z)", inspect.getdoc(method) or "", re.M | re.S)
    return [] if found is None else [text for text in re.split(r"\n\s*\n", found[1].strip()) if text]


def theory_marks() -> dict[str, str]:
    """What theory.rst shows of each published method: its source and the deviations, as its docstring states them."""
    base = skd.methods.LayerMethod
    there = {name: getattr(skd.methods, name) for name in sorted(skd.methods.__all__)}
    published = {
        name: notes_of(thing)
        for name, thing in there.items()
        if inspect.isclass(thing) and issubclass(thing, base) and thing not in (base, skd.methods.OutputOnly)
    }
    entries = []
    for name, (source, *said) in published.items():
        source = re.sub(r"^([A-Z])\.", r"\1\\.", source)  # an author's initial, which reST takes for a list's
        paragraphs = [" ".join(text.split()) for text in (source, *(said or ["No deviation is known."]))]
        entries.append(f":class:`~skd.methods.{name}`\n" + textwrap.indent("\n\n".join(paragraphs), "   "))
    return {"deviations": "\n\n".join(entries), "methods": str(len(published))}


def limits_marks() -> dict[str, str]:
    """What limits.rst repeats of the weights' card: the known faults, and the licence of the data."""
    card = (ROOT / "kbstyle_example" / "weights" / "README.md").read_text(encoding="utf-8")
    faults = card.partition("## Known faults")[2].partition("\n## ")[0].strip()
    licence = re.search(r"^\| licence of the data \| (.*) \|$", card, re.MULTILINE)
    if not faults or licence is None:
        raise ValueError("the card of the weights has no known faults, or no licence of the data")
    return {"faults": faults.replace("`", "``"), "licence": licence[1].replace("`", "``")}


# Each gives a text for every ``@mark@`` of its page.
PAGES = {
    "ablations": ablation_marks,
    "benchmark": benchmark_marks,
    "compress": compress_marks,
    "export": export_marks,
    "limits": limits_marks,
    "methods": methods_marks,
    "theory": theory_marks,
    "web": web_marks,
    "worth": worth_marks,
    "zoo": zoo_tables,
}


def draw(app: object, name: str, source: list[str]) -> None:
    """Put what was measured in the place of each mark."""
    if name in PAGES:
        marks = PAGES[name]()
        source[0] = re.sub(r"@(\w+)@", lambda found: marks[found[1]], source[0])
