"""What was measured: read, written whole or not at all, and shown as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kbstyle_example.evaluation.intervals import Interval, Pair, interval
from kbstyle_example.evaluation.measures import HIGHER_IS_BETTER
from kbstyle_example.files import write_atomically
from kbstyle_example.splits import split
from skd.errors import ArgumentError, DataError, FileError, closest

RESULTS = "results.json"
KEYS = {"plan": dict, "runs": list, "measured": dict, "timings": dict}
TITLES = {"style": "style", "luminance_style": "lum. style", "content": "content", "ssim": "SSIM", "detail": "detail"}


class Results:
    """The content of results.json.

    Parameters
    ----------
    data : dict
        As `evaluate` makes it.

    Examples
    --------
    >>> pairs = [["a.png", "x.png"], ["b.png", "y.png"]]
    >>> values = {"a.png": {"x.png": {"ssim": 0.4}}, "b.png": {"y.png": {"ssim": 0.6}}}
    >>> data = {"plan": {"pairs": pairs}, "runs": [], "measured": {"00": values}, "timings": {}}
    >>> results = Results({**data, "systems": [{"name": "ours", "sha256": "00"}], "reference": "ours"})
    >>> print(results.means("ours")["ssim"])
    0.5000 ± 1.2706
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """From a file, or from the folder of one.

        Raises
        ------
        FileError
            There is none, or it is damaged.
        """
        path = Path(path)
        path = path / RESULTS if path.is_dir() else path
        try:
            data = json.loads(path.read_bytes())
            if any(not isinstance(data[key], kind) for key, kind in KEYS.items()):
                raise TypeError("parts of the wrong kind")
        except FileNotFoundError:
            raise FileError("there are no results", got=str(path), remedy="run the evaluation first") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            got = f"{path} ({type(error).__name__}: {error})"
            raise FileError("the results can't be read", got=got, remedy="remove the file") from None
        return cls(data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them, with means and differences for those who read the file alone.

        Raises
        ------
        FileError
            See `write_atomically`.
        """
        for system in self.data["systems"]:
            system["means"] = {key: value._asdict() for key, value in self.means(system["name"]).items()}
            differences = self.differences(system["name"])
            system["differences"] = {key: value._asdict() for key, value in differences.items()}
        write_atomically(json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    @property
    def names(self) -> list[str]:
        """The systems, in their order."""
        return [system["name"] for system in self.data.get("systems", [])]

    def facts(self, name: str) -> dict[str, Any]:
        """What is known of a system: digest, bytes, parameters, multiply-adds.

        Raises
        ------
        ArgumentError
            It isn't among them.
        """
        for system in self.data.get("systems", []):
            if system["name"] == name:
                return dict(system)
        raise ArgumentError("no system of this name was measured", got=repr(name), remedy=closest(name, self.names))

    def values(self, name: str) -> dict[str, dict[Pair, float]]:
        """Each pair's value, by measure ("ssim", "detail", and "network/measure" for the distances)."""
        measured = self.data["measured"][self.facts(name)["sha256"]]
        found: dict[str, dict[Pair, float]] = {}
        for content, style in self.data["plan"]["pairs"]:
            for measure, value in measured[content][style].items():
                found.setdefault(measure, {})[content, style] = value
        return found

    def means(self, name: str) -> dict[str, Interval]:
        """Mean over the pairs, with its 95 % interval, by measure."""
        return {measure: interval(values) for measure, values in self.values(name).items()}

    def differences(self, name: str) -> dict[str, Interval]:
        """Mean over the pairs of the system's value less the reference's on the same pair, by measure."""
        own, other = self.values(name), self.values(self.data["reference"])
        return {m: interval({p: v - other[m][p] for p, v in values.items()}) for m, values in own.items()}

    def verdict(self, name: str, measure: str) -> str:
        """Whether the system is better or worse than the reference; "even" where the interval holds 0."""
        sign = self.differences(name)[measure].sign
        if not sign:
            return "even"
        return "better" if (sign > 0) == HIGHER_IS_BETTER[measure.rpartition("/")[2]] else "worse"

    def header(self) -> str:
        """The facts that stand beside the figures."""
        plan, runs = self.data["plan"], self.data["runs"]
        parts = " and ".join(sorted({split(name) for kind in ("contents", "styles") for name in plan.get(kind, ())}))
        lines = [
            f"{plan['size']}² pixels, {len(plan['pairs'])} pairs of {len({c for c, _ in plan['pairs']})} contents and "
            f"{len({s for _, s in plan['pairs']})} styles, seed {plan['seed']}; "
            + ("declared as never trained on" if plan["never_trained_on"] else f"for {parts} by their names")
        ]
        for name, net in plan["perceptuals"].items():
            layers = ", ".join(net["layers"])
            lines.append(
                f"{name}: {layers}; content {net['content_layer']}; input: {net['input']}; sha256 {net['sha256']}"
            )
        for run in runs:
            versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
            lines.append(
                f"code {run['code']}; {run['machine']}; {run['threads']} threads; Python {run['python']}, {versions}"
            )
        return "\n".join(lines)

    def table(self) -> str:
        """Means with 95 % intervals, then differences to the reference, then costs; after `header`.

        Raises
        ------
        DataError
            The evaluation stopped before its end.
        """
        if "reference" not in self.data or not self.names:
            raise DataError("the evaluation isn't finished", remedy="run it again: it goes on where it stopped")
        names, reference = self.names, self.data["reference"]
        measures = list(self.means(reference))
        titles = ["system", *(_title(measure) for measure in measures)]
        means = {name: self.means(name) for name in names}
        blocks = [
            self.header(),
            "Means over the pairs with 95 % intervals (lower is better; SSIM: higher).",
            _aligned([titles, *([name, *(str(means[name][m]) for m in measures)] for name in names)]),
        ]
        if len(names) > 1:
            rows = [titles]
            for name in (name for name in names if name != reference):
                differences = self.differences(name)
                cells = [_difference(differences[m], means[reference][m], self.verdict(name, m)) for m in measures]
                rows.append([name, *cells])
            blocks += [f"Differences to {reference}, pair by pair, with 95 % intervals.", _aligned(rows)]
        return "\n\n".join([*blocks, self._costs()]) + "\n"

    def _costs(self) -> str:
        size, timings = self.data["plan"]["size"], self.data["timings"]
        labels = timings.get("setting", {}).get("sizes", [])
        rows = [["system", "bytes", "parameters", f"multiply-adds at {size}²", "precision", *labels]]
        remembered = [["system", *labels]]
        for system in self.data["systems"]:
            timed = timings.get("rows", {}).get(system["sha256"], {})
            cells = [f"{timed[k]['ratio']:.2f}× ({timed[k]['low']:.2f}–{timed[k]['high']:.2f})" for k in labels]
            adds = f"{system['multiply_adds'] / 1e9:.3f} G"
            facts = [f"{system['bytes']:,}", f"{system['parameters']:,}", adds, system["precision"]]
            rows.append([system["name"], *facts, *cells])
            peaks = [timed[k].get("peak_memory") for k in labels]
            remembered.append([system["name"], *("–" if p is None else f"{p / 2**20:.0f} MiB" for p in peaks)])
        text = "Costs: multiply-adds are those of convolutions and matrix products, the style's encoding included."
        if labels:
            setting = timings["setting"]
            text += (
                f"\nTimes are multiples of {self.data['reference']}'s within one run: median and quartiles of "
                f"{setting['rounds']} rounds, batch 1, {setting['threads']} threads, the style (512² at most) encoded "
                "each time."
            )
        blocks = [text, _aligned(rows)]
        if labels and timings["setting"]["memory"]:
            blocks += ["Peak memory that one picture adds to the process.", _aligned(remembered)]
        return "\n\n".join(blocks)

    def __str__(self) -> str:
        return self.table()


def _title(measure: str) -> str:
    network, _, kind = measure.rpartition("/")
    return TITLES.get(kind, kind) + (f" ({network})" if network else "")


def _difference(difference: Interval, reference: Interval, verdict: str) -> str:
    share = f", {difference.mean / reference.mean:+.0%}" if reference.mean else ""
    half = "" if difference.half_width is None else f" ± {difference.half_width:.4f}"
    return f"{difference.mean:+.4f}{half}{share} {verdict}"


def _aligned(rows: Iterable[list[str]]) -> str:
    """Columns side by side: the first flush left, the others flush right."""
    cells = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)
