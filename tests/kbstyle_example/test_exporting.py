"""KBStyle in other runtimes: the same picture, from the whole network and from its two halves, and in eight bits."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kbstyle_example import rounding
from kbstyle_example.__main__ import main
from kbstyle_example.exporting import FORMATS, export_kbstyle
from kbstyle_example.graphs import graphs_of, pictures_of
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.quantising import halved, quantised, session, signal_to_noise
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, ExportError, FileError
from skd.exporting import Exported


@pytest.fixture(scope="module")
def network() -> KBStyle:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = KBStyle(KBStyleConfig((3, 4, 5), fine_blocks=0, deep_blocks=1, style_blocks=0, correction=3)).eval()
        if network.correction is not None:
            nn.init.normal_(network.correction.last.weight, std=0.3)  # at first it corrects nothing
        return network


@pytest.fixture(scope="module")
def exported(network: KBStyle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three graphs, as the command writes them: once, since it takes seconds."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    save_weights(network, folder / "small.safetensors")
    assert main(["export", "--weights", str(folder / "small.safetensors"), "-o", str(folder / "out")]) == 0
    return folder / "out"


def test_onnx_gives_the_same_picture(network: KBStyle, exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["small-paint.onnx", "small-style.onnx", "small.onnx"]
    sessions = {name: session((exported / f"small{name}.onnx").read_bytes()) for name in ("", "-style", "-paint")}
    for (height, width), style_size in (((61, 83), (50, 34)), ((64, 48), (16, 40))):
        content, style = torch.rand(1, 3, height, width), torch.rand(1, 3, *style_size)
        with torch.inference_mode():
            wanted = network(content, style).clamp(0, 1)
        (picture,) = sessions[""].run(None, {"content": content.numpy(), "style": style.numpy()})
        torch.testing.assert_close(torch.from_numpy(picture), wanted, rtol=0, atol=1e-4)
        (code,) = sessions["-style"].run(None, {"style": style.numpy()})
        assert code.shape == (1, 2 * (3 + 4 + 5))
        (picture,) = sessions["-paint"].run(None, {"content": content.numpy(), "code": code})
        torch.testing.assert_close(torch.from_numpy(picture), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", ["openvino", "ncnn", "coreml"])
def test_what_is_written_is_checked(
    network: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Every graph is handed to `skd.export`, at three sizes where it has them, and a picture may be 1/255 off."""
    seen: list[tuple[Any, ...]] = []

    def export(graph: Any, example: Any, path: Path, *, checks: Any, tolerance: float) -> Exported:
        with torch.no_grad():
            shapes = [tuple(graph(*call).shape) for call in (example, *checks)]
        seen.append((path.name, shapes, tolerance))
        return Exported(path, 0, {}, 0.0)

    monkeypatch.setattr("kbstyle_example.exporting.export", export)
    done = export_kbstyle(network, tmp_path, format=format, size=(64, 48))
    ending = FORMATS[format]
    assert [each.path.name for each in done] == [f"kbstyle{part}{ending}" for part in ("", "-style", "-paint")]
    (_, pictures, off), (_, codes, _), (_, painted, paint_off) = seen
    assert off == paint_off == 1 / 255
    assert codes == [(1, 24)] * len(pictures)
    assert pictures == painted
    assert (
        pictures
        == {
            "openvino": [(1, 3, 72, 104), (1, 3, 67, 90), (1, 3, 128, 64)],
            "ncnn": [(1, 3, 72, 104), (1, 3, 64, 88), (1, 3, 128, 64)],  # multiples of 8
            "coreml": [(1, 3, 48, 64)],  # height and width; what was asked for
        }[format]
    )


def test_all_three_are_written_or_none(network: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(graph: Any, example: Any, path: Path, **_: Any) -> Exported:
        if bad and path.stem.endswith(bad):
            raise ExportError("it answers otherwise")
        if path.suffix == ".mlpackage":  # a folder
            path.mkdir()
            (path / "weights").write_text(word)
        else:
            path.write_text(word)
        return Exported(path, 3, {}, 0.0)

    monkeypatch.setattr("kbstyle_example.exporting.export", export)
    for format in ("torch-export", "coreml"):
        ending, folder = FORMATS[format], tmp_path / format
        names = [f"kbstyle{part}{ending}" for part in ("-paint", "-style", "")]
        word, bad = "old", "-paint"
        with pytest.raises(ExportError, match="it answers otherwise"):
            export_kbstyle(network, folder, format=format, size=(32, 32))
        assert list(folder.iterdir()) == []
        for word, bad, there in (("old", "", "old"), ("new", "-paint", "old"), ("new", "", "new")):  # noqa: B007
            with contextlib.nullcontext() if not bad else pytest.raises(ExportError):
                export_kbstyle(network, folder, format=format, size=(32, 32))
            assert sorted(path.name for path in folder.iterdir()) == names
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert [path.read_text() for path in files] == [there] * 3
    (tmp_path / "taken" / "kbstyle.pt2").mkdir(parents=True)
    with pytest.raises(FileError, match=r"kbstyle\.pt2' can't be written; got Is a directory"):
        export_kbstyle(network, tmp_path / "taken", format="torch-export")


@pytest.mark.parametrize("activations", [None, 30.0])
def test_eight_bits_stay_near(exported: Path, activations: float | None) -> None:
    import onnx

    content = (exported / "small.onnx").read_bytes()
    content_picture, style = torch.rand(2, 1, 3, 32, 40).numpy()
    feed = {"content": content_picture, "style": style}
    done = quantised(content, [feed], budget=0, activations=activations)
    assert done.kept == ()
    (wanted,), (got,) = (session(each).run(None, feed) for each in (content, done.content))
    assert signal_to_noise(wanted, got) > (40 if activations is None else 25)
    graph = onnx.load_from_string(done.content).graph
    quantizers = sum(node.op_type == "QuantizeLinear" for node in graph.node)
    assert (quantizers > 0) == (activations is not None) == bool(done.rounded)
    # By hand: the codes of a layer that isn't kept, channel by channel, the largest 127.
    floats = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer}
    codes = [onnx.numpy_helper.to_array(each) for each in onnx.load_from_string(done.content).graph.initializer]
    weight = floats["network.content_encoder.level2.0.weight"]
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    expected = np.rint(weight / largest * 127).astype(np.int8)
    assert any(each.shape == expected.shape and each.dtype == np.int8 and (each == expected).all() for each in codes)


def weight_sizes(content: bytes) -> dict[str, int]:
    import onnx

    graph = onnx.load_from_string(content).graph
    return {each.name: len(each.raw_data) for each in graph.initializer if each.name.endswith("weight")}


def test_the_layers_that_lose_the_most_stay_wide(exported: Path) -> None:
    content = (exported / "small.onnx").read_bytes()
    feeds = [{"content": np.zeros((1, 3, 16, 16), "f") + 0.3, "style": np.eye(16, dtype="f")[None, None].repeat(3, 1)}]
    everything = quantised(content, feeds, budget=10**6)
    assert set(everything.kept) == set(everything.losses)
    # With room for one of the two largest, it is the one that loses more of the picture by the byte.
    sizes = {name: each for name, each in weight_sizes(content).items() if each == max(weight_sizes(content).values())}
    assert everything.kept.index(max(sizes, key=everything.losses.__getitem__)) == min(
        map(everything.kept.index, sizes)
    )
    (got,), (wanted,) = (session(each).run(None, feeds[0]) for each in (everything.content, content))
    np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ArgumentError, match="no pictures to calibrate on"):
        quantised(content, [], budget=0)


def test_half_precision_is_of_the_weights_alone(exported: Path) -> None:
    content = (exported / "small.onnx").read_bytes()
    feed = {"content": np.random.default_rng(0).random((1, 3, 32, 40), "f"), "style": np.ones((1, 3, 16, 16), "f")}
    (got,), (wanted,) = (session(each).run(None, feed) for each in (halved(content), content))
    assert got.dtype == np.float32
    assert 55 < signal_to_noise(wanted, got) < 120
    assert len(halved(content)) < len(content)


@pytest.fixture
def without_exporting(network: KBStyle, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 files are there already."""
    names = {"": ("content", "style"), "-style": ("style",), "-paint": ("content", "code")}

    def export(graph: Any, example: Any, path: Path, **_: Any) -> Exported:
        part = path.stem.removeprefix("small").removeprefix("tiny")
        source = exported / f"small{part}.onnx"
        return Exported(source, source.stat().st_size, dict.fromkeys(names[part], (1,)), 0.0)

    monkeypatch.setattr(rounding, "export", export)
    monkeypatch.setattr(rounding, "CALIBRATION", 1)


@pytest.mark.usefixtures("without_exporting")
def test_eight_bits_are_written_whole_or_not_at_all(
    network: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export_kbstyle(network, tmp_path, format="onnx-int8", name="small")
    names = ["small-int8.onnx", "small-style-int8.onnx", "small-paint-int8.onnx"]
    assert [each.path.name for each in done] == names
    assert all(each.path.stat().st_size == each.bytes for each in done)
    assert "dB at least; " in str(done[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    monkeypatch.setattr(rounding, "LEAST", 1000.0)
    with pytest.raises(ExportError, match=r"the graph tiny in eight bits answers otherwise.*1000 dB at least"):
        export_kbstyle(network, tmp_path, format="onnx-int8", name="tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_an_unknown_format_lists_the_known(network: KBStyle, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rf"got 'tflite'; expected {' or '.join(FORMATS)}"):
        export_kbstyle(network, tmp_path, format="tflite")
    with pytest.raises(ArgumentError, match=r"a size to export.*got \(100, 64\); expected width and height, multiples"):
        export_kbstyle(network, tmp_path, format="coreml", size=(100, 64))


def test_graphs_of_halves_make_the_whole(network: KBStyle) -> None:
    (_, whole, calls, _), (_, style, styles, _), (_, paint, halves, _) = graphs_of(network, pictures_of("onnx"))
    for call, painting, (content, code) in zip(calls, styles, halves, strict=True):
        torch.testing.assert_close(style(*painting), code)
        torch.testing.assert_close(paint(content, code), whole(*call))
