"""KBStyle: arbitrary artistic style transfer in 200 KB, the reference application of skd.

A reconstruction of the network of the paper KBStyle (IEEE TIP 33, 2024), which is public only as an abstract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kbstyle_example.networks import STUDENT, TEACHER, KBStyle, KBStyleConfig

if TYPE_CHECKING:
    from kbstyle_example.painting import Painter, stylize

__all__ = ["STUDENT", "TEACHER", "KBStyle", "KBStyleConfig", "Painter", "stylize"]


def __getattr__(name: str) -> Any:
    """What needs Pillow is imported when it is asked for: the networks alone need PyTorch only."""
    if name in ("Painter", "stylize"):
        from kbstyle_example import painting

        return getattr(painting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
