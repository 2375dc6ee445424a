"""Exported files answer as torch does: read and run by their own runtimes, and refused where they don't."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skd
from skd import _formats
from skd.errors import ArgumentError, DataError, ExportError, FileError, MissingExtraError
from skd.exporting import FORMATS


class UNet(nn.Module):
    """One level, a norm with statistics of its own, two inputs by name and one that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.up, self.out = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor, shift: Tensor, flipped: bool = False) -> dict[str, Tensor]:
        low = self.norm(self.down(image - shift if flipped else image + shift))
        return {"picture": self.out(torch.cat([image, self.up(low.relu())], 1)), "code": low}


@pytest.fixture
def net() -> UNet:
    torch.manual_seed(0)
    made = UNet()
    made(torch.rand(4, 3, 8, 8), torch.zeros(1))  # the norm's running statistics are no longer 0 and 1
    return made


def call(batch: int, height: int, width: int) -> dict[str, Any]:
    return {"flipped": True, "shift": torch.rand(1), "image": torch.rand(batch, 3, height, width)}


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_the_file_answers_at_any_size(net: UNet, tmp_path: Path, ending: str) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path = tmp_path / f"net{ending}"
    done = skd.export(net, call(2, 16, 24), path, checks=[call(1, 8, 40), call(5, 32, 8)])
    assert done.bytes == path.stat().st_size
    assert done.difference < 1e-5
    batch, channels, height, width = done.inputs["image"]
    assert channels == 3
    assert len({batch, height, width}) == 3
    assert all(isinstance(size, str) for size in (batch, height, width))
    assert str(path) in str(done)
    assert net.training  # as it was, though the file is of eval mode
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    given = call(3, 24, 16)
    wanted = net.eval()(**given)
    if ending == ".pt2":
        got = torch.export.load(path).module()(**given)
        torch.testing.assert_close(got, wanted)
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(None, {name: given[name].numpy() for name in ("image", "shift")})
        for answer, want in zip(answers, wanted.values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(answer), want)


def test_fixed_sizes(tmp_path: Path) -> None:
    done = skd.export(nn.Conv2d(3, 2, 1), torch.rand(2, 3, 4, 6), tmp_path / "net.pt2", dynamic=False)
    assert done.inputs == {"input": (2, 3, 4, 6)}
    with pytest.raises(ExportError, match="doesn't run on check 1"):
        skd.export(
            nn.Conv2d(3, 2, 1),
            torch.rand(2, 3, 4, 6),
            tmp_path / "n.pt2",
            dynamic=False,
            checks=[torch.rand(2, 3, 9, 9)],
        )
    assert not (tmp_path / "n.pt2").exists()


class ByTheSize(nn.Module):
    """Tracing keeps one of the two ways, without a guard: sizes are read as numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tensor(float(x.detach().numpy().shape[-1]) if not torch.compiler.is_exporting() else 6.0)


def test_another_answer_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"as it was")
    with pytest.raises(
        ExportError, match=r"answers check 1 otherwise than torch.*got 2\.\de-01 apart; expected 1\.0e-04"
    ):
        skd.export(ByTheSize(), torch.rand(2, 6), path, checks=[torch.rand(2, 8)])
    assert path.read_bytes() == b"as it was"
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt2"]
    done = skd.export(ByTheSize(), torch.rand(2, 6), path, checks=[torch.rand(2, 8)], tolerance=0.5)
    assert 0.2 < done.difference < 0.3  # 2 of 8 to 9


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the network can't be exported.*branches on values"):
        skd.export(Branch(), torch.rand(2, 3), tmp_path / "net.pt2")
    with pytest.raises(
        ArgumentError, match=rf"no format to export has this ending.*net\.tflite.*{' or '.join(FORMATS)}"
    ):
        skd.export(nn.Identity(), torch.rand(2, 3), tmp_path / "net.tflite")
    with pytest.raises(DataError, match="doesn't fit the model's arguments"):
        skd.export(nn.Identity(), (torch.rand(2, 3), torch.rand(2)), tmp_path / "net.pt2")
    with pytest.raises(FileError, match="can't be written"):
        skd.export(nn.Conv1d(2, 2, 1), torch.rand(2, 2, 3), tmp_path / "nowhere" / "net.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "ending", "purpose", "extra"),
    [
        ("onnx", ".onnx", "exporting ONNX", "onnx"),
        ("onnxscript", ".onnx", "exporting ONNX", "onnx"),
        ("onnxruntime", ".onnx", "exporting ONNX", "onnx"),
        ("openvino", ".xml", "exporting for OpenVINO", "openvino"),
        ("ncnn", ".ncnn.param", "exporting for ncnn", "ncnn"),
        ("executorch", ".pte", "exporting for ExecuTorch", "executorch"),
        ("coremltools", ".mlpackage", "exporting for Core ML", "coreml"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, ending: str, purpose: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{purpose} needs the package '{package}[^']*'.*skd\[{extra}\]"):
        skd.export(nn.Identity(), torch.rand(2, 3), tmp_path / f"net{ending}")
    assert not list(tmp_path.iterdir())


class Small(nn.Module):
    """What some runtimes have no layer for is written in what they have: var_mean, addcmul."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.up, self.out = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        low = self.norm(self.down(image))
        variance, mean = torch.var_mean(low, (2, 3), keepdim=True, correction=0)
        low = torch.addcmul(mean, low - mean, 1 / (variance + 1).sqrt(), value=2)
        out: Tensor = self.out(torch.cat([image, self.up(low.relu())], 1))
        return out


@pytest.mark.parametrize(
    ("package", "ending", "others"),
    [("openvino", ".xml", 2), ("ncnn", ".ncnn.param", 1), ("executorch", ".pte", 0), ("coremltools", ".mlpackage", 0)],
)
def test_other_runtimes(tmp_path: Path, package: str, ending: str, others: int) -> None:
    """In float32 all of them are within rounding of torch; `others` is how far sizes may vary."""
    pytest.importorskip(package)
    net = Small()
    net(torch.rand(4, 3, 8, 8))
    checks = [torch.rand(1, 3, 40, 8), torch.rand(1, 3, 24, 56)][:others]
    done = skd.export(net, torch.rand(1, 3, 16, 24), tmp_path / f"net{ending}", checks=checks)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert done.bytes == sum(path.stat().st_size for path in found)
    if package == "coremltools":
        assert done.difference is None
        assert "not run here" in str(done)
    else:
        assert done.difference is not None
        assert done.difference < 1e-5


def test_ncnn_takes_one_sample(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    with pytest.raises(ExportError, match=r"ncnn takes one sample at a time; got a batch of 2"):
        skd.export(Small(), torch.rand(2, 3, 16, 24), tmp_path / "net.ncnn.param")
    with pytest.raises(ExportError, match=r"ncnn has no layer for some operators; got .*erfinv"):
        skd.export(Erfinv(), torch.rand(1, 3, 16, 24), tmp_path / "net.ncnn.param")
    assert not list(tmp_path.iterdir())


class Erfinv(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x)


def test_products_and_variances_in_other_words() -> None:
    x, one, two = torch.rand(3, 2, 3, 5, 4).unbind()
    for arguments in ({"dim": (2, 3)}, {"dim": -1, "correction": 0}, {"dim": None, "keepdim": True}):
        torch.testing.assert_close(_formats.var_mean(x, **arguments), torch.var_mean(x, **arguments))
    torch.testing.assert_close(_formats.addcmul(x, one, two), torch.addcmul(x, one, two))
    torch.testing.assert_close(_formats.addcmul(x, one, two, value=3), torch.addcmul(x, one, two, value=3))


def test_a_format_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them or none; what nothing here runs is unchecked, and says so."""

    def written(answer: Any) -> Any:
        files = {"": b"layers", ".bin": b"weights"} if answer is not None else {"a/b": b"one", "c": b"three"}
        return lambda model, call, dynamic: _formats.Written(files, {"x": (2, 3)}, answer)

    monkeypatch.setitem(FORMATS, ".two", written(lambda call: [call[0][0] + 0.5]))
    with pytest.raises(ExportError, match=r"answers the example otherwise.*got 5\.0e-01 apart"):
        skd.export(nn.Identity(), torch.zeros(2, 3), tmp_path / "net.two")
    assert not list(tmp_path.iterdir())
    done = skd.export(nn.Identity(), torch.zeros(2, 3), tmp_path / "net.two", tolerance=0.6)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "net.two": b"layers",
        "net.bin": b"weights",
    }
    assert (done.bytes, done.difference) == (13, 0.5)

    monkeypatch.setitem(FORMATS, ".folder", written(None))
    done = skd.export(nn.Identity(), torch.zeros(2, 3), tmp_path / "net.folder")
    assert (tmp_path / "net.folder" / "a" / "b").read_bytes() == b"one"
    assert (tmp_path / "net.folder" / "c").read_bytes() == b"three"
    assert (done.bytes, done.difference) == (8, None)
    assert str(done).endswith("8 bytes, x (2, 3); not run here")
    with pytest.raises(FileError, match="can't be written"):
        skd.export(nn.Identity(), torch.zeros(2, 3), tmp_path / "nowhere" / "net.folder")
    assert not (tmp_path / "nowhere").exists()


class Says(nn.Module):
    """Something else in the file than what the network says."""

    def __init__(self, said: Any) -> None:
        super().__init__()
        self.said = said

    def forward(self, x: Tensor) -> Any:
        return self.said


@pytest.mark.parametrize(
    ("said", "written", "apart"),
    [
        ([1.0, 2.0], [1.0, math.nan], "inf"),
        ([1.0, 2.0], [1.0, math.inf], "inf"),
        ([1.0, math.inf], [1.0, -math.inf], "inf"),
        ([1.0, -math.inf], [1.5, -math.inf], "5.0e-01"),  # a mask's infinity isn't what the rest is measured by
        ([1.0, 8.0], [1.0, 9.0], "1.2e-01"),
    ],
)
def test_answers_that_are_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[float], written: list[float], apart: str
) -> None:
    made = _formats.Written({"": b"it"}, {}, lambda call: [torch.tensor(written)])
    monkeypatch.setitem(FORMATS, ".fake", lambda model, call, dynamic: made)
    with pytest.raises(ExportError, match=rf"otherwise than torch does; got {re.escape(apart)} apart"):
        skd.export(Says(torch.tensor(said)), torch.zeros(2), tmp_path / "net.fake")
    assert not list(tmp_path.iterdir())
    assert skd.export(Says(torch.tensor(written).nan_to_num()), torch.zeros(2), tmp_path / "net.pt2").difference == 0


GIVEN: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no network": ({"model": print}, ArgumentError, "what is exported is a network; got builtin.*; expected an nn.Mod"),
    "no path": ({"path": 3}, ArgumentError, "where to export to is a path; got int; expected a str or a Path"),
    "one check": ({"checks": torch.rand(2, 3, 8, 8)}, ArgumentError, r"got Tensor; .* Remedy: checks=\[another\]"),
    "a tolerance": ({"tolerance": math.nan}, ArgumentError, "got nan; expected a number from 0 up"),
    "negative": ({"tolerance": -1}, ArgumentError, "got -1; expected a number from 0 up"),
    "an array": (
        {"example": np.zeros(3)},
        DataError,
        "the example doesn't fit .*; got ndarray; expected .*: a tensor, a",
    ),
    "too many": ({"checks": [(1, 2)]}, DataError, r"check 1 doesn't fit .*\(too many positional arguments\)"),
    "channels": ({"example": torch.rand(1, 4, 8, 8)}, DataError, "doesn't run on the example; got RuntimeError: Given"),
    "a check": ({"checks": [torch.rand(1, 4, 8, 8)]}, DataError, "doesn't run on check 1; got RuntimeError: Given"),
    "NaN": (
        {"example": torch.full((1, 3, 8, 8), math.nan)},
        ExportError,
        "the network itself answers the example with",
    ),
    "no tensor": ({"model": Says(3)}, ExportError, "answers the example without a tensor. Remedy: return the tensors"),
    "meta": (
        {"model": nn.Conv2d(3, 2, 1, device="meta")},
        ExportError,
        "weights have no values; .* meta. Remedy: load",
    ),
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_is_given_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setitem(FORMATS, ".pt2", None)  # no work is done for nothing
    wrong, kind, said = GIVEN[case]
    given = {"model": nn.Conv2d(3, 2, 1), "example": torch.rand(1, 3, 8, 8), "path": tmp_path / "net.pt2", **wrong}
    with pytest.raises(kind, match=said):
        skd.export(**given)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):  # before any work is done
        with pytest.raises(
            FileError, match=rf"net\.pt2' can't be written; got no folder .*{folder}'\. Remedy: make the"
        ):
            skd.export(nn.Identity(), torch.rand(2), tmp_path / folder / "net.pt2")
    made = _formats.Written({"": b"layers", ".bin": b"weights", "in/it": b"more"}, {}, None)
    monkeypatch.setitem(FORMATS, ".fake", lambda model, call, dynamic: made)
    (tmp_path / "net.fake").mkdir()
    for name, got in (
        ("net.fake", "Is a directory"),
        ("a\0b.fake", "embedded null"),
        (f"{'a' * 260}.fake", "too long"),
    ):
        with pytest.raises(FileError, match=f"can't be written; got .*{got}"):
            skd.export(nn.Identity(), torch.rand(2), tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(FileError, match=r"got a folder that nothing can be written into\. Remedy: name another"):
            skd.export(nn.Identity(), torch.rand(2), tmp_path / "net.pt2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "net.fake"]


def test_an_old_file_stays_and_no_part_of_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _formats.Written({".bin": b"weights", "": b"layers"}, {}, None)
    monkeypatch.setitem(FORMATS, ".fake", lambda model, call, dynamic: made)
    replaced = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).suffix == ".fake":
            raise OSError(28, "No space left on device")
        replaced(source, target)

    (tmp_path / "old.fake").write_bytes(b"old")
    monkeypatch.setattr("os.replace", full)
    for name in ("old.fake", "new.fake"):
        with pytest.raises(FileError, match="can't be written; got No space left on device"):
            skd.export(nn.Identity(), torch.rand(2), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.fake"]
    assert (tmp_path / "old.fake").read_bytes() == b"old"


def test_errors_of_others_are_one_plain_line() -> None:
    assert _formats.short(ValueError("\x1b[96mstep\x1b[0m\n  3")) == "ValueError: step 3"


def test_the_loggers_level_is_put_back(tmp_path: Path) -> None:
    logger = logging.getLogger("torch.onnx")
    before, logger.level = logger.level, logging.DEBUG
    try:
        with pytest.raises(ExportError, match="can't be exported"):
            skd.export(Branch(), torch.rand(2, 3), tmp_path / "net.onnx")
        assert logger.level == logging.DEBUG
    finally:
        logger.level = before
