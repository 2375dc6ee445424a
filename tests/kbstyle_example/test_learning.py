"""One painting learned by heart: what looks at the pictures, what is written, and that it comes nearer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kbstyle_example.__main__ import main
from kbstyle_example.beginning import scratch
from kbstyle_example.learning import Encoders, Learned, learn
from kbstyle_example.moments import EPSILON
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.perceptual import VGG
from kbstyle_example.splits import split
from kbstyle_example.weights_file import about, load_weights, save_weights
from skd.errors import DataError, FileError

WIDE = KBStyleConfig((6, 8, 12), fine_blocks=1, deep_blocks=1, style_blocks=1)
NARROW = KBStyleConfig((3, 4, 6), fine_blocks=1, deep_blocks=0, style_blocks=1, correction=5)
SMALL = {"crop": 32, "batch_size": 2}


@pytest.fixture(scope="module")
def teacher() -> KBStyle:
    return scratch(WIDE, seed=4).eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photographs, and a painting whose name says that it is for tests."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / name for name in ("wave.png", "hill.png", "picture5.png")]
    for path in paths:
        coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    assert split("picture5.jpg") == "test"
    paths[2] = paths[2].rename(folder / "picture5.jpg.png")
    return paths


@pytest.fixture(scope="module")
def done(
    teacher: KBStyle, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Learned, Path, KBStyle]:
    start, out = scratch(NARROW, seed=1), tmp_path_factory.mktemp("learned") / "mine.safetensors"
    found = learn(pictures[2], out, contents=pictures[:2], start=start, teacher=teacher, steps=60, **SMALL)  # type: ignore[arg-type]
    return found, out, start


def by_hand(network: KBStyle, image: Tensor, known: Tensor) -> list[Tensor]:
    """Features of both encoders, without their channels' means over `known` and over their deviations."""
    found = []
    for encoder in (network.content_encoder, network.style_encoder):
        for ours, others in zip(encoder(image), encoder(known), strict=True):
            mean = others.mean((2, 3), keepdim=True)
            deviation = (others.var((2, 3), correction=0, keepdim=True) + EPSILON).sqrt()
            found.append((ours - mean.mean(0)) / (deviation.mean(0) + 1e-3))
    return found


def test_the_encoders_see_in_units_of_what_they_know(teacher: KBStyle) -> None:
    torch.manual_seed(0)
    known, image = torch.rand(3, 3, 32, 40), torch.rand(2, 3, 24, 48)
    eyes = Encoders(teacher, known).freeze()
    with torch.no_grad():
        for (name, found), wanted in zip(eyes(image).items(), by_hand(teacher, image, known), strict=True):
            torch.testing.assert_close(found, wanted, msg=name)
    assert all(parameter.requires_grad for parameter in teacher.parameters())  # what is frozen is a copy
    assert not any(parameter.requires_grad for parameter in eyes.parameters())


def test_it_comes_nearer_to_the_painting(done: tuple[Learned, Path, KBStyle], teacher: KBStyle) -> None:
    found, _, _ = done
    assert found.steps == 60
    assert found.after < 0.7 * found.before
    assert found.teacher > 0


def test_the_figures_are_the_pictures(
    done: tuple[Learned, Path, KBStyle], teacher: KBStyle, pictures: list[Path]
) -> None:
    """Recomputed with the painting and the photographs as they are: near, for crops differ."""
    found, _, start = done
    content, painting = (
        torch.from_numpy(np.asarray(Image.open(path), dtype=np.float32) / 255).permute(2, 0, 1)[None]
        for path in (pictures[0], pictures[2])
    )
    distances = []
    with torch.no_grad():
        known = torch.cat([content, painting])
        wanted = by_hand(teacher, painting, known)
        for network in (start, found.network):
            painted = by_hand(teacher, network(content, painting).clamp(0, 1), known)
            each = []
            for ours, theirs in zip(painted, wanted, strict=True):
                apart = (ours.mean((2, 3)) - theirs.mean((2, 3))).square()
                apart = apart + (ours.std((2, 3), correction=0) - theirs.std((2, 3), correction=0)).square()
                energy = theirs.mean((2, 3)).square() + theirs.var((2, 3), correction=0)
                each.append(float(apart.mean() / energy.mean()))
            distances.append(np.mean(each))
    assert distances[0] == pytest.approx(found.before, rel=0.7)
    assert distances[1] < 0.8 * distances[0]


def test_the_file_is_the_network_and_nothing_is_left_over(
    done: tuple[Learned, Path, KBStyle], teacher: KBStyle
) -> None:
    found, out, start = done
    assert [path.name for path in out.parent.iterdir()] == ["mine.safetensors"]
    assert out.stat().st_size == found.size
    loaded, pair = load_weights(out), (torch.rand(1, 3, 24, 32), torch.rand(1, 3, 16, 24))
    assert loaded.config == NARROW
    with torch.no_grad():
        torch.testing.assert_close(loaded(*pair), found.network(*pair))
    assert about(out)["learned"] == "picture5.jpg.png, 60 steps, seed 0"
    for network, seed in ((teacher, 4), (start, 1)):  # neither is touched
        for name, value in scratch(network.config, seed).state_dict().items():
            assert torch.equal(value, network.state_dict()[name]), name


def test_under_a_perceptual_network_and_from_files(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    save_weights(teacher, tmp_path / "teacher.safetensors")
    save_weights(scratch(NARROW, seed=1), tmp_path / "start.safetensors")
    torch.manual_seed(0)
    tiny = VGG("tiny", (4, 6), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    found = learn(
        pictures[2],
        tmp_path / "new" / "mine.safetensors",
        contents=pictures[:2],
        start=tmp_path / "start.safetensors",
        teacher=tmp_path / "teacher.safetensors",
        perceptual=tiny,
        steps=2,
        **SMALL,  # type: ignore[arg-type]
    )
    assert found.steps == 2
    assert {path.name for path in tmp_path.iterdir()} == {"teacher.safetensors", "start.safetensors", "new"}


def test_mistakes_leave_nothing(teacher: KBStyle, pictures: list[Path], tmp_path: Path) -> None:
    options = {"contents": pictures[:2], "start": scratch(NARROW, seed=1), "teacher": teacher, "steps": 1, **SMALL}
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="none of the pictures can be used"):
        learn(tmp_path / "broken.png", tmp_path / "out.safetensors", **options)  # type: ignore[arg-type]
    with pytest.raises(FileError, match="the output folder can't be made"):
        learn(pictures[2], tmp_path / "file" / "out.safetensors", **options)  # type: ignore[arg-type]
    with pytest.raises(FileError, match=r"the weights can't be written; got .*, a folder"):  # before the training
        learn(tmp_path / "not there", tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(FileError, match="no such weights; got kbstile"):
        learn(pictures[2], tmp_path / "out.safetensors", start="kbstile")
    assert {path.name for path in tmp_path.iterdir()} == {"broken.png", "file"}


def test_the_command(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, object] = {}

    def spy(painting: Path, out: Path, **options: object) -> Learned:
        seen.update(painting=painting, out=out, **options)
        return Learned(scratch(NARROW, seed=0), 7, 1234, 0.25, 0.125, 0.1)

    spy.__signature__ = __import__("inspect").signature(learn)  # type: ignore[attr-defined]
    monkeypatch.setattr("kbstyle_example.learning.learn", spy)
    out = tmp_path / "mine.safetensors"
    options = [
        "--content",
        str(pictures[0].parent),
        "--steps",
        "7",
        "--crop",
        "64",
        "--seed",
        "5",
        "--start",
        "kbstyle",
    ]
    assert main(["learn", str(pictures[2]), "-o", str(out), *options]) == 0
    assert seen == {
        "painting": pictures[2], "out": out, "contents": sorted(pictures), "start": "kbstyle", "perceptual": None,
        "steps": 7, "crop": 64, "seed": 5,
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "style distance 0.250 before, 0.125 after 7 steps, the teacher's 0.100: under the teacher's encoders" in said
    assert f"{out}: 1,234 bytes" in said
