"""Sphinx configuration; build with `make docs`."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import skd

sys.path += [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]  # behind what is installed

from drawn import draw
from figures import draw_figures
from sphinx.util import logging

project = "skd"
author = "The skd authors"
release = version = skd.__version__

extensions = [
    "formulas",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "web_page",
]
exclude_patterns = ["_build", "examples"]  # the examples are read as docs/gallery, with their output
default_role = "code"  # a single backtick in a docstring is a name
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"skd {release}"
html_show_copyright = False  # the licence says it
html_static_path = ["_static"]
html_css_files = ["skd.css"]
html_favicon = "_static/skd.svg"

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r".*\.py",  # every example is run
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": True,
    "write_computation_times": False,  # a page of no use to readers, whose table comes from a foreign server
}
linkcheck_timeout = 20
linkcheck_workers = 2
linkcheck_anchors = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state types and shapes
napoleon_google_docstring = False
napoleon_use_ivar = True  # an attribute is described in its class, and not a second time by itself
napoleon_use_param = False  # several names with one meaning stay one entry
napoleon_use_rtype = False
suppress_warnings = ["ref.python"]  # types are prose, such as "(C, width)", and no references

_INITIAL = re.compile(r"^(\s*[A-Z])\. (?=\S)")  # of an author where a paragraph begins: reST takes it for a list's
_ABSOLUTE = re.compile(r"(?<!\\)\|(\S[^|]*)\|")  # |s − t|, which reST takes for a substitution; \| is in formulas


def escape(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Let a docstring write absolute values and authors' names as they are written."""
    for k, line in enumerate(lines):
        if ">>>" not in line:
            lines[k] = _INITIAL.sub(r"\1\\. ", _ABSOLUTE.sub(r"\\|\1\\|", line))


def find_own(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Lead `skd.compress` to where it is described, as `skd.compressing.compress`; a warning if it is nowhere."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.partition(".")[0] not in ("skd", "kbstyle_example"):
        return None
    try:
        thing = pkgutil.resolve_name(target)
        made = f"{thing.__module__}.{thing.__qualname__}"
        found = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], made, node, text)
    except (ImportError, AttributeError):
        found = None
    if found is None:
        logging.getLogger(__name__).warning("no page describes %s", target, location=node)
    return found


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape)
    app.connect("missing-reference", find_own)
    app.connect("source-read", draw)
    app.connect("builder-inited", draw_figures)
