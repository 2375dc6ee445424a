"""Teachers' features on disk: a sample that comes again costs a file instead of a run of the teacher."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from skd._compression.budget import parse_size, size_text
from skd._digests import Call, update
from skd._feature_file import Kept, packed, unpacked
from skd.adapters import Adapter, BasisAdapter, SpaceAdapter
from skd.errors import ArgumentError, FeatureError, FileError
from skd.methods.transfer import Transfer
from skd.taps import Tap, Taps

__all__ = ["TeacherCache"]

Features = dict[Tap, Tensor]
DIGEST = hashlib.sha256().digest_size
FORMAT = 3  # of what a file says
SUFFIX = ".features"
TOLERANCE = 1e-3  # of a feature's largest value: what batches of other sizes may differ by


class TeacherCache:
    """Features of frozen teachers, kept on disk sample by sample.

    A sample is known by its contents: the digest of what the teacher is given for it, of the teacher's weights, of the
    taps and of the precision. What is only ever read in the coordinates of a fixed basis (as SKD's bases from spectra
    are) is kept in these, at the student's width instead of the teacher's. So nothing has to be named, batches may be
    shuffled, and augmentation that repeats itself is found again; augmentation that never does only fills the disk.
    Whatever has the batch's size first belongs to the samples, all other arguments to every one of them.

    Parameters
    ----------
    folder : path
        Made if it isn't there. Several processes may share it.
    size : int or str
        Bytes that it may take, as "4 GB" or a number; when it is full, nothing more is kept.
    dtype : torch.dtype
        How features are kept: float16 (a relative error of 5e-4 at most; features beyond its range stay as they are),
        bfloat16 or float32.

    Attributes
    ----------
    hits, misses, corrupt : int
        Samples that were found, that were not, and whose files were damaged (those are made anew).
    used : int
        Bytes in the folder, as far as this process knows.

    Raises
    ------
    ArgumentError
        A size or dtype that can't be used.
    FileError
        The folder can't be made.

    Notes
    -----
    Not for teachers whose features of one sample depend on the others in its batch: the first batch that isn't found
    is compared with its first sample alone, and a difference is a FeatureError. In a compiled step the teacher runs
    every time.

    Examples
    --------
    >>> import tempfile, skd
    >>> from torch import nn
    >>> teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = TeacherCache(folder, size="1 MB")
    ...     distiller = skd.Distiller(teacher, student, [skd.methods.Transfer("output", "", "")], cache=cache)
    ...     for _ in range(3):
    ...         step = distiller(torch.ones(4, 3))
    >>> cache.hits, cache.misses
    (8, 4)
    """

    def __init__(
        self, folder: str | PathLike[str], *, size: int | str = "4 GB", dtype: torch.dtype = torch.float16
    ) -> None:
        if dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise ArgumentError("features can't be kept so", got=dtype, expected="float16, bfloat16 or float32")
        self.folder, self.size, self.dtype = Path(folder), parse_size(size), dtype
        self.hits = self.misses = self.corrupt = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{str(folder)!r} can't be made", got=error.strerror or error) from error
        self.used = sum(path.stat().st_size for path in self.folder.rglob(f"*{SUFFIX}"))
        self._digests = WeakKeyDictionary[nn.Module, tuple[int, bytes]]()
        self._checked: set[bytes] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return TeacherCache._again, (self.folder, self.size, self.dtype)

    @classmethod
    def _again(cls, folder: Path, size: int, dtype: torch.dtype) -> TeacherCache:
        return cls(folder, size=size, dtype=dtype)

    def __repr__(self) -> str:
        kept = f"{size_text(self.used)} of {size_text(self.size)}"
        return f"TeacherCache({str(self.folder)!r}, {kept}, {self.hits} hits, {self.misses} misses)"

    def features(
        self,
        taps: Taps,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        adapters: Mapping[Tap, Adapter] | None = None,
    ) -> Features:
        """What ``taps(*args, **kwargs)`` reads, from the folder where all samples are in it.

        A tap with an adapter (see `narrowed`) gives what the adapter makes of its feature, and that is what is kept.

        Raises
        ------
        FeatureError
            A feature isn't sample by sample; see the class.
        FileError
            A file can't be written.
        """
        call = Call(args, kwargs)
        adapters = adapters or {}
        about = self._about(taps, adapters)
        keys = [hashlib.sha256(about + digest).hexdigest() for digest in call.digests()]
        found = [self._read(key) for key in keys]
        known = [each for each in found if each is not None]
        if len(known) == len(keys):
            self.hits += len(keys)
            return _together(taps.taps, known, call.device)
        features: Features = taps(*args, **kwargs)[1]
        if about not in self._checked:
            _check(features, taps, call)
            self._checked.add(about)
        features = {tap: adapters[tap](each) if tap in adapters else each for tap, each in features.items()}
        for index, (key, each) in enumerate(zip(keys, found, strict=True)):
            if each is None:
                self.misses += 1
                self._write(key, [features[tap][index] for tap in taps.taps])
            else:
                self.hits += 1
        return features

    def _about(self, taps: Taps, adapters: Mapping[Tap, Adapter]) -> bytes:
        """The digest of what all samples share: teacher, taps, adapters, and how features are computed and kept."""
        weights = [value for value in taps.model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)]
        device = weights[0].device.type if weights else "cpu"
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        how = [str(tap) for tap in taps.taps], str(autocast), str(self.dtype)
        about = self._digest(taps.model) + repr((FORMAT, how)).encode()
        return about + b"".join(repr(str(tap)).encode() + self._digest(each) for tap, each in adapters.items())

    def _digest(self, module: nn.Module) -> bytes:
        """Of a module and its weights, made anew when they change."""
        state = module.state_dict(keep_vars=True)
        # Whoever changes a weight in place raises its version; one that is put in its place has another identity.
        weights = [value for value in state.values() if isinstance(value, Tensor)]
        version = hash(tuple((id(x), 0 if x.is_inference() else x._version) for x in weights))
        known = self._digests.get(module)
        if known is None or known[0] != version:
            digest = hashlib.sha256(str(module).encode())
            for name, value in state.items():
                digest.update(name.encode())
                update(digest, value)
            known = self._digests[module] = version, digest.digest()
        return known[1]

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}{SUFFIX}"

    def _read(self, key: str) -> list[Kept] | None:
        """A sample's features; None where there are none, or none that are whole."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            self.corrupt += 1
            self.used -= len(content)
            path.unlink(missing_ok=True)
            return None
        return unpacked(content[DIGEST:])

    def _write(self, key: str, features: Sequence[Tensor]) -> None:
        payload = packed([self._kept(feature) for feature in features])
        if self.used + DIGEST + len(payload) > self.size:
            return
        path = self._path(key)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            # Not flushed to the disk, as that takes longer than many a teacher: half a file is found by its digest.
            beside.write_bytes(hashlib.sha256(payload).digest() + payload)
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise FileError(f"{str(path)!r} can't be written", got=error.strerror or error) from error
        self.used += DIGEST + len(payload)

    def _kept(self, feature: Tensor) -> Kept:
        """As it is written: narrow where that holds it, in the order in which it lies, and how to have it back."""
        last = feature.dim() == 3 and feature.stride(0) == 1 and not feature.is_contiguous()
        whole = feature.detach().cpu()
        narrow = whole.to(self.dtype) if whole.is_floating_point() else whole
        if narrow.dtype == torch.float16 and not bool(narrow.isfinite().all()):
            narrow = whole
        narrow = narrow.movedim(0, -1) if last else narrow
        return Kept(narrow.contiguous(), feature.dtype, last)


def narrowed(rows: Iterable[Transfer], name: str) -> dict[Tap, Adapter]:
    """The teacher's taps that are only ever read in fewer fixed coordinates, with what gives these.

    Their features may be kept so: less to read, and nothing to compute. Of what is left the other side's adapters must
    need the size alone.
    """
    found: dict[Tap, Adapter | None] = {}
    for row in rows:
        if row.of != name:
            continue
        sized = row.through is None and all(each is None or type(each) is SpaceAdapter for each in row.student_adapters)
        for tap, adapter in zip(row.teacher_taps, row.teacher_adapters, strict=True):
            fits = sized and type(adapter) is BasisAdapter and found.get(tap, adapter) is adapter
            found[tap] = cast(Adapter, adapter) if fits else None
        for tap in row.through.put if row.through is not None else ():
            found[tap] = None
    return {tap: adapter for tap, adapter in found.items() if adapter is not None}


def _together(taps: Sequence[Tap], samples: Sequence[Sequence[Kept]], device: torch.device) -> Features:
    """A batch of samples' features, in the memory format that they had; widened once, when they are together."""
    found = {}
    for index, tap in enumerate(taps):
        kept, dtypes, last = zip(*(each[index] for each in samples), strict=True)
        dtype = dtypes[0]
        narrow = all(each.dtype == kept[0].dtype for each in kept)
        batch = torch.stack(kept if narrow else [each.to(dtype) for each in kept])
        found[tap] = (batch.movedim(-1, 1) if last[0] else batch).to(device).to(dtype)
    return found


def _check(features: Features, taps: Taps, call: Call) -> None:
    """Whether the first sample's features are the same without the others."""
    args, kwargs = call.first()
    alone: Features = taps(*args, **kwargs)[1]
    for tap, feature in features.items():
        one = alone[tap]
        same = len(feature) == call.batch and one.shape[1:] == feature.shape[1:]
        scale = float(feature.detach().abs().amax()) if same and feature.numel() > 0 else 0.0
        if not same or float((one[0] - feature[0]).detach().abs().amax()) > TOLERANCE * scale:
            raise FeatureError(
                f"the teacher's feature at tap '{tap}' can't be kept sample by sample",
                got="another feature of the first sample without the rest of its batch",
                expected="features that have the batch first, and don't depend on it",
                remedy="leave the cache away, or pad all batches alike",
            )
