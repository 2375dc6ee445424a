"""A convolution over the positions of any layout, for methods that learn more than a linear map of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skd.adapters import Adapter
from skd.taps import Layout

_CONVOLUTIONS: dict[str, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    "BNC": nn.Conv1d,
    "BCL": nn.Conv1d,
    "BCHW": nn.Conv2d,
    "BCDHW": nn.Conv3d,
}


class Convolution(Adapter):
    """3 positions wide on every axis (tokens are a line), the size kept by zeros around."""

    def __init__(self, in_channels: int, out_channels: int, *, layout: Layout) -> None:
        super().__init__(layout=layout)
        self.convolution = _CONVOLUTIONS[layout](in_channels, out_channels, 3, padding=1)

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature with `out_channels` channels."""
        if not torch.is_autocast_enabled(feature.device.type):
            feature = feature.to(self.convolution.weight.dtype)  # a half model beside a float32 adapter
        tokens = self.layout == "BNC"
        out: Tensor = self.convolution(feature.transpose(1, 2) if tokens else feature)
        return out.transpose(1, 2) if tokens else out
