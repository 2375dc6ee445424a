"""The running sums behind measure(), and the care taken of the model meanwhile."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skd.errors import DataError, NonFiniteError, ShapeError
from skd.moments import CrossMoments, Moments
from skd.pairing import Pairing, SymmetricPair
from skd.subspaces import PairSpectra
from skd.taps import Tap, as_layout, to_bcn


class Collector:
    """Takes in the features of one batch after the other; one sum a tap, however many pairs share it."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairs = pairing.pairs
        self.taps = pairing.taps
        sides = {tap for pair in pairing for tap in (pair.encoder, pair.decoder)}
        self.lone = pairing.bottleneck if pairing.bottleneck not in sides else None  # a bottleneck beside the pairs
        self.moments: dict[Tap, Moments] = {}
        self.cross: dict[str, CrossMoments | None] = {}
        self.notes: list[str] = []

    def update(self, features: Mapping[Tap, Tensor], batch: int) -> None:
        flat = {tap: to_bcn(features[tap], as_layout(features[tap], tap)) for tap in self.taps}
        self._check_widths(flat)
        for tap, feature in flat.items():
            moments = self.moments.setdefault(tap, Moments(feature.shape[1]))
            try:
                moments.update(feature)
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"layer '{tap}' returns NaN or infinity on batch {batch}",
                    got=error.got,
                    remedy="check this batch, or run the model in float32",
                ) from None
        for pair in self.pairs:
            self._update_cross(pair, features, flat)

    def _check_widths(self, flat: Mapping[Tap, Tensor]) -> None:
        for pair in self.pairs:
            either = {pair.width, pair.decoder_width}
            sides = [(pair.encoder, {pair.width}), (pair.decoder, {pair.decoder_width})]
            for tap, widths in [*sides, *((tap, either) for tap in pair.companions)]:
                if flat[tap].shape[1] not in widths:
                    raise ShapeError(
                        f"layer '{tap}' of pair {pair.name!r} has another width than the pairing says",
                        got=f"{flat[tap].shape[1]} channels",
                        expected=" or ".join(map(str, sorted(widths))),
                        remedy="pair this very model, and check the tap's layout",
                    )

    def _update_cross(self, pair: SymmetricPair, features: Mapping[Tap, Tensor], flat: Mapping[Tap, Tensor]) -> None:
        encoder, decoder = flat[pair.encoder], flat[pair.decoder]
        cross = self.cross.setdefault(pair.name, CrossMoments(encoder.shape[1], decoder.shape[1]))
        if cross is None:
            return
        shapes = [_positions(features[tap], tap) for tap in (pair.encoder, pair.decoder)]
        if shapes[0] == shapes[1]:
            cross.update(encoder, decoder)
            return
        # once positions don't correspond, sums over only some of the batches would mean nothing
        self.cross[pair.name] = None
        batch_only = shapes[0][1:] == shapes[1][1:]
        self.notes.append(
            f"pair {pair.name!r} has no cross-covariance: the encoder's side has {_text(shapes[0])}, "
            f"the decoder's {_text(shapes[1])}" + ("" if batch_only else "; resize one of them to compare positions")
        )

    def finish(self) -> tuple[tuple[PairSpectra, ...], PairSpectra | None]:
        """The spectra of the pairs, and the bottleneck's where it is none of their layers."""
        for tap, moments in self.moments.items():
            moments.cpu()
            leave_out = "pairing.without(name) leaves a pair out"
            if tap == self.lone:
                leave_out = "dataclasses.replace(pairing, bottleneck=None) leaves the bottleneck out"
            if moments.count <= moments.channels:
                raise DataError(
                    f"too few positions for the covariance of layer '{tap}'",
                    got=f"{moments.count} positions for {moments.channels} channels",
                    expected=f"at least {moments.channels + 1}",
                    remedy=f"measure more batches, or larger inputs; {leave_out}",
                )
            if moments.constant:
                raise DataError(
                    f"layer '{tap}' is constant on these data, so it has no directions to keep",
                    got=f"total variance {moments.total:.3g}",
                    remedy=f"give varied data; {leave_out}",
                )
        return tuple(self._spectra(pair) for pair in self.pairs), self._bottleneck()

    def _bottleneck(self) -> PairSpectra | None:
        if self.lone is None:
            return None
        moments = self.moments[self.lone]
        pair = SymmetricPair("bottleneck", self.lone, self.lone, width=moments.channels, decoder_width=moments.channels)
        return PairSpectra(pair, moments, moments, cross=moments.cov)

    def _spectra(self, pair: SymmetricPair) -> PairSpectra:
        cross = self.cross[pair.name]
        return PairSpectra(
            pair,
            self.moments[pair.encoder],
            self.moments[pair.decoder],
            cross=None if cross is None else cross.cov.cpu(),
            companions=tuple(self.moments[tap] for tap in pair.companions),
        )


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; flags and random state are put back, also after an error.

    The mode is set flag by flag: `eval()` and `train()` may be overridden, and do more than that.
    """
    flags = [(module, module.training) for module in model.modules()]
    devices = {p.device.index or 0 for p in model.parameters() if p.is_cuda}
    numbers = random.getstate()
    try:
        with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
            for module, _ in flags:
                module.training = False
            yield
    finally:
        random.setstate(numbers)
        for module, flag in flags:
            module.training = flag


def arguments(model: nn.Module, item: Any, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from an item of the data, checked against the model's forward."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(item, Tensor):
        args = (item,)
    elif isinstance(item, (tuple, list)) and item:
        args = tuple(item)
    elif isinstance(item, Mapping) and item:
        kwargs = dict(item)
    else:
        empty = "an empty " if isinstance(item, (tuple, list, Mapping)) else ""
        raise DataError(
            f"batch {batch} can't be given to the model",
            got=empty + type(item).__name__,
            expected="a tensor, a tuple of arguments or a dict of keyword arguments",
            remedy="inputs=… turns an item of the data into one of these",
        )
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise DataError(
            f"batch {batch} doesn't fit the model's arguments",
            got=f"{type(item).__name__} of {len(item)} ({error})",
            remedy="for batches of (x, y) give inputs=lambda batch: batch[0]",
        ) from None
    return args, kwargs


def _positions(feature: Tensor, tap: Tap) -> tuple[int, ...]:
    """Samples, then the spatial axes."""
    channel_axis = 2 if as_layout(feature, tap) == "BNC" else 1
    return tuple(size for axis, size in enumerate(feature.shape) if axis != channel_axis)


def _text(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} samples of " + ("×".join(map(str, shape[1:])) or "1") + " positions"
