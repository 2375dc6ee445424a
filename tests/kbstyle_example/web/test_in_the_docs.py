"""The page inside the docs: there where its runtime is, and a sentence where not; `test_browser` opens it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from kbstyle_example import webpage
from skd.errors import FileError, ProcessError

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("web_page")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small, and in the cache."""
    folder = tmp_path / "cache" / webpage.RUNTIME
    folder.mkdir(parents=True)
    for name in webpage.WEBASSEMBLY:
        (folder / name).write_bytes(bytes(10**6))
    monkeypatch.setattr(webpage, "_cache", lambda: tmp_path / "cache")
    return folder


def sphinx(folder: Path, format: str = "html") -> SimpleNamespace:
    folder.mkdir()
    return SimpleNamespace(outdir=str(folder), builder=SimpleNamespace(format=format))


def page() -> list[str]:
    return [(DOCS / "web.rst").read_text(encoding="utf-8")]


@pytest.mark.usefixtures("runtime")
def test_where_the_runtime_is(inside: ModuleType, tmp_path: Path) -> None:
    app, source = sphinx(tmp_path / "html"), page()
    inside.place(app, "web", source)
    assert inside.MARK not in source[0]
    block = re.search(r"^   \.\. raw:: html\n\n((?:      .*\n)+)", source[0], re.MULTILINE)
    assert block is not None
    assert block[1].strip().endswith("</script>")  # no line of it is empty or less indented
    assert "(3 MB, loaded once)" in block[1]
    (tmp_path / "html" / "web.html").write_text(block[1], encoding="utf-8")
    inside.copy(app, None)
    inside.copy(app, None)  # docs are built again and again
    made = tmp_path / "html" / inside.FOLDER
    assert (made / "index.html").read_bytes() == (webpage.PAGE / "index.html").read_bytes()
    assert {path.name for path in (made / "runtime").iterdir()} == set(webpage.WEBASSEMBLY)


@pytest.mark.parametrize("error", [ProcessError("npm isn't installed"), FileError("it isn't the package")])
def test_where_it_is_not(
    inside: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def missing() -> Path:
        raise error

    monkeypatch.setattr(webpage, "runtime_folder", missing)
    app, source = sphinx(tmp_path / "html"), page()
    inside.place(app, "web", source)
    assert ".. image:: web.jpg" in source[0]
    assert "   The page itself isn't in this copy of the docs" in source[0]
    assert "raw:: html" not in source[0]
    assert capsys.readouterr().out == f"The docs have the page's picture alone: {error}\n"
    (tmp_path / "html" / "web.html").write_text("the picture", encoding="utf-8")
    inside.copy(app, None)
    assert not (tmp_path / "html" / inside.FOLDER).exists()


@pytest.mark.usefixtures("runtime")
def test_other_pages_and_formats_are_as_they_were(inside: ModuleType, tmp_path: Path) -> None:
    source = page()
    inside.place(sphinx(tmp_path / "html"), "export", source)
    inside.place(sphinx(tmp_path / "text", "text"), "web", source)
    assert source == page()
    inside.copy(sphinx(tmp_path / "latex", "latex"), None)
    assert list((tmp_path / "latex").iterdir()) == []


def test_a_mark_that_is_gone_is_noticed(inside: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"web\.rst doesn't say where the page goes"):
        inside.place(sphinx(tmp_path / "html"), "web", ["In the browser\n"])


@pytest.mark.usefixtures("runtime")
def test_docs_that_failed_get_no_page(inside: ModuleType, tmp_path: Path) -> None:
    app = sphinx(tmp_path / "html")
    (tmp_path / "html" / "web.html").write_text(inside.opened(), encoding="utf-8")
    inside.copy(app, RuntimeError("a page can't be read"))
    assert not (tmp_path / "html" / inside.FOLDER).exists()


def test_all_is_connected(inside: ModuleType) -> None:
    heard: dict[str, object] = {}
    app = SimpleNamespace(connect=heard.__setitem__)
    assert inside.setup(app)["parallel_read_safe"]
    assert (heard["source-read"], heard["build-finished"]) == (inside.place, inside.copy)
    again = heard["env-get-outdated"]
    assert callable(again)
    assert again(app, None, set(), set(), set()) == ["web"]
    assert '"web_page",' in (DOCS / "conf.py").read_text(encoding="utf-8")


def test_the_picture_of_the_page_is_by_the_bundled_weights() -> None:
    import drawn_readme
    import drawn_web

    found = drawn_readme.digest_in_picture(drawn_web.PICTURE)
    assert found == drawn_readme.weights_digest(), "stale: python docs/drawn_web.py"
