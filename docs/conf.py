"""Sphinx configuration; build with `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import skd

sys.path += [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]  # behind what is installed

from drawn import draw
from figures import draw_figures

project = "skd"
author = "The skd authors"
release = version = skd.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "web_page",
]
exclude_patterns = ["_build", "examples"]  # the examples are read as docs/gallery, with their output
default_role = "code"  # a single backtick in a docstring is a name
html_theme = "furo"
html_title = f"skd {release}"
html_show_copyright = False  # the licence says it
html_static_path = ["_static"]
html_css_files = ["skd.css"]

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
}
linkcheck_timeout = 20
linkcheck_workers = 2
linkcheck_anchors = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state types and shapes
napoleon_google_docstring = False
napoleon_use_ivar = True  # an attribute is described in its class, and not a second time by itself
napoleon_use_rtype = False
suppress_warnings = ["ref.python"]  # types are prose, such as "(C, width)", and no references

_ABSOLUTE = re.compile(r"(?<!\\)\|(\S[^|]*)\|")  # |s − t|, which reST takes for a substitution; \| is in formulas


def escape_bars(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Let a docstring write an absolute value as it is written."""
    lines[:] = [line if ">>>" in line else _ABSOLUTE.sub(r"\\|\1\\|", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("source-read", draw)
    app.connect("builder-inited", draw_figures)
