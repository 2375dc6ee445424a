"""The README runs: its Python, the targets of make it names, the commands and the files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import drawn_readme as drawn
import pytest

import kbstyle_example

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def targets(makefile: str) -> set[str]:
    """What .PHONY lists and a rule makes."""
    listed = {name for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE) for name in line.split()}
    return listed & set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def named_targets(text: str) -> set[str]:
    """Of ``make X`` at the start of a command line or of a code span."""
    return set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))


def named_commands(text: str) -> set[str]:
    return set(re.findall(r"python -m kbstyle_example ([a-z]+)", text))


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, on the package that is tested."""
    folder = str(Path(str(kbstyle_example.__file__)).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "kbstyle_example", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_python_blocks_run_in_order_in_one_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks(README, "python")
    assert code
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for number, block in enumerate(code):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "Pairing, 4 pairs, bottleneck down_4" in printed
    assert "Report on 8 batches: student" in printed
    assert (tmp_path / "student.pt").is_file()
    assert "Run(out=" in printed
    assert (tmp_path / "runs" / "unet" / "last.pt").is_file()


def test_every_name_of_skd_in_the_readme_exists() -> None:
    import skd

    used = set(re.findall(r"\bskd\.([a-z_]+(?:\.[A-Za-z_]+)*|[A-Z]\w+)", "".join(blocks(README, "python"))))
    assert {"pair", "measure", "compress", "distill", "Recipe"} <= used
    for name in used:
        thing: Any = skd
        for part in name.split("."):
            assert part in thing.__all__, name
            thing = getattr(thing, part)


def test_targets_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = named_targets(README)
    assert {"demo", "test"} <= named
    assert named <= targets(makefile)


def test_the_test_of_targets_notices() -> None:
    makefile = ".PHONY: demo gone\ndemo:\n\techo\nother:\n"
    assert targets(makefile) == {"demo"}
    assert named_targets("make demo\n`make test ARGS=1` and we make nets") == {"demo", "test"}


@pytest.mark.parametrize("command", sorted(named_commands(README)) or ["none named"])
def test_commands_of_the_example(command: str) -> None:
    run = run_example(command, "--help")
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout


def test_the_options_that_the_readme_gives_to_stylize() -> None:
    """Parsed as they stand; that painting.jpg isn't there is then the only error."""
    line = re.search(r"^python -m kbstyle_example (stylize .*)$", README, re.MULTILINE)
    assert line is not None
    run = run_example(*line[1].split())
    assert run.returncode == 2
    assert "painting.jpg" in run.stderr
    assert "usage: " not in run.stderr


def test_the_test_of_commands_notices() -> None:
    assert {"stylize", "web"} <= named_commands(README)
    assert run_example("no-such-command", "--help").returncode != 0


def test_extras_that_are_installed() -> None:
    named = {name for names in re.findall(r"\[((?:\w+,?)+)\]'", README) for name in names.split(",")}
    assert "kbstyle" in named
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert named <= set(project["optional-dependencies"])


def test_links_into_the_repository() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 80


def test_the_bundled_teachers_size() -> None:
    teacher = Path(str(kbstyle_example.__file__)).parent / "weights" / "teacher.safetensors"
    assert f"{teacher.stat().st_size / 1e6:.1f} MB teacher" in README


# --- what is drawn: `python docs/drawn_readme.py` makes it again ------------------------------------------------------


def test_the_table_is_that_of_the_committed_results() -> None:
    assert drawn.with_results(README) == README, "stale: python docs/drawn_readme.py"


def test_the_test_of_the_table_notices() -> None:
    assert drawn.with_results(README.replace("dB |", "dB  |")) == README
    with pytest.raises(ValueError, match="no pair of markers"):
        drawn.with_results("no table")


def test_the_picture_is_of_the_bundled_weights() -> None:
    assert drawn.digest_in_picture() == drawn.weights_digest(), "stale: python docs/drawn_readme.py"
    assert drawn.PICTURE.stat().st_size < 150_000
    assert f"]({drawn.PICTURE.relative_to(ROOT)})" in README
