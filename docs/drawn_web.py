"""The picture of the page that `In the browser` shows: ``python docs/drawn_web.py`` in a checkout takes it anew.

It wants Playwright (``pip install 'skd[web-test]'``), Chromium, and the runtime that ``python -m kbstyle_example web``
fetches. Which weights painted stands in the picture's comment; a test says when they are others.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from pathlib import Path

from drawn_readme import weights_digest
from PIL import Image

from kbstyle_example import webpage

PICTURE = Path(__file__).parent / "web.jpg"
WINDOW = (1100, 636)  # pixels


def picture() -> bytes:
    """The page with a portrait by Van Gogh for a painting, and a third of the photograph still there."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    runtime = webpage._cache() / webpage.RUNTIME
    with webpage.server(runtime) as served, sync_playwright() as tools:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if root else [])
            page = browser.new_page(viewport={"width": WINDOW[0], "height": WINDOW[1]})
            page.goto(f"http://localhost:{served.server_address[1]}/")
            page.wait_for_selector("html[data-painted]")
            shot = page.screenshot()
            browser.close()
        finally:
            served.shutdown()
            thread.join()
    file = io.BytesIO()
    with Image.open(io.BytesIO(shot)) as image:
        comment = f"kbstyle.safetensors {weights_digest()}"
        image.convert("RGB").save(file, "JPEG", quality=85, optimize=True, comment=comment)
    return file.getvalue()


if __name__ == "__main__":
    PICTURE.write_bytes(picture())
