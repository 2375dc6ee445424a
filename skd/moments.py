"""Streaming mean and covariance, exact in float64, in memory that doesn't grow with the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from skd.errors import ArgumentError, DataError, FeatureError, FileError, NonFiniteError, ShapeError

# Positions turned into float64 at a time; bounds the copy, not the result.
CHUNK = 65_536


class Moments:
    """Count, mean and covariance of a feature's channels, every position of every sample one observation.

    Batches are merged by the parallel update of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979), so the covariance is the *total* one, about the mean of all
    data: how the data are cut into batches doesn't matter.

    Parameters
    ----------
    channels : int
        Channels C of the features to come.

    Attributes
    ----------
    count : int
        Observations so far.
    mean : Tensor
        (C,) float64.
    scatter : Tensor
        (C, C) float64, the sum of the outer products of the deviations; `cov` is it over count − 1.

    Raises
    ------
    ArgumentError
        If `channels` isn't positive.

    Examples
    --------
    >>> moments = Moments(2)
    >>> moments.update(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]))  # one sample, two channels, two positions
    >>> moments.update(torch.tensor([[[5.0], [3.0]]]))
    >>> moments.count, moments.mean.tolist()
    (3, [3.0, 1.0])
    >>> moments.cov.tolist()
    [[4.0, 3.0], [3.0, 3.0]]
    """

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise ArgumentError("moments need at least one channel", got=channels)
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.scatter = torch.zeros(channels, channels, dtype=torch.float64)

    @property
    def channels(self) -> int:
        """Channels C."""
        return self.mean.numel()

    @property
    def cov(self) -> Tensor:
        """(C, C) float64 covariance about the mean, over count − 1 as `numpy.cov` has it."""
        if self.count < 2:
            raise DataError("a covariance needs at least two positions", got=f"{self.count}")
        return self.scatter / (self.count - 1)

    @property
    def total(self) -> float:
        """Total variance: the trace of `cov`."""
        return float(self.cov.diagonal().sum())

    @property
    def constant(self) -> bool:
        """Whether the features vary by no more than float32 rounding of their mean."""
        return self.count < 2 or self.total <= 1e-14 * float(self.mean.square().sum())

    def update(self, feature: Tensor) -> None:
        """Take in a feature (B, C, N), positions flattened; nothing changes when an error is raised.

        Raises
        ------
        ShapeError
            If the feature isn't (B, C, N) with this many channels.
        DataError
            If it holds no position.
        FeatureError
            If it isn't real floating point.
        NonFiniteError
            If it holds NaN or infinity.
        """
        _check_feature(feature, self.channels)
        batch = Moments(self.channels)
        for (chunk,) in _chunks(feature):
            part = Moments(self.channels)
            part.count, part.mean = chunk.shape[1], _finite_mean(chunk)
            centred = chunk - part.mean[:, None]
            part.scatter = centred @ centred.T
            batch.merge(part)
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Take in what `other` has seen (of another worker, say); `other` stays as it is.

        Raises
        ------
        ShapeError
            If the two have different channels.
        """
        if other.channels != self.channels:
            raise ShapeError("moments of other channels can't be merged", got=other.channels, expected=self.channels)
        if other.count == 0:
            return
        total = self.count + other.count
        # the running sums follow the data's device, so that a GPU's features are never copied off it
        mean, scatter = self.mean.to(other.mean.device), self.scatter.to(other.mean.device)
        delta = other.mean - mean
        self.scatter = scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / total)
        self.mean = mean + delta * (other.count / total)
        self.count = total

    def cpu(self) -> Self:
        """Move the sums to the CPU, in place."""
        self.mean, self.scatter = self.mean.cpu(), self.scatter.cpu()
        return self

    def to_tensors(self) -> dict[str, int | Tensor]:
        """Plain values, for `torch.save`."""
        return {"count": self.count, "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_tensors(cls, values: dict[str, int | Tensor]) -> Self:
        """Inverse of `to_tensors`.

        Raises
        ------
        FileError
            If the values aren't what `to_tensors` gives.
        """
        count, mean, scatter = (values.get(key) for key in ("count", "mean", "scatter"))
        if not (
            isinstance(count, int)
            and isinstance(mean, Tensor)
            and isinstance(scatter, Tensor)
            and count >= 0
            and mean.ndim == 1
            and mean.numel() >= 1
            and scatter.shape == (mean.numel(), mean.numel())
            and mean.dtype == scatter.dtype == torch.float64
            and bool(torch.isfinite(mean).all() and torch.isfinite(scatter).all())
        ):
            raise FileError(
                "stored moments are damaged", expected="count, mean (C,) and scatter (C, C), finite, float64"
            )
        moments = cls(mean.numel())
        moments.count, moments.mean, moments.scatter = count, mean, scatter
        return moments

    def __repr__(self) -> str:
        return f"Moments(channels={self.channels}, count={self.count})"


class CrossMoments:
    """Streaming cross-covariance of two features of equally many positions, by the same merge as `Moments`.

    Parameters
    ----------
    left, right : int
        Channels of the two sides.

    Examples
    --------
    >>> cross = CrossMoments(1, 1)
    >>> cross.update(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[2.0, 4.0, 6.0]]]))
    >>> cross.cov.tolist()
    [[2.0]]
    """

    def __init__(self, left: int, right: int) -> None:
        if min(left, right) < 1:
            raise ArgumentError("cross-moments need at least one channel a side", got=f"{left} and {right}")
        self.count = 0
        self.left_mean = torch.zeros(left, dtype=torch.float64)
        self.right_mean = torch.zeros(right, dtype=torch.float64)
        self.scatter = torch.zeros(left, right, dtype=torch.float64)

    @property
    def cov(self) -> Tensor:
        """(C, C') float64 cross-covariance, over count − 1."""
        if self.count < 2:
            raise DataError("a cross-covariance needs at least two positions", got=f"{self.count}")
        return self.scatter / (self.count - 1)

    def update(self, left: Tensor, right: Tensor) -> None:
        """Take in two features (B, C, N) and (B, C', N), position n of one beside position n of the other.

        Raises
        ------
        ShapeError
            If samples or positions differ, or the channels aren't those announced.
        """
        _check_feature(left, self.left_mean.numel())
        _check_feature(right, self.right_mean.numel())
        if left.shape[0] != right.shape[0] or left.shape[2] != right.shape[2]:
            raise ShapeError(
                "a cross-covariance needs equally many samples and positions on both sides",
                got=f"{tuple(left.shape)} and {tuple(right.shape)}",
            )
        for one, other in _chunks(left, right):
            count = one.shape[1]
            mean_one, mean_other = _finite_mean(one), _finite_mean(other)
            total = self.count + count
            left_mean, right_mean = self.left_mean.to(one.device), self.right_mean.to(one.device)
            delta_one, delta_other = mean_one - left_mean, mean_other - right_mean
            scatter = (one - mean_one[:, None]) @ (other - mean_other[:, None]).T
            between = torch.outer(delta_one, delta_other) * (self.count * count / total)
            self.scatter = self.scatter.to(one.device) + scatter + between
            self.left_mean = left_mean + delta_one * (count / total)
            self.right_mean = right_mean + delta_other * (count / total)
            self.count = total


def _chunks(*features: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The features (B, C, N) as float64 (C, n) with n ≤ CHUNK, cut alike."""
    # Apple GPUs have no float64
    doubles = [f.detach().cpu() if f.device.type == "mps" else f.detach() for f in features]
    samples = max(1, CHUNK // features[0].shape[2])
    for group in zip(*(torch.split(f, samples) for f in doubles), strict=True):
        for part in zip(*(torch.split(g, CHUNK, dim=2) for g in group), strict=True):
            yield tuple(p.double().transpose(0, 1).flatten(1) for p in part)


def _check_feature(feature: Tensor, channels: int) -> None:
    if feature.ndim != 3 or feature.shape[1] != channels:
        raise ShapeError("the feature has another shape", got=tuple(feature.shape), expected=f"(B, {channels}, N)")
    if not feature.is_floating_point():
        raise FeatureError("moments are of real floating-point features", got=str(feature.dtype))
    if feature.numel() == 0:
        raise DataError("the feature holds no position", got=tuple(feature.shape))


def _finite_mean(chunk: Tensor) -> Tensor:
    mean = chunk.mean(1)
    if not bool(torch.isfinite(mean).all()):  # a sum with NaN or infinity in it is one itself
        bad = (~torch.isfinite(mean)).nonzero().flatten().tolist()
        raise NonFiniteError("the feature holds NaN or infinity", got=f"channels {_short(bad)}")
    return mean


def _short(items: list[int], limit: int = 8) -> str:
    return ", ".join(map(str, items[:limit])) + (f", … ({len(items)} in all)" if len(items) > limit else "")
