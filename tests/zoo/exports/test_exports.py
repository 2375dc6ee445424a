"""Compressed networks of the zoo leave as files that answer as they do, at sizes that weren't traced."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import skd
from benchmarks.zoo.entries import ENTRIES
from benchmarks.zoo.trials import Trial
from skd import _formats

BY_NAME = {entry.name: entry for entry in ENTRIES}


def unet(widths: tuple[int, ...]) -> Any:
    """MONAI's, of three levels: an export takes as long as there are operators."""
    nets = importlib.import_module("monai.networks.nets")
    return nets.UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=widths, strides=(2, 2), num_res_units=1)


BY_NAME["monai-unet"] = replace(BY_NAME["monai-unet"], make=unet, full=(8, 16, 32))
# A picture to maps, a picture to a larger one by pixel shuffle, and a sound with an LSTM at its bottleneck.
OTHERS: dict[str, Callable[[], Tensor]] = {
    "monai-unet": lambda: torch.randn(1, 1, 40, 16),
    "srresnet": lambda: torch.randn(3, 3, 9, 7),
    "speech-unet": lambda: torch.randn(5, 1, 512),  # torch.export unrolls an LSTM, so its length is fixed
}


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Tracing takes longest, and both formats begin with the same."""
    kept: dict[int, Any] = {}
    trace = _formats.trace

    def once(model: Any, call: Any, dynamic: Any) -> Any:
        if id(model) not in kept:
            kept[id(model)] = (model, trace(model, call, dynamic))
        return kept[id(model)][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_formats, "trace", once)
        yield


@pytest.mark.parametrize("name", OTHERS)
def test_a_compressed_student_is_exported(name: str, tmp_path: Path) -> None:
    entry = BY_NAME[name]
    if entry.missing:
        pytest.skip(f"needs {entry.missing}: install the group zoo")
    runtime = pytest.importorskip("onnxruntime")
    trial = Trial(entry)
    assert trial.done is not None
    student, given, other = trial.student, trial.batches[0], OTHERS[name]()
    program = skd.export(student, given, tmp_path / "student.pt2", checks=[other])
    onnx = skd.export(student, given, tmp_path / "student.onnx", checks=[other])
    assert program.difference == 0
    assert onnx.difference < 1e-5
    # As small as the student, not as its teacher: no copy of a weight, and none of the wider network.
    assert onnx.bytes < 1.3 * trial.size(tmp_path) < sum(4 * p.numel() for p in trial.teacher.parameters())
    with torch.no_grad():
        wanted = student.eval()(other)
    torch.testing.assert_close(torch.export.load(program.path).module()(other), wanted)
    session = runtime.InferenceSession(onnx.path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-5)
