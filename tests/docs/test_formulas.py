"""Every formula of the docs, in pages and docstrings, becomes MathML: readers need no network for them."""

from __future__ import annotations

import importlib
import re
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

math_core = pytest.importorskip("math_core")
nodes = pytest.importorskip("docutils.nodes")
pytest.importorskip("sphinx")
ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(ROOT / "docs").glob("*.rst"),
    *(ROOT / "docs" / "guides").glob("*.rst"),
    *(ROOT / "docs" / "api").glob("*.rst"),
]
SOURCES += [*(ROOT / "docs" / "examples").glob("*.py"), *(ROOT / "skd").rglob("*.py")]


def formulas(text: str) -> list[tuple[str, bool]]:
    """The TeX of each, and whether it stands by itself."""
    within = [(tex, False) for tex in re.findall(r":math:`([^`]+)`", text)]
    blocks = re.findall(r"^( *)\.\. math::(.*\n(?:(?:\1 +.*)?\n)*)", text, re.MULTILINE)
    return within + [(textwrap.dedent(block).strip(), True) for _, block in blocks]


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    return importlib.import_module("formulas")


def shown(drawn: str) -> str:
    """The letters and signs of a formula, without its TeX; XML knows no &ApplyFunction;."""
    tree = ElementTree.fromstring(re.sub(r"&(ApplyFunction|InvisibleTimes);", "", drawn))
    for semantics in tree.iter("semantics"):
        semantics[:] = [each for each in semantics if each.tag != "annotation"]
    return "".join("".join(tree.itertext()).split())


def test_every_formula_becomes_mathml(converter: ModuleType) -> None:
    found = [each for path in SOURCES for each in formulas(path.read_text(encoding="utf-8"))]
    assert len(found) > 60
    for tex, block in found:
        drawn = converter.mathml(tex, block=block)
        assert ('display="block"' in drawn) == block, tex
        assert shown(drawn), tex
        assert "\\" not in shown(drawn), tex


def test_what_a_formula_shows(converter: ModuleType) -> None:
    assert shown(converter.mathml(r"L = \frac{\|S - T\|^2}{\Sigma_l}", block=True)) == "L=‖S−T‖2Σl"


def written(converter: ModuleType, tex: str, *, block: bool) -> str:
    page: Any = SimpleNamespace(body=[])
    kind, write = (nodes.math_block, converter.write_block) if block else (nodes.math, converter.write_inline)
    with pytest.raises(nodes.SkipNode):
        write(page, kind(tex, tex))
    return "".join(page.body)


def test_a_page_gets_the_formula_in_its_own_box(converter: ModuleType) -> None:
    assert written(converter, "a < b", block=True).startswith('<div class="math"><math display="block">')
    assert written(converter, "a < b", block=False).startswith('<span class="math"><math>')


def test_a_formula_that_is_wrong_is_a_warning_and_shown_as_it_was_written(
    converter: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make docs` makes an error of the warning."""
    told: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *values, location: told.append(text % values))
    monkeypatch.setattr(converter.logging, "getLogger", lambda name: logger)
    assert (
        written(converter, r"\unheard{a} < b", block=False)
        == r'<span class="math"><code>\unheard{a} &lt; b</code></span>'
    )
    assert len(told) == 1
    assert "unheard" in told[0]


def test_no_formula_is_overlooked() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert len(formulas(text)) == len(re.findall(r":math:`|\.\. math::", text)), path.name
