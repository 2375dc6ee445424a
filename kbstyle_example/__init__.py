"""KBStyle: arbitrary artistic style transfer in 200 KB, the reference application of skd.

A reconstruction of the network of the paper KBStyle (IEEE TIP 33, 2024), which is public only as an abstract.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbstyle_example.networks import STUDENT, TEACHER, KBStyle, KBStyleConfig
    from kbstyle_example.painting import Painter, stylize

__all__ = ["STUDENT", "TEACHER", "KBStyle", "KBStyleConfig", "Painter", "stylize"]

# Imported when asked for: the networks need PyTorch only, painting needs Pillow, and `--help` neither.
_HOMES = {name: "painting" if name in ("Painter", "stylize") else "networks" for name in __all__}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"kbstyle_example.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
