"""KBStyle in other runtimes: the same picture, from the whole network and from its two halves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kbstyle_example.__main__ import main
from kbstyle_example.exporting import FORMATS, export_kbstyle
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, ExportError


@pytest.fixture(scope="module")
def network() -> KBStyle:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return KBStyle(KBStyleConfig(widths=(3, 4, 5), fine_blocks=1, deep_blocks=1, style_blocks=0)).eval()


def test_onnx_gives_the_same_picture(network: KBStyle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    save_weights(network, tmp_path / "small.safetensors")
    assert main(["export", "--weights", str(tmp_path / "small.safetensors"), "-o", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    sessions = {
        name: runtime.InferenceSession(tmp_path / "out" / f"small{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("", "-style", "-paint")
    }
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


def test_a_program_gives_the_same_picture(network: KBStyle, tmp_path: Path) -> None:
    done = export_kbstyle(network, tmp_path, format="torch-export", name="small")
    program = torch.export.load(done[0].path).module()
    content, style = torch.rand(1, 3, 41, 56), torch.rand(1, 3, 24, 90)
    with torch.inference_mode():
        torch.testing.assert_close(program(content, style), network(content, style).clamp(0, 1), rtol=0, atol=1e-5)


def test_a_picture_further_away_isnt_written(network: KBStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbstyle_example.exporting.APART", -1.0)
    with pytest.raises(ExportError, match=r"answers the example otherwise"):
        export_kbstyle(network, tmp_path, format="torch-export")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_lists_the_known(network: KBStyle, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rf"got 'tflite'; expected {' or '.join(FORMATS)}"):
        export_kbstyle(network, tmp_path, format="tflite")
