"""The web page: served here, written as a static site, and its networks made again from the weights."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kbstyle_example.files import digest, writable_folder, write_atomically
from skd.errors import ArgumentError, FileError, ProcessError

PAGE = Path(__file__).with_name("web")
SAMPLES = Path(__file__).with_name("samples")
PHOTOGRAPHS = ("chelsea_cat", "coffee", "eilean_donan", "astronaut")
PAINTINGS = ("cafe_terrace_at_night", "harvest", "church_at_auvers", "portrait_of_pere_tanguy")
NETWORKS = ("kbstyle-style.onnx", "kbstyle-paint.onnx")
LIST = "files.js"  # what the page keeps to work offline; written by `rebuild`

# Exactly this package is taken, or none.
RUNTIME = "onnxruntime-web@1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
WEBASSEMBLY = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
PLACES = "name a folder that holds onnxruntime-web's dist files: --runtime DIR"

# With these two a browser lets the page have threads. Nothing of it is taken from elsewhere in any case.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".webmanifest": "application/manifest+json",
}


def runtime_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Where ONNX Runtime for browsers lies: the folder given, or the user's cache, into which it is fetched if missing.

    Raises
    ------
    FileError
        The folder given doesn't hold it.
    ProcessError
        It is missing, and npm, which fetches it, isn't there or fails.

    Examples
    --------
    >>> runtime_folder("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    skd.errors.FileError: the folder doesn't hold ONNX Runtime for browsers; got nowhere without ort.wasm.min.mjs, ...
    """
    if given is None:
        found = _cache() / RUNTIME
        return found if _missing(found) == [] else _fetched(found)
    folder = Path(given)
    missing = _missing(folder)
    if missing:
        got = f"{folder} without {', '.join(missing)}"
        raise FileError("the folder doesn't hold ONNX Runtime for browsers", got=got, remedy=PLACES)
    return folder


def _missing(folder: Path, names: Sequence[str] = WEBASSEMBLY) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _cache() -> Path:
    """The user's folder for what can be fetched again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kbstyle"


def _fetched(folder: Path) -> Path:
    """The package as npm gives it, checked, and what the page needs of it; whole or not at all."""
    npm = shutil.which("npm")
    if npm is None:
        raise ProcessError(
            "the page needs ONNX Runtime for browsers, which npm fetches, and npm isn't installed",
            remedy=f"install Node.js once, or {PLACES}",
        )
    print(f"fetching {RUNTIME} with npm, once …", file=sys.stderr, flush=True)
    writable_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [npm, "pack", RUNTIME, "--loglevel=error", "--pack-destination", scratch]
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # no network is said at once
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, check=False)
        packed = sorted(Path(scratch).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            said, _, _ = (done.stderr or done.stdout).partition("\nnpm error     at ")  # where in npm's own code
            said = " ".join(said.replace("npm error", "").split())[:300]
            raise ProcessError(f"npm can't fetch {RUNTIME}", got=said or f"exit code {done.returncode}", remedy=PLACES)
        unpack_runtime(packed[0], Path(scratch, "runtime"))
        shutil.rmtree(folder, ignore_errors=True)
        Path(scratch, "runtime").replace(folder)
    return folder


def unpack_runtime(package: Path, folder: Path, *, integrity: str = INTEGRITY) -> None:
    """Take what the page needs out of the package, if it is the one that is known.

    Raises
    ------
    FileError
        It is another file; nothing is unpacked.
    """
    with package.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != integrity:
        raise FileError(
            f"what was fetched isn't {RUNTIME} as it was published",
            got=f"SHA-512 {found}",
            expected=integrity,
            remedy="look at where npm fetches from",
        )
    folder.mkdir(parents=True)
    with tarfile.open(package) as archive:
        for name in (*WEBASSEMBLY, *WEBGPU):
            member = archive.extractfile(f"package/dist/{name}")
            if member is None:
                raise FileError("the package lacks a file", got=name)
            (folder / name).write_bytes(member.read())


def write_site(to: str | os.PathLike[str], runtime: Path) -> Path:
    """The page with its runtime in one folder, for any server of static files.

    Raises
    ------
    FileError
        It can't be written there, or there is something in the folder that isn't such a page.
    """
    folder = writable_folder(to)
    if any(folder.iterdir()) and not (folder / LIST).is_file():
        raise FileError("the folder holds something else", got=str(folder), remedy="name an empty folder")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    (folder / "runtime").mkdir(exist_ok=True)
    for name in (*WEBASSEMBLY, *WEBGPU):
        if (runtime / name).is_file():
            shutil.copyfile(runtime / name, folder / "runtime" / name)
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """The page's files, its runtime under ``runtime/``, and the headers that let it have threads."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, **TYPES}  # noqa: RUF012

    def __init__(self, *arguments: Any, runtime: Path, **options: Any) -> None:
        self.runtime = runtime
        super().__init__(*arguments, directory=str(PAGE), **options)

    def translate_path(self, path: str) -> str:
        inside = path.split("?")[0].split("#")[0]
        if not inside.startswith("/runtime/"):
            return super().translate_path(path)
        name = inside.removeprefix("/runtime/")
        return str(self.runtime / (name if name in (*WEBASSEMBLY, *WEBGPU) else "no such file"))

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):  # a page that is closed while it loads is no error
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a page that works has nothing to say."""


@contextlib.contextmanager
def server(runtime: Path, port: int = 0) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server for this machine alone; port 0 is any that is free.

    Raises
    ------
    ArgumentError
        The port is taken, or there is none of this number.
    """
    try:
        made = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, runtime=runtime))
    except (OSError, OverflowError) as error:
        raise ArgumentError(
            "the page can't be served at this port", got=f"{port} ({error})", remedy="--port N"
        ) from None
    with made:
        yield made


def serve(runtime: Path, *, port: int, show: bool) -> None:
    """Serve the page until interrupted."""
    with server(runtime, port) as made:
        address = f"http://localhost:{made.server_address[1]}/"
        print(f"{address}   (Ctrl+C ends it)", flush=True)
        if show:
            webbrowser.open(address)
        made.serve_forever()


def rebuild(weights: str = "kbstyle", *, folder: Path = PAGE) -> list[Path]:
    """Make what the page is made of again: the networks from the weights, the samples, the list of all files.

    Raises
    ------
    MissingExtraError, ExportError, FileError
        See `export_kbstyle`.
    """
    from kbstyle_example.exporting import export_kbstyle
    from kbstyle_example.weights_file import bundled

    with tempfile.TemporaryDirectory() as scratch:
        export_kbstyle(weights, scratch, name="kbstyle")
        for name in NETWORKS:
            write_atomically(Path(scratch, name).read_bytes(), folder / name)
    for kind, names in (("content", PHOTOGRAPHS), ("style", PAINTINGS)):
        for name in names:
            source = SAMPLES / kind / f"{name}.jpg"
            write_atomically(source.read_bytes(), folder / "samples" / source.name)
    write_atomically(list_of_files(folder, made_of=digest(bundled()[weights])), folder / LIST)
    return [folder / name for name in (*NETWORKS, LIST)]


def list_of_files(folder: Path, *, made_of: str) -> str:
    """A script that tells the service worker what to keep, under a version that changes with any of the files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LIST]
    names = [path.relative_to(folder).as_posix() for path in files if not path.name.startswith(".")]
    names = [name for name in names if not name.startswith("runtime/")]
    summed = hashlib.sha256()
    for name in names:
        content = (folder / name).read_bytes()
        if not name.endswith((".jpg", ".onnx")):  # git may check text out with other ends of lines
            content = content.replace(b"\r\n", b"\n")
        summed.update(f"{name} {hashlib.sha256(content).hexdigest()} ".encode())
    summed.update(RUNTIME.encode())
    kept = [*names, LIST, *(f"runtime/{name}" for name in WEBASSEMBLY)]
    said = {"version": summed.hexdigest()[:16], "weights": made_of, "files": kept}
    return f"// Written by `python -m kbstyle_example web --rebuild`.\nself.KBSTYLE = {json.dumps(said, indent=2)};\n"
