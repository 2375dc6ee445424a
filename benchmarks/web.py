"""Start and speed of the web page in Chromium: ``python -m benchmarks.web --out benchmarks/results/web.json``.

The start is from the navigation to the first picture, a sample of 680×453 pixels, which is more than 512²: loading the
runtime, compiling it, both networks, the painting encoded, the photograph painted. A first visit has nothing in any
cache; a second one has what the page keeps. Megapixels a second are of one painting after the other of photographs
given as files, without decoding them: numbers to the network, the network, numbers to pixels. Medians over rounds.
Needs Playwright (extra `web-test`) and Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.large_images import _processor
from benchmarks.reports import write_report
from kbstyle_example import webpage

RESULTS = Path(__file__).parent / "results" / "web.json"
SIZES = ((512, 512), (1280, 800), (2048, 2048))
WAIT = 120_000
ASKED = "() => performance.getEntriesByName('painted')[0].startTime"


@contextmanager
def serving(runtime: Path, headers: dict[str, str]) -> Iterator[str]:
    before = dict(webpage.HEADERS)
    webpage.HEADERS.clear()
    webpage.HEADERS.update(headers)
    try:
        with webpage.server(runtime) as made:
            thread = threading.Thread(target=made.serve_forever)
            thread.start()
            yield f"http://localhost:{made.server_address[1]}/?engine=wasm"
            made.shutdown()
            thread.join()
    finally:
        webpage.HEADERS.update(before)


def painted(page: Page, photograph: bytes) -> float:
    """Seconds of painting it."""
    before = page.get_attribute("html", "data-painted")
    page.set_input_files("#photograph-file", {"name": "a.png", "mimeType": "image/png", "buffer": photograph})
    page.wait_for_selector(f'html[data-painted]:not([data-painted="{before}"])', timeout=WAIT)
    return float(page.get_attribute("html", "data-milliseconds") or "nan") / 1000


def measured(browser: Any, address: str, rounds: int) -> dict[str, Any]:
    starts, again, times = [], [], []
    photograph = Image.open(webpage.SAMPLES / "content" / "taj_mahal.jpg").convert("RGB")
    files = []
    for size in SIZES:
        file = io.BytesIO()
        photograph.resize(size).save(file, "PNG", compress_level=1)
        files.append(file.getvalue())
    for _ in range(rounds):
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector('html[data-offline="ready"]', timeout=WAIT)
        starts.append(page.evaluate(ASKED) / 1000)
        threads = int(page.get_attribute("html", "data-threads"))
        painted(page, files[0])
        times.append([painted(page, file) for file in files])
        page.reload()
        page.wait_for_selector("html[data-painted]", timeout=WAIT)
        again.append(page.evaluate(ASKED) / 1000)
        context.close()
    rows = [
        {"size": list(size), "seconds": round(seconds, 3), "megapixels_a_second": round(w * h / 1e6 / seconds, 2)}
        for size, seconds in zip(SIZES, (statistics.median(each) for each in zip(*times, strict=True)), strict=True)
        for w, h in (size,)
    ]
    start = {"first_visit": round(statistics.median(starts), 2), "second_visit": round(statistics.median(again), 2)}
    return {"threads": threads, **start, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="medians are reported (%(default)s)")
    parser.add_argument("--runtime", type=Path, help="folder of onnxruntime-web's dist files")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="write the results there as JSON, too")
    options = parser.parse_args()
    runtime, load = webpage.runtime_folder(options.runtime), os.getloadavg()[0]
    found = []
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for headers in (webpage.HEADERS, {"Cache-Control": "no-cache"}):
            with serving(runtime, dict(headers)) as address:
                found.append(measured(browser, address, options.rounds))
                print(json.dumps(found[-1]), flush=True)
        version = browser.version
        browser.close()
    results = {
        "command": "python -m benchmarks.web --out benchmarks/results/web.json",
        "rounds": options.rounds,
        "start": "680×453, from the navigation on",
        "chromium": version,
        "runtime": webpage.RUNTIME,
        "runs": found,
        "bytes": {
            "networks": sum((webpage.PAGE / name).stat().st_size for name in webpage.NETWORKS),
            "runtime": sum((runtime / name).stat().st_size for name in webpage.WEBASSEMBLY),
        },
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load": round(load, 1),
    }
    if options.out:
        write_report(results, options.out)


if __name__ == "__main__":
    main()
