"""The ablations: each arm changes what it names and nothing else, files are as large, and figures aren't run twice."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kbstyle_example.layers import Block
from kbstyle_example.losses import COVARIANCE_WEIGHTS, FEATURE_WEIGHTS, STYLE_WEIGHTS, StyleTask
from kbstyle_example.moments import moments
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.peers import System
from kbstyle_example.perceptual import VGG, SqueezeNet
from kbstyle_example.weights_file import encoded
from skd.errors import ArgumentError

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "benchmarks" / "results" / "ablations.json"
HEAD = 32  # bytes by which a file's metadata may have grown since
TINY = KBStyleConfig(widths=(4, 8, 12), fine_blocks=1, deep_blocks=1, style_blocks=1)


@pytest.fixture
def parts() -> dict[str, ModuleType]:
    return {
        name: importlib.import_module(f"benchmarks.ablations.{name}")
        for name in ("arms", "variants", "running", "table", "__main__")
    }


def names(network: KBStyle) -> set[str]:
    return set(network.state_dict())


def test_an_arm_of_the_loss_changes_the_options_it_names_and_no_others(parts: dict[str, ModuleType]) -> None:
    arms = parts["arms"].ARMS
    for arm in arms.values():
        own, other = arm.loss(), arms[arm.reference].loss()
        assert {key for key in own if own[key] != other[key]} == set(arm.options)
        assert (not arm.options) == (arm.change is not None or arm.name == parts["arms"].BASE)
        assert sum(own["style_weights"].values()) == pytest.approx(4.0, abs=1e-3)
    equal = arms["equal layer weights"].loss()["style_weights"]
    assert equal == dict.fromkeys(STYLE_WEIGHTS, 0.8)
    shallow = arms["shallow layers only (relu1_1, relu2_1)"].loss()["style_weights"]
    assert shallow == {"relu1_1": pytest.approx(4 / 3, abs=1e-4), "relu2_1": pytest.approx(8 / 3, abs=1e-4)}


@pytest.mark.skipif(not COMMITTED.exists(), reason="no figures yet")
def test_each_arm_of_the_network_is_as_large_as_the_base(parts: dict[str, ModuleType]) -> None:
    variants, checked = parts["variants"], 0
    report = json.loads(COMMITTED.read_text(encoding="utf-8"))
    base = KBStyleConfig(**report["plan"]["base"])
    budget = len(encoded(KBStyle(base)))
    for name, found in report["arms"].items():
        arm = parts["arms"].ARMS[name]
        if arm.change is None:
            assert found["bytes"] == pytest.approx(budget, abs=HEAD)
            continue
        config = dataclasses.replace(base, widths=tuple(found["widths"]))
        network = variants.build(config, arm.change, 0)
        size = len(encoded(network))
        assert found["bytes"] == pytest.approx(size, abs=HEAD)
        assert size == pytest.approx(budget, rel=0.03)
        checked += 1
    assert checked > 0


def test_widths_that_fit(parts: dict[str, ModuleType]) -> None:
    variants = parts["variants"]
    assert variants.fitted(TINY, None) == TINY
    config = variants.fitted(TINY, variants.plain_blocks)
    assert config.widths[2] < TINY.widths[2]  # plain convolutions have more weights
    size = len(encoded(variants.build(config, variants.plain_blocks, 0)))
    assert size == pytest.approx(len(encoded(KBStyle(TINY))), rel=0.03)
    with pytest.raises(ArgumentError, match="no widths give equal bytes"):
        variants.fitted(TINY, variants.plain_blocks, tolerance=1e-9)


@pytest.mark.parametrize(
    ("change", "gone", "new"),
    [
        ("without_film", "decoder.level[23].film", ""),
        ("strided_entrance", "", ""),
        ("plain_blocks", "reach", ""),
        ("grouped_blocks", "", ""),
        ("near_blocks", "", ""),
        ("own_statistics", "", ""),
        ("encoder_blocks", "", "content_encoder.level[23].2"),
        ("without_style_blocks", "style_encoder.level3.2", ""),
    ],
)
def test_a_change_of_the_network_is_the_one_it_names(
    change: str, gone: str, new: str, parts: dict[str, ModuleType]
) -> None:
    network, base = parts["variants"].build(TINY, getattr(parts["variants"], change), 3), KBStyle(TINY)
    lost, added = names(base) - names(network), names(network) - names(base)
    assert bool(lost) == bool(gone)
    assert bool(added) == bool(new)
    assert all(re.search(gone, name) for name in lost)
    assert all(re.search(new, name) for name in added)
    other = {
        key for key in names(base) & names(network) if base.state_dict()[key].shape != network.state_dict()[key].shape
    }
    expected = {
        "strided_entrance": {f"{side}_encoder.level1.1.weight" for side in ("content", "style")},
        "grouped_blocks": {key for key in names(base) if key.endswith("reach.weight")},
        "near_blocks": {key for key in names(base) if key.endswith("reach.weight")},
        "plain_blocks": {key for key in names(base) if re.search(r"(mix|out)\.weight$", key) and "output" not in key},
    }
    assert other == expected.get(change, set())
    assert network(torch.rand(1, 3, 24, 32), torch.rand(1, 3, 16, 16)).shape == (1, 3, 24, 32)


def test_skips_and_modulation_that_are_left_out(parts: dict[str, ModuleType]) -> None:
    variants = parts["variants"]
    content, style, other = torch.rand(3, 1, 3, 32, 32)
    for level in (1, 2):
        network = variants.build(TINY, variants.without_skip(level), 0)
        levels = network.content_encoder(content)
        assert [bool(x.abs().max() == 0) for x in levels] == [level == 1, level == 2, False]
        network = variants.build(TINY, variants.without_modulation(level), 0)
        code, differing = network.encode_style(style), network.encode_style(other)
        # Without FiLM's weights (zero at first) a level's statistics enter by its modulation alone.
        swapped = code._replace(**{f"level{level}": getattr(differing, f"level{level}")})
        torch.testing.assert_close(network.render(content, swapped), network.render(content, code))
        assert not torch.allclose(
            KBStyle.render(variants.build(TINY, None, 0), content, swapped), network.render(content, code)
        )
        kept = code._replace(**{f"level{3 - level}": getattr(differing, f"level{3 - level}")})
        assert not torch.allclose(network.render(content, kept), network.render(content, code))
    one, two, three = variants.build(TINY, variants.own_statistics, 0).content_encoder(content)
    for feature in (one, two):
        torch.testing.assert_close(moments(feature).mean, torch.zeros_like(moments(feature).mean), atol=1e-4, rtol=0)
    torch.testing.assert_close(three, variants.build(TINY, None, 0).content_encoder(content)[2])


def test_grouped_blocks_have_four_groups(parts: dict[str, ModuleType]) -> None:
    network = parts["variants"].build(TINY, parts["variants"].grouped_blocks, 0)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    assert len(blocks) == 3
    assert {(block.reach.groups, block.reach.kernel_size) for block in blocks} == {(4, (3, 3))}


@pytest.fixture
def study(tmp_path: Path, parts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Tiny perceptual networks, a guide that counts, pictures for training and for validation."""
    main = parts["__main__"]
    made = np.random.default_rng(0)
    for kind in ("content", "style"):
        (tmp_path / kind).mkdir()
        for name in ("tower", "wave", "tree7", "photo1", "photo2", "b3", "picture40"):
            pixels = made.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{kind[0] if name != 'tower' else ''}{name}.jpg")
    torch.manual_seed(0)
    under = VGG("tiny", (4,) * 5, stages=tuple((1, str(n)) for n in range(1, 6)), content_layer="relu4_1")
    judging = SqueezeNet()
    calls: list[int] = []

    def paint(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        calls.append(len(content))
        return (content + style) / 2

    guide = System("half", paint, "0" * 64, 0, 0, lambda content, style: 0)
    monkeypatch.setattr(main, "load_perceptual", lambda path: judging if "squeezenet" in path.name else under)
    monkeypatch.setattr(main, "load_peer", lambda name, folder: guide)
    monkeypatch.setattr(main, "STUDENT", TINY)
    numbers = {"steps": 2, "batch": 1, "crop": 32, "size": 32, "pairs": 1, "rounds": 0}
    arguments = [f"--{name}={value}" for name, value in numbers.items()]
    arguments += ["--seeds", "0", "1", "--widths", *map(str, TINY.widths)]
    out = tmp_path / "out" / "ablations.json"
    return {
        "out": out,
        "calls": calls,
        "arguments": [*arguments, "--data", str(tmp_path), "--peers", str(tmp_path), "--out", str(out)],
    }


ARMS = ["base", "style weight × ½", "no skip at level 1"]


def test_arms_are_trained_measured_and_not_run_again(
    study: dict[str, Any],
    parts: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = parts["__main__"]
    trained: list[tuple[str, int]] = []
    train = main.train

    def counted(arm: Any, config: Any, crops: Any, setting: Any) -> Any:
        trained.append((arm.name, crops.seed))
        return train(arm, config, crops, setting)

    monkeypatch.setattr(main, "train", counted)
    main.main([*study["arguments"], "--arms", *ARMS[:2]])
    assert trained == [("base", 1), ("base", 0), (ARMS[1], 0)]
    assert len(study["calls"]) == 4  # two seeds of two crops: the third arm needs no picture that isn't there
    report = json.loads(study["out"].read_text(encoding="utf-8"))
    assert report["arms"]["base"]["bytes"] == len(encoded(KBStyle(TINY)))
    assert {name: list(arm["seeds"]) for name, arm in report["arms"].items()} == {"base": ["1", "0"], ARMS[1]: ["0"]}
    assert set(report["arms"]["base"]["seeds"]["0"]["values"]) == {
        "ssim",
        "detail",
        "style",
        "luminance_style",
        "content",
    }

    main.main([*study["arguments"], "--arms", *ARMS])
    assert trained[3:] == [(ARMS[2], 0)]
    again = json.loads(study["out"].read_text(encoding="utf-8"))
    assert {name: again["arms"][name] for name in report["arms"]} == report["arms"]
    text = capsys.readouterr().out
    assert "no skip at level 1" in text
    assert "not shown" in text

    with pytest.raises(SystemExit, match="figures of another plan \\(other crop\\)"):
        main.main([*study["arguments"], "--arms", "base", "--crop", "40"])
    # An arm that has become another one is run again; one that hasn't isn't.
    again["arms"][ARMS[1]]["loss"]["style_weight"] = 7.0
    study["out"].write_text(json.dumps(again), encoding="utf-8")
    main.main([*study["arguments"], "--arms", *ARMS])
    assert trained[4:] == [(ARMS[1], 0)]


def test_what_is_remembered_is_what_would_be_computed(study: dict[str, Any], parts: dict[str, ModuleType]) -> None:
    running, main = parts["running"], parts["__main__"]
    data = Path(study["arguments"][study["arguments"].index("--data") + 1])
    folders = [main.of_split(main.list_pictures(data / kind), "train") for kind in ("content", "style")]
    setting = running.Setting(
        TINY, *folders, main.load_perceptual(Path("5SE.pth")), main.load_peer("", ""), 2, 1, 32, 0.5, 1e-3
    )
    crops = running.Crops(setting, seed=0)
    content, style = (x[None] for x in crops.samples[0])
    network = KBStyle(TINY)
    plain = StyleTask(network, setting.perceptual, guide=lambda c, s: (c + s) / 2)(content, style).losses.terms
    for _ in range(2):
        remembered = StyleTask(network, crops.perceptual, guide=crops.guide)(content, style).losses
        for name, term in plain.items():
            torch.testing.assert_close(remembered.terms[name], term)
    remembered.total.backward()
    assert all(p.grad is not None for p in network.decoder.output.parameters())


def report_of(base: list[list[float]], arm: list[float]) -> dict[str, Any]:
    def entry(seeds: list[list[float]], reference: str = "base") -> dict[str, Any]:
        values = {
            str(n): {"values": dict.fromkeys(("style", "luminance_style", "content", "ssim"), v)}
            for n, v in enumerate(seeds)
        }
        return {"group": "loss", "reference": reference, "bytes": 1000, "time": None, "seeds": values}

    pairs = [[f"c{n}", f"s{n}"] for n in range(len(arm))]
    return {"plan": {"pairs": pairs}, "arms": {"base": entry(base), "other": entry([arm])}}


def test_a_difference_is_shown_where_neither_pairs_nor_seeds_explain_it(parts: dict[str, ModuleType]) -> None:
    table = parts["table"]
    base = [[1.0, 2.0, 3.0, 4.0], [1.1, 2.1, 3.1, 4.1], [0.9, 1.9, 2.9, 3.9]]
    found = table.difference(report_of(base, [0.1, 1.1, 2.0, 3.1]), "other", "style")
    assert found.apart.mean == pytest.approx(-0.925)
    deviation = statistics.stdev([2.5, 2.6, 2.4])
    assert found.noise == pytest.approx(
        4.302653 * deviation * (1 + 1 / 3) ** 0.5, rel=1e-5
    )  # t of 2 degrees of freedom
    assert found.shown
    assert not table.difference(report_of(base, [0.6, 1.6, 2.6, 3.7]), "other", "style").shown  # less than the seeds'
    assert not table.difference(report_of(base, [-9.0, 12.0, 2.0, 1.0]), "other", "style").shown  # of pairs that differ
    alone = table.difference(report_of(base[:1], [0.1, 1.1, 2.0, 3.1]), "other", "style")
    assert alone.noise is None
    assert not alone.shown
    lines = "\n".join(table.table(report_of(base, [0.1, 1.1, 2.0, 3.1])))
    assert lines.count("better") == 3  # a lower distance
    assert lines.count("worse") == 1  # a lower SSIM


def test_the_base_is_written_out_as_the_task_knows_it(parts: dict[str, ModuleType]) -> None:
    options = parts["arms"].OPTIONS
    assert set(options["style_weights"]) == set(STYLE_WEIGHTS)
    assert set(options["covariance_weights"]) == set(COVARIANCE_WEIGHTS)
    assert set(options["feature_weights"]) == set(FEATURE_WEIGHTS)
