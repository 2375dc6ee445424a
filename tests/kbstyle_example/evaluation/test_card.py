"""The model card: all facts, the same text each time, nothing made up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from kbstyle_example.evaluation.card import LIMITS, NOT_STATED, model_card, write_card
from kbstyle_example.evaluation.results import Results
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.perceptual import SqueezeNet
from kbstyle_example.weights_file import save_weights
from skd.errors import DataError, FileError

SMALL = KBStyleConfig(widths=(4, 6, 8), fine_blocks=1, deep_blocks=1, style_blocks=1)
CONTENTS, STYLES = [Path("photos/b.jpg"), Path("photos/a.jpg")], [Path("paintings/x.jpg")]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_weights(KBStyle(SMALL), path, about={"seed": "5"})
    return path


def card(weights: Path, **options: Any) -> str:
    facts: dict[str, Any] = {
        "recipe": {"method": "SKD"},
        "steps": 4000,
        "seed": 5,
        "contents": CONTENTS,
        "styles": STYLES,
    }
    return model_card(weights, **{**facts, **options})


def results_of(weights: Path, sha256: str | None = None) -> Results:
    found = sha256 or hashlib.sha256(weights.read_bytes()).hexdigest()
    facts = {"bytes": 1, "parameters": 1, "multiply_adds": 10**9, "precision": "float32"}
    return Results(
        {
            "plan": {
                "size": 512,
                "seed": 0,
                "pairs": [["a", "x"], ["b", "y"]],
                "never_trained_on": True,
                "perceptuals": {},
            },
            "runs": [],
            "measured": {s: {"a": {"x": {"ssim": 0.4}}, "b": {"y": {"ssim": 0.5}}} for s in (found, "peer")},
            "timings": {},
            "systems": [{"name": "ours", "sha256": found, **facts}, {"name": "theirs", "sha256": "peer", **facts}],
            "reference": "ours",
        }
    )


def test_the_facts_of_the_file(weights: Path) -> None:
    text = card(weights)
    parameters = sum(p.numel() for p in KBStyle(SMALL).parameters())
    for fact in (
        "# small\n",
        "| network | widths 4-6-8, fine_blocks 1, deep_blocks 1, style_blocks 1, correction 0 |",
        f"| parameters | {parameters:,} |",
        f"| file | {weights.stat().st_size:,} bytes |",
        f"| sha256 | `{hashlib.sha256(weights.read_bytes()).hexdigest()}` |",
        "## What the file says of itself\n\n| | |\n|---|---|\n| seed | 5 |",
    ):
        assert fact in text


def test_the_facts_of_the_training(weights: Path) -> None:
    net = SqueezeNet()
    net.sha256 = "cd" * 32
    recipe = {
        "method": "SKD",
        "style weights": {"relu1_1": 0.5, "relu2_1": 1.0},
        "learning rate": 1e-3,
        "odd": "a|b\nc",
    }
    text = card(weights, recipe=recipe, perceptual=net)
    digest = hashlib.sha256(b"a.jpg\nb.jpg").hexdigest()[:16]
    wanted = [
        "| method | SKD |",
        "| style weights | relu1_1 0.5, relu2_1 1 |",
        "| learning rate | 0.001 |",
        "| odd | a\\|b c |",
        "| steps | 4,000 |",
        "| seed | 5 |",
        f"| perceptual network | squeezenet1_1, sha256 `{'cd' * 32}` |",
        f"| photographs | 2 files {digest} (a digest of their names, sorted) |",
        "| paintings | 1 files ",
    ]
    places = [text.index(line) for line in wanted]
    assert places == sorted(places)  # in the order given


def test_the_same_facts_give_the_same_text(weights: Path) -> None:
    assert card(weights) == card(weights, contents=CONTENTS[::-1])
    assert card(weights) != card(weights, contents=CONTENTS[:1])
    assert card(weights).endswith("\n")
    assert "\n\n\n" not in card(weights)


def test_nothing_is_made_up(weights: Path) -> None:
    text = card(weights)
    assert f"## Data and licence\n\n{NOT_STATED}\n" in text
    assert "not stated" in NOT_STATED
    assert "## Figures\n\nNot measured.\n" in text
    assert all(f"- {limit}" in text for limit in LIMITS)
    assert "perceptual network" not in text
    assert "None are stated." in card(weights, limits=[])
    assert NOT_STATED in card(weights, data_licence="  ")
    told = card(weights, data_licence="Research only.", limits=["Faces blur."])
    assert "Research only.\n" in told
    assert NOT_STATED not in told
    assert "## Known limits\n\n- Faces blur.\n\n" in told


def test_figures_are_those_of_these_weights(weights: Path) -> None:
    results = results_of(weights)
    text = card(weights, results=results)
    assert "It is called ours here, beside theirs." in text
    assert f"```\n{results.table().rstrip()}\n```" in text
    with pytest.raises(DataError, match=r"no figures of these weights; got ours \(00000000\), theirs \(peer\)"):
        card(weights, results=results_of(weights, "0" * 64))


def test_bundled_weights_have_a_card() -> None:
    text = model_card("teacher", recipe={}, steps=1, seed=0, contents=CONTENTS, styles=STYLES)
    assert text.startswith("# teacher\n")


def test_what_makes_no_card(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no paintings that the weights were trained on"):
        card(weights, styles=[])
    with pytest.raises(FileError, match="there are no such weights"):
        card(tmp_path / "missing.safetensors")
    with pytest.raises(FileError, match="the file can't be written"):
        write_card(tmp_path / "missing" / "README.md", "text")
