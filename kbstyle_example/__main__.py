"""Command line: ``python -m kbstyle_example COMMAND``; each is a function of `commands` or `painting_commands`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from kbstyle_example.parsing import parser
from skd.errors import MissingExtraError, SkdError

PACKAGES = {
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "accelerate": "accelerate",
    "filelock": "filelock",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process where not given.

    Returns
    -------
    int
        The exit code: 0; 2 for an error that is the input's, after one line on stderr; 130 when interrupted.

    Examples
    --------
    >>> main(["info"])  # doctest: +ELLIPSIS
    skd ...
    0
    """
    options = argparse.Namespace(interrupted="")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _need_extra()
        # What the others could be told needn't be known, or imported.
        parser(given[0] if given else "").parse_args(given, options)
        home = importlib.import_module(f"kbstyle_example.{options.home}")
        getattr(home, options.run)(options)
    except (SkdError, OSError) as error:  # the system's errors are the input's, too: a full disk, a pipe that is closed
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted{options.interrupted}", file=sys.stderr)
        return 130
    return 0


def _need_extra() -> None:
    """Name the extra that is missing, before an import somewhere deep does."""
    for module, package in PACKAGES.items():
        if module in sys.modules:
            continue
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        if found is None:
            raise MissingExtraError(package, extra="kbstyle", purpose="kbstyle_example")


if __name__ == "__main__":
    raise SystemExit(main())
