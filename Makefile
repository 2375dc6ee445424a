# Needs make and Python 3.11 or newer. The first run installs into .venv; later runs need no network.
#   make test PYTHON=python3.12      another interpreter (after `make clean`)
#   make test ARGS="-k pairing -x"   further arguments for pytest

PYTHON ?= python3
ARGS ?=
VENV := .venv
WHEELS := build/wheel
# Neither the checkout nor the caller's PYTHONPATH may stand in for what was installed.
PY := env -u PYTHONPATH -u PYTHONHOME PYTHONSAFEPATH=1 $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --require-virtualenv
INSTALL := $(PIP) install --quiet --constraint constraints.txt
# Folders are listed, too, so that a deleted file makes a new wheel.
SOURCES := $(shell find skd kbstyle_example -name __pycache__ -prune -o -print) pyproject.toml $(wildcard README.md LICENSE)

.PHONY: help demo test check docs linkcheck clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | sort

demo: $(VENV)/.app  ## stylize the sample pictures into out/demo
	$(PY) -m kbstyle_example demo --out out/demo

test: $(VENV)/.app $(VENV)/.test  ## build the wheel, install it, run the tests and the doctests of what was installed
	SKD_TEST_INSTALLED=1 $(PY) -m pytest --doctest-modules ./tests --pyargs skd kbstyle_example $(ARGS)

check: $(VENV)/.app $(VENV)/.dev $(VENV)/.test  ## lint, format check, types (of optional packages, too)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(VENV)/.app $(VENV)/.docs  ## build the documentation, warnings are errors
	MPLBACKEND=agg $(PY) -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

linkcheck: $(VENV)/.app $(VENV)/.docs  ## look whether the links of the documentation still lead somewhere (needs a network)
	MPLBACKEND=agg SKD_DOCS_SMALL=1 $(PY) -m sphinx --keep-going --quiet -b linkcheck docs docs/_build/linkcheck

clean:  ## remove the environment and everything built (out/ and runs/ but for the demo are kept)
	rm -rf $(VENV) build dist docs/_build docs/gallery docs/drawn_figures docs/sg_execution_times.rst out/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find skd kbstyle_example tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# Each stamp stands in .venv, so whoever deletes that folder starts afresh.
$(VENV)/.base: constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no $(PYTHON) found. Remedy: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: skd needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Remedy: make clean, then make PYTHON=python3.11 (or newer)" >&2; exit 1; }
	@test -x $(VENV)/bin/python || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) can't make a virtual environment. Remedy: install its venv module (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }
	$(INSTALL) pip
	$(INSTALL) build hatchling
	@touch $@

# --no-isolation: hatchling is in .venv already, so building needs no network.
$(VENV)/.wheel: $(VENV)/.base $(SOURCES)
	@rm -rf $(WHEELS)
	$(PY) -m build --wheel --no-isolation --outdir $(WHEELS) . >/dev/null
	@touch $@

# The first line replaces an older build of the same version, the second adds what it depends on, if that is missing.
$(VENV)/.app: $(VENV)/.wheel constraints.txt
	$(PIP) install --quiet --no-deps --no-index --force-reinstall $(WHEELS)/*.whl
	$(INSTALL) "$$(echo $(WHEELS)/*.whl)[kbstyle,plot]"
	@touch $@

$(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(VENV)/.base pyproject.toml constraints.txt
	$(INSTALL) --group $*
	@touch $@
