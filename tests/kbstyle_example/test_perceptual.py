"""Perceptual networks: each file's layout loaded and compared with plain functional code, and what goes wrong."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from email.message import Message
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example import perceptual_files
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import KBStyle, KBStyleConfig
from kbstyle_example.perceptual import VGG, Perceptual, SqueezeNet, identity_of
from kbstyle_example.perceptual_files import download_vgg19, load_perceptual
from skd.errors import ArgumentError, FileError, ShapeError

State = dict[str, Tensor]

# --- the published layouts, with weights of our own ------------------------------------------------------------------


def conv_state(name: str, inputs: int, outputs: int, size: int = 3) -> State:
    """He's scale, so that features stay of order one."""
    weight = torch.randn(outputs, inputs, size, size) * (2 / (inputs * size**2)) ** 0.5
    return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(outputs)}


VGG19_COUNTS = (2, 2, 4, 4, 1)
VGG16_COUNTS = (2, 2, 3, 1)


def vgg_layers(counts: tuple[int, ...], widths: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(stage, index, inputs, outputs) of every convolution."""
    layers, inputs = [], 3
    for stage, (count, width) in enumerate(zip(counts, widths, strict=True), start=1):
        for index in range(1, count + 1):
            layers.append((stage, index, inputs, width))
            inputs = width
    return layers


def distilled_state() -> State:
    state = {
        "conv0.weight": 255 * torch.eye(3).flip(0)[:, :, None, None] + torch.randn(3, 3, 1, 1),
        "conv0.bias": -torch.tensor([103.9, 116.8, 123.7]),
    }
    for stage, index, inputs, outputs in vgg_layers(VGG19_COUNTS, (16, 32, 64, 128, 128)):
        state |= conv_state(f"conv{stage}{index}", inputs, outputs)
    lifted = ((1, 16, 64), (2, 32, 128), (3, 64, 256), (4, 128, 512), (5, 128, 512))
    for stage, inputs, outputs in lifted:
        state |= conv_state(f"conv{stage}1_aux", inputs, outputs, 1)
    return state


TORCHVISION_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)


def torchvision_state() -> State:
    state: State = {}
    layers = vgg_layers(VGG19_COUNTS, (64, 128, 256, 512, 512))
    for number, (_, _, inputs, outputs) in zip(TORCHVISION_NUMBERS, layers, strict=True):
        state |= conv_state(f"features.{number}", inputs, outputs)
    # What comes after relu5_1 isn't looked at: its names are the file's, its sizes are not.
    for name in (*(f"features.{n}" for n in (30, 32, 34)), *(f"classifier.{n}" for n in (0, 3, 6))):
        state |= {f"{name}.weight": torch.zeros(1), f"{name}.bias": torch.zeros(1)}
    return state


def hed_state() -> State:
    state: State = {}
    for stage, index, inputs, outputs in vgg_layers(VGG16_COUNTS, (64, 128, 256, 512)):
        state |= conv_state(f"conv{stage}_{index}", inputs, outputs)
    return {name: value.half() for name, value in state.items()}


FIRES = {2: (64, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128), 6: (256, 48, 192)}


def squeezenet_state() -> State:
    state = conv_state("conv1", 3, 64)
    later = {7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}
    for number, (inputs, squeeze, expand) in (FIRES | later).items():
        state |= conv_state(f"fire{number}.squeeze1x1", inputs, squeeze, 1)
        state |= conv_state(f"fire{number}.expand1x1", squeeze, expand, 1)
        state |= conv_state(f"fire{number}.expand3x3", squeeze, expand)
    return state | conv_state("conv10", 512, 10, 1)


# --- the networks in plain functional code ---------------------------------------------------------------------------


def bgr(image: Tensor, mean: tuple[float, ...]) -> Tensor:
    """RGB in 0..1 → blue, green, red in 0..255, less the mean."""
    red, green, blue = (255 * image).unbind(1)
    return torch.stack([blue - mean[0], green - mean[1], red - mean[2]], 1)


def vgg_by_hand(
    x: Tensor, counts: tuple[int, ...], pad: str, weights: Callable[[int, int], tuple[Tensor, Tensor]]
) -> State:
    found = {}
    for stage, count in enumerate(counts, start=1):
        if stage > 1:
            x = F.max_pool2d(x, kernel_size=2, stride=2)
        for index in range(1, count + 1):
            weight, bias = weights(stage, index)
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode=pad), weight, bias).clamp_min(0)
            if index == 1:
                found[f"relu{stage}_1"] = x
    return found


def distilled_by_hand(state: State, image: Tensor) -> State:
    x = F.conv2d(image, state["conv0.weight"], state["conv0.bias"])
    return vgg_by_hand(
        x, VGG19_COUNTS, "reflect", lambda s, i: (state[f"conv{s}{i}.weight"], state[f"conv{s}{i}.bias"])
    )


def torchvision_by_hand(state: State, image: Tensor) -> State:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    places = [(s, i) for s, i, _, _ in vgg_layers(VGG19_COUNTS, (1,) * 5)]
    numbers = dict(zip(places, TORCHVISION_NUMBERS, strict=True))

    def weights(stage: int, index: int) -> tuple[Tensor, Tensor]:
        name = f"features.{numbers[stage, index]}"
        return state[f"{name}.weight"], state[f"{name}.bias"]

    return vgg_by_hand(x, VGG19_COUNTS, "constant", weights)


def hed_by_hand(state: State, image: Tensor) -> State:
    def weights(stage: int, index: int) -> tuple[Tensor, Tensor]:
        name = f"conv{stage}_{index}"
        return state[f"{name}.weight"].float(), state[f"{name}.bias"].float()

    return vgg_by_hand(bgr(image, (104.007, 116.669, 122.679)), VGG16_COUNTS, "constant", weights)


def squeezenet_by_hand(state: State, image: Tensor) -> State:
    def conv(name: str, x: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding, stride=stride).relu()

    x = conv("conv1", bgr(image, (104, 117, 123)), stride=2)
    found = {"conv1": x}
    for number in range(2, 7):
        if number in (2, 4, 6):
            x = F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)
        x = conv(f"fire{number}.squeeze1x1", x)
        x = torch.cat([conv(f"fire{number}.expand1x1", x), conv(f"fire{number}.expand3x3", x, padding=1)], 1)
        if number in (2, 4, 6):
            found[f"fire{number}"] = x
    return found


# name → (its state, by hand, content layer, file among the real ones)
KINDS: dict[str, tuple[Callable[[], State], Callable[[State, Tensor], State], str, str]] = {
    "vgg19_distilled_16x": (distilled_state, distilled_by_hand, "relu4_1", "cd_vgg19_16x/5SE.pth"),
    "vgg19": (torchvision_state, torchvision_by_hand, "relu4_1", "vgg19-dcbb9e9d.pth"),
    "vgg16_hed": (hed_state, hed_by_hand, "relu4_1", "vgg16_hed_to_conv4_1_fp16.pt"),
    "squeezenet1_1": (squeezenet_state, squeezenet_by_hand, "fire6", "squeezenet1_1_imagenet_ndf.pt"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each network's file, as its authors publish it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, (state, *_) in KINDS.items():
        content = {"model": state(), "epoch": 20} if name == "vgg19_distilled_16x" else state()
        torch.save(content, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in KINDS}


def read(path: Path) -> State:
    content = torch.load(path, weights_only=True, map_location="cpu")
    return content.get("model", content)  # type: ignore[no-any-return]


def compare(net: Perceptual, expected: State, image: Tensor) -> None:
    with torch.no_grad():
        found = net(image)
    assert tuple(found) == net.layers == tuple(expected)
    for layer, feature in expected.items():
        torch.testing.assert_close(found[layer], feature, rtol=1e-3, atol=1e-4 * float(feature.abs().max()))
        assert feature.std() > 0  # the comparison isn't one of zeros


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_features_of_each_file_by_hand(name: str, files: dict[str, Path]) -> None:
    _, by_hand, content_layer, _ = KINDS[name]
    net = load_perceptual(files[name])
    assert (net.name, net.content_layer) == (name, content_layer)
    image = torch.rand(2, 3, 35, 46)
    compare(net, by_hand(read(files[name]), image), image)


@pytest.mark.parametrize("depth", range(1, 6))
def test_distilled_networks_of_every_depth_lifted(depth: int, files: dict[str, Path], tmp_path: Path) -> None:
    kept = [(stage, index) for stage, index, *_ in vgg_layers(VGG19_COUNTS, (1,) * 5) if (stage, index) <= (depth, 1)]
    names = [
        "conv0",
        *(f"conv{stage}{index}" for stage, index in kept),
        *(f"conv{s}1_aux" for s in range(1, depth + 1)),
    ]
    whole = read(files["vgg19_distilled_16x"])
    path = tmp_path / f"{depth}SE.pth"
    torch.save({"model": {key: value for key, value in whole.items() if key.rpartition(".")[0] in names}}, path)
    image, layers = torch.rand(2, 3, 35, 46), [f"relu{stage}_1" for stage in range(1, depth + 1)]
    plain = {layer: feature for layer, feature in distilled_by_hand(whole, image).items() if layer in layers}
    lifted = {
        layer: torch.einsum("oi,bihw->bohw", whole[f"conv{layer[4]}1_aux.weight"][..., 0, 0], feature)
        .add(whole[f"conv{layer[4]}1_aux.bias"][:, None, None])
        .clamp_min(0)
        for layer, feature in plain.items()
    }
    name = "vgg19_distilled_16x" + (f"_to_relu{depth}_1" if depth < 5 else "")
    for net, expected in ((load_perceptual(path), plain), (load_perceptual(path, lifted=True), lifted)):
        assert (net.name, net.content_layer) == (name, f"relu{min(depth, 4)}_1")
        compare(net, expected, image)
    assert [feature.shape[1] for feature in lifted.values()] == [64, 128, 256, 512, 512][:depth]


def test_what_tells_a_lifted_network_from_the_same_file_as_it_is(files: dict[str, Path]) -> None:
    plain, lifted = (load_perceptual(files["vgg19_distilled_16x"], lifted=each) for each in (False, True))
    assert identity_of(plain) == plain.sha256
    assert identity_of(lifted) == f"{plain.sha256} lifted"
    assert identity_of(lifted.bfloat16()) == f"{plain.sha256} lifted bfloat16"


@pytest.mark.parametrize("name", [name for name in KINDS if name != "vgg19_distilled_16x"])
def test_other_networks_cant_be_lifted(name: str, files: dict[str, Path]) -> None:
    with pytest.raises(
        ArgumentError, match=rf"no layers to lift features with; got .* in .*{name}\.pth; expected one of"
    ):
        load_perceptual(files[name], lifted=True)


def test_the_edge_networks_mean_is_its_own(files: dict[str, Path]) -> None:
    # 0.007 of 255 from the other Caffe mean: too little to show in the features.
    image = torch.rand(1, 3, 4, 5)
    found = load_perceptual(files["vgg16_hed"]).get_submodule("input")(image)
    torch.testing.assert_close(found, bgr(image, (104.007, 116.669, 122.679)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_a_loaded_network_is_frozen_and_knows_its_file(name: str, files: dict[str, Path]) -> None:
    net = load_perceptual(files[name])
    assert net.sha256 == hashlib.sha256(files[name].read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(module.training for module in net.train().modules())
    assert not any(module.training for module in nn.Sequential(net).train()[0].modules())
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_the_smallest_side(name: str, files: dict[str, Path]) -> None:
    net = load_perceptual(files[name])
    side = net.smallest_side
    with torch.no_grad():
        for size in ((side, side), (side, side + 9), (side + 9, side)):
            assert all(min(feature.shape) > 0 for feature in net(torch.rand(1, 3, *size)).values())
    for size in ((side - 1, 64), (64, side - 1)):
        with pytest.raises(ShapeError, match=f"{name} can't take this picture.*at least {side}"):
            net(torch.rand(1, 3, *size))


def test_a_digest_asked_for(files: dict[str, Path]) -> None:
    path = files["squeezenet1_1"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    for asked in (found, found[:8], found.upper()):
        assert load_perceptual(str(path), sha256=asked).sha256 == found
    with pytest.raises(FileError, match=rf"another perceptual network .* got .*{found}; expected 00000000"):
        load_perceptual(path, sha256="00000000")
    with pytest.raises(FileError, match="another perceptual network"):
        load_perceptual(path, sha256=found + "0")
    for short in ("", found[:7]):
        with pytest.raises(ArgumentError, match=f"a digest too short to tell files apart; got '{short}'"):
            load_perceptual(path, sha256=short)


def test_loading_leaves_the_file_and_the_state_alone(files: dict[str, Path]) -> None:
    path = files["vgg16_hed"]
    before = path.read_bytes()
    first, second = load_perceptual(path), load_perceptual(path)
    assert path.read_bytes() == before
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert value.data_ptr() != second.state_dict()[name].data_ptr()


# --- the real files --------------------------------------------------------------------------------------------------


def real_file(name: str) -> Path:
    folder = os.environ.get("SKD_DATA")
    if not folder:
        pytest.skip("SKD_DATA names no folder that holds weights/")
    path = Path(folder, "weights", KINDS[name][3])
    if not path.is_file():
        pytest.skip(f"SKD_DATA has no weights/{KINDS[name][3]}")
    return path


@pytest.mark.parametrize("name", KINDS)
def test_the_real_files(name: str) -> None:
    path = real_file(name)
    net = load_perceptual(path)
    assert net.name == name
    image = torch.rand(1, 3, 50, 67)
    compare(net, KINDS[name][1](read(path), image), image)


def test_the_real_distilled_networks_input() -> None:
    net = load_perceptual(real_file("vgg19_distilled_16x"))
    image = torch.rand(1, 3, 4, 5)
    found = net.get_submodule("input")(image)
    # Its distillation trained this layer along: it has moved by up to 1 of 255.
    torch.testing.assert_close(found, bgr(image, (103.939, 116.779, 123.68)), atol=2, rtol=0)


# --- files that can't be used ----------------------------------------------------------------------------------------


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(FileError, match=r"no perceptual network there; got .*Remedy: docs"):
            load_perceptual(path)


def test_files_of_something_else(tmp_path: Path, files: dict[str, Path]) -> None:
    path = tmp_path / "other.pth"
    whole = files["squeezenet1_1"].read_bytes()
    for content in (
        b"",
        b"notes, not weights\n" * 50,
        bytes(200),
        whole[: len(whole) // 2],
        whole[:-1000],
        whole[:100],
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"not a file of weights; got .*other\.pth"):
            load_perceptual(path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_a_file_with_code_isnt_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="not a file of weights"):
        load_perceptual(saved({"fire2.squeeze1x1.weight": Trap()}, tmp_path / "trap.pth"))
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], {"conv11.weight": 3}, {"model": [1], "epoch": 2}, {"model": {"a": 1}}]
)
def test_files_without_tensors_by_name(content: object, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"not a file of weights; got .*; expected tensors by name"):
        load_perceptual(saved(content, tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("content", "first"),
    [({}, ""), ({"z.weight": 0, "b.weight": 0, "a.weight": 0, "c.weight": 0}, r"a\.weight, b\.weight, c\.weight")],
)
def test_weights_of_another_network(content: dict[str, int], first: str, tmp_path: Path) -> None:
    state = {name: torch.zeros(1) for name in content}
    known = r"the distilled VGG-19, VGG-19, VGG-16, SqueezeNet 1\.1"
    text = rf"none of the known perceptual networks; got .*other\.pth with {first}; expected {known}"
    with pytest.raises(FileError, match=text):
        load_perceptual(saved(state, tmp_path / "other.pth"))


DAMAGE = [
    ("vgg19_distilled_16x", "conv34.bias", r"the distilled VGG-19; got .*conv3_4\.bias"),
    ("vgg19_distilled_16x", "conv0.weight", r"the distilled VGG-19; got .*input\.weight"),
    ("vgg19", "features.16.weight", r"VGG-19; got .*features\.16\.weight"),
    ("vgg16_hed", "conv3_3.bias", r"VGG-16; got .*conv3_3\.bias"),
    ("squeezenet1_1", "fire6.expand3x3.weight", r"SqueezeNet 1\.1; got .*fire6\.expand3x3\.weight"),
]


@pytest.mark.parametrize(("name", "key", "text"), DAMAGE)
def test_missing_keys(name: str, key: str, text: str, tmp_path: Path, files: dict[str, Path]) -> None:
    state = read(files[name])
    del state[key]
    with pytest.raises(FileError, match=rf"(?s)weights that don't fit {text}"):
        load_perceptual(saved(state, tmp_path / "damaged.pth"))


@pytest.mark.parametrize(("name", "key", "text"), [row for row in DAMAGE if row[0] != "vgg19"])
def test_weights_of_another_size(name: str, key: str, text: str, tmp_path: Path, files: dict[str, Path]) -> None:
    state = read(files[name]) | {key: torch.zeros(2, 2)}
    with pytest.raises(FileError, match=rf"(?s)weights that don't fit {text}") as caught:
        load_perceptual(saved(state, tmp_path / "damaged.pth"))
    assert "size mismatch" in str(caught.value)


@pytest.mark.parametrize(("name", "key"), [("vgg19_distilled_16x", "conv61.weight"), ("vgg16_hed", "conv5_1.weight")])
def test_unknown_keys(name: str, key: str, tmp_path: Path, files: dict[str, Path]) -> None:
    state = read(files[name]) | {key: torch.zeros(1)}
    with pytest.raises(FileError, match=r"(?s)weights that don't fit .*Unexpected key"):
        load_perceptual(saved(state, tmp_path / "more.pth"))


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(3, 64, 64),
        torch.zeros(1, 1, 64, 64),
        torch.zeros(1, 3, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
)
def test_pictures_that_dont_fit(picture: Tensor) -> None:
    for net in (SqueezeNet(), VGG("tiny", (4,), stages=((1, "1"),))):
        with pytest.raises(ShapeError, match=rf"{net.name} can't take this picture; got .*{picture.dtype}; expected"):
            net(picture)


# --- downloading, without a network ----------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 20


class Answer(io.BytesIO):
    """What urlopen gives; `error` comes after the first part."""

    def __init__(self, content: bytes, *, length: int | None = None, error: Exception | None = None) -> None:
        super().__init__(content)
        self.headers, self.error = Message(), error
        if length is not None:
            self.headers["Content-Length"] = str(length)

    def read(self, size: int | None = -1, /) -> bytes:
        if self.error and self.tell():
            raise self.error
        return super().read(size)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let the download find an answer, or an error; returns the addresses that were asked for."""

    def become(answer: Answer | Exception) -> list[str]:
        asked: list[str] = []

        def urlopen(url: str, *, timeout: float) -> Answer:
            asked.append(url)
            assert timeout > 0
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(perceptual_files, "urlopen", urlopen)
        return asked

    monkeypatch.setattr(perceptual_files, "VGG19_SHA256", hashlib.sha256(CONTENT).hexdigest()[:8])
    monkeypatch.setattr(perceptual_files, "CHUNK", 1000)
    return become


@pytest.mark.parametrize("length", [len(CONTENT), None])
def test_a_download(length: int | None, serve: Callable[..., list[str]], tmp_path: Path) -> None:
    asked = serve(Answer(CONTENT, length=length))
    path = tmp_path / "vgg19.pth"
    assert download_vgg19(str(path)) == path
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["vgg19.pth"]
    assert asked == [perceptual_files.VGG19_URL]
    # It is there now: nothing is asked for again.
    assert download_vgg19(path) == path
    assert len(asked) == 1


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", b"<html>sign in</html>"])
def test_a_damaged_download_leaves_no_file(content: bytes, serve: Callable[..., list[str]], tmp_path: Path) -> None:
    serve(Answer(content, length=len(CONTENT)))
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(FileError, match=f"the download is damaged; got {found}; .* Remedy: try again"):
        download_vgg19(tmp_path / "vgg19.pth")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "answer",
    [
        URLError("no route to host"),
        TimeoutError("timed out"),
        Answer(CONTENT, error=ConnectionResetError("reset")),
        Answer(CONTENT, error=IncompleteRead(b"")),
        Answer(CONTENT, error=OSError(28, "No space left on device")),
    ],
    ids=["no network", "timeout", "reset", "cut off", "full"],
)
def test_no_network_leaves_no_file(answer: Answer | Exception, serve: Callable[..., list[str]], tmp_path: Path) -> None:
    serve(answer)
    kind = type(answer.error if isinstance(answer, Answer) else answer).__name__
    path = tmp_path / "vgg19.pth"
    remedy = rf"fetch https://\S+vgg19-dcbb9e9d\.pth .* put it at {re.escape(str(path))}"
    text = rf"VGG-19 can't be downloaded; got {kind}: .* Remedy: {remedy}"
    with pytest.raises(FileError, match=text) as caught:
        download_vgg19(path)
    assert isinstance(caught.value.__cause__, Exception)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_download_leaves_no_file(serve: Callable[..., list[str]], tmp_path: Path) -> None:
    serve(Answer(CONTENT, error=KeyboardInterrupt()))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        download_vgg19(tmp_path / "vgg19.pth")
    assert os.listdir(tmp_path) == []


def test_another_file_in_its_place(serve: Callable[..., list[str]], tmp_path: Path) -> None:
    asked = serve(Answer(CONTENT))
    path = tmp_path / "vgg19.pth"
    path.write_bytes(b"mine")
    with pytest.raises(
        FileError, match=r"another file where VGG-19 should go; .* Remedy: name another path, or remove it"
    ):
        download_vgg19(path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(FileError, match=r"another file where VGG-19 should go; got .*: a folder"):
        download_vgg19(tmp_path)
    assert asked == []


def test_a_folder_that_isnt_there(serve: Callable[..., list[str]], tmp_path: Path) -> None:
    serve(Answer(CONTENT))
    with pytest.raises(FileError, match="VGG-19 can't be downloaded; got FileNotFoundError"):
        download_vgg19(tmp_path / "nowhere" / "vgg19.pth")


# --- a network of one's own ------------------------------------------------------------------------------------------


class Mine(Perceptual):
    name, layers, content_layer, smallest_side = "mine", ("fine", "coarse"), "fine", 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.norm(self.conv(self.checked(image))).relu()
        return {"fine": fine, "coarse": F.avg_pool2d(fine, 2)}


def test_a_network_of_ones_own_trains_a_style() -> None:
    network = KBStyle(KBStyleConfig(widths=(4, 5, 6), fine_blocks=0, deep_blocks=1, style_blocks=0))
    mine = Mine()
    task = StyleTask(network, mine, style_weights={"fine": 1.0}, covariance_weights={"coarse": 0.1}).train()
    assert task.perceptual is mine
    assert mine.sha256 == ""
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    batch = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    totals = []
    for _ in range(15):
        loss = task(*batch).losses.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.9 * totals[0]
    # Frozen: neither its weights nor its running statistics move.
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    with pytest.raises(ShapeError, match=r"mine can't take this picture.*at least 8"):
        mine(torch.rand(1, 3, 7, 16))


@pytest.mark.parametrize("make", [SqueezeNet, lambda: VGG("tiny", (4, 6), stages=((1, "1"), (2, "2")))])
def test_in_bfloat16_features_and_gradients_are_near(make: Callable[[], Perceptual]) -> None:
    """Its weights and features are rounded to 8 bits; the picture and its gradient stay float32."""
    torch.manual_seed(0)
    network, picture = make().freeze(), torch.rand(2, 3, 48, 40)
    found: list[tuple[dict[str, Tensor], Tensor]] = []
    for _ in range(2):
        seen = picture.clone().requires_grad_()
        features = network(seen)
        sum((feature.float().square().mean() for feature in features.values()), torch.zeros(())).backward()
        assert seen.grad is not None
        found.append(({name: feature.detach() for name, feature in features.items()}, seen.grad))
        network = network.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    (full, wanted), (half, gradient) = found
    assert {feature.dtype for feature in half.values()} == {torch.bfloat16}
    assert gradient.dtype == torch.float32
    for name, feature in full.items():
        torch.testing.assert_close(half[name].float(), feature, rtol=0, atol=0.03 * float(feature.abs().max()))
    assert float((gradient - wanted).norm() / wanted.norm()) < 0.05
    assert not torch.equal(gradient, wanted)


def test_its_precision_tells_one_run_from_another(files: dict[str, Path]) -> None:
    network = load_perceptual(files["squeezenet1_1"])
    assert identity_of(network) == network.sha256  # runs from before there was a choice go on
    assert identity_of(network.bfloat16()) == f"{network.sha256} bfloat16"


def test_a_network_that_forgot_its_forward() -> None:
    with pytest.raises(NotImplementedError):
        Perceptual()(torch.rand(1, 3, 8, 8))


def test_unfrozen_it_trains_as_any_module() -> None:
    mine = Mine()
    assert mine.train().norm.training
    assert not mine.eval().norm.training
    assert not mine.freeze().train().norm.training
