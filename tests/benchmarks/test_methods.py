"""The benchmark of methods at its smallest: cells that are run once, equal data for all, figures that add up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import skd

pytest.importorskip("torch_pruning")
ROOT = Path(__file__).resolve().parents[2]
ARMS = [
    "SKD",
    "FitNets",
    "Hinton",
    "from scratch",
    "output only",
    "SKD's loss, random start",
    "SKD's start, not trained",
]


def test_a_smoke_run(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "methods.jsonl"
    command = ["--task", "denoising", "--data", str(folder), "--cache", str(tmp_path / "cache"), "--out", str(out)]
    command += ["--smoke", "--seeds", "0", "1", "--methods", *ARMS]
    main = parts["__main__"].main
    main(command)
    table = capsys.readouterr().out
    lines = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]
    of_seed = [line for line in lines if line["seed"] == 1 and "value" in line and line["arm"] != ARMS[-1]]
    assert {line["arm"] for line in of_seed} == {*ARMS[:2], *ARMS[3:-1]}  # Hinton has no meaning here
    assert len({line["order"] for line in of_seed}) == 1  # the same crops in the same order
    assert len({line["order"] for line in lines if line["arm"] == "SKD"}) == 3  # other crops for each seed
    assert "Hinton: n/a" in table
    trials = [line for line in lines if line["arm"] == "SKD" and line["seed"] == parts["cells"].TUNING_SEED]
    best = max(trials, key=lambda line: line["value"])
    assert all(line["factor"] == best["factor"] for line in lines if line["arm"] == "SKD" and line not in trials)
    assert len(trials) == 3
    kept = out.read_bytes()

    def never(*_: Any) -> dict[str, Any]:
        raise RuntimeError("it was run twice")

    monkeypatch.setattr(parts["running"], "run_together", never)
    main(command)  # nothing is missing
    assert out.read_bytes() == kept
    assert capsys.readouterr().out.splitlines()[-5:] == table.splitlines()[-5:]
    last = lines[-1]
    out.write_bytes(kept[: kept.rindex(b"\n", 0, -1) + 20])  # killed while the last line was written
    with pytest.raises(RuntimeError, match="run twice"):
        main(command)
    monkeypatch.undo()
    main(command)
    again = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    assert again["value"] == last["value"]  # the very same training


def test_side_by_side_as_a_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "methods.jsonl"
    command = [sys.executable, "-m", "benchmarks.methods", "--task", "denoising", "--data", str(folder), "--smoke"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(out), "--jobs", "2", "--methods", "output only", "AT"]
    # As someone runs it in a checkout: the benchmarks are no part of what is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]
    assert sorted(line["arm"] for line in lines) == ["AT"] * 4 + ["output only"]
    assert done.stdout.count("denoising AT") == 4


def test_adapters_are_fitted_where_an_arm_says_so(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = parts["cells"]
    prepared = cells.Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    first: dict[str, float] = {}

    def looked_at(distiller: Any, *_: Any, **__: Any) -> None:
        """In the place of the check, before the first step."""
        terms = distiller(prepared.calibration[0]).losses.terms
        first[arm] = sum(float(term.detach()) for name, term in terms.items() if name != "output")

    monkeypatch.setattr("skd.distilling.check_unwrapped", looked_at)
    for arm in ("SKD", "SKD, random adapters"):
        cells.run_cell(prepared, cells.Cell("denoising", arm, 1.0, 0, 2, "validation"))
    assert first["SKD"] < first["SKD, random adapters"] / 2


def test_what_students_begin_as(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = parts["cells"]
    prepared = cells.Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    begun: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(cells, "_train", lambda task, student, *_, **__: begun.append(student.state_dict()))
    random = "SKD's loss, random start"
    arms = [(random, 0), ("FitNets", 0), (random, 1), ("SKD", 0), ("SKD's start, FitNets", 1)]
    arms += [("SKD, encoder only", 0), ("SKD, decoder only", 0), ("SKD, fitted start", 0)]
    for arm, seed in arms:
        cells.run_cell(prepared, cells.Cell("denoising", arm, 1.0, seed, 2, "validation"))
    first, other, reseeded, started, again, encoder, decoder, fitted = begun
    compressed = prepared.started.student.state_dict()
    assert same(first, other)
    assert not same(first, reseeded)
    assert same(started, again)
    assert same(started, compressed)
    # What runs until the bottleneck is the encoder's; the rest, and nothing twice, the decoder's.
    early = {name for name in compressed if name.split(".")[0] in ("down1", "down2", "middle")}
    late = compressed.keys() - early
    assert same(encoder, {**first, **{name: compressed[name] for name in early}})
    assert same(decoder, {**first, **{name: compressed[name] for name in late}})
    assert same(fitted, prepared.begun("fitted").student.state_dict())
    assert not same(fitted, compressed)


def test_companions_begin_at_random(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.methods.styling.load_perceptual", lambda _: None)
    prepared = parts["cells"].Prepared(parts["tasks"].task_of("style", folder, tmp_path, smoke=True))
    assert repr(prepared.task.reread) == "reread(level1, level2, level3)"
    starts = ("random", "compressed", "pairs", "encoder", "decoder")
    random, whole, pairs, encoder, decoder = (prepared.student(3, start).state_dict() for start in starts)
    beside, early = (
        [name for name in whole if name.startswith(part)]
        for part in ("style_encoder.", ("content_encoder.", "correction.first."))
    )
    assert beside
    settled = ["correction.centre", "correction.spread"]  # in the units of whichever style encoder there is
    assert all(not torch.equal(random[name], whole[name]) for name in settled)
    assert not any(state["correction.last.weight"].any() for state in (random, whole, pairs, encoder, decoder))
    beside += settled
    assert same(pairs, {**whole, **{name: random[name] for name in beside}})
    assert same(encoder, {**random, **{name: whole[name] for name in (*beside, *early)}})
    assert same(decoder, {**whole, **{name: random[name] for name in (*beside, *early)}})
    cell = parts["cells"].Cell("style", "SKD, companions at random", 1.0, 0, 2, "validation")
    rows = parts["cells"]._rows(prepared, prepared.student(0, "pairs"), cell, prepared.task.reread).transfers()
    assert [row.name for row in rows][-2:] == ["output", "output/reread"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_teacher_that_is_trained_is_never_trained_again(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True).teacher
    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(parts["training"].TEACHER_SEED)
        begun = parts["denoising"]._made(parts["tasks"].SMOKE["denoising"])
        patch.setattr(parts["training"].skd, "fit", None)  # nor read of a run, which another code may not go on with
        again = parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True).teacher
    weights = [each.state_dict() for each in (begun, first, again)]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[2].items())
    assert any(not torch.equal(weights[0][name], value) for name, value in weights[2].items())


def test_a_teacher_goes_on_in_another_round(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = parts["tasks"].SMOKE["denoising"]
    begun = list[tuple[int, dict[str, Any]]]()
    fit = skd.fit

    def seen(module: Any, *given: Any, recipe: skd.Recipe, **options: Any) -> Any:
        begun.append((recipe.steps, {name: value.clone() for name, value in module.network.state_dict().items()}))
        return fit(module, *given, recipe=recipe, **options)

    monkeypatch.setattr(parts["training"].skd, "fit", seen)

    def teacher(rounds: int) -> dict[str, Any]:
        make = parts["denoising"].denoising
        found: dict[str, Any] = make(replace(setting, teacher_rounds=rounds), folder, tmp_path).teacher.state_dict()
        return found

    weights = [teacher(rounds) for rounds in (1, 2, 1, 2)]
    assert [steps for steps, _ in begun] == [setting.teacher_steps, 2 * setting.teacher_steps]
    for one, other in ((begun[1][1], weights[0]), (weights[2], weights[0]), (weights[3], weights[1])):
        assert all(torch.equal(one[name], value) for name, value in other.items())
    assert any(not torch.equal(weights[1][name], value) for name, value in weights[0].items())


def test_a_bundled_teacher_is_not_trained(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, training = parts["tasks"].SMOKE["denoising"], parts["training"]
    wanted = parts["denoising"]._made(setting).state_dict()
    steps = setting.teacher_steps * 2 ** (setting.teacher_rounds - 1)
    sizes = "-".join(map(str, (*setting.widths, steps, setting.teacher_batch, setting.crop)))
    save_file(wanted, tmp_path / f"denoiser-{sizes}.safetensors")
    monkeypatch.setattr(training, "BUNDLED", tmp_path)
    monkeypatch.setattr(training.skd, "fit", None)
    found = parts["denoising"].denoising(setting, folder, tmp_path / "cache").teacher
    assert not found.training
    for name, value in found.state_dict().items():
        assert torch.equal(value, wanted[name])


def test_a_denoiser_begins_with_features_that_keep_their_size(parts: dict[str, ModuleType]) -> None:
    torch.manual_seed(0)
    network = parts["denoising"]._made(replace(parts["tasks"].SMOKE["denoising"], widths=(64, 64, 64)))
    sizes = {}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda _, given, out, name=name: sizes.update({name: (given[0], out)}))
    noisy = 0.5 + torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = network(noisy)
    inner = [out.square().mean() / given.square().mean() for name, (given, out) in sizes.items() if name != "noise"]
    # Twice what comes in, of which a ReLU leaves half; borders see zeros.
    torch.testing.assert_close(torch.stack(inner), torch.full((len(inner),), 2.0), rtol=0.35, atol=0)
    assert (output - noisy).std() < 0.3 * noisy.std()


def test_a_wider_denoiser_begins_as_the_narrower_one(
    parts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, setting = parts["denoising"]._made, parts["tasks"].SMOKE["denoising"]
    torch.manual_seed(0)
    narrow = made(setting)
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    monkeypatch.setattr(parts["denoising"], "BUNDLED", tmp_path)
    wide = made(replace(setting, widths=(12, 11, 16), begins_as="narrow"))
    picture = torch.rand(2, 3, 12, 20)
    torch.testing.assert_close(wide(picture), narrow(picture))
    wide(picture).square().sum().backward()
    # What the further channels are read with is zero at first, and learns at once; then they do.
    assert wide.back1[0].weight[:8, 8:12].count_nonzero() == 0
    assert wide.back1[0].weight.grad[:8, 8:12].count_nonzero() > 0
    assert wide.back1[0].weight[8:].count_nonzero() == wide.back1[0].weight[8:].numel()


def test_the_psnr_is_that_of_the_formula(parts: dict[str, ModuleType], folder: Path, tmp_path: Path) -> None:
    task = parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True)
    noisy, clean = (
        np.concatenate([batch[k].numpy().astype(np.float64) for batch in task.batches("test", 0, 4)]) for k in (0, 1)
    )
    errors = ((noisy.clip(0, 1) - clean) ** 2).reshape(len(clean), -1).mean(1)
    [(name, found)] = task.measured(nn.Identity(), "test", 4).items()
    assert name == "PSNR, dB"
    assert found == pytest.approx((10 * np.log10(1 / errors)).mean(), rel=1e-6)
    [other] = task.measured(nn.Identity(), "validation", 4).values()
    assert found != pytest.approx(other, rel=1e-6)


def test_long_runs_are_measured_on_more_samples(parts: dict[str, ModuleType], folder: Path, tmp_path: Path) -> None:
    cells = parts["cells"]
    prepared = cells.Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    asked = list[tuple[str, int]]()

    def measured(student: nn.Module, split: str, count: int) -> dict[str, float]:
        asked.append((split, count))
        return {"figure": 0.0}

    setting = replace(prepared.task.setting, held_out=5, long_held_out=7, final=3)
    prepared.task = replace(prepared.task, setting=setting, measured=measured)
    for steps, split in ((2, "validation"), (3, "validation"), (4, "test")):
        cells.run_cell(prepared, cells.Cell("denoising", "output only", 1.0, 0, steps, split))
    assert asked == [("validation", 5), ("validation", 7), ("test", 7)]


def line(arm: str, seed: int, value: float, **others: Any) -> dict[str, Any]:
    cell = {"task": "t", "arm": arm, "factor": 1.0, "seed": seed, "steps": 10, "split": "validation"}
    return {
        **cell,
        "plan": "p",
        "definition": "d",
        "value": value,
        "figures": {"decibels": value, "twice": 2 * value},
        **others,
    }


def test_the_table_against_numpy(parts: dict[str, ModuleType]) -> None:
    ours, theirs = [30.0, 31.0, 33.0], [29.5, 30.7, 32.0]
    lines = [line("SKD", k, value) for k, value in enumerate(ours)]
    lines += [line("FitNets", k, value) for k, value in enumerate(theirs)]
    lines += [line("AT", 0, 99.0, steps=5)]  # fewer steps
    lines += [line("SKD", parts["cells"].TUNING_SEED, 1.0, steps=30)]  # a trial, though of more steps
    lines += [line("SKD", 0, 1.0, split="test")]
    lines += [{**line("SKD", 0, 1.0, steps=30), "task": "another"}]
    first, second = parts["table"].rows(lines, "t", "validation", higher=True)
    assert [first["arm"], second["arm"]] == ["SKD", "FitNets"]
    apart = np.subtract(theirs, ours)
    assert second["apart"] == pytest.approx(apart.mean())
    quantile = 4.302652729911275  # of Student's t, two degrees of freedom, 97.5 %
    assert second["apart_half"] == pytest.approx(quantile * apart.std(ddof=1) / np.sqrt(3), rel=1e-6)
    assert first["figures"] == pytest.approx({"decibels": np.mean(ours), "twice": 2 * np.mean(ours)})
    assert first["half"] == pytest.approx(quantile * np.std(ours, ddof=1) / np.sqrt(3), rel=1e-6)
    assert [row["arm"] for row in parts["table"].rows(lines, "t", "validation", higher=False)] == ["FitNets", "SKD"]


def test_who_runs_long(parts: dict[str, ModuleType]) -> None:
    names = ["AT", "CC", "CWD", "FitNets", "FSP", "ICKD", "MGD", "NST"]
    values = {name: 30.0 - k for k, name in enumerate(names)} | {"SKD": 28.5, "GANCompression": 27.0}
    values |= {"output only": 1.0, "SKD's start, RKD": 31.0, "SKD's start, AT": 30.5, "SKD's start, not trained": 40.0}
    lines = [line(arm, seed, value) for arm, value in values.items() for seed in (0, 1)]
    lines += [line("PKT", 0, 0.0), {**line("SP", 0, 99.0), "na": "no meaning"}, line("VID", 0, 99.0, split="test")]
    lines += [line("OFD", seed, 99.0, steps=30) for seed in (0, 1)]  # a longer run on the same split
    choose = parts["table"].finalists
    # GANCompression has FitNets' very figures; what isn't trained costs nothing and isn't long.
    wanted = ["SKD", "AT", "CC", "CWD", "FitNets", "FSP", "ICKD", *parts["arms"].FINAL_CONTROLS]
    assert choose(lines, "t", 10, higher=True) == wanted
    assert choose(lines, "t", 10, higher=False)[1:7] == ["PKT", "NST", "MGD", "ICKD", "FSP", "FitNets"]
    assert choose(lines, "another", 10, higher=True) == []


def test_finals_want_a_screening(parts: dict[str, ModuleType], folder: Path, tmp_path: Path) -> None:
    command = ["--task", "denoising", "--data", str(folder), "--smoke", "--cache", str(tmp_path), "--stage", "final"]
    out = tmp_path / "methods.jsonl"
    with pytest.raises(SystemExit, match="no screening to choose finalists from"):
        parts["__main__"].main([*command, "--out", str(out)])
    screen = [*command[:-1], "screen", "--methods", "AT", "SKD", "--out", str(out)]
    parts["__main__"].main(screen)
    parts["__main__"].main([*command, "--out", str(out)])
    arms = {
        each["arm"] for each in map(json.loads, out.read_text(encoding="utf-8").splitlines()) if each["split"] == "test"
    }
    assert arms == {"SKD", "AT", *parts["arms"].FINAL_CONTROLS}


def test_the_factor_is_chosen_on_validation_alone(parts: dict[str, ModuleType]) -> None:
    Cell, choose = parts["cells"].Cell, parts["table"].chosen_factor
    seed, factors = parts["cells"].TUNING_SEED, parts["arms"].FACTORS
    done = {
        Cell("t", "SKD", factor, seed, 10, "validation"): {"value": value}
        for factor, value in zip(factors, (1.0, 3.0, 2.0), strict=True)
    }
    done[Cell("t", "SKD", factors[0], seed, 10, "test")] = {"value": 9.0}
    assert choose(done, "t", "SKD", 10, higher=True) == factors[1]
    assert choose(done, "t", "SKD", 10, higher=False) == factors[0]
    assert choose(done, "t", "FitNets", 10, higher=True) is None
    assert choose(done, "t", "from scratch", 10, higher=True) == 1.0


def test_another_teacher_is_another_plan(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = parts["definitions"]
    prepared = parts["cells"].Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    first = definitions.plan_of(prepared, folder)
    assert definitions.plan_of(prepared, folder) == first
    monkeypatch.setattr(definitions, "SHARED", definitions.SHARED[1:])
    assert definitions.plan_of(prepared, folder) != first
    monkeypatch.undo()
    next(prepared.task.teacher.parameters()).data.add_(1e-3)
    assert definitions.plan_of(prepared, folder) != first


def test_an_arm_s_definition_is_its_own(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions, arms = parts["definitions"], parts["arms"]
    prepared = parts["cells"].Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    names = list(arms.ARMS)
    first = definitions.definitions_of(prepared, names)
    assert definitions.definitions_of(prepared, names) == first
    # FitNets and GAN-Compression differ in their files alone, SKD's arms in options that functions close over.
    assert len(set(first.values())) == len(names)

    def changed() -> set[str]:
        return {name for name, found in definitions.definitions_of(prepared, names).items() if found != first[name]}

    package = tmp_path / "skd"
    shutil.copytree(definitions.PACKAGE, package)
    monkeypatch.setattr(definitions, "PACKAGE", package)
    assert not changed()
    with (package / "methods" / "at.py").open("a") as file:
        file.write("# another\n")
    assert changed() == {"AT", "SKD's start, AT"}
    monkeypatch.undo()
    monkeypatch.setattr(prepared, "started", prepared.started._replace(output_energy=0.123))
    begun = {name for name in names if arms.ARMS[name].start not in ("random", "fitted")}
    assert changed() == begun
    assert {"SKD", "SKD, encoder only", "SKD's start, output only"} <= begun


def test_lines_of_another_plan_or_definition_do_not_count(parts: dict[str, ModuleType], tmp_path: Path) -> None:
    cells = parts["cells"]
    cell = cells.Cell("t", "SKD", 1.0, 0, 10, "test")
    cells.Store(tmp_path / "a.jsonl", "one", {"SKD": "d"}).add(cell, {"value": 1.0}, {})
    assert list(cells.Store(tmp_path / "a.jsonl", "one", {"SKD": "d"}).done()) == [cell]
    assert not cells.Store(tmp_path / "a.jsonl", "other", {"SKD": "d"}).done()
    assert not cells.Store(tmp_path / "a.jsonl", "one", {"SKD": "e"}).done()
    assert not cells.Store(tmp_path / "a.jsonl", "one", {"AT": "d"}).done()


def test_what_skd_compares_fades(parts: dict[str, ModuleType], folder: Path, tmp_path: Path) -> None:
    cells, arms = parts["cells"], parts["arms"]
    prepared = cells.Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    fading = [name for name, arm in arms.ARMS.items() if arm.needs_loss]
    assert fading == ["SKD, outputs fading", "SKD's start, output fading", "output only, fading"]
    cell = lambda name: cells.Cell("denoising", name, 0.1, 0, 8, "test")  # noqa: E731
    rows = {
        name: cells._rows(prepared, prepared.student(0, "compressed"), cell(name), prepared.task.reread)
        for name in (
            *("SKD", "SKD, not fading", "SKD, encoder only", "SKD, outputs not read again", "outputs read again"),
            *fading,
        )
    }
    weights = {
        name: {
            row.name: [skd.schedules.weight_at(row.weight, step) for step in (0, 2, 4, 8)] for row in method.transfers()
        }
        for name, method in rows.items()
    }
    for name, each in weights.items():
        kept = [1.0, 0.5, 0.0, 0.0] if name in fading else [1.0] * 4
        assert each.pop("output") == pytest.approx([arms.OUTPUT * share for share in kept])
        reads = name.startswith(("SKD", "outputs")) and "start" not in name and "not read" not in name
        assert each.pop("output/reread", None) == ([0.1 * arms.REREADING] * 4 if reads else None)
        wanted = [0.1] * 4 if "not fading" in name else [0.1, 0.05, 0.0, 0.0]
        for found in each.values():
            assert found == pytest.approx(wanted)
    assert {row.split("/")[2] for row in weights["SKD"]} == {"encoder", "decoder"}
    assert {row.split("/")[2] for row in weights["SKD, encoder only"]} == {"encoder"}
    assert weights["SKD, outputs fading"].keys() == weights["SKD"].keys()
    assert not any(
        weights[name] for name in ("outputs read again", "SKD's start, output fading", "output only, fading")
    )
    prepared.task = replace(prepared.task, loss=None)
    for name in fading:
        with pytest.raises(
            skd.errors.ArgumentError, match="it has no meaning here: without a loss of the task's own nothing"
        ):
            cells._rows(prepared, prepared.student(0, "compressed"), cell(name), prepared.task.reread)


def test_all_methods_are_compared(parts: dict[str, ModuleType]) -> None:
    import skd

    known = {name for name in skd.methods.__all__ if name not in ("Layer", "LayerMethod", "Method", "Stage")}
    assert set(parts["arms"].METHODS) == known - {"Through", "Transfer", "OutputOnly"}


def test_tables_and_plots_are_of_the_last_plan(
    parts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [line("SKD", 0, 1.0, task="denoising"), line("FitNets", 0, 2.0, task="denoising")]
    new = [line("SKD", k, 30.0 + k, task="denoising", plan="q") for k in range(3)]
    new += [line("CWD", k, 29.5 + k, task="denoising", plan="q") for k in range(3)]
    new += [line("from scratch", k, 20.0, task="denoising", plan="q") for k in range(3)]
    new[:0] = [line("CWD", 0, 1.0, task="denoising", plan="q", definition="older")]
    new += [{**line("Hinton", 0, 0.0, task="denoising", plan="q"), "na": "no classes"}]
    file = tmp_path / "cells.jsonl"
    file.write_text("\n".join(map(json.dumps, [*old, *new])) + '\n{"task": "den')
    parts["draw"].main(["--results", str(file), "--plots", str(tmp_path / "plots")])
    text = capsys.readouterr().out
    assert "denoising, validation split" in text
    assert "test split" not in text
    assert "FitNets" not in text
    row = next(each for each in text.splitlines() if each.startswith("CWD"))
    assert row.split() == ["CWD", "1", "3", "30.500", "±", "2.484", "-0.500", "±", "0.000", "61.000"]  # 4.3027 · 1 / √3
    assert "- Hinton: n/a, no classes" in text
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["denoising-validation.svg"]


KILLED = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from benchmarks.methods.running import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        pool.submit(time.time).result()
        print("begun", flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(KILLED)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    surroundings.pop("PYTHONSAFEPATH", None)
    with subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, env=surroundings) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"begun\n"
        run.kill()
        run.communicate(timeout=60)  # the pipe ends with the last of those that hold it
