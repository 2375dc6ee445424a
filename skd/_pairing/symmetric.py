"""One symmetric pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skd._pairing.network import Network
from skd.errors import ArgumentError, PairingError
from skd.taps import Tap


@dataclass(frozen=True)
class SymmetricPair:
    """An encoder layer and the decoder layer that mirrors it.

    Attributes
    ----------
    name : str
        Unique in its pairing.
    encoder, decoder : Tap
        Where the two sides are read.
    width, decoder_width : int
        Channels of the encoder's and the decoder's side.
    scale : tuple of float or None
        Size of the encoder's feature over the network input's, for each spatial axis; None where pairs have none.
    companions : tuple of Tap
        Further layers that share the pair's width and basis.

    Examples
    --------
    >>> SymmetricPair("1/2", encoder=Tap("down"), decoder=Tap("up"), width=16, decoder_width=16).has_equal_widths
    True
    """

    name: str
    encoder: Tap
    decoder: Tap
    width: int
    decoder_width: int
    scale: tuple[float, ...] | None = None
    companions: tuple[Tap, ...] = ()

    @property
    def has_equal_widths(self) -> bool:
        """Whether both sides have as many channels."""
        return self.width == self.decoder_width

    def to_json(self) -> dict[str, Any]:
        """The pair as plain values, for JSON."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "encoder": self.encoder.to_json(),
            "decoder": self.decoder.to_json(),
            "scale": None if self.scale is None else [*self.scale],
            "companions": [tap.to_json() for tap in self.companions],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SymmetricPair:
        """The pair that `to_json` wrote.

        Raises
        ------
        ArgumentError
            The values aren't a pair's.
        """
        try:
            name, width, decoder_width, scale = (data[key] for key in ("name", "width", "decoder_width", "scale"))
            good = isinstance(name, str) and all(type(w) is int and w > 0 for w in (width, decoder_width))
            if not good or not {field.name for field in dataclasses.fields(cls)}.issuperset(data):
                raise ValueError(f"a pair with {sorted(data)}")
            return cls(
                name,
                Tap.from_json(data["encoder"]),
                Tap.from_json(data["decoder"]),
                width,
                decoder_width,
                None if scale is None else tuple(float(ratio) for ratio in scale),
                tuple(Tap.from_json(tap) for tap in data["companions"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArgumentError("this isn't a symmetric pair's JSON", got=error) from error


def pair_of(network: Network, name: str, encoder: Tap, decoder: Tap, *, scaled: bool = True) -> SymmetricPair:
    """The pair of two layers, its widths, scale and layouts looked up."""
    one, other = network.spot(encoder), network.spot(decoder)
    sides = network.complete(encoder), network.complete(decoder)
    return SymmetricPair(name, *sides, one.width, other.width, one.scale if scaled else None)


def with_companion(pair: SymmetricPair, tap: Tap, network: Network) -> SymmetricPair:
    """The pair with one more companion, whose width has to be one side's."""
    width = network.spot(tap).width
    if width not in (pair.width, pair.decoder_width):
        raise PairingError(
            f"companion '{tap}' can't share the basis of pair {pair.name!r}, as its width is another",
            got=width,
            expected=pair.width if pair.has_equal_widths else f"{pair.width} or {pair.decoder_width}",
        )
    return dataclasses.replace(pair, companions=(*pair.companions, network.complete(tap)))


def scale_text(scale: tuple[float, ...] | None) -> str:
    """The ratios of the axes, as one where they are equal."""
    texts = [f"{ratio:.3g}" for ratio in scale or ()]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts) or "-"
