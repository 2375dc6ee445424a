"""Kernel alignment (CKA) of two sets of samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from skd.errors import ArgumentError, ShapeError
from skd.knowledge._common import full_precision, unit

Estimator = Literal["debiased", "centred", "plain"]
_MOST_SAMPLES = 8192  # a kernel matrix of 8192² float32 numbers takes 256 MiB


@full_precision
def alignment_kernel(samples: Tensor, *, estimator: Estimator = "debiased") -> Tensor:
    """The kernel K = X Xᵀ of `samples`, centred as `estimator` says, with Frobenius norm 1.

    Parameters
    ----------
    samples : Tensor
        X (n, p): n samples of p numbers each.
    estimator : {"debiased", "centred", "plain"}
        "debiased": U-centred (Székely & Rizzo 2014), whose products are the unbiased estimator of HSIC (Song et al.
        2012, eq. 5). "centred": H K H, the biased one. "plain": K itself.

    Returns
    -------
    Tensor
        (n, n); zero where the samples have no spread.

    Raises
    ------
    ArgumentError
        If the estimator isn't known.
    ShapeError
        If `samples` isn't a matrix, or has too few rows ("debiased" needs four, the others two), or too many for
        an n×n matrix.

    Examples
    --------
    >>> import torch
    >>> alignment_kernel(torch.tensor([[1.0], [-1.0]]), estimator="centred")
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]])
    """
    if estimator not in ("debiased", "centred", "plain"):
        raise ArgumentError("the estimator isn't known", got=repr(estimator), expected="debiased, centred or plain")
    least = 4 if estimator == "debiased" else 2
    if samples.ndim != 2 or not least <= samples.shape[0] <= _MOST_SAMPLES:
        raise ShapeError(
            f"{estimator} kernel alignment takes a matrix of one row a sample",
            got=tuple(samples.shape),
            expected=f"(n, p) with n from {least} to {_MOST_SAMPLES}",
            remedy="make it with position_samples (any batch size) or batch_samples",
        )
    if estimator != "plain":
        samples = samples - samples.mean(0)  # leaves both centrings as they are and spares them the cancellation
    samples = samples / samples.detach().abs().amax().clamp_min(1e-12)
    kernel = samples @ samples.mT
    if estimator == "debiased":
        n = kernel.shape[0]
        off_diagonal = 1 - torch.eye(n, dtype=kernel.dtype, device=kernel.device)
        kernel = kernel * off_diagonal
        row = kernel.sum(1, keepdim=True) / (n - 2)
        total = kernel.sum() / ((n - 1) * (n - 2))
        kernel = (kernel - row - row.mT + total) * off_diagonal
    return unit(kernel, (0, 1))


@full_precision
def kernel_alignment(first: Tensor, second: Tensor, *, estimator: Estimator = "debiased") -> Tensor:
    """How far two sets of samples have the same geometry: ⟨K, L⟩ / (‖K‖ ‖L‖), for kernels as `alignment_kernel`.

    "debiased" is linear CKA (Kornblith et al. 2019) with the unbiased estimator of HSIC: about 0 for independent
    samples. "centred" is linear CKA as first published. "plain" is KA (CAT, Jin et al. 2021). These two come near 1
    where samples are few and each has many numbers; "plain" also wherever features aren't negative: independent ones
    score 0.997 and more at n = 8. All three are unchanged by orthogonal maps and scalings of either side.

    Parameters
    ----------
    first, second : Tensor
        (n, p) and (n, q): row i of both belongs to the same position or sample.
    estimator : {"debiased", "centred", "plain"}
        See `alignment_kernel`.

    Returns
    -------
    Tensor
        Scalar; in [−1, 1] for "debiased", [0, 1] otherwise; 1 for samples equal up to rotation and scale, 0 where a
        side has no spread.

    Raises
    ------
    ShapeError
        If the numbers of rows differ, and as `alignment_kernel`.

    Examples
    --------
    >>> import torch
    >>> first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [-1.0, 3.0], [1.0, 1.0]])
    >>> round(kernel_alignment(first, 3 * first.flip(1)).item(), 4)  # channels in another order
    1.0
    """
    require_same_samples(first, second)
    return (alignment_kernel(first, estimator=estimator) * alignment_kernel(second, estimator=estimator)).sum()


def require_same_samples(first: Tensor, second: Tensor) -> None:
    """Raise ShapeError unless both are matrices with the same number of rows."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[0]:
        raise ShapeError(
            "the two sides must be matrices with one row for each of the same samples",
            got=f"{tuple(first.shape)} and {tuple(second.shape)}",
            remedy="bring both features to the same positions first, for example with a SpaceAdapter, and make the "
            "rows with position_samples on both sides",
        )
