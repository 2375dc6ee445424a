"""Statistics of features: what a painting's style is told by, and how a feature takes it on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skd.errors import ShapeError

EPSILON = 1e-5  # of a channel's variance; features are of order one


class Moments(NamedTuple):
    """Channel statistics of a feature: mean and standard deviation, (B, C, 1, 1) each."""

    mean: Tensor
    deviation: Tensor


class StyleCode(NamedTuple):
    """All that the decoder knows of a painting; its size doesn't depend on the painting's."""

    level1: Moments
    level2: Moments
    level3: Moments


def moments(feature: Tensor) -> Moments:
    """Mean and standard deviation of each channel over the positions (population; EPSILON under the root).

    Features of half precision are taken in float32, and so are their moments.

    Examples
    --------
    >>> found = moments(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2))
    >>> round(found.mean.item(), 3), round(found.deviation.item(), 3)
    (3.0, 2.0)
    """
    if torch.is_grad_enabled() and feature.requires_grad and not torch.compiler.is_compiling():
        return Moments(*_Differentiable.apply(feature))  # type: ignore[no-untyped-call]
    variance, mean = var_mean(feature)
    return Moments(mean, (variance + EPSILON).sqrt())


class _Differentiable(torch.autograd.Function):
    """The moments with the gradient as one line through a channel's values: a pass forward, and one back.

    Autograd's own way back through a variance takes several, each with a copy of the feature: half of a training step
    under a perceptual network of VGG-19's widths.
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = var_mean(feature)
        deviation = (variance + EPSILON).sqrt()
        ctx.save_for_backward(feature, mean, deviation)
        return mean, deviation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_gradient: Tensor, deviation_gradient: Tensor) -> Tensor:
        feature, mean, deviation = ctx.saved_tensors
        count = feature.shape[2] * feature.shape[3]
        slope = deviation_gradient / (count * deviation)
        gradient = torch.addcmul(mean_gradient / count - slope * mean, feature.to(mean.dtype), slope)
        return gradient.to(feature.dtype)


class Statistics:
    """`moments` of a feature that comes in parts (Chan, Golub & LeVeque 1983), put together in float64.

    Examples
    --------
    >>> feature, statistics = torch.rand(1, 2, 6, 5), Statistics()
    >>> for part in feature.split(4, dim=2):
    ...     statistics.add(part)
    >>> torch.testing.assert_close(statistics.moments(), moments(feature))
    """

    def __init__(self) -> None:
        self.parts: list[tuple[int, Tensor, Tensor]] = []

    def add(self, feature: Tensor) -> None:
        """(B, C, H, W), as many samples and channels as the others."""
        self.parts.append((feature.shape[2] * feature.shape[3], *var_mean(feature)))

    def moments(self) -> Moments:
        """Of all that was added, in float32."""
        if len(self.parts) == 1:
            _, variance, mean = self.parts[0]
            return Moments(mean.float(), (variance + EPSILON).sqrt().float())
        counts, variances, means = zip(*self.parts, strict=True)
        each, mean = (torch.stack(found).double() for found in (variances, means))
        share = torch.tensor(counts, dtype=torch.float64, device=mean.device).div(sum(counts)).view(-1, 1, 1, 1, 1)
        whole = (share * mean).sum(0)
        variance = (share * (each + (mean - whole) ** 2)).sum(0)
        return Moments(whole.float(), (variance + EPSILON).sqrt().float())


def var_mean(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Population variance and mean of each channel, (B, C, 1, 1) each, in float32 or, of float64, in float64.

    Examples
    --------
    >>> [found.item() for found in var_mean(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2))]
    [4.0, 3.0]
    """
    by_columns = (
        feature.device.type == "cpu"
        and feature.stride(1) == 1  # channels_last, or a part of it
        and not (torch.is_grad_enabled() and feature.requires_grad)
        and not torch.compiler.is_compiling()
    )
    if not by_columns:
        feature = feature if feature.dtype == torch.float64 else feature.float()
        return torch.var_mean(feature, dim=(2, 3), keepdim=True, correction=0)
    samples = [_var_mean_by_columns(sample) for sample in feature.permute(0, 2, 3, 1)]
    variance, mean = (torch.stack(found).view(*feature.shape[:2], 1, 1) for found in zip(*samples, strict=True))
    return variance, mean


def _var_mean_by_columns(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Variances and means of (H, W, C), (C,) each: as `torch.var_mean` in a sixth of the time, without gradients.

    The kernel is batch normalisation's. It adds up one value after another in float32, which loses 1e-3 of a variance
    over half a million positions; so each column has channels of its own, and the columns are put together afterwards.
    """
    height, width, channels = sample.shape
    columns = sample.reshape(1, height, 1, width * channels).permute(0, 3, 1, 2)
    half = sample.dtype not in (torch.float32, torch.float64)
    kept = torch.zeros(width * channels) if half else None  # its type is that of the result
    mean, variance = torch.batch_norm_update_stats(columns, kept, kept, 0.0)
    between, mean = torch.var_mean(mean.view(width, channels), dim=0, correction=0)
    return variance.view(width, channels).mean(0) + between, mean


def normalised(feature: Tensor) -> Tensor:
    """Each channel with mean 0 and deviation 1.

    Examples
    --------
    >>> normalised(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2)).flatten().round(decimals=3)
    tensor([-1.,  1.])
    """
    mean, deviation = moments(feature)
    return (feature - mean) / deviation


def modulated(feature: Tensor, style: Moments, known: Moments | None = None) -> Tensor:
    """Adaptive instance normalisation (Huang & Belongie 2017, eq. 8), with the feature's own statistics or known ones.

    Raises
    ------
    ShapeError
        The style has another number of channels, or neither one sample nor as many as the feature.

    Examples
    --------
    >>> wanted = Moments(torch.full((1, 1, 1, 1), 10.0), torch.full((1, 1, 1, 1), 3.0))
    >>> modulated(torch.tensor([1.0, 5.0]).view(1, 1, 1, 2), wanted).flatten().round(decimals=3)
    tensor([ 7., 13.])
    """
    batch, styles = feature.shape[0], style.mean.shape[0]
    if style.mean.shape[1] != feature.shape[1] or (batch != styles and 1 not in (batch, styles)):
        raise ShapeError(
            "a style code doesn't fit the network or the batch",
            got=f"{styles} styles of {style.mean.shape[1]} channels",
            expected=f"1 or {batch} of {feature.shape[1]}",
        )
    mean, deviation = moments(feature) if known is None else known
    gain = style.deviation / deviation
    return torch.addcmul(style.mean - mean * gain, feature, gain)  # one pass over the feature
