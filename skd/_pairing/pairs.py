"""The ordered pairs of a network: printed, edited, declared by hand, kept in a file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from skd._files import read_bytes, write_atomically
from skd._pairing.found import scale_label, unique_names
from skd._pairing.network import Network
from skd._pairing.symmetric import SymmetricPair, pair_of, scale_text, with_companion
from skd._tables import format_table
from skd.errors import ArgumentError, FileError, LayerNotFoundError, PairingError, SkdError, closest
from skd.taps import Tap
from skd.trace import dry_run

FORMAT, VERSION = "skd.pairing", 1

Example = Tensor | tuple[Any, ...] | dict[str, Any]
Companions = Mapping[str, Sequence[str | Tap]]


@dataclass(frozen=True)
class Pairing:
    """The symmetric pairs of a network, from the outermost to the innermost. ``str()`` is a table of them.

    Made by `pair`, or by hand with `Pairing.declare`; changed by `without`, `replace` and `reorder`, which return new
    ones.

    Attributes
    ----------
    pairs : tuple of SymmetricPair
    bottleneck : Tap or None
        The layer at the turning point. It may be the encoder's side of the last pair.
    notes : tuple of str
        What was ambiguous, and what was left out.

    Raises
    ------
    PairingError
        There is no pair, or two have the same name.
    """

    pairs: tuple[SymmetricPair, ...]
    bottleneck: Tap | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [each.name for each in self.pairs]
        if not names:
            raise PairingError("a pairing needs at least one pair")
        if len(set(names)) < len(names):
            raise PairingError("two pairs have the same name", got=", ".join(names))

    def __iter__(self) -> Iterator[SymmetricPair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | str) -> SymmetricPair:
        return self.pairs[key] if isinstance(key, int) else self.pairs[self._index(key)]

    def __str__(self) -> str:
        header = ["pair", "encoder", "decoder", "channels", "scale", "companions"]
        rows = [
            [
                each.name,
                each.encoder,
                each.decoder,
                f"{each.width}" if each.has_equal_widths else f"{each.width} / {each.decoder_width}",
                scale_text(each.scale),
                ", ".join(map(str, each.companions)) or "-",
            ]
            for each in self.pairs
        ]
        title = f"Pairing, {len(self)} pair{'s' * (len(self) > 1)}"
        title += f", bottleneck {self.bottleneck}" if self.bottleneck else ""
        return format_table(title, header, rows, self.notes)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Every tap once: pair by pair encoder, decoder and companions, then the bottleneck."""
        taps = [tap for each in self.pairs for tap in (each.encoder, each.decoder, *each.companions)]
        return tuple(dict.fromkeys([*taps, *([self.bottleneck] if self.bottleneck else [])]))

    def without(self, *names: str) -> Pairing:
        """The pairing less these pairs.

        Raises
        ------
        LayerNotFoundError
            There is no such pair.
        PairingError
            No pair would be left.
        """
        gone = {self._index(name) for name in names}
        return dataclasses.replace(self, pairs=tuple(p for k, p in enumerate(self.pairs) if k not in gone))

    def replace(
        self, name: str, /, *, model: nn.Module | None = None, example: Example | None = None, **changes: Any
    ) -> Pairing:
        """The pairing with fields of one pair changed.

        Parameters
        ----------
        name : str
            The pair.
        model, example : optional
            With them, changed taps are looked up in a dry run, which gives widths, scale, layout and clone.
        **changes
            Fields of `SymmetricPair`; taps may be given in their short form.

        Raises
        ------
        LayerNotFoundError
            There is no such pair, or the network has no such layer.
        ArgumentError
            There is no such field, or a side is changed and neither its width nor a model is given.

        Examples
        --------
        >>> pairing = Pairing((SymmetricPair("1/2", Tap("down"), Tap("up"), 16, 16),))
        >>> pairing.replace("1/2", decoder="up.conv", decoder_width=8)["1/2"].decoder_width
        8
        """
        index = self._index(name)
        fields = {field.name for field in dataclasses.fields(SymmetricPair)}
        if unknown := set(changes) - fields:
            raise ArgumentError(
                "a pair has no such field", got=", ".join(sorted(unknown)), expected=", ".join(sorted(fields))
            )
        for side in {"encoder", "decoder"} & set(changes):
            changes[side] = Tap.of(changes[side])
        if "companions" in changes:
            changes["companions"] = tuple(Tap.of(tap) for tap in changes["companions"])
        new = dataclasses.replace(self.pairs[index], **changes)
        if model is not None and example is not None:
            network = Network(dry_run(model, example))
            new = pair_of(network, new.name, new.encoder, new.decoder, scaled=new.scale is not None)
            for tap in changes.get("companions", self.pairs[index].companions):
                new = with_companion(new, tap, network)
            return self._with(index, new)
        for side, width in (("encoder", "width"), ("decoder", "decoder_width")):
            if side in changes and width not in changes:
                raise ArgumentError(
                    f"a new {side} needs its width", remedy=f"give {width}=…, or model=… and example=… to look it up"
                )
        return self._with(index, new)

    def reorder(self, names: Sequence[str]) -> Pairing:
        """The pairing with its pairs in this order.

        Raises
        ------
        PairingError
            The names aren't all of the pairs, each once.
        """
        if sorted(names) != sorted(each.name for each in self.pairs):
            raise PairingError(
                "a new order has every pair once", got=list(names), expected=[each.name for each in self.pairs]
            )
        return dataclasses.replace(self, pairs=tuple(self[name] for name in names))

    @classmethod
    def declare(
        cls,
        pairs: Sequence[tuple[str | Tap, str | Tap]] | Mapping[str, tuple[str | Tap, str | Tap]],
        model: nn.Module,
        example: Example,
        *,
        companions: Companions | None = None,
        bottleneck: str | Tap | None = None,
    ) -> Pairing:
        """A pairing by hand; names, widths, scales and layouts are looked up in a dry run.

        Parameters
        ----------
        pairs : sequence of (encoder, decoder), or mapping of name to it
            Outermost first. Without names, pairs are named by their scale, or "pair 1", "pair 2", … without one.
        model, example
            As for `pair`.
        companions : mapping of layer or pair name to layers, optional
            As for `pair`.
        bottleneck : str or Tap, optional

        Raises
        ------
        LayerNotFoundError
            The network has no such layer, or it didn't run.
        PairingError
            A layer returns no feature, or a companion has another width.

        Examples
        --------
        >>> net = nn.Sequential(nn.Conv1d(1, 4, 3, 2, 1), nn.Conv1d(4, 8, 3, 2, 1), nn.ConvTranspose1d(8, 4, 2, 2))
        >>> import torch
        >>> print(Pairing.declare([("0", "2")], net, torch.zeros(1, 1, 16)))
        Pairing, 1 pair
          pair  encoder  decoder  channels  scale  companions
          1/2   0        2        4         0.5    -
        """
        network = Network(dry_run(model, example))
        sides = [
            (Tap.of(one), Tap.of(other)) for one, other in (pairs.values() if isinstance(pairs, Mapping) else pairs)
        ]
        encoders = [network.spot(encoder) for encoder, _ in sides]
        guesses = [scale_label(spot) if spot.scale else f"pair {k}" for k, spot in enumerate(encoders, start=1)]
        names = list(pairs) if isinstance(pairs, Mapping) else unique_names(guesses)
        made = [pair_of(network, name, *taps) for name, taps in zip(names, sides, strict=True)]
        turned = None if bottleneck is None else network.complete(Tap.of(bottleneck))
        return beside(cls(tuple(made), turned), network, companions or {})

    def to_json(self) -> dict[str, Any]:
        """The pairing as plain values, for JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "pairs": [each.to_json() for each in self.pairs],
            "bottleneck": self.bottleneck.to_json() if self.bottleneck else None,
            "notes": [*self.notes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pairing:
        """The pairing that `to_json` wrote.

        Raises
        ------
        ArgumentError
            The values aren't a pairing's, or of another version.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ArgumentError("this isn't a pairing's JSON", expected=f"the format {FORMAT!r}")
        if data.get("version") != VERSION:
            raise ArgumentError("the pairing has another version", got=data.get("version"), expected=VERSION)
        try:
            bottleneck = None if data["bottleneck"] is None else Tap.from_json(data["bottleneck"])
            pairs = tuple(SymmetricPair.from_json(each) for each in data["pairs"])
            return cls(pairs, bottleneck, tuple(map(str, data["notes"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ArgumentError("the pairing's JSON is damaged", got=error) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file; it is there whole or not at all.

        Raises
        ------
        FileError
            It can't be written.
        """
        write_atomically(path, (json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pairing:
        """Read what `save` wrote.

        Raises
        ------
        FileError
            The file is missing, truncated, or not such a file.
        """
        try:
            return cls.from_json(json.loads(read_bytes(path)))
        except (ValueError, SkdError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{str(path)!r} is no pairing file, or a damaged one", got=error) from error

    def _with(self, index: int, new: SymmetricPair) -> Pairing:
        return dataclasses.replace(self, pairs=(*self.pairs[:index], new, *self.pairs[index + 1 :]))

    def _index(self, name: str) -> int:
        for index, each in enumerate(self.pairs):
            if each.name == name:
                return index
        known = [each.name for each in self.pairs]
        raise LayerNotFoundError("the pairing has no such pair", got=repr(name), remedy=closest(name, known))


def beside(pairing: Pairing, network: Network, companions: Companions) -> Pairing:
    """The pairing with its companions."""
    for key, layers in companions.items():
        index, pairing = _pair_with(pairing, network, key)
        for layer in layers:
            pairing = pairing._with(index, with_companion(pairing[index], Tap.of(layer), network))
    return pairing


def _pair_with(pairing: Pairing, network: Network, key: str) -> tuple[int, Pairing]:
    """The pair of this name or with this layer; a layer at the scale of a pair becomes its encoder's side."""
    for index, each in enumerate(pairing):
        if key == each.name or str(Tap.of(key)) in (str(each.encoder), str(each.decoder)):
            return index, pairing
    tap = network.complete(Tap.of(key))
    spot = network.spot(tap)
    ends = [pairing.bottleneck] if pairing.bottleneck else [each.decoder for each in pairing]
    is_before = spot.place <= min(network.spot(end).place for end in ends)
    for index, each in enumerate(pairing):
        if is_before and spot.scale is not None and spot.scale == each.scale:
            new = dataclasses.replace(each, encoder=tap, width=spot.width)
            note = f"{each.name}: '{tap}' is the encoder's side and not '{each.encoder}', as it has companions"
            return index, dataclasses.replace(pairing._with(index, new), notes=(*pairing.notes, note))
    raise PairingError(
        f"'{key}' has companions but is in no pair",
        got=", ".join(f"{each.name}: {each.encoder} and {each.decoder}" for each in pairing),
        remedy="name one of these pairs or layers",
    )
