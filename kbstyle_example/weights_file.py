"""Weights files: safetensors with the network's configuration in the metadata, so that a file is all one needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kbstyle_example.networks import KBStyle, KBStyleConfig
from skd.errors import FileError, SkdError, closest

FOLDER = Path(__file__).parent / "weights"
BUDGET = 204_800  # bytes of KBStyle's whole float32 file: 200 KB of 1,024 bytes


def bundled() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def save_weights(network: KBStyle, path: str | os.PathLike[str], *, about: Mapping[str, str] | None = None) -> int:
    """Write a network whole or not at all; returns the file's size in bytes.

    Parameters
    ----------
    network : KBStyle
    path : path
    about : mapping of str to str, optional
        Further metadata: steps, seed, data.
    """
    path = Path(path)
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    content = save(tensors, {"kbstyle": json.dumps(network.config.as_dict()), **(about or {})})
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise FileError("the weights can't be written", got=f"{path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return len(content)


def load_weights(name: str | os.PathLike[str]) -> KBStyle:
    """A network in eval mode, from a file or by the name of bundled weights.

    Raises
    ------
    FileError
        There are no such weights, or the file isn't a KBStyle network.

    Examples
    --------
    >>> net = load_weights("teacher")
    >>> net.config.widths
    (32, 64, 128)
    """
    path = bundled().get(str(name), Path(name))
    if not path.is_file():
        raise FileError("there are no such weights", got=str(name), remedy=f"a file, or: {closest(str(name), bundled())}")
    try:
        with safe_open(path, framework="pt") as file:
            config = KBStyleConfig(**json.loads((file.metadata() or {})["kbstyle"]))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it isn't a dict)
        network = KBStyle(config)
        network.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, SkdError) as error:
        raise FileError("these aren't the weights of a KBStyle network", got=f"{path} ({type(error).__name__})") from None
    return network.eval()


def about(name: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a weights file."""
    path = bundled().get(str(name), Path(name))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FileError("the weights can't be read", got=f"{path} ({type(error).__name__})") from None
