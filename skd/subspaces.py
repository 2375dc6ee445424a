"""The statistics of one symmetric pair, and the bases of its two sides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from skd import bases
from skd.errors import ArgumentError
from skd.moments import Moments
from skd.pairing import SymmetricPair

Kind = Literal["shared", "own", "linked", "subset", "own_subset"]


@dataclass(frozen=True, eq=False)
class PairBasis:
    """A basis for each side of a pair, with what it keeps.

    Features x (C,) about their mean μ become coordinates z = Uᵀ (x − μ) and come back as μ + L z; U is `encoder` or
    `decoder`, L the lift, which equals U except for subsets.

    Attributes
    ----------
    kind : str
        See `PairSpectra.basis`.
    encoder, decoder : Tensor
        (C, c) and (C', c') float64.
    lift_encoder, lift_decoder : Tensor
        The same shapes.
    mean_encoder, mean_decoder : Tensor
        (C,) and (C',) float64.
    energy_encoder, energy_decoder : float
        Share of each side's total variance that comes back, 0 to 1.
    energy_companions : tuple of float
        The same for the companions, which use the basis of the side whose width they have (the encoder's, if both).
    channels, decoder_channels : tuple of int or None
        The picked channels, for subsets.
    """

    kind: Kind
    encoder: Tensor
    decoder: Tensor
    lift_encoder: Tensor
    lift_decoder: Tensor
    mean_encoder: Tensor
    mean_decoder: Tensor
    energy_encoder: float
    energy_decoder: float
    energy_companions: tuple[float, ...] = ()
    channels: tuple[int, ...] | None = None
    decoder_channels: tuple[int, ...] | None = None

    @property
    def width(self) -> int:
        """Columns of the encoder's basis, c."""
        return self.encoder.shape[1]

    @property
    def decoder_width(self) -> int:
        """Columns of the decoder's basis, c'."""
        return self.decoder.shape[1]

    @property
    def energy(self) -> float:
        """Mean of both sides' energies; tr(Uᵀ M U) for a shared basis."""
        return (self.energy_encoder + self.energy_decoder) / 2


@dataclass(frozen=True, eq=False)
class PairSpectra:
    """Moments of the two sides of a symmetric pair on calibration data.

    Attributes
    ----------
    pair : SymmetricPair
    encoder, decoder : Moments
    cross : Tensor or None
        (C, C') float64 cross-covariance; None where the sides' positions don't correspond one to one.
    companions : tuple of Moments
        In the order of `pair.companions`.

    Examples
    --------
    >>> from skd.taps import Tap
    >>> moments = Moments(2)
    >>> moments.update(torch.tensor([[[2.0, -2.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]]))
    >>> pair = SymmetricPair("1/2", encoder=Tap("down"), decoder=Tap("up"), width=2, decoder_width=2)
    >>> spectra = PairSpectra(pair, moments, moments, cross=None)
    >>> spectra.energy_curve().tolist()  # variances 4 and 1
    [0.8, 1.0]
    >>> spectra.width_for(0.75)
    1
    """

    pair: SymmetricPair
    encoder: Moments
    decoder: Moments
    cross: Tensor | None = None
    companions: tuple[Moments, ...] = ()

    @property
    def name(self) -> str:
        """The pair's name."""
        return self.pair.name

    @property
    def width(self) -> int:
        """Channels of the encoder's side, C."""
        return self.encoder.channels

    @property
    def decoder_width(self) -> int:
        """Channels of the decoder's side, C'."""
        return self.decoder.channels

    @property
    def default_kind(self) -> Kind:
        """`shared` for equal widths; else `linked` where there is a cross-covariance, and `own` where there is none."""
        if self.width == self.decoder_width:
            return "shared"
        return "own" if self.cross is None else "linked"

    def shared_matrix(self, *, companions: bool = False) -> Tensor:
        """(C, C) matrix M = ½ [Cov(E) / tr Cov(E) + Cov(D) / tr Cov(D)], of trace 1.

        Parameters
        ----------
        companions : bool
            Average over the companions of this width, too, each divided by its own trace.

        Raises
        ------
        ArgumentError
            If the two sides have different widths.
        """
        if self.width != self.decoder_width:
            raise ArgumentError(
                f"the sides of pair {self.name!r} have no shared matrix, as their widths differ",
                got=f"{self.width} and {self.decoder_width} channels",
                remedy="kind='linked' or kind='own' gives each side a basis of its own",
            )
        sides = [self.encoder, self.decoder, *(self.companions if companions else ())]
        return torch.stack([side.cov / side.total for side in sides]).mean(0)

    def shared_width(self, width: int) -> int:
        """The decoder's width c' that is the same share of C' as `width` is of C; at least 1."""
        return max(1, round(bases.check_width(width, self.width) * self.decoder_width / self.width))

    def basis(
        self, width: int, kind: Kind | None = None, *, decoder_width: int | None = None, companions: bool = False
    ) -> PairBasis:
        """A basis of `width` columns for the encoder's side, and its counterpart for the decoder's.

        Parameters
        ----------
        width : int
            Columns c, from 1 to C.
        kind : {"shared", "own", "linked", "subset", "own_subset"}, optional
            - shared: the leading eigenvectors of `shared_matrix`, for both sides.
            - own: each side's own leading eigenvectors.
            - linked: those, turned by the cross-covariance so that coordinate k means the same on both sides.
            - subset: channels picked by pivoted Cholesky of `shared_matrix`, the same for both sides, each with its
              lift Σ_{·S} Σ_SS⁺. For places where channels can't be mixed (ReLU, norms, groups).
            - own_subset: channels picked on each side from its own covariance; for unequal widths.

            The default is `default_kind`.
        decoder_width : int, optional
            Columns c' of the decoder's side; `shared_width(width)` by default, which for equal widths is `width`.
        companions : bool
            Let the companions take part in the choice, for `shared` and `subset`.

        Raises
        ------
        ArgumentError
            If a width is out of range, the kind isn't one of these, or doesn't suit this pair.
        """
        kind = kind or self.default_kind
        if kind not in get_args(Kind):
            raise ArgumentError("there is no such kind of basis", got=repr(kind), expected=", ".join(get_args(Kind)))
        c, d = width, self.shared_width(width) if decoder_width is None else decoder_width
        bases.check_width(c, self.width)
        bases.check_width(d, self.decoder_width)
        if kind in ("shared", "subset") and c != d:
            raise ArgumentError(f"kind={kind!r} gives both sides the same width", got=f"{c} and {d}")
        if kind == "subset":
            picked = bases.pivots(self.shared_matrix(companions=companions), c)
            return self._subsets(kind, picked, picked)
        if kind == "own_subset":
            return self._subsets(kind, bases.pivots(self.encoder.cov, c), bases.pivots(self.decoder.cov, d))
        if kind == "shared":
            vectors = bases.spectrum(self.shared_matrix(companions=True))[1] if companions else self._shared[1]
            encoder = decoder = vectors[:, :c]
        else:
            encoder, decoder = self._encoder[1][:, :c], self._decoder[1][:, :d]
        if kind == "linked":
            encoder, decoder = bases.link(encoder, decoder, self._need_cross())
        return PairBasis(
            kind,
            encoder,
            decoder,
            lift_encoder=encoder,
            lift_decoder=decoder,
            mean_encoder=self.encoder.mean,
            mean_decoder=self.decoder.mean,
            energy_encoder=_kept(self.encoder, encoder),
            energy_decoder=_kept(self.decoder, decoder),
            energy_companions=tuple(_kept(m, encoder if self._beside_encoder(m) else decoder) for m in self.companions),
        )

    def energy(self, width: int, kind: Kind | None = None) -> float:
        """Share of the variance kept at `width`, both sides averaged: tr(Uᵀ M U) for a shared basis."""
        return self.basis(width, kind).energy

    def energy_curve(self, kind: Kind | None = None) -> Tensor:
        """(C,) float64: `energy` at the widths 1 … C, at about the price of one."""
        kind = kind or self.default_kind
        if kind == "shared":
            return _cumulated(self._shared[0])
        matching = [self.shared_width(width) - 1 for width in range(1, self.width + 1)]
        if kind in ("subset", "own_subset"):
            last = self.basis(self.width, kind)  # subsets are nested: each width adds one channel
            encoder = bases.explained(self.encoder.cov, list(last.channels or ()))
            decoder = bases.explained(self.decoder.cov, list(last.decoder_channels or ()))
        else:  # linking turns the subspaces and keeps their energy
            if kind == "linked":
                self._need_cross()
            encoder, decoder = _cumulated(self._encoder[0]), _cumulated(self._decoder[0])
        return (encoder + decoder[matching]) / 2

    def width_for(self, energy: float, kind: Kind | None = None) -> int:
        """The smallest width that keeps this share of the energy.

        Raises
        ------
        ArgumentError
            If `energy` isn't above 0 and at most 1.
        """
        if not 0 < energy <= 1:
            raise ArgumentError("a share of the energy lies above 0 and is at most 1", got=energy)
        enough = self.energy_curve(kind) >= energy - 1e-12
        return int(enough.int().argmax()) + 1 if bool(enough.any()) else self.width

    def eigenvalues(self, side: Literal["shared", "encoder", "decoder"] = "shared") -> Tensor:
        """Eigenvalues, largest first, of `shared_matrix` or of a side's covariance divided by its trace.

        Raises
        ------
        ArgumentError
            If `side` isn't one of the three, or the widths differ and `shared` is asked for.
        """
        if side not in ("shared", "encoder", "decoder"):
            raise ArgumentError("there is no such side", got=repr(side), expected="shared, encoder or decoder")
        values = {"shared": lambda: self._shared, "encoder": lambda: self._encoder, "decoder": lambda: self._decoder}
        found = values[side]()[0]
        return found / found.sum()

    def _subsets(self, kind: Kind, encoder: list[int], decoder: list[int]) -> PairBasis:
        def kept(moments: Moments) -> float:
            return float(bases.explained(moments.cov, encoder if self._beside_encoder(moments) else decoder)[-1])

        return PairBasis(
            kind,
            bases.selection(encoder, self.width),
            bases.selection(decoder, self.decoder_width),
            lift_encoder=bases.lift(self.encoder.cov, encoder),
            lift_decoder=bases.lift(self.decoder.cov, decoder),
            mean_encoder=self.encoder.mean,
            mean_decoder=self.decoder.mean,
            energy_encoder=float(bases.explained(self.encoder.cov, encoder)[-1]),
            energy_decoder=float(bases.explained(self.decoder.cov, decoder)[-1]),
            energy_companions=tuple(kept(moments) for moments in self.companions),
            channels=tuple(encoder),
            decoder_channels=tuple(decoder),
        )

    def _beside_encoder(self, companion: Moments) -> bool:
        return companion.channels == self.width

    def _need_cross(self) -> Tensor:
        if self.cross is None:
            raise ArgumentError(
                f"pair {self.name!r} has no cross-covariance to link its sides by",
                remedy="kind='own', or calibrate where both sides have the same positions",
            )
        return self.cross

    @cached_property
    def _shared(self) -> tuple[Tensor, Tensor]:
        return bases.spectrum(self.shared_matrix())

    @cached_property
    def _encoder(self) -> tuple[Tensor, Tensor]:
        return bases.spectrum(self.encoder.cov)

    @cached_property
    def _decoder(self) -> tuple[Tensor, Tensor]:
        return bases.spectrum(self.decoder.cov)


def _kept(moments: Moments, basis: Tensor) -> float:
    return min(1.0, float((basis * (moments.cov @ basis)).sum()) / moments.total)


def _cumulated(values: Tensor) -> Tensor:
    return (values.cumsum(0) / values.sum()).clamp(max=1.0)
