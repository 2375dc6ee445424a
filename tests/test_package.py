"""What is shipped, what importing costs, and the public face."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import kbstyle_example
import skd

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"skd": skd, "kbstyle_example": kbstyle_example}
INSTALLED = os.environ.get("SKD_TEST_INSTALLED") == "1"
installed = pytest.mark.skipif(not INSTALLED, reason="the checkout is tested; `make test` installs and sets this")

# The public face. A change here is a change for every user: say so in the changelog.
FROZEN: tuple[str, ...] = (
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
)

# What `import skd` may load beside the packages that `import torch, numpy` has loaded.
ALLOWED = {"skd", "torch", "numpy", "typing_extensions", *sys.stdlib_module_names}


# --- what is shipped -------------------------------------------------------------------------------------------------


def home(package: str) -> Path:
    return Path(str(PACKAGES[package].__file__)).resolve().parent


def files_of(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_version_is_the_one_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert skd.__version__ == project["version"]


@installed
def test_version_is_the_one_of_the_metadata() -> None:
    assert skd.__version__ == importlib.metadata.version("skd")


@installed
@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_tested_is_what_was_installed(package: str) -> None:
    """Neither the checkout nor an editable install stands in for the wheel."""
    assert home(package) == (Path(sysconfig.get_path("purelib")) / package).resolve()


@installed
@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_holds_every_file_of_the_checkout(package: str) -> None:
    assert files_of(home(package)) == files_of(ROOT / package)


@pytest.mark.parametrize("package", PACKAGES)
def test_typed(package: str) -> None:
    assert (home(package) / "py.typed").is_file()


def test_every_sample_has_its_source_named() -> None:
    samples = home("kbstyle_example") / "samples"
    pictures = [path.name for path in samples.glob("*/*") if path.is_file()]
    named = re.findall(r"^\| `([^`]+)` \|", (samples / "SOURCES.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert pictures
    assert sorted(pictures) == sorted(named)


# --- what importing does ---------------------------------------------------------------------------------------------

# Runs in a fresh interpreter: what is loaded, and the global state, before and after the import.
_PROBE = """
import hashlib, json, logging, os, pickle, random, signal, sys, warnings
import numpy, torch

def state():
    def digest(thing):
        return hashlib.sha256(pickle.dumps(thing)).hexdigest()
    hooks = torch.nn.modules.module
    return {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "torch generator": digest(torch.get_rng_state().tolist()),
        "numpy generator": digest(numpy.random.get_state()),
        "python generator": digest(random.getstate()),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "global hooks": sum(len(getattr(hooks, name)) for name in dir(hooks) if name.endswith("_hooks")),
        "warning filters": len(warnings.filters),
        "log handlers": len(logging.getLogger().handlers),
        "interrupt handler": str(signal.getsignal(signal.SIGINT)),
    }

before, loaded = state(), set(sys.modules)  # in this order: state() loads numpy.random
__import__(sys.argv[1])
after = state()
new = {name.partition(".")[0] for name in set(sys.modules) - loaded}
print(json.dumps({"new": sorted(new), "changed": [key for key in before if before[key] != after[key]]}))
"""


def probe(package: str, folder: Path | None = None) -> dict[str, list[str]]:
    env = dict(os.environ)
    if folder is not None:
        env["PYTHONPATH"] = str(folder)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROBE, package], env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert len(lines) == 1, f"importing prints: {lines[:-1]}"
    found: dict[str, list[str]] = json.loads(lines[0])
    return found


def test_importing_loads_torch_and_numpy_only_and_changes_nothing() -> None:
    found = probe("skd")
    assert set(found["new"]) - ALLOWED == set()
    assert found["changed"] == []


def test_the_probe_notices(tmp_path: Path) -> None:
    (tmp_path / "third_party.py").touch()
    code = (
        "import os, random, torch, third_party\n"
        "os.environ['SKD_PROBE'] = '1'\nrandom.random()\ntorch.rand(1)\ntorch.set_grad_enabled(False)\n"
        "torch.set_num_threads(torch.get_num_threads() + 1)\n"
    )
    (tmp_path / "naughty.py").write_text(code, encoding="utf-8")
    found = probe("naughty", tmp_path)
    assert set(found["new"]) - ALLOWED == {"naughty", "third_party"}
    assert found["changed"] == ["environment", "torch generator", "python generator", "grad mode", "threads"]


# --- the public face -------------------------------------------------------------------------------------------------


def modules_named_like_a_function(modules: set[str], functions: set[str]) -> set[str]:
    return {name for name in modules if name.rpartition(".")[2] in functions}


def lacks_a_docstring(thing: object) -> bool:
    """Of its own: neither inherited nor the signature that a dataclass makes up."""
    if isinstance(thing, str | int | float | tuple):
        return False  # a constant can't have one
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else getattr(thing, "__doc__", None)
    return not text or (inspect.isclass(thing) and text.startswith(f"{thing.__name__}("))


def lacks_an_example(thing: object) -> bool:
    """A function, or a class itself or in one of its methods; other things need none."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return False
    members = vars(thing).values() if inspect.isclass(thing) else ()
    functions = [getattr(member, "__func__", member) for member in members]
    texts = [thing.__doc__, *(function.__doc__ for function in functions if inspect.isroutine(function))]
    return not any(re.search(r"^ *Examples\n *-{8}\n+ *>>> ", text or "", re.MULTILINE) for text in texts)


def test_public_names_are_frozen() -> None:
    assert sorted(skd.__all__) == sorted(FROZEN)


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert [name for name in skd.__all__ if lacks_a_docstring(getattr(skd, name))] == []


def test_every_public_function_and_class_has_an_example() -> None:
    assert [name for name in skd.__all__ if lacks_an_example(getattr(skd, name))] == []


def test_lacks_an_example_notices() -> None:
    assert lacks_an_example(lambda: None)
    assert lacks_an_example(type("Made", (), {"__doc__": "Examples\n--------\nnone"}))
    assert lacks_an_example(type("Made", (), {"__doc__": "See >>> print()"}))
    assert not lacks_an_example(
        type("Made", (), {"__doc__": "It does.\n\n    Examples\n    --------\n    >>> 1\n    1"})
    )
    assert not lacks_an_example("0.1.0")


def test_lacks_a_docstring_notices() -> None:
    assert lacks_a_docstring(lambda: None)
    assert lacks_a_docstring(type("Child", (Path,), {}))
    assert lacks_a_docstring(type("Made", (), {"__doc__": "Made(x: int)"}))
    assert not lacks_a_docstring(Path)
    assert not lacks_a_docstring("0.1.0")


def test_no_module_bears_the_name_of_a_public_function() -> None:
    modules = {info.name for info in pkgutil.walk_packages(skd.__path__, "skd.")}
    assert "skd.errors" in modules
    functions = {name for name in skd.__all__ if inspect.isroutine(getattr(skd, name))}
    assert modules_named_like_a_function(modules, functions) == set()
    assert modules_named_like_a_function({"skd.a.pair", "skd.pairing"}, {"pair"}) == {"skd.a.pair"}
