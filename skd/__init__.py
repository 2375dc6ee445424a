"""Symmetric knowledge distillation: make encoder-decoder networks small.

The flow, one line a room: `pair` finds which decoder layers mirror which encoder layers, `measure` takes their
spectra, `compress` makes a student of the size that is named, `match` lines a student's pairs up with the teacher's, a
method such as `methods.SKD` builds the transfers, `Distiller` runs teacher and student, `check` refuses broken set-ups,
`report` says what was retained. `distill` does all of it in one call, `fit` trains any module that returns a `Step`,
and `export` writes what other runtimes load.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from skd import adapters, distances, errors, knowledge, methods, schedules
    from skd.caching import TeacherCache
    from skd.checking import check
    from skd.compressing import Compressed, compress
    from skd.distiller import Distiller
    from skd.distilling import Distilled, distill
    from skd.exporting import Exported, export
    from skd.fitting import fit_adapters
    from skd.matching import Plan, match
    from skd.pairing import Pairing, SymmetricPair, pair
    from skd.recipes import Recipe
    from skd.reporting import Report, report
    from skd.spectra import Spectra, measure
    from skd.steps import Losses, Step
    from skd.taps import Tap, Taps
    from skd.trace import Trace, dry_run
    from skd.training import Run, fit

# Where each public name lives. A room is entered when its name is first used, so that importing skd costs nothing.
_ROOMS = {
    "caching": ("TeacherCache",),
    "checking": ("check",),
    "compressing": ("Compressed", "compress"),
    "distiller": ("Distiller",),
    "distilling": ("Distilled", "distill"),
    "exporting": ("Exported", "export"),
    "fitting": ("fit_adapters",),
    "matching": ("Plan", "match"),
    "pairing": ("Pairing", "SymmetricPair", "pair"),
    "recipes": ("Recipe",),
    "reporting": ("Report", "report"),
    "spectra": ("Spectra", "measure"),
    "steps": ("Losses", "Step"),
    "taps": ("Tap", "Taps"),
    "trace": ("Trace", "dry_run"),
    "training": ("Run", "fit"),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = ("adapters", "distances", "errors", "knowledge", "methods", "schedules")

__all__ = [
    "Compressed",
    "Distilled",
    "Distiller",
    "Exported",
    "Losses",
    "Pairing",
    "Plan",
    "Recipe",
    "Report",
    "Run",
    "Spectra",
    "Step",
    "SymmetricPair",
    "Tap",
    "Taps",
    "TeacherCache",
    "Trace",
    "adapters",
    "check",
    "compress",
    "distances",
    "distill",
    "dry_run",
    "errors",
    "export",
    "fit",
    "fit_adapters",
    "knowledge",
    "match",
    "measure",
    "methods",
    "pair",
    "report",
    "schedules",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"skd.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'skd' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"skd.{_HOMES[name]}"), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
