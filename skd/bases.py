"""Bases of a channel space from covariance matrices: leading eigenvectors, linked subspaces, channel subsets."""

from __future__ import annotations

import torch
from torch import Tensor

from skd.errors import ArgumentError


def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors of a symmetric positive semidefinite matrix.

    Eigenvectors are unique only up to their sign, so each column is turned such that its largest entry (the first
    of several within 1e-9) is positive. Negative eigenvalues, which are rounding, are set to zero.

    Parameters
    ----------
    matrix : Tensor
        (C, C) float64.

    Returns
    -------
    tuple of Tensor
        (C,) and (C, C), eigenvectors in columns.

    Examples
    --------
    >>> values, vectors = spectrum(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
    >>> values.tolist(), vectors.tolist()
    ([4.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    vectors = vectors.flip(1)
    return values.flip(0).clamp_min(0), vectors * signs(vectors)


def signs(vectors: Tensor) -> Tensor:
    """(c,) of ±1 that make the largest entry of each column of (C, c) positive."""
    size = vectors.abs()
    largest = (size >= size.amax(0) * (1 - 1e-9)).int().argmax(0)  # of equal ones the first
    chosen = vectors.gather(0, largest[None])[0]
    return torch.where(chosen < 0, -1.0, 1.0).to(vectors)


def link(encoder: Tensor, decoder: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the bases of two subspaces so that both sides share one coordinate system.

    With A = U_Eᵀ C_ED U_D = P S Qᵀ the new bases are U_E P and U_D Q. Coordinate k of one side then covaries with
    coordinate k of the other, by S_k ≥ 0, and with no other one; the subspaces stay as they are. (The orthogonal
    Procrustes solution, Schönemann 1966, is the same up to a turn of both sides together.)

    Parameters
    ----------
    encoder, decoder : Tensor
        (C, c) and (C', c') with orthonormal columns; c and c' may differ, the first min(c, c') are shared.
    cross : Tensor
        (C, C') cross-covariance.

    Returns
    -------
    tuple of Tensor
        (C, c) and (C', c').

    Examples
    --------
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> one, other = link(eye, eye, torch.tensor([[0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64))
    >>> (one.T @ torch.tensor([[0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64) @ other).tolist()
    [[3.0, 0.0], [0.0, 1.0]]
    """
    left, _, right = torch.linalg.svd(encoder.T @ cross @ decoder, full_matrices=True)
    turned, mirrored = encoder @ left, decoder @ right.T
    turn, mirror = signs(turned), signs(mirrored)
    shared = min(turned.shape[1], mirrored.shape[1])
    mirror[:shared] = turn[:shared]  # a shared coordinate keeps its sign on both sides
    return turned * turn, mirrored * mirror


def pivots(matrix: Tensor, width: int) -> list[int]:
    """The `width` channels that pivoted Cholesky picks, in the order picked.

    Each step takes the channel with the largest variance that those picked so far leave unexplained, the first of
    equal ones (Harbrecht, Peters, Schneider, "On the low-rank approximation by the pivoted Cholesky
    decomposition", 2012, algorithm 1).

    Examples
    --------
    >>> copies = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    >>> pivots(copies, 2)  # channel 1 is a copy of channel 0
    [0, 2]
    """
    residual, picked = matrix.clone(), list[int]()
    for _ in range(check_width(width, matrix.shape[0])):
        left = residual.diagonal().clone()
        left[picked] = -torch.inf
        channel = int((left >= left.max()).nonzero()[0])
        picked.append(channel)
        residual = _explain(residual, channel, float(matrix.diagonal().max()))
    return picked


def explained(matrix: Tensor, channels: list[int]) -> Tensor:
    """Share of tr Σ that the first 1, 2, … of `channels` explain by least squares.

    That is tr(Σ_{·S} Σ_SS⁺ Σ_{S·}) / tr Σ for S growing by one channel at a time.

    Examples
    --------
    >>> explained(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)), [0, 1]).tolist()
    [0.75, 1.0]
    """
    total, scale = matrix.diagonal().sum(), float(matrix.diagonal().max())
    residual, shares = matrix, []
    for channel in channels:
        residual = _explain(residual, channel, scale)
        shares.append(1 - residual.diagonal().sum() / total)
    return torch.stack(shares).clamp(0, 1)


def lift(matrix: Tensor, channels: list[int]) -> Tensor:
    """(C, c) lift Σ_{·S} Σ_SS⁺: the least-squares map from the picked channels to all of them.

    The pseudo-inverse lets a channel be dead (always zero) on one side of a pair.

    Examples
    --------
    >>> copies = torch.tensor([[4.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    >>> lift(copies, [0]).tolist()
    [[1.0], [0.5]]
    """
    columns = matrix[:, channels]
    inverse: Tensor = torch.linalg.pinv(columns[channels], rtol=1e-10, hermitian=True)
    return columns @ inverse


def selection(channels: list[int], count: int) -> Tensor:
    """(count, c) float64 with a one at the picked channel of each column."""
    return torch.eye(count, dtype=torch.float64)[:, channels]


def check_width(width: int, channels: int) -> int:
    """`width` itself where it lies in 1 … channels.

    Raises
    ------
    ArgumentError
        If it doesn't.
    """
    if not 1 <= width <= channels:
        raise ArgumentError("a basis can't have this width", got=width, expected=f"1 to {channels}")
    return width


def _explain(residual: Tensor, channel: int, scale: float) -> Tensor:
    """The covariance left once `channel` is known; unchanged where nothing of it is left."""
    variance = residual[channel, channel]
    if float(variance) <= 1e-12 * scale:
        return residual
    column = residual[:, channel]
    return residual - torch.outer(column, column) / variance
