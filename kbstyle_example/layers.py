"""The layers KBStyle is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.moments import Moments


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution whose border repeats the edge: zeros would show as a dark frame.

    Examples
    --------
    >>> conv3(3, 8, stride=2)(torch.zeros(1, 3, 6, 8)).shape
    torch.Size([1, 8, 3, 4])
    """
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="replicate")


class Block(nn.Module):
    """Residual block with a long reach: 7×7 depthwise (24 pixels at 1/4, 48 at 1/8), then two pointwise layers.

    Examples
    --------
    >>> Block(4)(torch.zeros(1, 4, 2, 3)).shape
    torch.Size([1, 4, 2, 3])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reach = nn.Conv2d(width, width, 7, padding=3, padding_mode="replicate", groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.act = nn.ReLU()
        self.out = nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.3)  # a stack of blocks begins near the identity

    def forward(self, x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """(B, width, H, W) → the same shape. The middle times 1 + gain, plus shift, (B or 1, width, 1, 1) each."""
        middle = self.mix(self.reach(x))
        if gain is not None and shift is not None:
            middle = torch.addcmul(shift, middle, 1 + gain)
        out: Tensor = x + self.out(self.act(middle))
        return out


class StyledBlocks(nn.Module):
    """Blocks whose middles the style scales and shifts, each channel of each block (FiLM, Perez et al. 2018).

    Gains and shifts come from the style's statistics at this level, by two layers with a quarter of the width between.
    They begin at zero, when the blocks are the same for any style. The last layer has no bias: the weights of `mix` and
    its bias can say the same.

    Examples
    --------
    >>> from kbstyle_example.moments import moments
    >>> blocks, feature = StyledBlocks(4, 2), torch.rand(1, 4, 5, 6)
    >>> blocks(feature, moments(feature)).shape
    torch.Size([1, 4, 5, 6])
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(count))
        if count > 0:
            hidden = max(1, width // 4)
            last = nn.Linear(hidden, 2 * width * count, bias=False)
            nn.init.zeros_(last.weight)
            self.film = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor, style: Moments) -> Tensor:
        """(B or 1, width, H, W) and the statistics of one style or of B → (B, width, H, W)."""
        if len(self.blocks) > 0:
            code = torch.cat((style.mean, style.deviation), 1).flatten(1).to(x.dtype)
            films = self.film(code)[..., None, None].chunk(2 * len(self.blocks), 1)
            for block, gain, shift in zip(self.blocks, films[::2], films[1::2], strict=True):
                x = block(x, gain, shift)
        return x


def doubled(feature: Tensor) -> Tensor:
    """Twice the height and width: blurred by [1 2 1] along both axes, then bilinear.

    The blur takes away what alternates from one position to the next. Without it the network paints smooth skies with
    that alternation, and they show a lattice of 8 pixels (seen with nearest neighbours).

    Examples
    --------
    >>> checkerboard = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]).repeat(1, 1, 3, 3)
    >>> float(doubled(checkerboard)[:, :, 3:-3, 3:-3].abs().max())
    0.0
    """
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(feature, (1, 1, 1, 1), mode="replicate"), 2, 1), 2, 1)
    size = (2 * feature.shape[-2], 2 * feature.shape[-1])  # as a factor it takes an export twice as long
    return F.interpolate(blurred, size, mode="bilinear", align_corners=False)
