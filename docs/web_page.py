"""The page that paints, inside web.rst: a copy beside the built docs, which is loaded when the reader asks for it.

Where its runtime can't be had (no npm, or no network) the docs are built all the same, with a sentence instead.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from kbstyle_example import webpage
from skd.errors import SkdError

FOLDER = "kbstyle-page"  # of the built docs
MARK = ".. the page opens here"  # a comment of web.rst, in the container of its picture

# What the page loads before it paints is said, since whoever reads may be on a phone.
OPENED = """\
<p class="kbstyle-open" style="text-align: center">
<button type="button" style="padding: .6rem 1.2rem; border: 0; border-radius: .5rem; font: inherit; font-weight: 600;
cursor: pointer; background: var(--color-brand-primary, #1c4a92); color: var(--color-background-primary, #fff)"
>Open the page here</button>
or <a href="{folder}/index.html">in a tab of its own</a> ({megabytes} MB, loaded once)
</p>
<script>
(() => {{
  const box = document.currentScript.closest(".kbstyle-page");
  const said = box.querySelector(".kbstyle-open");
  if (location.protocol === "file:") {{
    said.textContent = "A file that is opened from the disk may not load networks. Serve the docs, and the page opens "
      + "here: python -m http.server --directory (the folder of this file).";
    return;
  }}
  said.querySelector("button").onclick = () => {{
    const frame = document.createElement("iframe");
    const title = "KBStyle: your photograph as a painting";
    Object.assign(frame, {{ title, allow: "camera", src: "{folder}/index.html" }});
    frame.style.cssText = "display: block; width: 100%; height: min(62rem, calc(100svh - 7rem)); border: 0; "
      + "border-radius: 10px; scroll-margin-top: 4.5rem"; // on phones the docs keep a bar at the top
    box.replaceChildren(frame);
    frame.scrollIntoView();
    frame.focus();
  }};
}})();
</script>
"""
MISSING = """\
The page itself isn't in this copy of the docs: ONNX Runtime for browsers wasn't at hand when they were built. The
command below opens it.
"""


def opened() -> str:
    """The button, and what it does, as HTML."""
    taken = [webpage.PAGE / name for name in webpage.NETWORKS]
    taken += [found / name for found in [webpage.runtime_folder()] for name in webpage.WEBASSEMBLY]
    return OPENED.format(folder=FOLDER, megabytes=round(sum(path.stat().st_size for path in taken) / 1e6))


def place(app: Any, name: str, source: list[str]) -> None:
    """Put the button, or the sentence, where web.rst has its comment."""
    if name != "web" or app.builder.format != "html":
        return
    if MARK not in source[0]:
        raise ValueError(f"web.rst doesn't say where the page goes; expected a line {MARK!r}")
    try:
        put = ".. raw:: html\n\n" + textwrap.indent(opened(), "   ")
    except SkdError as error:
        print(f"The docs have the page's picture alone: {error}")
        put = MISSING
    source[0] = source[0].replace(f"   {MARK}\n", textwrap.indent(put, "   "))


def copy(app: Any, error: Exception | None) -> None:
    """The page's files, beside a page that opens them."""
    page = Path(app.outdir, "web.html")
    if error is None and page.is_file() and f'href="{FOLDER}/index.html"' in page.read_text(encoding="utf-8"):
        webpage.write_site(Path(app.outdir, FOLDER), webpage.runtime_folder())


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", place)
    app.connect("env-get-outdated", lambda *_: ["web"])  # the runtime may have come, or gone
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
