"""Knowledge that keeps the positions: the feature itself, normalised, centred, or as maps and distributions."""

from __future__ import annotations

from torch import Tensor

from skd.errors import ArgumentError
from skd.knowledge._common import full_precision, positions, require_positive, unit
from skd.taps import Layout, channels, to_bcn


def _position_axes(feature: Tensor, layout: Layout) -> tuple[int, ...]:
    return (1,) if layout == "BNC" else tuple(range(2, feature.ndim))


def raw(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """The feature as it is (FitNets, Romero et al. 2015).

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        The same tensor, its dtype included; the distance converts it.

    Examples
    --------
    >>> import torch
    >>> raw(torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """
    channels(feature, layout)  # raises where the layout doesn't fit
    return feature


@full_precision
def normalised(feature: Tensor, *, layout: Layout = "BCHW", eps: float = 1e-6) -> Tensor:
    """Each sample divided by its L2 norm: f / ‖f‖₂, over channels and positions.

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.
    eps : float
        A sample whose largest magnitude is below `eps` shrinks to zero instead.

    Returns
    -------
    Tensor
        The shape of `feature`.

    Examples
    --------
    >>> import torch
    >>> normalised(torch.tensor([[[3.0, 4.0]]]), layout="BCL")
    tensor([[[0.6000, 0.8000]]])
    """
    channels(feature, layout)
    require_positive("eps", eps)
    return unit(feature, tuple(range(1, feature.ndim)), eps=eps)


@full_precision
def centred(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """Each sample's channels without their mean over the positions: the structure, without the statistics.

    Parameters
    ----------
    feature : Tensor
        Any layout with two positions or more.
    layout : str
        The feature's layout.

    Returns
    -------
    Tensor
        The shape of `feature`.

    Raises
    ------
    ShapeError
        If there is one position only: the result would be zero.

    Examples
    --------
    >>> import torch
    >>> centred(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]), layout="BCL")
    tensor([[[-1.,  1.],
             [ 0.,  0.]]])
    """
    positions(feature, layout, purpose="centring")
    return feature - feature.mean(_position_axes(feature, layout), keepdim=True)


@full_precision
def standardised(feature: Tensor, *, layout: Layout = "BCHW", eps: float = 1e-6) -> Tensor:
    """Each channel at mean 0 and deviation 1 over batch and positions (PKD, Cao et al. 2022).

    Parameters
    ----------
    feature : Tensor
        Any layout, with two values or more a channel.
    layout : str
        The feature's layout.
    eps : float
        Added to the deviation. The deviation is the population's; the paper's code takes the sample's, which differs by
        the factor √(n/(n−1)) and is NaN for n = 1.

    Returns
    -------
    Tensor
        The shape of `feature`.

    Raises
    ------
    ShapeError
        If there is one sample with one position only.

    Examples
    --------
    >>> import torch
    >>> standardised(torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]]]), layout="BCL")[0]
    tensor([[-1.0000,  1.0000]])
    """
    if feature.shape[0] == 1:
        positions(feature, layout, purpose="standardising a single sample")
    channels(feature, layout)
    require_positive("eps", eps)
    axes = (0, *_position_axes(feature, layout))
    difference = feature - feature.mean(axes, keepdim=True)
    # eps² under the root keeps the gradient of a constant channel finite.
    return difference / ((difference.square().mean(axes, keepdim=True) + eps**2).sqrt() + eps)


@full_precision
def attention(feature: Tensor, *, layout: Layout = "BCHW", power: float = 2.0) -> Tensor:
    """Where the feature is strong: a_n = Σ_c |f_cn|^p, divided by its L2 norm (AT, Zagoruyko & Komodakis 2017, eq. 2).

    Parameters
    ----------
    feature : Tensor
        Any layout with two positions or more. The number of channels doesn't matter, so no channel adapter is needed.
    layout : str
        The feature's layout.
    power : float
        p, at least 1.

    Returns
    -------
    Tensor
        (B, N); each row has norm 1, or 0 where the sample is zero.

    Raises
    ------
    ArgumentError
        If `power` is below 1, where the gradient at zero is infinite.
    ShapeError
        If there is one position only.

    Examples
    --------
    >>> import torch
    >>> attention(torch.tensor([[[1.0, 0.0], [-1.0, 2.0]]]), layout="BCL")
    tensor([[0.4472, 0.8944]])
    """
    if not 1 <= power < float("inf"):
        raise ArgumentError("the power of an attention map must be at least 1 and finite", got=power)
    flat = positions(feature, layout, purpose="an attention map")
    if power == 2:  # nothing that networks compute has squares out of range: a pass over the feature is saved
        return unit(flat.square().sum(1), 1, eps=1e-12)
    # The map is independent of the sample's scale; taking it out first keeps high powers in range.
    flat = flat / flat.detach().abs().amax((1, 2), keepdim=True).clamp_min(1e-6)
    return unit(flat.abs().pow(power).sum(1), 1)


@full_precision
def channel_distribution(feature: Tensor, *, layout: Layout = "BCHW", temperature: float = 4.0) -> Tensor:
    """Each channel as log-probabilities over the positions: log softmax_n(f_cn / τ) (CWD, Shu et al. 2021).

    Compare with ``Distance(kl, temperature=τ)``, which carries the paper's factor τ² and means over B and C.

    Parameters
    ----------
    feature : Tensor
        Any layout with two positions or more.
    layout : str
        The feature's layout.
    temperature : float
        τ, positive; the same as the distance's.

    Returns
    -------
    Tensor
        (B, C, N) log-probabilities; logarithms, so that nothing underflows.

    Raises
    ------
    ArgumentError
        If the temperature isn't positive.
    ShapeError
        If there is one position only.

    Examples
    --------
    >>> import torch
    >>> channel_distribution(torch.tensor([[[0.0, 0.0], [0.0, 4.0]]]), layout="BCL").exp()
    tensor([[[0.5000, 0.5000],
             [0.2689, 0.7311]]])
    """
    require_positive("temperature", temperature)
    return (positions(feature, layout, purpose="a distribution over positions") / temperature).log_softmax(-1)


@full_precision
def class_distribution(feature: Tensor, *, layout: Layout = "BCHW", temperature: float = 1.0) -> Tensor:
    """Each position as log-probabilities over the channels: log softmax_c(f_nc / τ) (KD, Hinton et al. 2015, eq. 1).

    For outputs that are class scores. Compare with ``Distance(kl, temperature=τ)``.

    Parameters
    ----------
    feature : Tensor
        Any layout.
    layout : str
        The feature's layout.
    temperature : float
        τ, positive; the same as the distance's.

    Returns
    -------
    Tensor
        (B, N, C) log-probabilities.

    Raises
    ------
    ArgumentError
        If the temperature isn't positive.

    Examples
    --------
    >>> import torch
    >>> class_distribution(torch.tensor([[0.0, 1.0]]), layout="BC").exp()
    tensor([[[0.2689, 0.7311]]])
    """
    require_positive("temperature", temperature)
    return (to_bcn(feature, layout).transpose(1, 2) / temperature).log_softmax(-1)
