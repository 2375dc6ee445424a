"""The code of the docs runs. (docs/engines.rst has tests of its own, in tests/skd/test_engine_*.py.)"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import skd

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_the_page_on_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"__name__": "docs"}
    monkeypatch.chdir(tmp_path)
    for code in blocks("training.rst"):
        exec(compile(code, "docs/training.rst", "exec"), names)
    shown = capsys.readouterr().out
    assert "Report on 8 batches: student" in shown
    assert re.search(r"TeacherCache\('runs/teacher', .* [1-9]\d* hits", shown)
    made = {path.name for path in (tmp_path / "runs" / "small").iterdir()}
    assert {"best.pt", "last.pt", "log.jsonl", "checkpoints"} <= made


def test_the_page_on_training_tells_the_recipe_s_names() -> None:
    """Every `Recipe(name=…)` of the docs is a field."""
    from dataclasses import fields

    from skd import Recipe

    named = set()
    for page in [*(ROOT / "docs").glob("*.rst"), *(ROOT / "docs" / "guides").glob("*.rst")]:
        for call in re.findall(r"Recipe\(([^)]*)\)", page.read_text(encoding="utf-8")):
            named |= set(re.findall(r"(\w+)=", call))
    assert named
    assert named <= {field.name for field in fields(Recipe)}


# --- every public name is described ----------------------------------------------------------------------------------


def own_names(module: ModuleType) -> list[str]:
    """What a module lists, or else the functions and classes that are made in it."""
    made = [name for name, thing in vars(module).items() if inspect.getmodule(thing) is module]
    return [name for name in getattr(module, "__all__", made) if not name.startswith("_")]


def described(text: str) -> list[object]:
    """What a page's autodoc directives describe: the members that are named, or all of a module's own."""
    found: list[object] = []
    for module, options in re.findall(r"^\.\. automodule:: (\S+)\n((?:   .*\n)*)", text, re.MULTILINE):
        room = importlib.import_module(module)
        named = re.search(r":members: (\S.*)", options)
        names = re.split(r",\s*", named[1].strip()) if named else own_names(room) if ":members:" in options else []
        found += [getattr(room, name) for name in names]
    return found


def undescribed(text: str) -> set[str]:
    """Functions and classes of the public face, and of the modules in it, that a page doesn't describe."""
    known = [id(thing) for thing in described(text)]
    public = {}
    for name in skd.__all__:
        thing = getattr(skd, name)
        if inspect.ismodule(thing):
            public |= {f"{thing.__name__}.{each}": getattr(thing, each) for each in own_names(thing)}
        elif inspect.isclass(thing) or inspect.isroutine(thing):
            public[f"skd.{name}"] = thing
    return {name for name, thing in public.items() if id(thing) not in known}


def reference() -> str:
    pages = [*sorted((ROOT / "docs" / "api").glob("*.rst")), ROOT / "docs" / "compress.rst"]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_every_public_name_is_in_the_reference() -> None:
    assert undescribed(reference()) == set()
    listed = re.findall(
        r"^   skd\.(\w+)$", (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8"), re.MULTILINE
    )
    modules = {name for name in skd.__all__ if inspect.ismodule(getattr(skd, name))}  # they have pages
    assert sorted(listed) == sorted(set(skd.__all__) - modules)


def test_the_test_of_the_reference_notices() -> None:
    gone = undescribed(reference().replace(":members: pair, Pairing", ":members: Pairing"))
    assert "skd.pair" in gone
    assert "skd.measure" not in gone


def test_every_page_is_reached() -> None:
    """From the first page, through its lists; pages that others add are in one, too."""
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.rst")}
    pages = {page for page in pages if not page.startswith(("_build", "gallery", "examples", "sg_"))}
    listed = {"index"}
    for page in ("index", "guides/index", "api/index"):
        text = (docs / f"{page}.rst").read_text(encoding="utf-8")
        folder = page.rpartition("/")[0]
        for block in re.findall(r"^\.\. toctree::\n((?:   .*\n|\n)+)", text, re.MULTILINE):
            entries = re.findall(r"^   ([a-z_]\S*)$", block, re.MULTILINE)
            listed |= {f"{folder}/{entry}".strip("/") for entry in entries}
    assert pages - listed == set()
    assert "gallery/index" in listed
