"""Formulas as MathML, converted when the docs are built: browsers draw them with no script and no network."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

_CONVERTER = LatexToMathML(annotation=True, fancy_error=False)  # the TeX goes along, for whoever copies a formula


def mathml(tex: str, *, block: bool) -> str:
    """A formula's MathML; raises `LatexError` where a command isn't known or a brace is missing."""
    return _CONVERTER.convert_with_local_state(tex, displaystyle=block)


def _write(page: Any, node: nodes.Element, *, block: bool) -> None:
    tex = node.astext()
    try:
        drawn = mathml(tex, block=block)
    except LatexError as error:
        logging.getLogger(__name__).warning("%s, in the formula %s", str(error).strip(), tex, location=node)
        drawn = f"<code>{escape(tex)}</code>"
    page.body.append(f'<div class="math">{drawn}</div>\n' if block else f'<span class="math">{drawn}</span>')
    raise nodes.SkipNode


def write_inline(page: Any, node: nodes.Element) -> None:
    """For ``:math:``."""
    _write(page, node, block=False)


def write_block(page: Any, node: nodes.Element) -> None:
    """For ``.. math::``."""
    _write(page, node, block=True)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(write_inline, None), block_renderers=(write_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
