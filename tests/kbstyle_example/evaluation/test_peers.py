"""Published networks: our code against straight formulas; files found, told by checksum, refused."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.peers import PEERS, Peer, System, as_system, load_peer, load_peers, microast, wct
from kbstyle_example.peers.files import find_files, state_of
from kbstyle_example.peers.magenta import PREDICT, TRANSFORM, Magenta
from kbstyle_example.peers.system import in_bfloat16, of_module
from kbstyle_example.weights_file import save_weights
from skd.errors import ArgumentError, FileError, MissingExtraError, NonFiniteError, ShapeError

SMALL = KBStyleConfig(widths=(4, 6, 8), fine_blocks=1, deep_blocks=1, style_blocks=1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def picture(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(1, 3, height, width)


# --- MicroAST --------------------------------------------------------------------------------------------------------


def conv_by_hand(x: Tensor, state: dict[str, Tensor], name: str, stride: int = 1, groups: int = 1) -> Tensor:
    weight = state[f"{name}.conv_layer.weight"]
    side = weight.shape[-1] // 2
    padded = F.pad(x, (side,) * 4, mode="reflect")
    return F.conv2d(padded, weight, state[f"{name}.conv_layer.bias"], stride=stride, groups=groups)


def microast_by_hand(parts: dict[str, dict[str, Tensor]], content: Tensor, style: Tensor) -> Tensor:
    """The published network, from its state dicts under their published names, without a module."""

    def residual(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
        return x + conv_by_hand(F.relu(conv_by_hand(x, state, f"{name}.conv1")), state, f"{name}.conv2")

    def encode(x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = F.relu(conv_by_hand(x, state, "enc1.0"))
        x = F.relu(conv_by_hand(x, state, "enc1.2", 2, groups=16))
        x = F.relu(conv_by_hand(x, state, "enc1.4"))
        x = F.relu(conv_by_hand(x, state, "enc1.6", 2, groups=32))
        x = F.relu(conv_by_hand(x, state, "enc1.8"))
        one = residual(x, state, "enc1.10")
        return one, residual(one, state, "enc2.0")

    def adain(x: Tensor, s: Tensor) -> Tensor:
        flat, other = x.flatten(2), s.flatten(2)
        mean, deviation = flat.mean(2)[..., None, None], (flat.var(2) + 1e-5).sqrt()[..., None, None]
        return (x - mean) / deviation * (other.var(2) + 1e-5).sqrt()[..., None, None] + other.mean(2)[..., None, None]

    def modulated(x: Tensor, name: str, weight: Tensor, bias: Tensor) -> Tensor:
        inner = F.relu(weight * conv_by_hand(x, parts["decoder"], f"{name}.conv1") + bias * x)
        return x + weight * conv_by_hand(inner, parts["decoder"], f"{name}.conv2") + bias * inner

    def signal(x: Tensor, name: str) -> Tensor:
        return conv_by_hand(x, parts["modulator"], f"{name}.0", groups=64).mean((2, 3), keepdim=True)

    s1, s2 = encode(style, parts["style_encoder"])
    _, c2 = encode(content, parts["content_encoder"])
    x = modulated(adain(c2, s2), "dec1", signal(s2, "weight2"), signal(s2, "bias2"))
    x = modulated(adain(x, s1), "dec2", signal(s1, "weight1"), signal(s1, "bias1"))
    for first, groups in ((1, 32), (6, 16)):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.relu(conv_by_hand(x, parts["decoder"], f"dec3.{first}", groups=groups))
        x = F.relu(conv_by_hand(x, parts["decoder"], f"dec3.{first + 2}"))
    return conv_by_hand(x, parts["decoder"], "dec3.10")


def published_names(module: nn.Module) -> dict[str, Tensor]:
    """As the published files call them: every convolution lies in a module of its own."""
    return {
        f"{name.rpartition('.')[0]}.conv_layer.{name.rpartition('.')[2]}": value
        for name, value in module.state_dict().items()
    }


@pytest.fixture
def microast_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files like the published ones, with weights of our own; the registry knows their checksums."""
    folder = tmp_path / "peers" / "some" / "where"
    folder.mkdir(parents=True)
    net = microast.MicroAST()
    for part in microast.PARTS:
        torch.save(published_names(net.get_submodule(part)), folder / f"{part}_iter_160000.pth.tar")
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    monkeypatch.setitem(PEERS, "microast", replace(PEERS["microast"], files=files))
    return tmp_path / "peers"


def test_microast(microast_files: Path) -> None:
    system = load_peer("microast", microast_files)
    parts = {
        part: torch.load(path, weights_only=True)
        for part in microast.PARTS
        for path in microast_files.rglob(f"{part}_iter*")
    }
    content, style = picture(20, 28), picture(17, 30)
    torch.testing.assert_close(system.run(content, style), microast_by_hand(parts, content, style))
    assert system.parameters == 471_987
    assert system.size == sum(path.stat().st_size for path in microast_files.rglob("*.tar"))
    assert system.sha256 == PEERS["microast"].sha256
    assert (system.licence, system.precision) == ("MIT", "float32")


def test_microast_at_any_size() -> None:
    net = microast.MicroAST(2).eval()
    content, style = picture(18, 21), picture()
    whole = F.pad(content, (0, 3, 0, 2), mode="replicate")
    torch.testing.assert_close(net(content, style), net(whole, style)[..., :18, :21])


# --- WCT -------------------------------------------------------------------------------------------------------------


def test_whitening_and_colouring_gives_the_styles_mean_and_covariance() -> None:
    content, style = torch.randn(1, 5, 9, 11), torch.randn(1, 5, 7, 6) * torch.rand(1, 5, 1, 1) + 3
    found = wct.whitened_and_coloured(content, style)
    f, s, c = (x[0].flatten(1).double().numpy() for x in (found, style, content))
    np.testing.assert_allclose(f.mean(1), s.mean(1), rtol=1e-5)
    np.testing.assert_allclose(np.cov(f), np.cov(s), rtol=1e-4, atol=1e-5)
    # Against numpy's singular values, as the published code has it.
    u, e, _ = np.linalg.svd(np.cov(c))
    v, d, _ = np.linalg.svd(np.cov(s))
    centred = c - c.mean(1, keepdims=True)
    wanted = v @ np.diag(d**0.5) @ v.T @ u @ np.diag(e**-0.5) @ u.T @ centred + s.mean(1, keepdims=True)
    np.testing.assert_allclose(f, wanted, rtol=1e-4, atol=1e-5)


def test_channels_without_variance_stay_finite() -> None:
    content, style = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
    content[:, 1] = 0
    style[:, 2] = 0.5
    found = wct.whitened_and_coloured(content, style)
    assert torch.isfinite(found).all()
    assert found.abs().max() < 20
    torch.testing.assert_close(found[:, 2], torch.full((1, 6, 6), 0.5), atol=1e-5, rtol=0)
    even = wct.whitened_and_coloured(torch.ones(1, 4, 6, 6), style)  # nothing to whiten at all
    torch.testing.assert_close(even, style.mean((2, 3), keepdim=True).expand_as(even), atol=1e-5, rtol=0)


def test_a_direction_without_variance_isnt_blown_up() -> None:
    """Channels that say the same: what lies between them is rounding, and stays out of the result."""
    first = torch.randn(1, 1, 30, 30)
    content = torch.cat([first, 0.3 * first, torch.randn(1, 1, 30, 30)], dim=1)
    style = torch.randn(1, 3, 30, 30)
    found, c, s = (
        x[0].flatten(1).double().numpy() for x in (wct.whitened_and_coloured(content, style), content, style)
    )
    values, vectors = np.linalg.eigh(np.cov(c))
    along = vectors[:, 1:]  # the smallest is the one between the first two channels
    white = along @ np.diag(values[1:] ** -0.5) @ along.T @ (c - c.mean(1, keepdims=True))
    spread, directions = np.linalg.eigh(np.cov(s))
    wanted = directions @ np.diag(spread**0.5) @ directions.T @ white + s.mean(1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# Convolutions and poolings to relu5_1, as VGG-19 has them, and how many of these each level takes.
LAYERS = ["11", "12", "P", "21", "22", "P", "31", "32", "33", "34", "P", "41", "42", "43", "44", "P", "51"]
PASSES = {level: LAYERS[:count] for level, count in enumerate((1, 4, 7, 12, 17), start=1)}


def wct_by_hand(folder: Path, content: Tensor, style: Tensor) -> Tensor:
    """Five passes from the published names, the decoders being the encoders backwards."""

    def conv(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
        return F.relu(F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), state[f"{name}.weight"], state[f"{name}.bias"]))

    for level in (5, 4, 3, 2, 1):
        encoder, decoder = (
            torch.load(folder / f"{level}{kind}.pth", map_location="cpu", weights_only=True)["model"]
            for kind in ("SE", "SD")
        )

        def encoded(x: Tensor, state: dict[str, Tensor] = encoder, names: list[str] = PASSES[level]) -> Tensor:
            x = F.conv2d(x, state["conv0.weight"], state["conv0.bias"])
            for name in names:
                x = F.max_pool2d(x, 2) if name == "P" else conv(x, state, f"conv{name}")
            return x

        content = wct.whitened_and_coloured(encoded(content), encoded(style))
        for name in reversed(PASSES[level]):
            up = name == "P"
            content = (
                content.repeat_interleave(2, 2).repeat_interleave(2, 3) if up else conv(content, decoder, f"conv{name}")
            )
    return content


@pytest.fixture
def wct_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    net = wct.WCT()
    for level in range(1, 6):
        encoder, decoder = net.get_submodule(f"encoder{level}"), net.get_submodule(f"decoder{level}")
        state = {
            name.replace("input.", "conv0.").replace("_", ""): value for name, value in encoder.state_dict().items()
        }
        state["conv11_aux.weight"] = torch.zeros(1)
        torch.save({"model": state, "epoch": 20}, tmp_path / f"{level}SE.pth")
        torch.save({"model": decoder.state_dict(), "epoch": 20}, tmp_path / f"{level}SD.pth")
    files = {path.name: sha256(path) for path in sorted(tmp_path.iterdir())}
    assert set(files) == set(PEERS["wct_16x"].files)
    monkeypatch.setitem(PEERS, "wct_16x", replace(PEERS["wct_16x"], files=files))
    return tmp_path


def test_wct(wct_files: Path) -> None:
    system = load_peer("wct_16x", wct_files)
    content, style = picture(32, 48), picture(40, 35)
    torch.testing.assert_close(system.run(content, style), wct_by_hand(wct_files, content, style), rtol=1e-3, atol=1e-3)
    assert system.stylize(picture(33, 50), style).shape == (1, 3, 33, 50)


# --- Magenta ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def magenta_files(tmp_path: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """A predictor that takes the mean colour, and a transformer of two convolutions: the shapes are Magenta's."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    weights = {
        "code": random.normal(size=(4, 3, 1, 1)),
        "draw": random.normal(size=(3, 3, 3, 3)),
        "bias": random.normal(size=3),
        "shift": random.normal(size=(3, 4, 1, 1)),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info

    def save(path: Path, nodes: list[Any], inputs: list[Any], output: Any, used: tuple[str, ...]) -> None:
        constants = [onnx.numpy_helper.from_array(weights[name], name) for name in used]
        graph = onnx.helper.make_graph(nodes, "tiny", inputs, [output], constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)  # with the sizes inside, as tf2onnx leaves them

    chw, hwc = [0, 3, 1, 2], [0, 2, 3, 1]
    kind = onnx.TensorProto.FLOAT
    save(
        tmp_path / PREDICT,
        [
            make("Transpose", ["style"], ["s"], perm=chw),
            make("GlobalAveragePool", ["s"], ["m"]),
            make("Conv", ["m", "code"], ["c"]),
            make("Transpose", ["c"], ["out"], perm=hwc),
        ],
        [tensor("style", kind, [1, 256, 256, 3])],
        tensor("out", kind, [1, 1, 1, 4]),
        ("code",),
    )
    save(
        tmp_path / TRANSFORM,
        [
            make("Transpose", ["content"], ["x"], perm=chw),
            make("Conv", ["x", "draw", "bias"], ["d"], pads=[1, 1, 1, 1]),
            make("Transpose", ["vector"], ["v"], perm=chw),
            make("Conv", ["v", "shift"], ["o"]),
            make("Add", ["d", "o"], ["y"]),
            make("Transpose", ["y"], ["result"], perm=hwc),
        ],
        [tensor("content", kind, [1, 384, 384, 3]), tensor("vector", kind, [1, 1, 1, 4])],
        tensor("result", kind, [1, 384, 384, 3]),
        ("draw", "bias", "shift"),
    )
    return {name: tmp_path / name for name in (PREDICT, TRANSFORM)}, weights


def test_magenta_at_the_contents_own_size(magenta_files: tuple[dict[str, Path], dict[str, Any]]) -> None:
    files, weights = magenta_files
    net = Magenta(files)
    content, style = picture(21, 34), torch.full((1, 3, 50, 40), 0.25)
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    code = F.conv2d(torch.full((1, 3, 1, 1), 0.25), state["code"])
    padded = F.pad(content, (0, 2, 0, 3), mode="replicate")
    wanted = F.conv2d(padded, state["draw"], state["bias"], padding=1) + F.conv2d(code, state["shift"])
    torch.testing.assert_close(net(content, style), wanted[..., :21, :34], rtol=1e-4, atol=1e-4)
    assert net.parameters == 12 + 81 + 3 + 12
    # 4×3 at one place; 3×3×3×3 at each of 24×36, the padded size; 3×4 at one place.
    assert net.count((34, 21), (50, 40)) == 12 + 81 * 24 * 36 + 12


def test_magenta_from_the_registry(
    magenta_files: tuple[dict[str, Path], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = magenta_files
    known = {name: sha256(path) for name, path in files.items()}
    monkeypatch.setitem(PEERS, "magenta", replace(PEERS["magenta"], files=known))
    system = load_peer("magenta", files[PREDICT].parent)
    assert system.precision == "int8"
    assert system.stylize(picture(), picture()).shape == (1, 3, 32, 32)


def test_files_that_arent_magentas(magenta_files: tuple[dict[str, Path], dict[str, Any]]) -> None:
    files, _ = magenta_files
    with pytest.raises(FileError, match="aren't Magenta's networks"):
        Magenta({PREDICT: files[TRANSFORM], TRANSFORM: files[PREDICT]})
    files[PREDICT].write_bytes(b"not a network")
    with pytest.raises(FileError, match="aren't Magenta's networks"):
        Magenta(files)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_magenta_names_the_extra_that_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "onnxruntime":
        pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{missing}'.*pip install 'skd\[peers\]'"):
        Magenta({})


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_missing_file_says_where_to_get_it(microast_files: Path) -> None:
    next(microast_files.rglob("modulator*")).unlink()
    with pytest.raises(FileError, match=r"missing; got no modulator_iter.*get it from https://github.com/EndyWon"):
        load_peer("microast", microast_files)
    with pytest.raises(FileError, match=r"no folder of published networks; got .*nowhere.*get the files from"):
        load_peer("microast", microast_files / "nowhere")


def test_a_changed_file_is_refused(microast_files: Path) -> None:
    path = next(microast_files.rglob("decoder*"))
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"isn't the one that was published.*{sha256(path)}; expected"):
        load_peer("microast", microast_files)


def test_of_several_files_of_a_name_the_published_one_is_taken(tmp_path: Path) -> None:
    for folder, content in (("a", b"other"), ("b", b"right")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.pt").write_bytes(content)
    wanted = {"net.pt": hashlib.sha256(b"right").hexdigest()}
    assert find_files(wanted, tmp_path, source="") == {"net.pt": tmp_path / "b" / "net.pt"}


@pytest.mark.parametrize("content", [b"", b"text", torch.zeros(1), {"model": [1]}, {"weight": 3}])
def test_files_without_weights(content: object, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(FileError, match="not a file of weights"):
        state_of(path)


def test_the_registry() -> None:
    for name, peer in PEERS.items():
        assert peer.name == name
        assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in peer.files.values())
        assert peer.source.startswith("https://github.com/")
        assert "MIT" in peer.licence
    assert len({peer.sha256 for peer in PEERS.values()}) == len(PEERS)


def test_one_digest_for_all_files() -> None:
    def load(peer: Peer, files: object) -> System:
        raise NotImplementedError

    first = Peer("p", {"a": "1", "b": "2"}, "", "", load)
    assert first.sha256 == replace(first, files={"b": "2", "a": "1"}).sha256
    assert first.sha256 != replace(first, files={"a": "2", "b": "1"}).sha256
    assert first.sha256 == hashlib.sha256(b"1  a\n2  b\n").hexdigest()


def test_peers_by_name(microast_files: Path) -> None:
    assert [system.name for system in load_peers(microast_files, names=["microast"])] == ["microast"]
    with pytest.raises(
        ArgumentError, match=r"no published network of this name; got 'wct'. Remedy: did you mean 'wct_16x"
    ):
        load_peer("wct", microast_files)


# --- systems ---------------------------------------------------------------------------------------------------------


class Mix(nn.Module):
    """Two convolutions of the content and one of the style: 3·3·9 and 3·3·1 weights without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        out: Tensor = self.drop(self.point(self.wide(content)) + self.point(style).mean())
        return out


def test_a_module_as_a_system() -> None:
    system = of_module(Mix(), "mix", sha256="00", size=7)
    assert (system.parameters, system.size, system.precision) == (90, 7, "float32")
    # 81 and 9 at each place of the content, 9 at each of the style.
    assert system.multiply_adds((20, 10), (6, 4)) == 90 * 200 + 9 * 24
    assert system.multiply_adds((600, 10)) == 90 * 6000 + 9 * 512 * 10
    content, style = picture(), picture()
    assert torch.equal(system.stylize(content, style), system.stylize(content, style))  # in eval mode
    assert not system.stylize(content, style).requires_grad


def test_results_are_clamped_and_checked() -> None:
    def answering(result: Tensor) -> System:
        return System("odd", lambda content, style: result, "", 0, 0, lambda content, style: 0)

    found = answering(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1)).stylize(torch.zeros(1, 3, 1, 1), picture())
    assert found.flatten().tolist() == [0, 0.5, 1]
    with pytest.raises(ShapeError, match=r"odd gave another shape; got \(1, 3, 2, 2\); expected \(1, 3, 4, 4\)"):
        answering(torch.zeros(1, 3, 2, 2)).stylize(torch.zeros(1, 3, 4, 4), picture())
    with pytest.raises(NonFiniteError, match="odd gave a picture with NaN"):
        answering(torch.full((1, 3, 1, 1), float("nan"))).stylize(torch.zeros(1, 3, 1, 1), picture())


def test_a_network_and_its_file_are_one_system(tmp_path: Path) -> None:
    net = KBStyle(SMALL).eval()
    size = save_weights(net, tmp_path / "small.safetensors")
    one, other = as_system(net), as_system(tmp_path / "small.safetensors")
    assert one.sha256 == other.sha256 == sha256(tmp_path / "small.safetensors")
    assert one.size == other.size == size
    assert (one.name, other.name) == ("KBStyle", "small")
    assert as_system(one, name="mine").name == "mine"
    content, style = picture(), picture()
    torch.testing.assert_close(one.stylize(content, style), net(content, style).clamp(0, 1).detach())
    torch.testing.assert_close(one.stylize(content, style), other.stylize(content, style))
    with torch.no_grad():
        net.decoder.output[0].bias.add_(1)
    assert as_system(net).sha256 != one.sha256


def test_what_isnt_a_system() -> None:
    with pytest.raises(ArgumentError, match="not a system to compare; got int"):
        as_system(3)  # type: ignore[arg-type]
    with pytest.raises(FileError, match="there are no such weights"):
        as_system("no-such-weights")


# --- the real files --------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    folder = os.environ.get("SKD_DATA")
    if not folder:
        pytest.skip("SKD_DATA names no folder that holds the published networks")
    return Path(folder)


def real_peer(name: str) -> System:
    if name == "magenta":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    folder = data_folder()
    if not all(any(folder.rglob(file)) for file in PEERS[name].files):
        pytest.skip(f"SKD_DATA has no {name}")
    return load_peer(name, folder)


# Bytes as their authors' pages and the files say; parameters by hand from the shapes.
REAL = {"microast": (1_901_259, 471_987), "magenta": (3_026_548, 2_512_981), "wct_16x": (9_692_535, 2_146_003)}


@pytest.mark.parametrize("name", REAL)
def test_the_real_networks(name: str) -> None:
    system = real_peer(name)
    assert (system.size, system.parameters) == REAL[name]
    samples = Path(__file__).parents[3] / "kbstyle_example" / "samples"
    if not samples.is_dir():
        pytest.skip("the samples lie in the installed package alone")
    from kbstyle_example.evaluation.pairs import square

    content, style = square(samples / "content" / "coffee.jpg", 96), square(samples / "style" / "harvest.jpg", 96)
    result = system.stylize(content, style)
    # It takes on the painting's colours, and keeps the photograph's shapes.
    before, after = ((picture.mean((2, 3)) - style.mean((2, 3))).abs().sum() for picture in (content, result))
    assert after < 0.7 * before
    correlation = np.corrcoef(content.mean(1).flatten(), result.mean(1).flatten())[0, 1]
    assert correlation > 0.2


def test_the_real_microast_and_wct_follow_the_published_formulas() -> None:
    content, style = picture(64, 48), picture(48, 64)
    system = real_peer("microast")
    parts = {part: state_of(next(data_folder().rglob(f"{part}_iter_160000.pth.tar"))) for part in microast.PARTS}
    torch.testing.assert_close(
        system.run(content, style), microast_by_hand(parts, content, style), rtol=1e-4, atol=1e-4
    )
    system = real_peer("wct_16x")
    folder = next(data_folder().rglob("5SE.pth")).parent
    torch.testing.assert_close(system.run(content, style), wct_by_hand(folder, content, style), rtol=1e-3, atol=1e-3)


def test_in_bfloat16_it_is_a_system_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbstyle_example.devices.has_bfloat16", lambda: True)
    plain, half = as_system("kbstyle"), in_bfloat16("kbstyle")
    assert (half.name, half.precision, half.size) == ("kbstyle, bfloat16", "bfloat16", plain.size)
    assert half.sha256 != plain.sha256
    assert len(half.sha256) == 64
    generator = torch.Generator().manual_seed(0)
    content, style = (F.interpolate(torch.rand(1, 3, 4, 5, generator=generator), (32, 40)) for _ in range(2))
    apart = (half.stylize(content, style) - plain.stylize(content, style)).abs()
    assert 1e-5 < apart.mean() < 0.01
    monkeypatch.setattr("kbstyle_example.devices.has_bfloat16", lambda: False)
    with pytest.raises(ArgumentError, match="this processor can't multiply in bfloat16"):
        in_bfloat16("kbstyle")
