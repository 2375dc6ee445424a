"""Adapters of the channels: a learned linear map, a learned rotation, a fixed basis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd.adapters.base import Adapter
from skd.errors import ArgumentError, ShapeError
from skd.knowledge._common import working_dtype
from skd.knowledge.subspace import coordinates, lift
from skd.taps import Layout

Init = Literal["kaiming", "orthogonal", "identity"]

_POINTWISE: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "BCL": F.conv1d,
    "BCHW": F.conv2d,
    "BCDHW": F.conv3d,
}


def _pointwise(feature: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
    """`weight` (out, in) applied over the channels of any layout."""
    if not torch.is_autocast_enabled(feature.device.type):
        feature = feature.to(weight.dtype)  # a half model beside a float32 adapter
    if layout not in _POINTWISE:
        return F.linear(feature, weight, bias)
    return _POINTWISE[layout](feature, weight.reshape(*weight.shape, *(1,) * (feature.ndim - 2)), bias)


def _require_widths(in_channels: int, out_channels: int) -> None:
    if in_channels < 1 or out_channels < 1:
        raise ArgumentError("an adapter needs at least one channel on each side", got=f"{in_channels} → {out_channels}")


def _started(start: Tensor, shape: tuple[int, int]) -> Tensor:
    if tuple(start.shape) != shape:
        raise ShapeError("the weight to start from doesn't fit", got=tuple(start.shape), expected=shape)
    return start.detach().to(torch.get_default_dtype()).clone()


class ChannelAdapter(Adapter):
    """A learned linear map of the channels, the same at every position (1×1 convolution; FitNets, Romero et al. 2015).

    Parameters
    ----------
    in_channels, out_channels : int
        Widths before and after.
    layout : str
        Any; the feature's.
    bias : bool
        Whether a learned offset is added; it starts at zero.
    init : {"kaiming", "orthogonal", "identity"} or Tensor
        "kaiming": normal with variance 1/in (He et al. 2015 without a nonlinearity), which keeps the feature's energy;
        "orthogonal": semi-orthogonal (Saxe et al. 2014); "identity": ones on the diagonal; or the weight (out, in)
        itself.

    Raises
    ------
    ArgumentError
        If a width isn't positive or the init isn't known.
    ShapeError
        If an init tensor has the wrong shape, or a feature another width.

    Examples
    --------
    >>> ChannelAdapter(8, 20, layout="BNC")(torch.ones(2, 5, 8)).shape
    torch.Size([2, 5, 20])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        layout: Layout = "BCHW",
        bias: bool = True,
        init: Init | Tensor = "kaiming",
    ) -> None:
        super().__init__(layout=layout)
        _require_widths(in_channels, out_channels)
        if isinstance(init, Tensor):
            self.weight = nn.Parameter(_started(init, (out_channels, in_channels)))
        else:
            self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
            self._initialise(init)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _initialise(self, init: str) -> None:
        if init == "kaiming":
            nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        elif init == "orthogonal":
            nn.init.orthogonal_(self.weight)
        elif init == "identity":
            nn.init.eye_(self.weight)
        else:
            raise ArgumentError(
                "the init isn't known", got=repr(init), expected="kaiming, orthogonal, identity or a tensor"
            )

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature with `out_channels` channels."""
        self._require_channels(feature, self.weight.shape[1])
        return _pointwise(feature, self.weight, self.bias, self.layout)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} → {self.weight.shape[0]}, {super().extra_repr()}"


class OrthogonalAdapter(Adapter):
    """A learned rotation of the channels: semi-orthogonal to rounding, whatever the optimizer does.

    The parameter is any full-rank matrix, the weight the Q of its QR decomposition (R's diagonal made positive, so that
    the map is smooth), computed in float32 or float64 also under autocast. With out ≥ in, WᵀW = I and lengths are kept;
    with out < in, W Wᵀ = I.

    Parameters
    ----------
    in_channels, out_channels : int
        Widths before and after.
    layout : str
        Any; the feature's.
    start : Tensor, optional
        The weight (out, in) to start from; orthonormalised. Random by default.

    Raises
    ------
    ArgumentError
        If a width isn't positive.
    ShapeError
        If `start` has the wrong shape, or a feature another width.

    Examples
    --------
    >>> adapter = OrthogonalAdapter(3, 5)
    >>> torch.allclose(adapter.weight.T @ adapter.weight, torch.eye(3), atol=1e-6)
    True
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, layout: Layout = "BCHW", start: Tensor | None = None
    ) -> None:
        super().__init__(layout=layout)
        _require_widths(in_channels, out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        shape = (out_channels, in_channels)
        matrix = nn.init.orthogonal_(torch.empty(shape)) if start is None else _started(start, shape)
        self.tall = nn.Parameter(matrix if out_channels >= in_channels else matrix.T.contiguous())

    @property
    def weight(self) -> Tensor:
        """W (out, in), differentiable in the parameter."""
        q: Tensor
        q, r = torch.linalg.qr(self.tall.to(working_dtype(self.tall)))  # autocast leaves decompositions alone
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
        return q if self.out_channels >= self.in_channels else q.mT

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature with `out_channels` channels."""
        self._require_channels(feature, self.in_channels)
        return _pointwise(feature, self.weight, None, self.layout)

    def extra_repr(self) -> str:
        return f"{self.in_channels} → {self.out_channels}, {super().extra_repr()}"


class BasisAdapter(Adapter):
    """Coordinates in a fixed basis: (f − μ) U, computed in float32 or float64 also under autocast.

    Parameters
    ----------
    basis : Tensor
        U (C, c). Orthonormal columns, unless `lift` is given.
    mean : Tensor, optional
        μ (C,); none leaves the feature uncentred.
    lift : Tensor, optional
        (C, c), the way back for a subset of channels: Σ_{·S} Σ_SS⁻¹. U by default.
    layout : str
        Any; the feature's.
    dtype : torch.dtype, optional
        Of the stored basis; the default dtype by default, because spectra are float64 and some devices aren't.

    Raises
    ------
    ArgumentError
        If the basis is neither orthonormal nor has a lift.
    ShapeError
        If basis, mean and lift don't fit each other, or a feature doesn't fit them.

    Examples
    --------
    >>> adapter = BasisAdapter(torch.tensor([[0.6], [0.8]]), torch.ones(2), layout="BCL")
    >>> adapter(torch.tensor([[[4.0, 1.0], [5.0, 1.0]]]))
    tensor([[[5., 0.]]])
    >>> adapter.lift(torch.tensor([[[5.0, 0.0]]]))
    tensor([[[4., 1.],
             [5., 1.]]])
    """

    basis: Tensor
    mean: Tensor | None
    back: Tensor

    def __init__(
        self,
        basis: Tensor,
        mean: Tensor | None = None,
        *,
        lift: Tensor | None = None,
        layout: Layout = "BCHW",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(layout=layout)
        if basis.ndim != 2 or basis.shape[0] < basis.shape[1]:
            raise ShapeError(
                "a basis has one column a coordinate", got=tuple(basis.shape), expected="(C, c) with c ≤ C"
            )
        if mean is not None and mean.shape != basis.shape[:1]:
            raise ShapeError("the mean doesn't fit the basis", got=tuple(mean.shape), expected=tuple(basis.shape[:1]))
        if lift is not None and lift.shape != basis.shape:
            raise ShapeError("the lift doesn't fit the basis", got=tuple(lift.shape), expected=tuple(basis.shape))
        if lift is None:
            products = basis.detach().T.double() @ basis.detach().double()
            error = float((products - torch.eye(len(products), dtype=torch.float64, device=basis.device)).abs().max())
            if not error < 1e-3:  # also where it is NaN
                raise ArgumentError(
                    "the basis isn't orthonormal, so it isn't its own way back",
                    got=f"UᵀU off by {error:.2g}",
                    remedy="give the lift, or orthonormalise the basis",
                )
        dtype = dtype or torch.get_default_dtype()
        self.register_buffer("basis", basis.detach().to(dtype).clone())
        self.register_buffer("mean", None if mean is None else mean.detach().to(dtype).clone())
        self.register_buffer("back", (basis if lift is None else lift).detach().to(dtype).clone())

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature's c coordinates."""
        self._require_channels(feature, self.basis.shape[0])
        return coordinates(feature, basis=self.basis, mean=self.mean, layout=self.layout)

    def lift(self, feature: Tensor) -> Tensor:
        """From c coordinates back to C channels: exact where the feature lay in the span."""
        return lift(feature, basis=self.back, mean=self.mean, layout=self.layout)

    def extra_repr(self) -> str:
        centred = "uncentred" if self.mean is None else "centred"
        return f"{self.basis.shape[0]} → {self.basis.shape[1]}, {centred}, {super().extra_repr()}"
