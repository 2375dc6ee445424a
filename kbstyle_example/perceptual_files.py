"""Files of perceptual networks: which of the known ones a file holds, its checksum, and where to get VGG-19."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from kbstyle_example.files import beside, digest
from kbstyle_example.perceptual import VGG, VGG16_STAGES, VGG19_STAGES, Perceptual, SqueezeNet
from skd.errors import ArgumentError, FileError

HED_MEAN = (104.007, 116.669, 122.679)  # blue, green, red in 0..255
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG19_SHA256 = "dcbb9e9d"  # the beginning, as its name says
CHUNK = 1 << 20  # bytes
# Of the distilled VGG-19: conv0, conv34, and conv31_aux, which it was distilled with to VGG-19's own widths.
DISTILLED_NAMES = (
    (r"^conv0\.", "input."),
    (r"^conv(\d)1_aux\.", r"lift\1."),
    (r"^conv(\d)(\d)\.", r"conv\1_\2."),
)


def _distilled_vgg19(state: dict[str, Tensor], *, lifted: bool = False) -> VGG:
    depth = sum(f"conv{stage}1.weight" in state for _, stage in VGG19_STAGES)  # the files of five depths
    stages = (*VGG19_STAGES[: depth - 1], (1, str(depth)))
    widths = tuple(len(state[f"conv{stage}1.weight"]) for _, stage in stages)
    lifts = tuple(len(state[f"conv{stage}1_aux.weight"]) for _, stage in stages) if lifted else ()
    net = VGG(
        "vgg19_distilled_16x" if depth == len(VGG19_STAGES) else f"vgg19_distilled_16x_to_relu{depth}_1",
        widths,
        stages=stages,
        border="reflect",
        content_layer=f"relu{min(depth, 4)}_1",
        lifts=lifts,
    )
    kept = {name: value for name, value in state.items() if lifted or "_aux." not in name}
    for pattern, name in DISTILLED_NAMES:
        kept = {re.sub(pattern, name, key): value for key, value in kept.items()}
    net.load_state_dict(kept)
    return net


def _torchvision_vgg19(state: dict[str, Tensor]) -> VGG:
    net = VGG("vgg19", (64, 128, 256, 512, 512))
    numbers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)  # of torchvision's `features`, conv1_1 to conv5_1
    names = [f"conv{stage}_{index}" for count, stage in VGG19_STAGES for index in range(1, count + 1)]
    for name, number in zip(names, numbers, strict=True):
        net.get_submodule(name).load_state_dict(
            {kind: state[f"features.{number}.{kind}"] for kind in ("weight", "bias")}
        )
    net.normalise_inputs(1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False)
    return net


def _hed_vgg16(state: dict[str, Tensor]) -> VGG:
    net = VGG("vgg16_hed", (64, 128, 256, 512), stages=VGG16_STAGES)
    net.normalise_inputs(255.0, HED_MEAN, (1.0, 1.0, 1.0), bgr=True)
    net.load_state_dict(state | {f"input.{kind}": value for kind, value in net.input.state_dict().items()})
    return net


def _squeezenet(state: dict[str, Tensor]) -> SqueezeNet:
    net = SqueezeNet()
    net.load_state_dict({name: value for name, value in state.items() if name in net.state_dict()})
    return net


# A weight that only this network's file has tells which one it holds.
_KINDS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Perceptual]]] = {
    "the distilled VGG-19": ("conv11.weight", _distilled_vgg19),
    "VGG-19": ("features.28.weight", _torchvision_vgg19),
    "VGG-16": ("conv4_1.weight", _hed_vgg16),
    "SqueezeNet 1.1": ("fire2.squeeze1x1.weight", _squeezenet),
}


def load_perceptual(path: str | os.PathLike[str], *, sha256: str | None = None, lifted: bool = False) -> Perceptual:
    """Load a perceptual network from a weights file, whichever of the four kinds it holds; it comes frozen.

    Parameters
    ----------
    path : path
        `vgg19-dcbb9e9d.pth` of torchvision (see `download_vgg19`), `1SE.pth` to `5SE.pth` of Collaborative Distillation
        (Wang et al. 2020), SqueezeNet 1.1 or VGG-16 (edges), all as state dicts.
    sha256 : str, optional
        Digest (or its beginning, 8 characters and up) that the file must have.
    lifted : bool
        Of Collaborative Distillation's: the features in VGG-19's own widths, through the layers it was distilled with.

    Raises
    ------
    FileError
        The file is missing, isn't a weights file, has another digest, or holds none of the four.
    ArgumentError
        The digest asked for is too short; a network without layers to lift its features.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(SqueezeNet().state_dict(), Path(folder, "squeezenet.pt"))
    ...     net = load_perceptual(Path(folder, "squeezenet.pt"))
    >>> net.name, net.layers, len(net.sha256)
    ('squeezenet1_1', ('conv1', 'fire2', 'fire4', 'fire6'), 64)
    """
    path = Path(path)
    if sha256 is not None and len(sha256) < 8:
        raise ArgumentError("a digest too short to tell files apart", got=repr(sha256), expected="8 characters and up")
    if not path.is_file():
        raise FileError("no perceptual network there", got=str(path), remedy="docs: KBStyle says where to get one")
    found = digest(path)
    if sha256 is not None and not found.startswith(sha256.lower()):
        raise FileError("another perceptual network than the one asked for", got=f"{path}: {found}", expected=sha256)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything
        raise FileError("not a file of weights", got=f"{path} ({type(error).__name__})") from None
    if isinstance(state, dict):
        state = state.get("model", state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FileError("not a file of weights", got=str(path), expected="tensors by name")
    for kind, (key, build) in _KINDS.items():
        if key in state:
            if lifted and build is not _distilled_vgg19:
                expected = "one of Collaborative Distillation's, 1SE.pth to 5SE.pth"
                raise ArgumentError("no layers to lift features with", got=f"{kind} in {path}", expected=expected)
            try:
                net = _distilled_vgg19(state, lifted=True) if lifted else build(state)
            except (RuntimeError, KeyError, TypeError) as error:
                raise FileError(f"weights that don't fit {kind}", got=f"{path}: {error}") from None
            net.sha256 = found
            return net.freeze()
    first = ", ".join(sorted(map(str, state))[:3])
    raise FileError("none of the known perceptual networks", got=f"{path} with {first}", expected=", ".join(_KINDS))


def download_vgg19(path: str | os.PathLike[str]) -> Path:
    """Fetch torchvision's VGG-19 (Simonyan & Zisserman 2015; 548 MiB) unless it is there already.

    Parameters
    ----------
    path : path
        Where the file goes. It appears there only once it is whole and has the right digest.

    Returns
    -------
    Path
        The same path, for `load_perceptual`.

    Raises
    ------
    FileError
        No network, no room, a damaged download, or another file in its place.

    Examples
    --------
    >>> perceptual = load_perceptual(download_vgg19("vgg19-dcbb9e9d.pth"))  # doctest: +SKIP
    """
    path = Path(path)
    if path.exists():
        found = digest(path) if path.is_file() else "a folder"
        if not found.startswith(VGG19_SHA256):
            remedy = "name another path, or remove it"
            raise FileError("another file where VGG-19 should go", got=f"{path}: {found}", remedy=remedy)
        return path
    unfinished = beside(path)
    sha256 = hashlib.sha256()
    try:
        with urlopen(VGG19_URL, timeout=60) as answer, unfinished.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=path.name, unit="B", unit_scale=True) as bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    sha256.update(chunk)
                    bar.update(len(chunk))
        if not sha256.hexdigest().startswith(VGG19_SHA256):
            raise FileError(
                "the download is damaged", got=sha256.hexdigest(), expected=VGG19_SHA256, remedy="try again"
            )
        unfinished.replace(path)
    except FileError:
        raise
    except (OSError, HTTPException) as error:
        remedy = f"fetch {VGG19_URL} where there is a network, and put it at {path}"
        raise FileError("VGG-19 can't be downloaded", got=f"{type(error).__name__}: {error}", remedy=remedy) from error
    finally:
        with contextlib.suppress(OSError):  # must not hide the error that says why
            unfinished.unlink(missing_ok=True)
    return path
