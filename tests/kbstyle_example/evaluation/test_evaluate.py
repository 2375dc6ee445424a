"""The evaluation: what is measured, what is refused, how it goes on, and what the table says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.evaluation.evaluate import evaluate
from kbstyle_example.evaluation.intervals import interval
from kbstyle_example.evaluation.measures import Judge
from kbstyle_example.evaluation.pairs import choose_pairs, square
from kbstyle_example.evaluation.results import RESULTS, Results
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.peers import System
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.splits import split
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError

SMALL = KBStyleConfig(widths=(4, 6, 8), fine_blocks=1, deep_blocks=1, style_blocks=1)


class Tiny(Perceptual):
    layers, content_layer, smallest_side = ("a", "b"), "b", 8

    def __init__(self, name: str = "tiny") -> None:
        super().__init__()
        self.name = name
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.freeze()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.a(self.checked(image)))
        return {"a": a, "b": F.relu(self.b(a))}


class Counted:
    """A system that blends content and style, and notes how often it was asked."""

    def __init__(self, name: str, share: float, *, sha256: str | None = None) -> None:
        self.calls = 0
        self.stop_after = math.inf

        def run(content: Tensor, style: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > self.stop_after:
                raise KeyboardInterrupt
            return (1 - share) * content + share * F.interpolate(style, content.shape[-2:])

        self.system = System(name, run, sha256 or name * 8, 1000, 10, lambda content, style: content[0] * content[1])


@pytest.fixture
def contents(tmp_path: Path) -> list[Path]:
    return pictures(tmp_path / "contents", 4, 0)


@pytest.fixture
def styles(tmp_path: Path) -> list[Path]:
    return pictures(tmp_path / "styles", 3, 1)


def pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """Noise of different colours, named so that none of it is for training."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    names = [name for name in (f"p{number}.png" for number in range(400)) if split(name) != "train"][:count]
    for name in names:
        pixels = random.uniform(0, 256, (24, 30, 3)) * random.uniform(0.2, 1, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return [folder / name for name in names]


def run(
    systems: Any, contents: list[Path], styles: list[Path], out: Path, net: Perceptual | None = None, **options: Any
) -> Results:
    torch.manual_seed(0)
    settings = {"size": 24, "timed": (), **options}
    return evaluate(systems, contents, styles, [net or Tiny()], out, **settings)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_every_pair_is_what_a_judge_says(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    net = Tiny()
    one, two = Counted("one", 0.2).system, Counted("two", 0.7).system
    results = evaluate([one, two], contents, styles, [net], tmp_path / "out", size=24, pairs=8, timed=())
    wanted = choose_pairs(4, 3, 8)
    assert results.data["plan"]["pairs"] == [[contents[c].name, styles[s].name] for c, s in wanted]
    for system in (one, two):
        values = results.values(system.name)
        for c, s in wanted:
            content, style = square(contents[c], 24), square(styles[s], 24)
            judged = Judge(content, style, [net])(system.stylize(content, style))
            assert {m: v[contents[c].name, styles[s].name] for m, v in values.items()} == pytest.approx(judged)
    assert results.means("one")["ssim"] == interval(results.values("one")["ssim"])
    pairs = results.values("one")["ssim"]
    apart = {pair: results.values("two")["ssim"][pair] - value for pair, value in pairs.items()}
    assert results.differences("two")["ssim"] == interval(apart)
    assert all(difference.mean == 0 for difference in results.differences("one").values())


def test_the_file_holds_it_all(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    net = Tiny()
    results = run([Counted("one", 0.2).system], contents, styles, tmp_path, net, pairs=4, seed=3)
    data = json.loads((tmp_path / RESULTS).read_text(encoding="utf-8"))
    plan = data["plan"]
    assert (plan["size"], plan["seed"], len(plan["pairs"]), plan["never_trained_on"]) == (24, 3, 4, False)
    assert plan["perceptuals"]["tiny"] == {
        "sha256": "",
        "input": "its own",
        "layers": ["a", "b"],
        "content_layer": "b",
    }
    assert all(len(digest) == 64 for kind in ("contents", "styles") for digest in plan[kind].values())
    assert data["systems"][0]["bytes"] == 1000
    assert data["systems"][0]["multiply_adds"] == 24 * 24
    assert data["systems"][0]["means"]["ssim"]["mean"] == results.means("one")["ssim"].mean
    assert set(data["runs"][0]) == {"code", "machine", "threads", "python", "versions"}
    assert str(tmp_path) not in (tmp_path / RESULTS).read_text(encoding="utf-8")
    assert str(Results.load(tmp_path)) == str(results)


def test_networks_and_files_are_systems(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    results = run({"mine": KBStyle(SMALL)}, contents, styles, tmp_path, pairs=2)
    assert results.names == ["mine"]
    assert results.facts("mine")["parameters"] == sum(p.numel() for p in KBStyle(SMALL).parameters())


def test_two_perceptual_networks(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    nets = [Tiny("first"), Tiny("second")]
    system = Counted("one", 0.2).system
    results = evaluate([system], contents, styles, nets, tmp_path, size=24, pairs=2, timed=())
    kinds = ("style", "luminance_style", "content")
    assert list(results.means("one")) == ["ssim", "detail", *(f"{net.name}/{kind}" for net in nets for kind in kinds)]


def test_times_and_memory(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    systems = [Counted("one", 0.2), Counted("two", 0.7)]
    given = [system.system for system in systems]
    options = {"pairs": 2, "timed": [(24, 16), (32, 32)], "rounds": 2, "memory": True, "reference": "two"}
    results = run(given, contents, styles, tmp_path, **options)
    rows = results.data["timings"]["rows"]
    assert set(rows) == {system.sha256 for system in given}
    assert rows[given[1].sha256]["24×16"]["ratio"] == 1
    assert rows[given[0].sha256]["32×32"]["low"] <= rows[given[0].sha256]["32×32"]["high"]
    assert "peak_memory" in rows[given[0].sha256]["24×16"]
    # The same systems aren't timed again; with another one beside them, all are.
    calls = systems[0].calls
    run(given, contents, styles, tmp_path, **options)
    assert systems[0].calls == calls
    run([*given, Counted("three", 0.5).system], contents, styles, tmp_path, **options)
    assert systems[0].calls > calls


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_where_it_was(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    straight = run([Counted("one", 0.2).system], contents, styles, tmp_path / "straight", pairs=None)
    stopped = Counted("one", 0.2)
    stopped.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        run([stopped.system], contents, styles, tmp_path / "out", pairs=None)
    with pytest.raises(DataError, match="the evaluation isn't finished"):
        Results.load(tmp_path / "out").table()
    again = Counted("one", 0.2)
    results = run([again.system], contents, styles, tmp_path / "out", pairs=None)
    assert again.calls == 12 - 5
    assert results.values("one") == straight.values("one")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RESULTS]


def test_another_system_adds_its_own_pairs_alone(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    one, two = Counted("one", 0.2), Counted("two", 0.7)
    run([one.system], contents, styles, tmp_path, pairs=6)
    results = run([one.system, two.system], contents, styles, tmp_path, pairs=6)
    assert (one.calls, two.calls) == (6, 6)
    assert results.names == ["one", "two"]


def test_weights_that_changed_are_measured_anew(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    first = run([Counted("one", 0.2).system], contents, styles, tmp_path, pairs=6)
    trained = Counted("one", 0.4, sha256="11" * 32)
    second = run([trained.system], contents, styles, tmp_path, pairs=6)
    assert trained.calls == 6
    assert first.means("one")["ssim"] != second.means("one")["ssim"]


def test_each_code_and_machine_is_noted_once(
    contents: list[Path], styles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Counted("one", 0.2).system
    run([system], contents, styles, tmp_path, pairs=2)
    run([system], contents, styles, tmp_path, pairs=2)
    assert len(Results.load(tmp_path).data["runs"]) == 1
    monkeypatch.setattr("kbstyle_example.evaluation.costs.code_version", lambda: "another commit")
    run([system], contents, styles, tmp_path, pairs=2)
    assert [run_["code"] for run_ in Results.load(tmp_path).data["runs"]][1:] == ["another commit"]


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"size": 20}, "size"),
        ({"pairs": 3}, "pairs"),
        ({"seed": 1}, "pairs, seed"),
        ({"never_trained_on": True}, "never"),
    ],
)
def test_another_plan_is_refused(
    options: dict[str, Any], differing: str, contents: list[Path], styles: list[Path], tmp_path: Path
) -> None:
    system = Counted("one", 0.2).system
    run([system], contents, styles, tmp_path, pairs=4)
    before = (tmp_path / RESULTS).read_bytes()
    with pytest.raises(
        FileError, match=rf"results of another plan; got .*{RESULTS}: other {differing}.*another output"
    ):
        run([system], contents, styles, tmp_path, **{"pairs": 4, **options})
    assert (tmp_path / RESULTS).read_bytes() == before


def test_other_pictures_or_networks_are_another_plan(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    system = Counted("one", 0.2).system
    run([system], contents, styles, tmp_path, pairs=4)
    with pytest.raises(FileError, match=r"another plan.* other perceptuals"):
        run([system], contents, styles, tmp_path, Tiny("other"), pairs=4)
    Image.new("RGB", (24, 24)).save(styles[0])
    with pytest.raises(FileError, match=r"another plan.* other styles"):
        run([system], contents, styles, tmp_path, pairs=4)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"plan": {}}', b'{"plan": 1, "runs": 1, "measured": 1}', b"\xff"]
)
def test_damaged_results(damage: bytes, contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_bytes(damage)
    with pytest.raises(FileError, match=r"the results can't be read.*remove the file"):
        run([Counted("one", 0.2).system], contents, styles, tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == damage


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there are no results"):
        Results.load(tmp_path)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_training_pictures_are_refused_unless_declared(
    contents: list[Path], styles: list[Path], tmp_path: Path
) -> None:
    name = next(name for name in (f"t{number}.png" for number in range(100)) if split(name) == "train")
    trained = contents[0].rename(contents[0].with_name(name))
    given = [trained, *contents[1:]]
    system = Counted("one", 0.2).system
    with pytest.raises(DataError, match=rf"contents that are for training; got 1 of 4: {name}.*was ever trained on"):
        run([system], given, styles, tmp_path / "out")
    with pytest.raises(DataError, match="styles that are for training"):
        run([system], contents[1:], [*styles, trained], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "declared as never trained on" in str(run([system], given, styles, tmp_path / "out", never_trained_on=True))


def test_arguments_that_make_no_sense(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    one = Counted("one", 0.2).system
    with pytest.raises(ArgumentError, match=r"systems to measure; got \['one', 'one'\]"):
        run([one, one], contents, styles, tmp_path)
    with pytest.raises(ArgumentError, match="systems to measure"):
        run([], contents, styles, tmp_path)
    with pytest.raises(ArgumentError, match="perceptual networks to measure"):
        evaluate([one], contents, styles, [], tmp_path)
    with pytest.raises(ArgumentError, match="no such system to refer to; got 'won'"):
        run([one], contents, styles, tmp_path, reference="won")
    with pytest.raises(ArgumentError, match="size of the pictures; got 8"):
        run([one], contents, styles, tmp_path, size=8)
    with pytest.raises(DataError, match="contents to measure on; got 0 files"):
        run([one], [], styles, tmp_path)
    with pytest.raises(DataError, match="styles to measure on; got 2 files"):
        run([one], contents, [styles[0], styles[0]], tmp_path)
    with pytest.raises(FileError, match=r"a picture can't be read; got .*missing"):
        run([one], contents, [styles[0].with_name("missing")], tmp_path, never_trained_on=True)
    with pytest.raises(DataError, match="too small to measure on"):
        run([one], contents, styles, tmp_path / "large", size=64)
    assert not (tmp_path / RESULTS).exists()


def test_a_picture_that_cant_be_used_shows_before_the_work(
    contents: list[Path], styles: list[Path], tmp_path: Path
) -> None:
    styles[-1].write_bytes(styles[-1].read_bytes()[:200])
    one = Counted("one", 0.2)
    with pytest.raises(FileError, match=r"the picture can't be read; got .*" + styles[-1].name):
        run([one.system], contents, styles, tmp_path, pairs=None)
    assert one.calls == 0


def test_a_measure_that_isnt_finite_names_the_pair(
    contents: list[Path], styles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbstyle_example.evaluation.evaluate.Judge.__call__", lambda self, result: {"ssim": math.nan})
    with pytest.raises(NonFiniteError, match=rf"one on {contents[0].name} and {styles[0].name}; got .*ssim"):
        run([Counted("one", 0.2).system], contents, styles, tmp_path, pairs=None)
    assert not (tmp_path / RESULTS).exists()


def test_results_that_cant_be_written(contents: list[Path], styles: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="the output folder can't be made"):
        run([Counted("one", 0.2).system], contents, styles, tmp_path / "file")


# --- the table -------------------------------------------------------------------------------------------------------


def made_up() -> Results:
    """Three contents and three styles; `near` is a little better in style on every pair, `far` worse in both."""
    names = ["a", "b", "c"]
    pairs = [[f"{c}.png", f"{s}.png"] for c in names for s in names]

    def measured(ssim: float, style: float) -> dict[str, dict[str, dict[str, float]]]:
        values: dict[str, dict[str, dict[str, float]]] = {}
        for index, (c, s) in enumerate(pairs):
            spread = 0.01 * (index % 4)
            values.setdefault(c, {})[s] = {"ssim": ssim + spread, "net/style": style * (1 + spread)}
        return values

    facts = {"bytes": 204_800, "parameters": 50_000, "multiply_adds": 1_234_000_000, "precision": "float32"}
    return Results(
        {
            "plan": {
                "size": 512,
                "seed": 7,
                "pairs": pairs,
                "never_trained_on": False,
                "contents": {"tower.jpg": "0"},
                "styles": {"picture5.jpg": "0"},
                "perceptuals": {
                    "net": {"sha256": "ab" * 32, "input": "RGB", "layers": ["x", "y"], "content_layer": "y"}
                },
            },
            "runs": [{"code": "c0ffee", "machine": "M", "threads": 2, "python": "3.11.7", "versions": {"torch": "2"}}],
            "measured": {"1": measured(0.5, 0.2), "2": measured(0.5, 0.1), "3": measured(0.4, 0.4)},
            "timings": {
                "setting": {"sizes": ["8×8"], "rounds": 5, "threads": 2, "memory": True},
                "rows": {
                    sha: {"8×8": {"ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1, "peak_memory": memory}}
                    for sha, ratio, memory in (("1", 1.0, 2**20), ("2", 2.0, 3 * 2**20), ("3", 3.0, None))
                },
            },
            "systems": [{"name": n, "sha256": s, **facts} for n, s in (("base", "1"), ("near", "2"), ("far", "3"))],
            "reference": "base",
        }
    )


def test_verdicts() -> None:
    results = made_up()
    assert results.verdict("near", "net/style") == "better"
    assert results.verdict("near", "ssim") == "even"
    assert results.verdict("far", "net/style") == "worse"
    assert results.verdict("far", "ssim") == "worse"  # a smaller SSIM
    with pytest.raises(ArgumentError, match=r"no system of this name was measured; got 'nea'.*did you mean 'near'"):
        results.means("nea")


def test_the_table_says_what_was_measured_and_how() -> None:
    text = made_up().table()
    for fact in (
        "512² pixels, 9 pairs of 3 contents and 3 styles, seed 7; for test and validation by their names",
        f"net: x, y; content y; input: RGB; sha256 {'ab' * 32}",
        "code c0ffee; M; 2 threads; Python 3.11.7, torch 2",
        "Differences to base",
        "-0.1013 ± 0.0018, -50% better",
        "204,800",
        "1.234 G",
        "2.00× (1.90–2.10)",
        "3 MiB",
        "median and quartiles of 5 rounds, batch 1, 2 threads",
    ):
        assert fact in text
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("system"))
    row = next(line for line in lines if line.startswith("near"))
    assert header.index("SSIM") + 4 == row.index(str(made_up().means("near")["ssim"])) + len("0.5133 ± 0.0166")
    assert all(line == line.rstrip() for line in lines)


def test_one_system_alone_has_no_differences_and_no_times_when_none_were_taken() -> None:
    results = made_up()
    results.data["systems"] = results.data["systems"][:1]
    results.data["timings"] = {}
    assert "Differences" not in results.table()
    assert "Times" not in results.table()
    assert "memory" not in results.table()
