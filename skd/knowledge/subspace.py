"""Knowledge in a subspace: coordinates in a basis, projections, the energy kept, and how far two subspaces agree."""

from __future__ import annotations

import torch
from torch import Tensor

from skd.errors import ArgumentError, ShapeError
from skd.knowledge._common import full_precision
from skd.knowledge.alignment import require_same_samples
from skd.taps import Layout, channels


def _check_basis(basis: Tensor, mean: Tensor | None, width: int) -> None:
    if basis.ndim != 2 or basis.shape[0] != width or basis.shape[1] > width:
        raise ShapeError(
            "the basis doesn't fit the feature's channels",
            got=f"a basis of {tuple(basis.shape)} for {width} channels",
            expected=f"({width}, c) with c at most {width}",
            remedy="use the basis that was measured at this tap, and check the tap's layout",
        )
    _check_mean(mean, width)


def _check_mean(mean: Tensor | None, width: int) -> None:
    if mean is not None and mean.shape != (width,):
        raise ShapeError("the mean doesn't fit the feature's channels", got=tuple(mean.shape), expected=(width,))


def _channels_last(feature: Tensor, layout: Layout) -> Tensor:
    return feature if layout == "BNC" else feature.movedim(1, -1)


def _channels_back(feature: Tensor, layout: Layout) -> Tensor:
    return feature if layout == "BNC" else feature.movedim(-1, 1)


@full_precision
def coordinates(feature: Tensor, *, basis: Tensor, mean: Tensor | None = None, layout: Layout = "BCHW") -> Tensor:
    """The feature's coordinates in a basis: (f − μ) U at every position.

    Parameters
    ----------
    feature : Tensor
        Any layout, C channels.
    basis : Tensor
        U (C, c), orthonormal columns (or a subset's unit vectors). Coordinates are signed, features after a ReLU
        aren't.
    mean : Tensor, optional
        μ (C,), the mean on calibration data; none leaves the feature uncentred.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        The layout of `feature` with c channels.

    Raises
    ------
    ShapeError
        If basis or mean don't fit the channels.

    Examples
    --------
    >>> import torch
    >>> basis = torch.tensor([[0.6], [0.8]])
    >>> coordinates(torch.tensor([[[4.0, 1.0], [5.0, 1.0]]]), basis=basis, mean=torch.ones(2), layout="BCL")
    tensor([[[5., 0.]]])
    """
    _check_basis(basis, mean, channels(feature, layout))
    last = _channels_last(feature, layout)
    return _channels_back((last if mean is None else last - mean) @ basis, layout)


@full_precision
def lift(feature: Tensor, *, basis: Tensor, mean: Tensor | None = None, layout: Layout = "BCHW") -> Tensor:
    """From coordinates back to channels: μ + z Lᵀ at every position, the reverse of `coordinates`.

    Parameters
    ----------
    feature : Tensor
        z, any layout, c channels.
    basis : Tensor
        L (C, c): U itself where its columns are orthonormal, Σ_{·S} Σ_SS⁻¹ for a subset S of channels.
    mean : Tensor, optional
        μ (C,).
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        The layout of `feature` with C channels.

    Raises
    ------
    ShapeError
        If basis or mean don't fit the coordinates.

    Examples
    --------
    >>> import torch
    >>> lift(torch.tensor([[[5.0, 0.0]]]), basis=torch.tensor([[0.6], [0.8]]), mean=torch.ones(2), layout="BCL")
    tensor([[[4., 1.],
             [5., 1.]]])
    """
    if basis.ndim != 2 or basis.shape[1] != channels(feature, layout):
        raise ShapeError(
            "the lift doesn't fit the coordinates",
            got=f"a lift of {tuple(basis.shape)} for {channels(feature, layout)} coordinates",
            expected=f"(C, {channels(feature, layout)})",
        )
    _check_mean(mean, basis.shape[0])
    last = _channels_last(feature, layout) @ basis.mT
    return _channels_back(last if mean is None else last + mean, layout)


@full_precision
def projection(feature: Tensor, *, basis: Tensor, mean: Tensor | None = None, layout: Layout = "BCHW") -> Tensor:
    """The part of the feature that lies in the span of a basis: μ + P (f − μ), P the orthogonal projection on the span.

    Parameters
    ----------
    feature : Tensor
        Any layout, C channels.
    basis : Tensor
        (C, c), columns linearly independent; they needn't be orthonormal.
    mean : Tensor, optional
        μ (C,); none projects about the origin.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        The shape of `feature`.

    Raises
    ------
    ShapeError
        If basis or mean don't fit the channels.

    Examples
    --------
    >>> import torch
    >>> projection(torch.tensor([[3.0, 4.0]]), basis=torch.tensor([[2.0], [0.0]]), layout="BC")
    tensor([[3., 0.]])
    """
    _check_basis(basis, mean, channels(feature, layout))
    span: Tensor = torch.linalg.qr(basis)[0]
    last = _channels_last(feature, layout)
    offset = 0 if mean is None else mean
    return _channels_back((last - offset) @ span @ span.mT + offset, layout)


@full_precision
def energy_kept(feature: Tensor, *, basis: Tensor, mean: Tensor | None = None, layout: Layout = "BCHW") -> Tensor:
    """The share of the feature's energy that lies in the span of a basis: ‖P (f − μ)‖² / ‖f − μ‖².

    Parameters
    ----------
    feature : Tensor
        Any layout, C channels.
    basis : Tensor
        (C, c), columns linearly independent; unchanged by a change of basis of the same span.
    mean : Tensor, optional
        μ (C,); none counts the energy about the origin.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        Scalar in [0, 1] over the whole batch; 1 where there is no energy to lose.

    Raises
    ------
    ShapeError
        If basis or mean don't fit the channels.

    Examples
    --------
    >>> import torch
    >>> energy_kept(torch.tensor([[3.0, 4.0]]), basis=torch.tensor([[1.0], [0.0]]), layout="BC")
    tensor(0.3600)
    """
    _check_basis(basis, mean, channels(feature, layout))
    last = _channels_last(feature, layout)
    difference = last if mean is None else last - mean
    difference = difference / difference.detach().abs().amax().clamp_min(torch.finfo(difference.dtype).tiny)
    span: Tensor = torch.linalg.qr(basis)[0]
    lost = difference - difference @ span @ span.mT
    # From the lost part, not from the kept one: where all is kept, the share is exact.
    return 1 - lost.square().sum() / difference.square().sum().clamp_min(1.0)


@full_precision
def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between the column spans of two matrices with the same rows (Björck & Golub 1973).

    For two bases (C, c) of one feature space, how far they point apart; for features as samples (n, C) and (n, c)
    (`position_samples`, centred), the arc cosines of their canonical correlations, whatever the channel counts. For
    reports: the gradient isn't defined where angles coincide; to train, use `subspace_affinity`.

    Parameters
    ----------
    first, second : Tensor
        (n, p) and (n, q). Columns that add nothing to the span (dead channels) are left out.

    Returns
    -------
    Tensor
        min(rank p, rank q) angles in radians, ascending, in [0, π/2]; small ones are exact too.

    Raises
    ------
    ShapeError
        If the numbers of rows differ.

    Examples
    --------
    >>> import torch
    >>> principal_angles(torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])).rad2deg().round()
    tensor([ 0., 45.])
    """
    require_same_samples(first, second)
    larger, smaller = _orthonormal(first), _orthonormal(second)
    if larger.shape[1] < smaller.shape[1]:
        larger, smaller = smaller, larger
    overlap = larger.mT @ smaller
    cosines = torch.linalg.svdvals(overlap)
    sines = torch.linalg.svdvals(smaller - larger @ overlap).flip(0)
    # The arc cosine is blind to angles below √ε, the arc sine to those near a right one.
    angles: Tensor = torch.where(cosines.square() > 0.5, sines.clamp(0, 1).asin(), cosines.clamp(0, 1).acos())
    return angles


def _orthonormal(matrix: Tensor) -> Tensor:
    left: Tensor
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    tolerance = values.amax() * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return left[:, values > tolerance]


@full_precision
def subspace_affinity(first: Tensor, second: Tensor, *, ridge: float = 1e-5) -> Tensor:
    """How much of a subspace two sets of samples share: the mean squared cosine of their principal angles.

    tr[ (XᵀX + λ)⁻¹ XᵀY (YᵀY + λ)⁻¹ YᵀX ] / min(p, q), with λ = ridge times the mean diagonal: it keeps dead and
    duplicate channels from dividing by zero, so that gradients are finite. For ridge → 0 and full rank this is
    mean cos² θ.

    Parameters
    ----------
    first, second : Tensor
        (n, p) and (n, q), rows belonging together. Centre them first to leave the means out.
    ridge : float
        Not negative; 0 only for columns that are linearly independent.

    Returns
    -------
    Tensor
        Scalar in [0, 1]; unchanged by orthogonal changes of either side's basis (with ridge 0, by any invertible one).

    Raises
    ------
    ArgumentError
        If `ridge` is negative.
    ShapeError
        If the numbers of rows differ.

    Examples
    --------
    >>> import torch
    >>> subspace_affinity(torch.eye(3)[:, :2], torch.eye(3)[:, 1:], ridge=0.0)
    tensor(0.5000)
    """
    if not 0 <= ridge < float("inf"):
        raise ArgumentError("the ridge must be at least 0 and finite", got=ridge)
    require_same_samples(first, second)
    whitened = [_whiten(side, ridge) for side in (first, second)]
    return (whitened[0] @ whitened[1].mT).square().sum() / min(first.shape[1], second.shape[1])


def _whiten(samples: Tensor, ridge: float) -> Tensor:
    """L⁻¹ Xᵀ with L Lᵀ = XᵀX + λ, as (p, n)."""
    samples = samples / samples.detach().abs().amax().clamp_min(1e-12)
    moments = samples.mT @ samples
    shift = (ridge * moments.diagonal().mean()).clamp_min(torch.finfo(moments.dtype).tiny)
    identity = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    whitened: Tensor = torch.linalg.solve_triangular(
        torch.linalg.cholesky(moments + shift * identity), samples.mT, upper=False
    )
    return whitened
