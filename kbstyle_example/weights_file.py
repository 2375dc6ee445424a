"""Weights files: safetensors with the network's configuration in the metadata, so that a file is all one needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kbstyle_example.files import write_atomically
from kbstyle_example.networks import KBStyle, KBStyleConfig
from skd.errors import FileError, closest

FOLDER = Path(__file__).parent / "weights"
CHECKSUM = "tensors_sha256"  # in the metadata: of all that follows the header
BUDGET = 204_800  # bytes of KBStyle's whole float32 file: 200 KB of 1,024 bytes


def bundled() -> dict[str, Path]:
    """The weights that come with the package, by name.

    Examples
    --------
    >>> "teacher" in bundled()
    True
    """
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def encoded(network: KBStyle, *, about: Mapping[str, str] | None = None) -> bytes:
    """The weights file of a network; the same network and facts give the same bytes.

    Parameters
    ----------
    network : KBStyle
    about : mapping of str to str, optional
        Further metadata: steps, seed, data.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> len(encoded(KBStyle(STUDENT))) <= BUDGET
    True
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    facts = {**(about or {}), "kbstyle": json.dumps(network.config.as_dict()), CHECKSUM: "0" * 64}
    content = save(tensors, facts)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    facts[CHECKSUM] = sha256(content[start:]).hexdigest()
    header["__metadata__"] = dict(sorted(facts.items()))  # safetensors shuffles it
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def save_weights(network: KBStyle, path: str | os.PathLike[str], *, about: Mapping[str, str] | None = None) -> int:
    """Write a network whole or not at all; returns the file's size in bytes.

    Parameters
    ----------
    network : KBStyle
    path : path
    about : mapping of str to str, optional
        Further metadata: steps, seed, data.

    Raises
    ------
    FileError
        It can't be written there.

    Examples
    --------
    >>> import tempfile
    >>> from kbstyle_example.networks import STUDENT
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "student.safetensors")
    ...     save_weights(KBStyle(STUDENT), path, about={"seed": "0"}) == path.stat().st_size
    True
    """
    content = encoded(network, about=about)
    write_atomically(content, path, what="the weights")
    return len(content)


def load_weights(name: str | os.PathLike[str]) -> KBStyle:
    """A network in eval mode, float32 on the CPU, from a file or by the name of bundled weights.

    Raises
    ------
    FileError
        There are no such weights, or the file isn't a KBStyle network, or not as it was saved (files without a
        checksum in their metadata are taken as they are).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_weights(KBStyle(KBStyleConfig(widths=(4, 6, 8))), Path(folder, "tiny.safetensors"))
    ...     load_weights(Path(folder, "tiny.safetensors")).config.widths
    (4, 6, 8)
    """
    path = _find(name)
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            config, wanted = KBStyleConfig(**json.loads(facts["kbstyle"])), facts.get(CHECKSUM)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it isn't a dict)
        if max(config.fine_blocks, config.content_blocks, config.style_blocks) > len(state):
            raise ValueError("more blocks than tensors")  # and endless to build
        if not all(tensor.is_floating_point() and bool(tensor.isfinite().all()) for tensor in state.values()):
            raise ValueError("weights that aren't finite numbers")
        with torch.device("meta"):  # no first weights to draw, so the caller's random state stays as it is
            network = KBStyle(config)
        network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
        if wanted is not None and _checksum(path) != wanted:
            raise ValueError("the numbers were changed after they were saved: their checksum is another")
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(
            "these aren't the weights of a KBStyle network", got=f"{path} ({type(error).__name__}: {reason})"
        ) from None
    return network.eval()


def about(name: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a weights file, or of bundled weights.

    Raises
    ------
    FileError
        There are no such weights, or it isn't a weights file.

    Examples
    --------
    >>> "kbstyle" in about("teacher")
    True
    """
    path = _find(name)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FileError("the weights can't be read", got=f"{path} ({type(error).__name__})") from None


def _checksum(path: Path) -> str:
    content = path.read_bytes()
    return sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def _find(name: str | os.PathLike[str]) -> Path:
    known = bundled()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise FileError(
            "there are no such weights",
            got=str(name),
            expected="a weights file, or the name of bundled ones",
            remedy=closest(str(name), known),
        )
    return path
