"""docs/methods.rst: its code runs, and it lists every method."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import skd.methods
from skd.methods import LayerMethod

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "methods.rst").read_text(encoding="utf-8")


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE, re.MULTILINE)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(textwrap.dedent(block), "docs/methods.rst", "exec"), names)
    assert len(blocks) == 3
    assert "1/2/encoder/average: 0 → 0, average, cosine, weight Window(" in capsys.readouterr().out
    assert [row.name for row in names["distiller"].transfers] == ["1/2/encoder/attention", "1/2/decoder/hint", "output"]
    assert all(issubclass(getattr(method, "func", method), LayerMethod) for method in names["methods"])
    assert names["student"][0].weight.grad is not None


def test_every_method_is_listed_once() -> None:
    listed = re.findall(r"^``([A-Z]\w+)`` ", PAGE, re.MULTILINE)
    there = {
        name
        for name, value in vars(skd.methods).items()
        if inspect.isclass(value) and issubclass(value, LayerMethod) and value is not LayerMethod
    }
    assert sorted(listed) == sorted(there - {"OutputOnly"})
    assert "``OutputOnly``" in PAGE
    assert there <= set(skd.methods.__all__)
