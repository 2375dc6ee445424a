"""The page as a person has it, in a real browser: needs Playwright, Chromium, and the runtime fetched before."""

from __future__ import annotations

import base64
import functools
import http.server
import importlib
import io
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kbstyle_example import webpage
from kbstyle_example.painting import stylize

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright isn't installed: pip install 'skd[web-test]'"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNTIME = Path(os.environ.get("KBSTYLE_WEB_RUNTIME") or webpage._cache() / webpage.RUNTIME)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        bool(webpage._missing(RUNTIME)), reason="no runtime: `python -m kbstyle_example web` fetches it"
    ),
]
NO_SANDBOX = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PAINTED, WAIT = "html[data-painted]", 60_000  # milliseconds; machines that test are busy


@contextmanager
def serving() -> Iterator[tuple[str, list[str]]]:
    """The page's address, and what is asked for there, as it is asked."""
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webpage.Handler, "log_request", lambda self, *_: asked.append(self.path))
        with webpage.server(RUNTIME) as made:
            thread = threading.Thread(target=made.serve_forever)
            thread.start()
            try:
                yield f"http://localhost:{made.server_address[1]}/", asked
            finally:
                made.shutdown()
                thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as (found, _):
        yield found


@pytest.fixture(scope="module")
def browsers() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        yield tools.chromium


@pytest.fixture(scope="module")
def chromium(browsers: Any) -> Iterator[Any]:
    opened = browsers.launch(executable_path=CHROMIUM, args=[*NO_SANDBOX, *CAMERA])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page, its first picture painted; what goes wrong in its scripts is an error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, permissions=["camera"])
    found, wrong = context.new_page(), []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.goto(address)
    found.wait_for_selector(PAINTED, timeout=WAIT)
    yield found
    context.close()
    assert wrong == []


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def scene(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Something with edges, smooth parts and noise."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    waves = [np.sin(9 * x + k) * np.cos(7 * y - k * x) * 90 + 128 + 50 * (x > 0.4 + y * (k - 1) / 3) for k in range(3)]
    return Image.fromarray((np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8))


def give(page: Any, kind: str, content: bytes, name: str, *, mime: str = "image/png") -> None:
    page.set_input_files(f"#{kind}-file", {"name": name, "mimeType": mime, "buffer": content})


def waited(page: Any, before: str | None) -> None:
    """Until it has painted again."""
    page.wait_for_selector(f'html[data-painted]:not([data-painted="{before}"])', timeout=WAIT)
    page.wait_for_selector("#frame:not(.working)", timeout=WAIT)


def turn(page: Any) -> str:
    found: str = page.get_attribute("html", "data-painted")
    return found


def painted(page: Any, photograph: bytes, painting: bytes, *, strength: float = 1.0, name: str = "mine") -> Image.Image:
    """Uploaded, painted and downloaded."""
    before = turn(page)
    give(page, "painting", painting, "like.png")
    waited(page, before)
    before = turn(page)
    give(page, "photograph", photograph, f"{name}.png")
    waited(page, before)
    page.locator("#strength").fill(str(round(100 * strength)))
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == f"{name}-painted.png"
    found = Image.open(download.value.path())
    found.load()
    return found


SMALL = scene(64, 56, seed=1)


# --- the picture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "painting", "strength"),
    [((256, 200), (300, 220), 1.0), ((131, 97), (640, 501), 0.6), ((40, 11), (64, 64), 1.0)],
)
def test_the_picture_is_that_of_python(
    page: Any, size: tuple[int, int], painting: tuple[int, int], strength: float
) -> None:
    photograph, like = scene(*size), scene(*painting, seed=1)
    found = painted(page, png(photograph), png(like), strength=strength)
    wanted = stylize(photograph, like, strength=strength)
    apart = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(wanted, int))
    assert apart.max() <= 2
    assert np.abs(np.asarray(wanted, int) - np.asarray(photograph, int)).mean() > 10  # it did paint


def test_what_is_transparent_stays_so(page: Any) -> None:
    photograph = scene(90, 70)
    alpha = np.full((70, 90), 255, np.uint8)
    alpha[:, 50:] = 0
    photograph.putalpha(Image.fromarray(alpha))
    found = painted(page, png(photograph), png(scene(80, 80, seed=2)))
    wanted = stylize(photograph, scene(80, 80, seed=2))
    assert found.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(found)[..., 3], alpha)
    apart = np.abs(np.asarray(found, int) - np.asarray(wanted, int))[:, :50]
    assert apart.max() <= 2


def test_a_painting_is_encoded_once(page: Any) -> None:
    """The second time only the photograph is painted: the same picture."""
    for kind in ("painting", "photograph"):
        before = turn(page)
        give(page, kind, png(scene(64, 64, seed=3)), "one.png")
        waited(page, before)
    first = page.evaluate("() => document.getElementById('after').toDataURL()")
    for k in (2, 1):
        before = turn(page)
        page.locator("#paintings label:not(.own) input").nth(k).check()
        waited(page, before)
    assert page.evaluate("() => document.getElementById('after').toDataURL()") != first
    page.evaluate(
        """() => {
            const post = Worker.prototype.postMessage;
            window.jobs = [];
            Worker.prototype.postMessage = function (message, ...rest) {
                window.jobs.push(message.job);
                return post.call(this, message, ...rest);
            };
        }"""
    )
    before = turn(page)
    page.locator("#paintings .own input").check()
    waited(page, before)
    assert page.evaluate("() => document.getElementById('after').toDataURL()") == first
    assert page.evaluate("() => window.jobs") == ["paint"]


ADAPTER = """async () => {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter ? adapter.info.architecture || "unnamed" : null;
}"""


@pytest.fixture
def emulated(browsers: Any, address: str) -> Iterator[Any]:
    """A page of a browser whose GPU is emulated. That is slow: samples are small, and the painting is one of them."""
    flags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    opened = browsers.launch(executable_path=CHROMIUM, args=[*NO_SANDBOX, *flags])
    found = opened.new_page()
    found.route("**/samples/*.jpg", lambda route: route.fulfill(body=png(SMALL), content_type="image/png"))
    found.goto(f"{address}icon.svg")  # of this origin, and starts nothing
    adapter = found.evaluate(ADAPTER)
    if adapter is None:
        opened.close()
        pytest.skip("this Chromium gives no WebGPU adapter, not even an emulated one")
    yield found
    opened.close()


@pytest.mark.skipif(bool(webpage._missing(RUNTIME, webpage.WEBGPU)), reason="the runtime lacks its half for WebGPU")
def test_the_picture_on_webgpu_is_that_of_python(emulated: Any, address: str) -> None:
    emulated.goto(f"{address}?engine=webgpu")
    emulated.wait_for_selector(PAINTED, timeout=4 * WAIT)  # every shader is compiled for a processor
    assert emulated.get_attribute("html", "data-engine") == "webgpu"
    assert emulated.inner_text("#status").endswith("· WebGPU")
    assert emulated.is_hidden("#notice")
    for size in ((83, 61), (40, 11)):
        photograph, before = scene(*size), turn(emulated)
        give(emulated, "photograph", png(photograph), "mine.png")
        waited(emulated, before)
        with emulated.expect_download() as download:
            emulated.click("#download")
        found = np.asarray(Image.open(download.value.path()).convert("RGB"), int)
        assert np.abs(found - np.asarray(stylize(photograph, SMALL), int)).max() <= 2


def test_an_emulated_gpu_is_left_alone(emulated: Any, address: str) -> None:
    """It is slower than WebAssembly by far."""
    emulated.goto(address)
    emulated.wait_for_selector(PAINTED, timeout=WAIT)
    assert emulated.get_attribute("html", "data-engine") == "wasm"
    assert emulated.is_hidden("#notice")


# --- what a person does ----------------------------------------------------------------------------------------------


def test_the_slider_between_before_and_after(page: Any) -> None:
    def split() -> str:
        found: str = page.evaluate("() => getComputedStyle(document.getElementById('after')).clipPath")
        return found

    page.locator("#compare").fill("0")
    assert split() == "inset(0px 0px 0px 0%)"
    page.locator("#compare").focus()
    page.keyboard.press("ArrowRight")
    assert split() == "inset(0px 0px 0px 1%)"
    assert page.get_attribute("#compare", "aria-valuetext") == "photograph 1 %, painting 99 %"
    box = page.locator("#frame").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.3 * box["height"])
    assert abs(int(page.input_value("#compare")) - 50) <= 2


def test_the_strength_is_seen_at_once(page: Any) -> None:
    before = turn(page)
    page.locator("#strength").fill("35")
    assert page.evaluate("() => getComputedStyle(document.getElementById('after')).opacity") == "0.35"
    assert page.text_content("#strength-said") == "35 %"
    assert turn(page) == before  # nothing is painted again
    page.locator("#strength").fill("100")


def test_with_the_keyboard_alone(page: Any) -> None:
    before = turn(page)
    page.locator("#photographs input:checked").focus()
    page.keyboard.press("ArrowRight")
    waited(page, before)
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => document.activeElement.id || document.activeElement.name"))
        if seen[-1] == "download":
            break
    assert seen == ["photograph-file", "camera", "painting", "painting-file", "strength", "download"]


def test_all_has_a_name(page: Any) -> None:
    """What a screen reader calls each thing that can be worked."""
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, button, canvas:not([aria-hidden])')].filter((each) =>
        !(each.getAttribute('aria-label') || each.labels?.[0]?.textContent.trim() || each.textContent.trim()))
        .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    assert page.get_attribute("#status", "aria-live") == "polite"


def test_dropped(page: Any) -> None:
    before = turn(page)
    page.evaluate(
        """async (bytes) => {
            const moved = new DataTransfer();
            moved.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            const say = (kind, to) => to.dispatchEvent(
                new DragEvent(kind, { dataTransfer: moved, bubbles: true, cancelable: true }));
            say("dragover", document.body);
            if (document.getElementById("drop").hidden) throw new Error("nothing shows where to drop");
            say("drop", document.querySelector("#drop [data-kind=painting]"));
        }""",
        list(png(scene(40, 40, seed=4))),
    )
    waited(page, before)
    assert page.get_attribute("#paintings .own input", "aria-label") == "Yours: dropped.png"
    assert page.is_hidden("#drop")


def test_the_camera(page: Any) -> None:
    page.click("#camera")
    page.wait_for_selector("#rate:has-text('frames a second')", timeout=WAIT)
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    before = turn(page)
    page.click("#shot")
    waited(page, before)
    assert page.is_hidden("#rate")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    assert page.evaluate("() => document.getElementById('after').width") >= 640  # not scaled as the live picture is


# --- what goes wrong -------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HUGE = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
)
WRONG = {
    "not an image": (
        "photograph",
        b"Dear Theo,",
        "letter.txt",
        "text/plain",
        "“letter.txt” isn’t a picture. JPEG, PNG and",
    ),
    "damaged": (
        "photograph",
        png(scene(30, 30))[:60],
        "torn.png",
        "image/png",
        "“torn.png” can’t be opened: it is damaged",
    ),
    "empty": ("photograph", b"", "empty.png", "image/png", "“empty.png” is empty."),
    "too large": (
        "photograph",
        HUGE,
        "wall.png",
        "image/png",
        "“wall.png” is too large: 20000 × 20000, 400 million pixels. At most 100 million can be opened here",
    ),
    "too small": (
        "painting",
        png(scene(40, 15)),
        "stamp.png",
        "image/png",
        "“stamp.png” is too small for a painting: 40 × 15",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_said(page: Any, case: str) -> None:
    kind, content, name, mime, text = WRONG[case]
    before = turn(page)
    give(page, kind, content, name, mime=mime)
    page.wait_for_selector("#error:visible", timeout=WAIT)
    assert text in page.inner_text("#error p")
    assert page.get_attribute("#error", "role") == "alert"
    assert turn(page) == before
    assert page.is_enabled("#download")  # what was there is there still
    page.click("#error button")
    assert page.is_hidden("#error")


def test_large_photographs_are_scaled_down(page: Any) -> None:
    """A limit of its own stands in for that of 4 million pixels: nobody wants to wait for them here."""
    assert page.evaluate("async () => (await import('./pictures.js')).MOST_PIXELS") == 2**22
    width, height = page.evaluate(
        """async (bytes) => {
            const { read } = await import("./pictures.js");
            const file = new File([new Uint8Array(bytes)], "sea.png", { type: "image/png" });
            const { data, scaled } = await read(file, { most: 10000 });
            if (scaled.width !== 300 || scaled.height !== 200) throw new Error("it doesn't say from what");
            return [data.width, data.height];
        }""",
        list(png(Image.new("RGB", (300, 200), "teal"))),
    )
    assert (width, height) == (122, 81)
    give(page, "photograph", png(Image.new("RGB", (3000, 2000), "teal")), "sea.png")
    page.wait_for_selector("#notice:visible", timeout=WAIT)
    assert page.inner_text("#notice p") == (
        "3000 × 2000 is more than can be painted at once here (4 million pixels): it was scaled down to 2508 × 1672."
    )
    before = turn(page)
    give(page, "photograph", png(scene(50, 40)), "small.png")  # what is chosen next doesn't wait for it to be seen
    waited(page, before)
    assert page.evaluate("() => document.getElementById('after').width") == 50
    assert page.is_hidden("#notice")


def test_too_little_memory(page: Any) -> None:
    """The runtime's failure is made up; what follows from it isn't."""
    page.evaluate(
        """async () => {
            const { Painter } = await import("./painter.js");
            const real = Painter.prototype.paint;
            Painter.prototype.paint = () => {
                Painter.prototype.paint = real;
                return Promise.reject(new Error("failed to allocate memory"));
            };
        }"""
    )
    before = turn(page)
    give(page, "photograph", png(scene(600, 450)), "wide.png")
    waited(page, before)
    said = "This device hasn’t enough memory for 600 × 450: it is painted at 424 × 318."
    assert page.inner_text("#notice p") == said
    assert page.evaluate("() => document.getElementById('after').width") == 424
    page.click("#notice button")


def test_no_camera(page: Any) -> None:
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotFoundError"));
    }""")
    page.click("#camera")
    page.wait_for_selector("#error:visible", timeout=WAIT)
    assert page.inner_text("#error p") == "There is no camera on this device."
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    page.click("#error button")


def test_without_webgpu_it_is_webassembly(page: Any) -> None:
    """This browser has none, or emulates it, which is slower: nobody is told, beyond what it runs on."""
    assert page.get_attribute("html", "data-engine") == "wasm"
    threads = min(4, os.cpu_count() or 1)
    assert page.get_attribute("html", "data-threads") == str(threads)  # the headers allow them
    before = turn(page)
    give(page, "photograph", png(scene(50, 40)), "small.png")
    waited(page, before)
    said = page.inner_text("#status")
    assert said.startswith("Painted 50 × 40 in ")
    assert said.endswith(f"· WebAssembly, {threads} thread{'s' * (threads > 1)}")
    assert page.is_hidden("#notice")
    assert page.is_hidden("#error")


def test_webgpu_that_is_asked_for_and_missing(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.goto(f"{address}?engine=webgpu")
    page.wait_for_selector(PAINTED, timeout=WAIT)
    assert page.get_attribute("html", "data-engine") == "wasm"
    assert page.inner_text("#notice p") == (
        "WebGPU was asked for and can’t be used: this browser has no WebGPU. It paints on WebAssembly instead."
    )
    assert "WebAssembly" in page.inner_text("#status")
    page.close()


def test_without_the_runtime(chromium: Any, tmp_path: Path) -> None:
    """A static site whose runtime was forgotten says so."""
    with webpage.server(tmp_path) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        page = chromium.new_page()
        page.goto(f"http://localhost:{made.server_address[1]}/")
        page.wait_for_selector("#error:visible", timeout=WAIT)
        assert "The network can’t be started: the folder “runtime”" in page.inner_text("#error p")
        page.close()
        made.shutdown()
        thread.join()


# --- after it is loaded ----------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_and_it_works_offline(chromium: Any) -> None:
    with serving() as (address, asked):
        context = chromium.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector('html[data-offline="ready"]', timeout=WAIT)
        asked.clear()
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url))
        photograph, like = scene(48, 40), scene(64, 64, seed=1)
        painted(page, png(photograph), png(like))
        for k in range(len(webpage.PHOTOGRAPHS)):
            before = turn(page)
            page.locator("#photographs label:not(.own) input").nth(k).check()
            waited(page, before)
        # A browser looks by itself, now and then, whether these two have changed.
        assert set(asked) <= {"/service-worker.js", "/files.js"}
        assert [url for url in elsewhere if not url.startswith(("blob:", "data:"))] == []
    # Nobody serves it any more.
    page.reload()
    page.wait_for_selector(PAINTED, timeout=WAIT)
    assert "threads" in page.inner_text("#status")
    found = painted(page, png(photograph), png(like))
    apart = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(stylize(photograph, like), int))
    assert apart.max() <= 2
    context.close()


# --- inside the docs -------------------------------------------------------------------------------------------------


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "docs")
    monkeypatch.setattr(webpage, "runtime_folder", lambda: RUNTIME)
    return importlib.import_module("web_page")


def docs_of(inside: Any, folder: Path) -> Path:
    """A page with the button, and what it opens."""
    made = folder / "web.html"
    head = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
    made.write_text(f'{head}<div class="kbstyle-page"><img alt="">{inside.opened()}</div>', encoding="utf-8")
    webpage.write_site(folder / inside.FOLDER, RUNTIME)
    return made


def test_the_docs_load_it_when_they_are_asked_to(chromium: Any, inside: Any, tmp_path: Path) -> None:
    docs_of(inside, tmp_path)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):  # of static files, as docs are served: without headers
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path))
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        page = context.new_page()
        page.goto(f"http://localhost:{made.server_address[1]}/web.html", wait_until="networkidle")
        assert asked == ["/web.html"]
        photograph, like = scene(48, 40), scene(64, 64, seed=1)
        wanted = np.asarray(stylize(photograph, like), int)
        for loaded in (True, False):  # the second time the copy that the browser keeps answers
            page.click("text=Open the page here")
            page.wait_for_selector("iframe")
            frame = page.frames[-1]
            frame.wait_for_selector('html[data-offline="ready"]', timeout=WAIT)
            assert frame.evaluate("() => document.documentElement.scrollWidth") <= 390
            for kind, picture in (("painting", like), ("photograph", photograph)):
                before = turn(frame)
                give(frame, kind, png(picture), f"{kind}.png")
                waited(frame, before)
            found = frame.evaluate("() => document.getElementById('after').toDataURL().split(',')[1]")
            found = np.asarray(Image.open(io.BytesIO(base64.b64decode(found))).convert("RGB"), int)
            assert np.abs(found - wanted).max() <= 2
            assert page.locator("img").count() == 0  # it stands in the picture's place
            assert any(path.endswith(".wasm") for path in asked) == loaded
            asked.clear()
            page.reload()
        made.shutdown()
        thread.join()
    context.close()


def test_docs_opened_from_the_disk_say_what_to_do(chromium: Any, inside: Any, tmp_path: Path) -> None:
    made, page = docs_of(inside, tmp_path), chromium.new_page()
    page.goto(made.as_uri())
    assert "python -m http.server --directory" in page.inner_text(".kbstyle-open")
    assert page.locator("button").count() == 0
    page.close()


# --- how it looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits(page: Any, width: int, scheme: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 860})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    narrow = page.evaluate(
        """() => [...document.querySelectorAll('button, .button, .thumbs label')].filter((each) => each.offsetParent
        && (each.offsetHeight < 40 || each.scrollWidth > each.clientWidth + 1)).map((each) => each.outerHTML)"""
    )
    assert narrow == []  # nothing too small for a finger, and no words cut off
    folder = Path(os.environ.get("KBSTYLE_WEB_SHOTS") or tmp_path)
    page.screenshot(path=folder / f"{scheme}-{width}.png", full_page=True)
    assert (folder / f"{scheme}-{width}.png").stat().st_size > 30_000
