"""Links of the docs lead somewhere: to a page, an example or a name that is there; others are https."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    *DOCS.glob("*.rst"),
    *(DOCS / "guides").glob("*.rst"),
    *(DOCS / "api").glob("*.rst"),
    *(DOCS / "examples").iterdir(),
]
PAGES = sorted(page for page in PAGES if page.suffix in (".rst", ".py"))


def targets(text: str, role: str) -> list[str]:
    """What a role's uses point at, be it written `target`, `~target` or `words <target>`."""
    found = re.findall(rf":{role}:`([^`]+)`", text)
    return [re.sub(r"^.*<(.*)>$", r"\1", each, flags=re.DOTALL).lstrip("~") for each in found]


def page_of(target: str, page: Path) -> Path:
    """The file that a `:doc:` of this page points at; examples are pages of the gallery."""
    folder = DOCS / "gallery" if page.parent.name == "examples" else page.parent
    path = DOCS / target[1:] if target.startswith("/") else folder / target
    if path.parent.name == "gallery":
        plotted = DOCS / "examples" / f"{path.name}.py"
        return plotted if path.name != "index" else DOCS / "examples" / "README.rst"
    return path.with_name(f"{path.name}.rst")


def wrong(text: str, page: Path) -> list[str]:
    """Targets that aren't there."""
    found = [target for target in targets(text, "doc") if not page_of(target, page).exists()]
    for target in targets(text, r"(?:py:)?(?:func|class|meth|mod|attr|exc|data)"):
        try:
            pkgutil.resolve_name(target)
        except (ImportError, AttributeError, ValueError):
            found.append(target)
    return found + re.findall(r"http://[^\s>`]+", text)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert wrong(page.read_text(encoding="utf-8"), page) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = ":doc:`start` :doc:`the zoo </zoo>` :doc:`gone` :func:`skd.pair` :func:`~skd.pear` http://example.org"
    assert wrong(text, DOCS / "index.rst") == ["gone", "skd.pear", "http://example.org"]
