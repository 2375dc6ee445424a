"""Weights files: round trips bit for bit, reproducible bytes, damaged and foreign files, atomic writes, the budget."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from kbstyle_example import STUDENT, TEACHER, KBStyle, KBStyleConfig, weights_file
from kbstyle_example.weights_file import BUDGET, about, bundled, encoded, load_weights, save_weights
from skd.errors import FileError

TINY = KBStyleConfig(widths=(3, 4, 5), fine_blocks=1, content_blocks=1, style_blocks=0)
FOREIGN = "these aren't the weights of a KBStyle network"


@pytest.fixture
def network() -> KBStyle:
    return KBStyle(TINY)


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
        "widths": [3, 4, 5], "fine_blocks": 1, "content_blocks": 1, "style_blocks": 0,
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


def test_the_student_keeps_the_budget(tmp_path: Path) -> None:
    assert BUDGET == 200 * 1024
    facts = {"distilled": "1000000 steps, seed 9223372036854775807, bundled samples"}
    assert save_weights(KBStyle(STUDENT), tmp_path / "student.safetensors", about=facts) <= BUDGET


# --- files that can't be used ----------------------------------------------------------------------------------------


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
        _config(widths=[10**9, 10**9, 10**9]), _config(content_blocks=2), _config(content_blocks=10**12),
        _config(style_blocks="1"), _config(unknown=1),
    ],
)  # fmt: skip
def test_tampered_files(path: Path, change: Any) -> None:
    rewrite(path, lambda *_: None)
    load_weights(path)  # rewriting alone does no harm
    rewrite(path, change)
    with pytest.raises(FileError, match=FOREIGN) as error:
        load_weights(path)
    assert len(str(error.value)) < 600


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
    assert 2_595_504 < path.stat().st_size < 2_650_000
    network = load_weights("teacher")
    assert network.config == TEACHER
    assert network.config.widths == (32, 64, 128)
    assert "trained" in about("teacher")
    assert set(about("teacher")) >= {"kbstyle", "trained"}


def test_the_bundled_teacher_takes_on_the_painting() -> None:
    network = load_weights("teacher")
    painting = torch.tensor([0.9, 0.5, 0.1]).view(1, 3, 1, 1) + 0.05 * torch.randn(1, 3, 64, 64)
    photograph = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64).clone()
    with torch.inference_mode():
        red, _, blue = network(photograph, painting.clamp(0, 1)).mean(dim=(0, 2, 3)).tolist()
    assert red - blue > 0.1  # the photograph is grey, the painting orange
