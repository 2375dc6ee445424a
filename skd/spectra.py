"""measure(): the streaming statistics of a pairing on calibration data, and their file."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from skd._files import read_bytes, write_atomically
from skd._measuring import Collector, arguments, quiet
from skd._tables import format_table
from skd.errors import ArgumentError, DataError, FileError, LayerNotFoundError, closest
from skd.moments import Moments
from skd.pairing import Pairing, SymmetricPair
from skd.subspaces import Kind, PairBasis, PairSpectra
from skd.taps import Taps

__all__ = ["Kind", "PairBasis", "PairSpectra", "Spectra", "measure"]

FORMAT, VERSION = "skd.spectra", 1


@dataclass(frozen=True, eq=False)
class Spectra:
    """Means and covariances of every pair of a pairing; made once, used by compress, SKD and report.

    Attributes
    ----------
    pairing : Pairing
        What was measured.
    pairs : tuple of PairSpectra
        In the pairing's order.
    bottleneck : PairSpectra or None
        The bottleneck's, where it is none of the pairs' layers: both sides are the one layer.
    notes : tuple of str
        What to know about these numbers.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv1d(1, 4, 3, 2, 1), nn.ConvTranspose1d(4, 4, 2, 2))
    >>> x = torch.randn(2, 1, 16)
    >>> spectra = measure(net, Pairing.declare([("0", "1")], net, x), [x])
    >>> len(spectra), spectra["1/2"].encoder.cov.shape
    (1, torch.Size([4, 4]))
    """

    pairing: Pairing
    pairs: tuple[PairSpectra, ...]
    bottleneck: PairSpectra | None = None
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[PairSpectra]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, name: str | int) -> PairSpectra:
        if isinstance(name, int):
            return self.pairs[name]
        for pair in self.pairs:
            if pair.name == name:
                return pair
        known = [pair.name for pair in self.pairs]
        raise LayerNotFoundError("the spectra have no such pair", got=repr(name), remedy=closest(name, known))

    def __str__(self) -> str:
        header = [
            "pair",
            "encoder",
            "decoder",
            "channels",
            "positions",
            "basis",
            "keeps at ¼",
            "keeps at ½",
            "linkable",
        ]
        rows = [_row(pair) for pair in (*self.pairs, *((self.bottleneck,) if self.bottleneck else ()))]
        return format_table("Spectra, energy kept encoder / decoder", header, rows, self.notes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it is there whole or not at all.

        Raises
        ------
        FileError
            If it can't be written.
        """
        entries = [*self.pairs, *((self.bottleneck,) if self.bottleneck else ())]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "pairing": json.dumps(self.pairing.to_json()),
            "bottleneck": self.bottleneck is not None,
            "notes": list(self.notes),
            "pairs": [
                {
                    "pair": json.dumps(entry.pair.to_json()),
                    "encoder": entry.encoder.to_tensors(),
                    "decoder": entry.decoder.to_tensors(),
                    "cross": entry.cross,
                    "companions": [moments.to_tensors() for moments in entry.companions],
                }
                for entry in entries
            ],
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectra:
        """Read what `save` wrote; loads tensors and plain values only, never code.

        Raises
        ------
        FileError
            If the file is missing, truncated, or not such a file.
        """
        data = read_bytes(path)
        try:
            content = torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:  # torch.load raises half a dozen unrelated types for damaged files
            raise FileError(f"{str(path)!r} is no spectra file, or a damaged one", got=type(error).__name__) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise FileError(f"{str(path)!r} holds something else", expected=f"the format {FORMAT!r}")
        if content.get("version") != VERSION:
            raise FileError(
                f"{str(path)!r} has another version",
                got=content.get("version"),
                expected=VERSION,
                remedy="measure again, or update skd",
            )
        try:
            pairing = Pairing.from_json(json.loads(content["pairing"]))
            pairs = [_pair_from(entry) for entry in content["pairs"]]
            bottleneck = pairs.pop() if content["bottleneck"] else None
            if [pair.pair for pair in pairs] != list(pairing):
                raise FileError("the pairs aren't those of the pairing")
            return cls(pairing, tuple(pairs), bottleneck, tuple(map(str, content["notes"])))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, FileError) as error:
            raise FileError(f"{str(path)!r} is damaged", got=error) from error


def measure(
    model: nn.Module,
    pairing: Pairing,
    data: Iterable[Any],
    *,
    batches: int | None = None,
    inputs: Callable[[Any], Any] | None = None,
) -> Spectra:
    """Means and covariances of every pair in one pass over calibration data.

    The covariances are the total ones, about the mean of all data, with every position of every sample one
    observation, in float64. Memory doesn't grow with the data. The model runs in eval mode without gradients; its
    flags and the random state are as before afterwards, also after an error.

    Parameters
    ----------
    model : nn.Module
        The network the pairing was made of.
    pairing : Pairing
    data : iterable
        Of what the model takes: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
    batches : int, optional
        Stop after so many items of `data`.
    inputs : callable, optional
        Turns an item of `data` into what the model takes, e.g. ``lambda batch: batch[0]`` for a loader of (x, y); also
        the place for moving it to the model's device.

    Raises
    ------
    DataError
        No data, items of the wrong kind, too few positions (a covariance of C channels needs C + 1), or a layer that
        is constant on these data.
    NonFiniteError
        A feature with NaN or infinity; says which layer and batch.
    ArgumentError
        `batches` isn't positive.

    Examples
    --------
    >>> from skd.pairing import pair
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1),
    ...                     nn.ConvTranspose2d(8, 4, 2, 2), nn.ConvTranspose2d(4, 3, 2, 2))
    >>> example = torch.randn(2, 3, 16, 24)
    >>> spectra = measure(net, pair(net, example), [example, example])
    >>> spectra["1/2"].encoder.count, spectra["1/2"].basis(2).encoder.shape
    (384, torch.Size([4, 2]))
    """
    if batches is not None and batches < 1:
        raise ArgumentError("at least one batch has to be measured", got=f"batches={batches}")
    collector = Collector(pairing)
    taps = Taps(model, collector.taps, stop_early=True)
    seen = 0
    with quiet(model):
        for index, item in enumerate(itertools.islice(data, batches)):
            args, kwargs = arguments(model, item if inputs is None else inputs(item), index)
            collector.update(taps(*args, **kwargs)[1], index)
            seen += 1
    if seen == 0:
        raise DataError("there are no data to measure", got="0 batches", remedy="give at least one batch")
    pairs, bottleneck = collector.finish()
    return Spectra(pairing, pairs, bottleneck, tuple(collector.notes))


def _row(spectra: PairSpectra) -> list[object]:
    def kept(width: int) -> str:
        basis = spectra.basis(max(1, width))
        return f"{basis.energy_encoder:.0%} / {basis.energy_decoder:.0%}"

    pair = spectra.pair
    width = f"{pair.width}" if pair.width == pair.decoder_width else f"{pair.width} / {pair.decoder_width}"
    count = spectra.encoder.count, spectra.decoder.count
    positions = f"{count[0]:,}" if count[0] == count[1] else f"{count[0]:,} / {count[1]:,}"
    cells = [pair.name, pair.encoder, pair.decoder, width, positions, spectra.default_kind]
    return [*cells, kept(pair.width // 4), kept(pair.width // 2), "no" if spectra.cross is None else "yes"]


def _pair_from(entry: dict[str, Any]) -> PairSpectra:
    pair = SymmetricPair.from_json(json.loads(entry["pair"]))
    encoder, decoder = Moments.from_tensors(entry["encoder"]), Moments.from_tensors(entry["decoder"])
    companions = tuple(Moments.from_tensors(values) for values in entry["companions"])
    cross = entry["cross"]
    shape = (encoder.channels, decoder.channels)
    if shape != (pair.width, pair.decoder_width) or len(companions) != len(pair.companions):
        raise FileError(f"the moments of pair {pair.name!r} don't have its widths", got=shape)
    if cross is not None and (cross.shape != shape or not bool(torch.isfinite(cross).all())):
        raise FileError(f"the cross-covariance of pair {pair.name!r} is damaged", expected=shape)
    return PairSpectra(pair, encoder, decoder, cross, companions)
