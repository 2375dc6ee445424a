"""Knowledge that forgets the positions: per-sample means, deviations and relations between channels."""

from __future__ import annotations

import torch
from torch import Tensor

from skd.knowledge._common import full_precision, positions, require_positive, unit
from skd.taps import Layout, to_bcn


@full_precision
def mean_std(feature: Tensor, *, layout: Layout = "BCHW", eps: float = 1e-5) -> Tensor:
    """Mean and standard deviation of every channel over the positions (AdaIN, Huang & Belongie 2017, eq. 5 and 6).

    μ_c = mean_n f_cn and σ_c = √(mean_n (f_cn − μ_c)² + eps). The variance is the population's (divided by N), so
    that a single position gives √eps and not NaN; AdaIN's code divides by N − 1.

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.
    eps : float
        Positive; under the root, so that the gradient of a constant channel is finite (and zero).

    Returns
    -------
    Tensor
        (B, 2C): the C means, then the C deviations.

    Raises
    ------
    ArgumentError
        If `eps` isn't positive.

    Examples
    --------
    >>> import torch
    >>> mean_std(torch.tensor([[[1.0, 3.0], [5.0, 9.0]]]), layout="BCL").round(decimals=3)
    tensor([[2., 7., 1., 2.]])
    """
    require_positive("eps", eps)
    flat = to_bcn(feature, layout)
    mean = flat.mean(2)
    variance = (flat - mean.unsqueeze(2)).square().mean(2)
    return torch.cat([mean, (variance + eps).sqrt()], 1)


@full_precision
def covariance(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Covariance of the channels over each sample's positions: (1/N) Σ_n (f_n − μ)(f_n − μ)ᵀ.

    Parameters
    ----------
    feature : Tensor
        Any layout with two positions or more.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        (B, C, C), symmetric and positive semi-definite; the population's (divided by N).

    Raises
    ------
    ShapeError
        If there is one position only.

    Examples
    --------
    >>> import torch
    >>> covariance(torch.tensor([[[1.0, 3.0], [2.0, -2.0]]]), layout="BCL")
    tensor([[[ 1., -2.],
             [-2.,  4.]]])
    """
    flat = positions(feature, layout, purpose="a covariance over positions")
    flat = flat - flat.mean(2, keepdim=True)
    return flat @ flat.mT / flat.shape[2]


@full_precision
def gram(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Uncentred second moments of the channels: F Fᵀ / (C·N) (Gatys et al. 2016; normalised as Johnson et al. 2016).

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        (B, C, C), divided by the number of elements C·N of a sample.

    Examples
    --------
    >>> import torch
    >>> gram(torch.tensor([[[1.0, 1.0], [2.0, 0.0]]]), layout="BCL")
    tensor([[[0.5000, 0.5000],
             [0.5000, 1.0000]]])
    """
    flat = to_bcn(feature, layout)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


@full_precision
def channel_correlation(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Inter-channel correlation: the rows of F Fᵀ, each divided by its L2 norm (ICKD, Liu et al. 2021).

    The mean squared error of two of these is the paper's loss: the sum of squares, divided by B·C².

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        (B, C, C); a dead channel's row is zero. The rows are normalised one by one, so it isn't symmetric.

    Examples
    --------
    >>> import torch
    >>> channel_correlation(torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]), layout="BCL")
    tensor([[[0.3162, 0.9487],
             [0.1191, 0.9929]]])
    """
    flat = to_bcn(feature, layout)
    # Row norms don't depend on the sample's scale; taking it out keeps a faint feature above unit's threshold.
    flat = flat / flat.detach().abs().amax((1, 2), keepdim=True).clamp_min(1e-6)
    return unit(flat @ flat.mT, 2)
