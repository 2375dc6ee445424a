"""The page's files, and how they are served and written; `test_browser` opens it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kbstyle_example import exporting, webpage
from kbstyle_example.__main__ import main
from kbstyle_example.files import digest
from kbstyle_example.graphs import Paint, Style
from kbstyle_example.weights_file import bundled, load_weights
from skd.errors import ArgumentError, FileError, ProcessError

STALE = "the page isn't made of what lies here now: `python -m kbstyle_example web --rebuild`"
TEXTS = [path for path in sorted(webpage.PAGE.iterdir()) if path.suffix in (".html", ".js", ".css", ".webmanifest")]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in webpage.WEBASSEMBLY:
        (folder / name).write_bytes(f"{name}, small".encode())
    return folder


@pytest.fixture
def address(runtime: Path) -> Iterator[str]:
    with webpage.server(runtime) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


def said() -> dict[str, object]:
    text = (webpage.PAGE / webpage.LIST).read_text(encoding="utf-8")
    found: dict[str, object] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


# --- what the page is made of ----------------------------------------------------------------------------------------


def test_the_networks_are_made_from_the_bundled_weights() -> None:
    assert said()["weights"] == digest(bundled()["kbstyle"]), STALE


def test_the_list_is_that_of_the_files() -> None:
    """The service worker keeps what it names, and its version changes with any of them."""
    text = (webpage.PAGE / webpage.LIST).read_text(encoding="utf-8")
    assert text == webpage.list_of_files(webpage.PAGE, made_of=str(said()["weights"])), STALE


@pytest.mark.parametrize(("kind", "names"), [("content", webpage.PHOTOGRAPHS), ("style", webpage.PAINTINGS)])
def test_the_samples_are_those_of_the_package(kind: str, names: tuple[str, ...]) -> None:
    script = (webpage.PAGE / "page.js").read_text(encoding="utf-8")
    for name in names:
        source = webpage.SAMPLES / kind / f"{name}.jpg"
        assert (webpage.PAGE / "samples" / source.name).read_bytes() == source.read_bytes(), STALE
        assert f'["{name}", "' in script
    assert len(list((webpage.PAGE / "samples").iterdir())) == len(webpage.PHOTOGRAPHS) + len(webpage.PAINTINGS)


def test_the_networks_are_small() -> None:
    assert sum((webpage.PAGE / name).stat().st_size for name in webpage.NETWORKS) < 260_000


@torch.no_grad()
def test_the_networks_answer_as_torch_does() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network, noise = load_weights("kbstyle"), torch.Generator().manual_seed(1)
    style, paint = (onnxruntime.InferenceSession(webpage.PAGE / name) for name in webpage.NETWORKS)
    for (h, w), (a, b) in (((40, 56), (33, 70)), ((67, 35), (64, 48))):
        content, painting = torch.rand(1, 3, h, w, generator=noise), torch.rand(1, 3, a, b, generator=noise)
        code = Style(network).eval()(painting)
        found = style.run(None, {style.get_inputs()[0].name: painting.numpy()})[0]
        np.testing.assert_allclose(found, code.numpy(), atol=1e-3 * max(1.0, float(code.abs().max())), err_msg=STALE)
        first, second = (each.name for each in paint.get_inputs())
        assert [first, second] == ["content", "code"]  # in the order in which the page gives them
        painted = paint.run(None, {first: content.numpy(), second: code.numpy()})[0]
        wanted = Paint(network).eval()(content, code).numpy()
        np.testing.assert_allclose(painted, wanted, atol=1 / 255, err_msg=STALE)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_nothing_is_taken_from_elsewhere(path: Path) -> None:
    hosts = set(re.findall(r"//([\w.-]+\.\w+)", path.read_text(encoding="utf-8")))
    assert hosts <= {"creativecommons.org"}  # a link that is followed only when it is clicked


def test_all_that_scripts_import_is_there() -> None:
    for path in TEXTS:
        for name in re.findall(r'from "\./([^"]+)"|src="([^":]+)"|href="([^":]+)"', path.read_text(encoding="utf-8")):
            assert (webpage.PAGE / "".join(name)).is_file()


def test_rebuild_says_of_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(weights: str, out: str, *, name: str) -> None:
        for each in webpage.NETWORKS:
            Path(out, each).write_bytes(f"{weights} {name}".encode())

    monkeypatch.setattr(exporting, "export_kbstyle", fake)
    (tmp_path / "samples").mkdir()
    (tmp_path / "index.html").write_text("a page\n")
    made = webpage.rebuild(folder=tmp_path)
    assert [path.name for path in made] == [*webpage.NETWORKS, webpage.LIST]
    before = made[-1].read_text(encoding="utf-8")
    assert digest(bundled()["kbstyle"]) in before
    assert '"samples/harvest.jpg"' in before
    assert '"runtime/ort.wasm.min.mjs"' in before
    (tmp_path / "index.html").write_text("another page\n")
    assert webpage.rebuild(folder=tmp_path)[-1].read_text(encoding="utf-8") != before
    (tmp_path / "index.html").write_bytes(b"a page\r\n")  # as git may check it out
    assert webpage.rebuild(folder=tmp_path)[-1].read_text(encoding="utf-8") == before


# --- served ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.js?again", "text/javascript"),
        ("/kbstyle-paint.onnx", "application/octet-stream"),
        ("/app.webmanifest", "application/manifest+json"),
        ("/runtime/ort.wasm.min.mjs", "text/javascript"),
        ("/runtime/ort-wasm-simd-threaded.wasm", "application/wasm"),
    ],
)
def test_served(address: str, path: str, kind: str) -> None:
    with urllib.request.urlopen(address + path, timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers.get_content_type() == kind
        for name, value in webpage.HEADERS.items():
            assert answer.headers[name] == value
        assert answer.read()


@pytest.mark.parametrize("path", ["/runtime/other.mjs", "/runtime/../../webpage.py", "/../webpage.py", "/nothing"])
def test_only_the_page_is_served(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + path, timeout=10)


def test_a_port_that_is_taken(address: str, runtime: Path) -> None:
    taken = int(address.rpartition(":")[2])
    with pytest.raises(ArgumentError, match=f"can't be served at this port; got {taken} .*Remedy: --port N"):
        webpage.serve(runtime, port=taken, show=False)


def test_no_port(runtime: Path) -> None:
    with pytest.raises(ArgumentError, match="can't be served at this port; got 70000"):
        webpage.serve(runtime, port=70_000, show=False)


def test_it_is_opened(runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webpage.webbrowser, "open", shown.append)
    monkeypatch.setattr(webpage.http.server.ThreadingHTTPServer, "serve_forever", lambda _: None)
    webpage.serve(runtime, port=0, show=True)
    assert re.fullmatch(r"http://localhost:\d+/", shown[0])
    assert capsys.readouterr().out.startswith(shown[0])
    webpage.serve(runtime, port=0, show=False)
    assert len(shown) == 1


# --- written ---------------------------------------------------------------------------------------------------------


def test_a_static_site(runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    command = ["web", "--to", str(site), "--runtime", str(runtime)]
    assert main(command) == 0
    assert main(command) == 0  # again, over what it wrote
    assert capsys.readouterr().out == f"{site}\n{site}\n"
    files = said()["files"]
    assert isinstance(files, list)
    found = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert found == set(files)  # all that the service worker keeps, and nothing else


def test_a_folder_with_something_else(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").touch()
    with pytest.raises(FileError, match="the folder holds something else"):
        webpage.write_site(tmp_path / "site", runtime)


# --- the runtime -----------------------------------------------------------------------------------------------------


def package(path: Path, *, version: str = "good") -> str:
    """A package as npm packs it, and its digest."""
    with tarfile.open(path, "w:gz") as archive:
        for name in (*webpage.WEBASSEMBLY, *webpage.WEBGPU, "readme.md"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(version)
            archive.addfile(member, io.BytesIO(version.encode()))
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name, and a cache of its own."""
    command = folder / "npm"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(webpage, "_cache", lambda: folder / "cache")


posix = pytest.mark.skipif(os.name != "posix", reason="npm's stand-in is a shell script")


@posix
def test_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    integrity = package(tmp_path / "made.tgz")
    npm(tmp_path, f'test "$1 $2" = "pack {webpage.RUNTIME}" && cp {tmp_path}/made.tgz "$5"/', monkeypatch)
    unpack = webpage.unpack_runtime
    monkeypatch.setattr(webpage, "unpack_runtime", lambda *given: unpack(*given, integrity=integrity))
    folder = webpage.runtime_folder()
    assert {path.name for path in folder.iterdir()} == {*webpage.WEBASSEMBLY, *webpage.WEBGPU}
    assert "fetching onnxruntime-web" in capsys.readouterr().err
    (tmp_path / "npm").unlink()
    assert webpage.runtime_folder() == folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]  # no scrap is left


@posix
def test_another_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "made.tgz", version="changed on the way")
    npm(tmp_path, f'cp {tmp_path}/made.tgz "$5"/', monkeypatch)
    with pytest.raises(FileError, match=r"isn't onnxruntime-web@.* as it was published; got SHA-512"):
        webpage.runtime_folder()
    assert list((tmp_path / "cache").iterdir()) == []


@posix
def test_npm_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(tmp_path, "echo no network >&2; exit 1", monkeypatch)
    with pytest.raises(ProcessError, match=r"npm can't fetch .*; got no network\. Remedy: name a folder"):
        webpage.runtime_folder()


def test_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webpage, "_cache", lambda: tmp_path)
    monkeypatch.setattr(webpage.shutil, "which", lambda _: None)
    with pytest.raises(ProcessError, match=r"npm isn't installed. Remedy: install Node.js once, or name a folder"):
        webpage.runtime_folder()


def test_a_folder_without_it(runtime: Path) -> None:
    assert webpage.runtime_folder(runtime) == runtime
    (runtime / webpage.WEBASSEMBLY[-1]).unlink()
    with pytest.raises(FileError, match=r"got .*runtime without ort-wasm-simd-threaded.wasm\. Remedy: .*--runtime DIR"):
        webpage.runtime_folder(runtime)


@pytest.mark.parametrize(
    ("system", "variable", "end"),
    [("linux", "XDG_CACHE_HOME", "kbstyle"), ("win32", "LOCALAPPDATA", "kbstyle"), ("darwin", "", "Caches/kbstyle")],
)
def test_the_cache(system: str, variable: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webpage.sys, "platform", system)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
        assert webpage._cache() == tmp_path / end
        monkeypatch.delenv(variable)
    assert Path.home() in webpage._cache().parents
    assert webpage._cache().as_posix().endswith(end)
