"""Weights files: round trips bit for bit, int8 against numpy, the same bytes, damaged and foreign files, budgets."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from kbstyle_example import STUDENT, TEACHER, KBStyle, KBStyleConfig, weights_file
from kbstyle_example.weights_file import BUDGET, Stored, about, bundled, encoded, load_weights, save_weights
from skd.errors import ArgumentError, FileError

TINY = KBStyleConfig(widths=(3, 4, 5), fine_blocks=1, deep_blocks=1, style_blocks=0)
DTYPES: list[Stored] = ["float32", "float16", "int8"]
FOREIGN = "these aren't the weights of a KBStyle network"


@pytest.fixture
def network() -> KBStyle:
    net = KBStyle(TINY)
    for p in net.parameters():
        torch.nn.init.normal_(p)  # some are zero at first
    return net


@pytest.fixture
def path(network: KBStyle, tmp_path: Path) -> Path:
    save_weights(network, tmp_path / "net.safetensors", about={"trained": "3 steps"})
    return tmp_path / "net.safetensors"


def equal(first: KBStyle, second: KBStyle) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rewrite(path: Path, change: Any) -> None:
    """Change the tensors or the metadata of a file, with safetensors itself."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata.pop(weights_file.CHECKSUM, None)  # it has a test of its own
    change(tensors, metadata)
    save_file(tensors, path, metadata)


# --- whole files -----------------------------------------------------------------------------------------------------


def test_a_round_trip_is_exact(network: KBStyle, path: Path) -> None:
    for name in (path, str(path)):
        loaded = load_weights(name)
        assert equal(loaded, network)
        assert loaded.config == TINY
        assert not loaded.training
        assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    photo, painting = torch.rand(1, 3, 24, 32), torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(photo, painting), network(photo, painting))


def test_loaded_weights_are_the_networks_own(path: Path) -> None:
    with torch.no_grad():
        for p in load_weights(path).parameters():
            p.zero_()
    assert any(p.abs().max() > 0 for p in load_weights(path).parameters())


def test_the_file_says_all_and_its_size(network: KBStyle, path: Path) -> None:
    assert save_weights(network, path) == path.stat().st_size == len(encoded(network))
    assert {name: tuple(t.shape) for name, t in load_file(path).items()} == {
        name: tuple(t.shape) for name, t in network.state_dict().items()
    }


def test_metadata(network: KBStyle, path: Path) -> None:
    assert about(path)["trained"] == "3 steps"
    assert json.loads(about(path)["kbstyle"]) == {
        "widths": [3, 4, 5], "fine_blocks": 1, "deep_blocks": 1, "style_blocks": 0, "correction": 0,
    }  # fmt: skip
    save_weights(network, path, about={"kbstyle": "nonsense", "über": "ja\n“so”"})
    assert load_weights(path).config == TINY
    assert about(path)["über"] == "ja\n“so”"


def test_the_same_network_gives_the_same_bytes(network: KBStyle) -> None:
    facts = {name: name for name in "abcdefgh"}  # safetensors itself writes them in another order each time
    once = encoded(network, about=facts)
    assert all(encoded(network, about=facts) == once for _ in range(10))
    assert (8 + int.from_bytes(once[:8], "little")) % 8 == 0
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in load(once).items())


def test_memory_format_and_precision_make_no_difference(network: KBStyle, tmp_path: Path) -> None:
    expected = encoded(network)
    assert encoded(network.to(memory_format=torch.channels_last)) == expected
    save_weights(network.half(), tmp_path / "half.safetensors")
    loaded = load_weights(tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert equal(loaded, network.float())


def test_loading_leaves_the_random_state(path: Path) -> None:
    before = torch.random.get_rng_state()
    load_weights(path)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- smaller files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "budget"), [("float32", 200), ("float16", 104), ("int8", 60)])
def test_the_student_keeps_the_budgets(tmp_path: Path, dtype: Stored, budget: int) -> None:
    assert BUDGET == 200 * 1024
    facts = {"distilled": "1000000 steps, seed 9223372036854775807, bundled samples", "more": "x" * 500}
    size = save_weights(KBStyle(STUDENT), tmp_path / "student.safetensors", about=facts, dtype=dtype)
    assert size == (tmp_path / "student.safetensors").stat().st_size <= budget * 1024


def test_float16_is_the_nearest_half(network: KBStyle, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_weights(network, path, dtype="float16")
    for name, tensor in load_file(path).items():
        np.testing.assert_array_equal(tensor.numpy(), network.state_dict()[name].numpy().astype(np.float16))
    assert equal(load_weights(path), altered(network, lambda array: array.astype(np.float16).astype(np.float32)))


def altered(network: KBStyle, change: Any) -> KBStyle:
    """The network with other numbers, by numpy."""
    other = KBStyle(network.config)
    other.load_state_dict({k: torch.from_numpy(change(v.numpy())) for k, v in network.state_dict().items()})
    return other


def quantised(array: np.ndarray) -> np.ndarray:
    """What an int8 file keeps, number by number."""
    if array.ndim < 2:
        return array.astype(np.float16).astype(np.float32)
    result = np.zeros_like(array)
    for index, channel in enumerate(array):
        scale = np.abs(channel).max() / np.float32(127)
        for plane, out in zip(channel.reshape(len(channel), -1), result[index].reshape(len(channel), -1), strict=True):
            steps = plane.astype(np.float64) / scale
            values = np.floor(steps)
            for _ in range(round(float(steps.sum() - values.sum()))):
                values[np.argmax(steps - values)] += 1  # below its number by less than 1 before, above it after
            assert abs(values.sum() - steps.sum()) <= 0.5 + 1e-9
            assert np.abs(values - steps).max() <= 1
            out[:] = values.astype(np.float32) * scale
    return result


def test_int8_against_numpy(network: KBStyle, tmp_path: Path) -> None:
    path = tmp_path / "int8.safetensors"
    save_weights(network, path, dtype="int8", about={"trained": "3 steps"})
    loaded = load_weights(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert equal(loaded, altered(network, quantised))
    assert about(path)["trained"] == "3 steps"
    # The format, as its description has it.
    stored, state = load_file(path), network.state_dict()
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "values": torch.int8, "scales": torch.float32, "vectors": torch.float16,
    }  # fmt: skip
    first = state["content_encoder.level1.1.weight"]
    scales = first.abs().flatten(1).amax(1) / 127
    assert torch.equal(stored["scales"][:3], scales)
    kept = stored["values"][: first.numel()].view(first.shape) * scales.view(-1, 1, 1, 1)
    assert torch.equal(kept, loaded.state_dict()["content_encoder.level1.1.weight"])
    assert torch.equal(stored["vectors"][:3], state["content_encoder.level1.1.bias"].half())


def test_int8_keeps_what_constant_features_give() -> None:
    torch.manual_seed(0)
    planes = 254 * torch.rand(200, 49, dtype=torch.float64) - 127
    planes[0], planes[1] = 127, -127
    found = weights_file._rounded(planes)
    assert float((found.sum(1) - planes.sum(1)).abs().max()) <= 0.5 + 1e-9
    assert float((planes.round().sum(1) - planes.sum(1)).abs().max()) > 2  # each by itself doesn't
    assert torch.equal(found[:2], planes[:2])


def test_channels_of_zeros(network: KBStyle, tmp_path: Path) -> None:
    with torch.no_grad():
        network.decoder.up1.weight[1] = 0
    save_weights(network, tmp_path / "int8", dtype="int8")
    assert not load_weights(tmp_path / "int8").decoder.up1.weight[1].any()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_picture_stays(dtype: Stored, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = KBStyle(STUDENT).eval()
    save_weights(network, tmp_path / "small", dtype=dtype)
    photo, painting = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        difference = (load_weights(tmp_path / "small")(photo, painting) - network(photo, painting)).abs().max()
    assert 0 < difference < {"float16": 0.5 / 255, "int8": 5 / 255}[dtype]


def test_numbers_that_a_smaller_file_cant_hold(network: KBStyle, path: Path) -> None:
    before = path.read_bytes()
    with torch.no_grad():
        network.decoder.up1.bias[0] = 70_000
    save_weights(network, path)
    for dtype, name in (("float16", "decoder.up1.bias"), ("int8", "vectors")):
        with pytest.raises(ArgumentError, match=f"weights that {dtype} can't hold; got {name}; expected finite"):
            save_weights(network, path, dtype=dtype)  # type: ignore[arg-type]
    assert path.read_bytes() != before  # float32 can hold it
    with torch.no_grad():
        network.decoder.up1.weight[0] = float("nan")
    for stored in DTYPES:
        with pytest.raises(ArgumentError, match=f"weights that {stored} can't hold"):
            encoded(network, dtype=stored)
    with pytest.raises(ArgumentError, match="how to store weights; got int4; expected float32 or float16 or int8"):
        encoded(network, dtype="int4")  # type: ignore[arg-type]


# --- files that can't be used ----------------------------------------------------------------------------------------


@functools.cache
def written(dtype: Stored) -> bytes:
    torch.manual_seed(0)
    return encoded(KBStyle(TINY), about={"trained": "3 steps"}, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_refused_or_harmless(tmp_path: Path, dtype: Stored, data: st.DataObject) -> None:
    whole, path = bytearray(written(dtype)), tmp_path / "changed"
    header = 8 + int.from_bytes(whole[:8], "little")
    place = data.draw(st.integers(0, header - 1) | st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        loaded = load_weights(path)
    except FileError:
        return
    assert place < header
    path.write_bytes(written(dtype))
    expected = load_weights(path)
    assert loaded.config == expected.config
    assert equal(loaded, expected)


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_truncated_files(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FileError, match=f"{FOREIGN}.*{re.escape(str(path))}"):
        load_weights(path)
    with pytest.raises(FileError, match="the weights can't be read"):
        about(path)


def test_numbers_that_were_changed(path: Path) -> None:
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    assert about(path)["tensors_sha256"] == hashlib.sha256(whole[start:]).hexdigest()
    for place in (start, (start + len(whole)) // 2, len(whole) - 4):
        changed = bytearray(whole)
        changed[place] ^= 1  # of a number's last bits: nothing else can see it
        path.write_bytes(changed)
        with pytest.raises(FileError, match=f"{FOREIGN}.*changed after they were saved: their checksum is another"):
            load_weights(path)
    path.write_bytes(whole)
    assert load_weights(path).config == TINY


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(FileError, match=FOREIGN):
        load_weights(path)
    torch.save(KBStyle(TINY).state_dict(), path)
    with pytest.raises(FileError, match=FOREIGN):
        load_weights(path)
    save_file({"weight": torch.zeros(2)}, path)  # safetensors of another network
    with pytest.raises(FileError, match=f"{FOREIGN}.*KeyError: 'kbstyle'"):
        load_weights(path)
    assert about(path) == {}


def _without(tensors: dict[str, Any], _: Any) -> None:
    del tensors["decoder.up1.bias"]


def _more(tensors: dict[str, Any], _: Any) -> None:
    tensors["decoder.up9.bias"] = torch.zeros(1)


def _other_shape(tensors: dict[str, Any], _: Any) -> None:
    tensors["decoder.up1.bias"] = torch.zeros(1)


def _nan(tensors: dict[str, Any], _: Any) -> None:
    tensors["decoder.up1.bias"][1] = float("nan")


def _integers(tensors: dict[str, Any], _: Any) -> None:
    tensors["decoder.up1.bias"] = tensors["decoder.up1.bias"].int()


def _config(**changes: object) -> Any:
    def change(_: Any, metadata: dict[str, str]) -> None:
        metadata["kbstyle"] = json.dumps(json.loads(metadata["kbstyle"]) | changes)

    return change


def _no_json(_: Any, metadata: dict[str, str]) -> None:
    metadata["kbstyle"] = "{"


def _list(_: Any, metadata: dict[str, str]) -> None:
    metadata["kbstyle"] = "[1, 2]"


@pytest.mark.parametrize(
    "change",
    [
        _without, _more, _other_shape, _nan, _integers, _no_json, _list,
        _config(widths=[3, 4, 6]), _config(widths=[3, 4]), _config(widths=[0, 4, 5]), _config(widths="wide"),
        _config(widths=[10**9, 10**9, 10**9]), _config(deep_blocks=2), _config(deep_blocks=10**12),
        _config(style_blocks="1"), _config(unknown=1), _config(correction=3), _config(correction=10**12),
    ],
)  # fmt: skip
def test_tampered_files(path: Path, change: Any) -> None:
    rewrite(path, lambda *_: None)
    load_weights(path)  # rewriting alone does no harm
    rewrite(path, change)
    with pytest.raises(FileError, match=FOREIGN) as error:
        load_weights(path)
    assert len(str(error.value)) < 600


def test_more_blocks_than_tensors_are_refused_before_they_are_built(path: Path) -> None:
    rewrite(path, _config(deep_blocks=300))  # few enough to build, so that a guard that is gone shows and doesn't hang
    with pytest.raises(FileError, match="more blocks than tensors"):
        load_weights(path)


def _fewer_values(tensors: dict[str, Any], _: Any) -> None:
    tensors["values"] = tensors["values"][:-1].clone()


def _more_scales(tensors: dict[str, Any], _: Any) -> None:
    tensors["scales"] = torch.cat([tensors["scales"], torch.ones(1)])


def _unsigned(tensors: dict[str, Any], _: Any) -> None:
    tensors["values"] = tensors["values"].view(torch.uint8)


def _short_scales(tensors: dict[str, Any], _: Any) -> None:
    tensors["scales"] = tensors["scales"].half()


def _endless(tensors: dict[str, Any], _: Any) -> None:
    tensors["scales"][3] = float("inf")


def _no_vectors(tensors: dict[str, Any], _: Any) -> None:
    del tensors["vectors"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_fewer_values, r"values should be \d+ numbers of torch.int8"),
        (_more_scales, r"scales should be \d+ numbers of torch.float32"),
        (_unsigned, "values should be"),
        (_short_scales, "scales should be"),
        (_endless, "weights that aren't finite numbers"),
        (_no_vectors, ""),
        (_config(widths=[3, 4, 6]), "values should be"),
        (_config(widths=[10**9] * 3), "Storage size|values should be"),
        (_config(widths=[10**4] * 3), "values should be"),
        (_config(deep_blocks=10**12), "more blocks than tensors"),
    ],
)
def test_tampered_int8_files(network: KBStyle, tmp_path: Path, change: Any, reason: str) -> None:
    path = tmp_path / "int8"
    save_weights(network, path, dtype="int8")
    rewrite(path, lambda *_: None)
    load_weights(path)
    rewrite(path, change)
    with pytest.raises(FileError, match=f"{FOREIGN}.*{reason}"):
        load_weights(path)


def test_unknown_names_get_the_closest(tmp_path: Path) -> None:
    for function in (load_weights, about):
        with pytest.raises(FileError, match=r"no such weights; got techer.*did you mean 'teacher'\?"):
            function("techer")
        with pytest.raises(FileError, match="no such weights"):
            function(tmp_path)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_failing_write_leaves_the_old_file(network: KBStyle, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match=r"can't be written.*No space left"):
        save_weights(KBStyle(TINY), path)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/net.safetensors", "file/net.safetensors", "folder"])
def test_places_that_cant_be_written(network: KBStyle, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=f"the weights can't be written.*{name}"):
        save_weights(network, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# --- what comes with the package -------------------------------------------------------------------------------------


def test_the_bundled_teacher() -> None:
    path = bundled()["teacher"]
    assert path.parent == weights_file.FOLDER
    assert 4 * sum(p.numel() for p in KBStyle(TEACHER).parameters()) < path.stat().st_size < 2_650_000
    network = load_weights("teacher")
    assert network.config == TEACHER
    assert network.config.widths == (32, 64, 128)
    assert "trained" in about("teacher")
    assert set(about("teacher")) >= {"kbstyle", "trained"}


def test_the_bundled_kbstyle_keeps_its_budgets() -> None:
    whole = load_weights("kbstyle")
    assert whole.config == STUDENT
    for name, budget, error in (
        ("kbstyle", BUDGET, 0),
        ("kbstyle-float16", 104 << 10, 1e-3),
        ("kbstyle-int8", 60 << 10, 0.02),
    ):
        assert bundled()[name].stat().st_size <= budget
        for key, value in load_weights(name).state_dict().items():
            torch.testing.assert_close(value, whole.state_dict()[key], rtol=0, atol=error * float(value.abs().max()))
    assert {"distilled", "teacher"} <= set(about("kbstyle"))


def test_all_that_lies_in_the_folder_is_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_file, "FOLDER", tmp_path)
    assert bundled() == {}
    for name, dtype in (("kbstyle", "float32"), ("kbstyle-float16", "float16"), ("kbstyle-int8", "int8")):
        save_weights(KBStyle(TINY), tmp_path / f"{name}.safetensors", dtype=dtype)  # type: ignore[arg-type]
        assert load_weights(name).config == TINY
    assert list(bundled()) == ["kbstyle", "kbstyle-float16", "kbstyle-int8"]


@pytest.mark.parametrize("name", ["teacher", "kbstyle", "kbstyle-float16", "kbstyle-int8"])
def test_bundled_weights_take_on_the_painting(name: str) -> None:
    network = load_weights(name)
    painting = torch.tensor([0.9, 0.5, 0.1]).view(1, 3, 1, 1) + 0.05 * torch.randn(1, 3, 64, 64)
    photograph = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64).clone()
    with torch.inference_mode():
        red, _, blue = network(photograph, painting.clamp(0, 1)).mean(dim=(0, 2, 3)).tolist()
    assert red - blue > 0.1  # the photograph is grey, the painting orange


@pytest.mark.parametrize("shape", [None, "1"])
def test_weights_of_another_version_of_the_layers(path: Path, shape: str | None) -> None:
    """They would fit by name and size, and paint something else."""

    def change(_: Any, metadata: dict[str, str]) -> None:
        metadata.pop("shape")
        metadata.update({} if shape is None else {"shape": shape})

    rewrite(path, change)
    with pytest.raises(FileError, match=r"of another version.*train them again"):
        load_weights(path)
