"""Each network of the zoo: its pairing is the one a person draws, a student learns, and is deployed without skd."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import skd
from benchmarks.zoo import measuring
from benchmarks.zoo.__main__ import row, table
from benchmarks.zoo.entries import ENTRIES, Entry
from benchmarks.zoo.trials import Trial

RESULTS = measuring.ROOT / "benchmarks" / "results" / "zoo.json"
BY_NAME = {entry.name: entry for entry in ENTRIES}


def needs(entry: Entry) -> Any:
    reason = f"needs {entry.missing}: install the group zoo"
    return pytest.param(entry, id=entry.name, marks=pytest.mark.skipif(bool(entry.missing), reason=reason))


Trials = Callable[[Entry], Trial]
every = pytest.mark.parametrize("entry", [needs(entry) for entry in ENTRIES])


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Imported before the first test, which would have to wait for them."""
    for name in {entry.package for entry in ENTRIES if entry.package}:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module({"monai": "monai.networks.nets"}.get(name, name))


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trained students are left."""
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def trials() -> Trials:
    """Each network's trial, begun once for all tests."""
    begun: dict[str, Trial] = {}

    def trial(entry: Entry) -> Trial:
        if entry.name not in begun:
            begun[entry.name] = Trial(entry)
        return begun[entry.name]

    return trial


@every
def test_the_pairing_is_the_one_that_a_person_draws(entry: Entry, trials: Trials) -> None:
    trial, expected = trials(entry), measuring.Expected.of(entry.name)
    found = trial.pairing
    assert measuring.differences(trial.teacher, trial.batches[0], found, expected) == []
    assert skd.Pairing.from_json(json.loads(json.dumps(found.to_json()))) == found
    if expected.ambiguous is not None:  # it says so, and how to declare
        assert expected.ambiguous in str(found)
        assert 'Pairing.declare([("' in str(found)


@every
def test_compress_meets_the_budget(entry: Entry, trials: Trials, tmp_path: Path) -> None:
    trial = trials(entry)
    if entry.refused:
        assert re.search(entry.refused, trial.refusal)
        return
    assert not trial.refusal
    done = trial.done
    assert done is not None
    assert type(trial.student) is type(trial.teacher)
    size = trial.size(tmp_path)
    teacher = sum(tensor.numel() * tensor.element_size() for tensor in trial.teacher.state_dict().values())
    assert size == done.bytes <= done.budget <= 1.1 * teacher / entry.ratio  # the file's head is counted
    assert done.next_bytes is None or done.next_bytes > done.budget or done.unused <= 0.03
    assert math.isfinite(done.output_energy)  # below 0 where random weights leave less than a constant
    assert done.output_energy <= 1


@every
def test_a_few_steps_lower_the_loss(entry: Entry, trials: Trials, students: Path) -> None:
    trial = trials(entry)
    distiller = trial.distiller()
    names = [row.name for row in distiller.transfers]
    pairs = [name for name, *_ in measuring.Expected.of(entry.name).pairs]
    assert names == [
        *(f"{pair}/{side}/{kind}" for pair in pairs for side in ("encoder", "decoder") for kind in KINDS),
        "output",
    ]
    assert distiller.student is trial.student
    before, after = measuring.train(distiller, trial.batches[: measuring.BATCHES])
    assert after < 0.95 * before
    trial.save(students)


KINDS = ("structure", "statistics")


def test_students_are_loaded_in_a_process_without_skd(students: Path) -> None:
    saved = {path.stem for path in students.glob("*.pt")}
    if not saved:
        pytest.skip("no student was trained")
    found = measuring.alone(students)
    assert found.keys() == saved
    # Of outputs of order one; memory that begins elsewhere is added up in another order (1.4e-6 seen with AVX-512).
    assert max(found.values()) <= 1e-5


def test_the_process_without_skd_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard: where the zoo's own builders needed skd, it would show."""
    monkeypatch.setattr(measuring, "_ALONE", measuring._ALONE.replace("answers(", "import skd; answers("))
    with pytest.raises(
        RuntimeError, match=r"process without skd failed:[\s\S]*No module named 'skd'|None in sys.modules"
    ):
        measuring.alone(tmp_path)


def test_the_distiller_is_one_graph(dynamo: None, trials: Trials) -> None:
    """The others are compiled in the benchmark, as each takes several seconds."""
    trial = trials(BY_NAME["unet3d"])
    assert measuring.in_one_graph(trial.distiller(), trial.batches[0]) == "yes"


def test_a_graph_break_is_stated(dynamo: None, trials: Trials) -> None:
    trial = trials(BY_NAME["speech-unet"])
    assert "LSTM" in measuring.in_one_graph(trial.distiller(), trial.batches[0])


@pytest.fixture
def dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# --- the comparison with what is drawn can fail ----------------------------------------------------------------------


def drawn(change: Callable[[measuring.Expected], Any]) -> list[str]:
    entry = BY_NAME["unet3d"]
    model, given = entry.build(2).eval(), entry.inputs()
    return measuring.differences(model, given, skd.pair(model, given), change(measuring.Expected.of(entry.name)))


def test_other_pairs_are_differences() -> None:
    def replaced(**changes: Any) -> Callable[[measuring.Expected], measuring.Expected]:
        def change(expected: measuring.Expected) -> measuring.Expected:
            values = {"pairs": expected.pairs, "bottleneck": expected.bottleneck, "ambiguous": None}
            return measuring.Expected(**{**values, **changes})

        return change

    one, other = measuring.Expected.of("unet3d").pairs
    assert drawn(replaced()) == []
    assert drawn(replaced(pairs=(other, one)))[0].startswith("pairs [('1', 8, 8)")
    assert drawn(replaced(pairs=(("1", "inc", "up1", 8, 8), other))) == ["1, decoder: up2 and not up1"]
    assert drawn(replaced(bottleneck="down1")) == ["bottleneck: down2 and not down1"]
    assert drawn(replaced(bottleneck=None)) == ["bottleneck: down2 and not None"]
    assert drawn(replaced(pairs=(("1", "inc.5", "up2", 8, 8), other))) == []  # a container's last layer


# --- the committed table ---------------------------------------------------------------------------------------------


def test_the_committed_table_has_every_network() -> None:
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert list(report["networks"]) == [entry.name for entry in ENTRIES]
    for name, found in report["networks"].items():
        assert found["differences"] == [], name
        assert found["loss"][1] < found["loss"][0], name
        assert found["alone"] <= 1e-5, name  # as above
        made, refused = found["compress"], BY_NAME[name].refused
        assert re.search(refused, made["refused"]) if refused else made["bytes"] <= made["budget"], name
        assert found["graph"] == "yes" or found["graph"].startswith("no: "), name
    assert len(table(report["networks"]).splitlines()) == len(ENTRIES) + 1


def test_a_network_whose_package_is_missing_has_its_row() -> None:
    assert row("monai-unet", {"skipped": "monai isn't installed"})[:2] == ("monai-unet", "monai isn't installed")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "einops" else object())
    assert [entry.name for entry in ENTRIES if entry.missing] == ["monai-autoencoderkl"]
    assert BY_NAME["monai-autoencoderkl"].missing == "einops"
