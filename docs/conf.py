"""Sphinx configuration; build with `make docs`."""

from __future__ import annotations

import skd

project = "skd"
author = "The skd authors"
release = version = skd.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"skd {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state types and shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
