"""Sphinx configuration; build with `make docs`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import skd

project = "skd"
author = "The skd authors"
release = version = skd.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "code"  # a single backtick in a docstring is a name
html_theme = "furo"
html_title = f"skd {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state types and shapes
napoleon_google_docstring = False
napoleon_use_ivar = True  # an attribute is described in its class, and not a second time by itself
napoleon_use_rtype = False
suppress_warnings = ["ref.python"]  # types are prose, such as "(C, width)", and no references

_ABSOLUTE = re.compile(r"(?<!\\)\|(\S[^|]*)\|")  # |s − t|, which reST takes for a substitution; \| is in formulas


def escape_bars(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Let a docstring write an absolute value as it is written."""
    lines[:] = [line if ">>>" in line else _ABSOLUTE.sub(r"\\|\1\\|", line) for line in lines]


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def list_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in reST; no cell is empty."""
    cells = [("   * - " if k == 0 else "     - ") + cell for row in (head, *rows) for k, cell in enumerate(row)]
    return "\n".join([".. list-table::", "   :header-rows: 1", "", *cells])


def zoo_row(name: str, found: Mapping[str, Any]) -> list[str]:
    """A network of benchmarks/results/zoo.json."""
    made, (before, after) = found["compress"], found["loss"]
    sizes = ["–"] * 4
    if "refused" not in made:
        sizes = [*(f"{made[key]:,}" for key in ("teacher", "budget", "bytes")), f"{made['energy']:.0%}"]
    alone = "same" if found["alone"] == 0 else f"{found['alone']:.1g} off"
    return [name, *sizes, f"{before:.3g} → {after:.3g}", found["graph"].partition(":")[0], alone]


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


def draw_zoo(app: object, name: str, source: list[str]) -> None:
    """Put tables in the place of ``@name@`` in zoo.rst."""
    if name == "zoo":
        tables = zoo_tables()
        source[0] = re.sub(r"@(\w+)@", lambda mark: tables[mark[1]], source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("source-read", draw_zoo)
