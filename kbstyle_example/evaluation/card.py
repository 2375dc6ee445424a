"""A model card in Markdown, from facts alone: the same facts give the same text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kbstyle_example.evaluation.results import Results
from kbstyle_example.files import write_atomically
from kbstyle_example.peers.system import as_system
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.splits import digest_of_names
from kbstyle_example.weights_file import about, load_weights
from skd.errors import DataError

NOT_STATED = (
    "The licence of the training pictures was not stated. Take the weights to be for what the strictest of them "
    "allows, and ask whoever trained them."
)
LIMITS = (
    "Figures hold for pictures like those measured; a style distance doesn't say that a picture is pleasing.",
    "The distances are those of means and deviations of features: two paintings can share them and still differ.",
)


def model_card(
    weights: str | os.PathLike[str],
    *,
    recipe: Mapping[str, object],
    steps: int,
    seed: int,
    contents: Sequence[Path],
    styles: Sequence[Path],
    perceptual: Perceptual | None = None,
    results: Results | None = None,
    limits: Iterable[str] = LIMITS,
    data_licence: str = NOT_STATED,
) -> str:
    """What anyone should know before using these weights.

    Parameters
    ----------
    weights : path or str
        A weights file, or the name of bundled weights.
    recipe : mapping
        How it was trained: method, batch size, learning rate, loss weights, and so on, in the order given.
    steps, seed : int
        Of the training.
    contents, styles : sequence of Path
        The pictures trained on. The card holds their number and a digest of their names, not the names.
    perceptual : Perceptual, optional
        The network trained with.
    results : Results, optional
        Of `evaluate`, with these very weights among the systems.
    limits : iterable of str
        What it doesn't do well, a sentence each.
    data_licence : str
        What the licences of the training pictures allow, in your words.

    Raises
    ------
    FileError
        There are no such weights, or they aren't KBStyle's.
    DataError
        The results hold no figures of these weights; no pictures.

    Examples
    --------
    >>> paths = [Path("a.png"), Path("b.png")]
    >>> card = model_card("teacher", recipe={"batch size": 4}, steps=9, seed=0, contents=paths, styles=paths)
    >>> print(card.splitlines()[0])
    # teacher
    """
    system, network = as_system(weights), load_weights(weights)
    facts = {
        "task": "arbitrary style transfer: a photograph and a painting in, the photograph painted out",
        "network": ", ".join(f"{key} {_plain(value)}" for key, value in network.config.as_dict().items()),
        "parameters": f"{system.parameters:,}",
        "file": f"{system.size:,} bytes",
        "sha256": f"`{system.sha256}`",
    }
    trained: dict[str, object] = {**recipe, "steps": f"{steps:,}", "seed": seed}
    if perceptual is not None:
        trained["perceptual network"] = f"{perceptual.name}, sha256 `{perceptual.sha256 or 'not from a file'}`"
    trained["photographs"] = _pictures(contents, "photographs")
    trained["paintings"] = _pictures(styles, "paintings")
    noted = {key: value for key, value in sorted(about(weights).items()) if key != "kbstyle"}
    sections = [f"# {system.name}", _facts(facts), "## Training", _facts(trained)]
    if noted:
        sections += ["## What the file says of itself", _facts(noted)]
    sections += ["## Figures", _figures(results, system.sha256)]
    sections += ["## Known limits", "\n".join(f"- {_line(limit)}" for limit in limits) or "None are stated."]
    sections += ["## Data and licence", _line(data_licence) or NOT_STATED]
    return "\n\n".join(sections) + "\n"


def write_card(path: str | os.PathLike[str], card: str) -> Path:
    """Write a card, whole or not at all.

    Raises
    ------
    FileError
        It can't be written there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_card(Path(folder, "README.md"), "# A card").name
    'README.md'
    """
    write_atomically(card, path)
    return Path(path)


def _pictures(paths: Sequence[Path], what: str) -> str:
    if not paths:
        raise DataError(f"no {what} that the weights were trained on")
    names = digest_of_names(sorted(paths, key=lambda path: path.name))
    return f"{names} (a digest of their names, sorted)"


def _figures(results: Results | None, sha256: str) -> str:
    if results is None:
        return "Not measured."
    name = next((name for name in results.names if results.facts(name)["sha256"] == sha256), None)
    if name is None:
        measured = ", ".join(f"{n} ({results.facts(n)['sha256'][:8]})" for n in results.names)
        raise DataError(
            "the results hold no figures of these weights", got=measured, expected=sha256[:8], remedy="evaluate them"
        )
    others = [other for other in results.names if other != name]
    beside = f" It is called {name} here" + (f", beside {', '.join(others)}." if others else ".")
    return (
        f"Measured on pictures that none of the systems was trained on.{beside}\n\n```\n{results.table().rstrip()}\n```"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(key)} | {_cell(_plain(value))} |" for key, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "-".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
