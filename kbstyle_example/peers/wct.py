"""WCT (Li et al. 2017) over the VGG-19 that Collaborative Distillation (Wang et al. 2020) made 16 times smaller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.peers.files import state_of
from kbstyle_example.perceptual import VGG, VGG19_STAGES

WIDTHS = (16, 32, 64, 128, 128)  # channels of the stages; the first encoder and decoder, alone, have 24
FIRST_WIDTH = 24
LEVELS = 5
SMALLEST_SHARE = 1e-12  # of the largest eigenvalue: below it a direction is rounding, and whitening would blow it up


def encoder(level: int, widths: tuple[int, ...] = WIDTHS) -> VGG:
    """VGG-19 up to relu`level`_1, its border reflected."""
    stages = (*VGG19_STAGES[: level - 1], (1, str(level)))
    last = f"relu{level}_1"
    return VGG(f"wct{level}", widths[:level], stages=stages, border="reflect", content_layer=last)


class Inverter(nn.Module):
    """From relu`level`_1 back to a picture: the encoder's convolutions mirrored, nearest neighbours for the poolings.

    Examples
    --------
    >>> Inverter(2, (4, 6))(torch.rand(1, 6, 5, 7)).shape
    torch.Size([1, 3, 10, 14])
    """

    def __init__(self, level: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.names: list[str] = []  # "conv41", and "" where the size doubles
        ins = (3, *widths)
        for stage in range(level, 0, -1):
            count = 1 if stage == level else VGG19_STAGES[stage - 1][0]
            if self.names:
                self.names.append("")
            for index in range(count, 0, -1):
                name, narrow = f"conv{stage}{index}", ins[stage - 1] if index == 1 else ins[stage]
                self.add_module(name, nn.Conv2d(ins[stage], narrow, 3, padding=1, padding_mode="reflect"))
                self.names.append(name)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 3, H·2^(level−1), W·2^(level−1)), 0 and up."""
        for name in self.names:
            # The published decoders end in a ReLU, too.
            feature = F.relu(self.get_submodule(name)(feature)) if name else F.interpolate(feature, scale_factor=2.0)
        return feature


def whitened_and_coloured(content: Tensor, style: Tensor) -> Tensor:
    """The content's feature with the style's mean and covariance, in closed form (Li et al. 2017, section 3.2).

    Parameters
    ----------
    content, style : Tensor
        (1, C, H, W) and (1, C, H′, W′).

    Returns
    -------
    Tensor
        (1, C, H, W). Computed in float64, as in the published code.

    Examples
    --------
    >>> wanted = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    >>> whitened_and_coloured(torch.tensor([-4.0, 4.0]).view(1, 1, 1, 2), wanted).flatten().round(decimals=4)
    tensor([1., 3.])
    """

    def spectrum(feature: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        flat = feature.double().flatten(2)[0]
        mean = flat.mean(1, keepdim=True)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred @ centred.mT / (flat.shape[1] - 1))
        kept = values > SMALLEST_SHARE * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
        return centred, mean, values[kept], vectors[:, kept]

    centred, _, values, vectors = spectrum(content)
    _, mean, wanted_values, wanted_vectors = spectrum(style)
    white = (vectors * values.rsqrt()) @ vectors.mT
    colour = (wanted_vectors * wanted_values.sqrt()) @ wanted_vectors.mT
    return (colour @ (white @ centred) + mean).view_as(content).to(content)


class WCT(nn.Module):
    """Five passes, from relu5_1 to relu1_1: encode, whiten and colour, decode; each begins where the last ended.

    Parameters
    ----------
    widths : tuple of int
        Channels of the stages.
    first_width : int
        Of the pass at relu1_1.

    Examples
    --------
    >>> WCT((2, 2, 2, 2, 2), first_width=3)(torch.rand(1, 3, 40, 35), torch.rand(1, 3, 32, 48)).shape
    torch.Size([1, 3, 40, 35])
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, *, first_width: int = FIRST_WIDTH) -> None:
        super().__init__()
        for level in range(1, LEVELS + 1):
            used = (first_width,) if level == 1 else widths[:level]
            self.add_module(f"encoder{level}", encoder(level, used))
            self.add_module(f"decoder{level}", Inverter(level, used))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(1, 3, H, W) and (1, 3, H′, W′) in 0..1, sides from 32 → (1, 3, H, W), not clamped."""
        height, width = content.shape[-2:]
        result = F.pad(content, (0, -width % 16, 0, -height % 16), mode="replicate")  # four poolings
        for level in range(LEVELS, 0, -1):
            encode, decode = self.get_submodule(f"encoder{level}"), self.get_submodule(f"decoder{level}")
            layer = f"relu{level}_1"
            result = decode(whitened_and_coloured(encode(result)[layer], encode(style)[layer]))
        return result[..., :height, :width]


def build(files: Mapping[str, Path]) -> WCT:
    """The published encoders (SE) and decoders (SD), from their ten files."""
    net = WCT()
    for level in range(1, LEVELS + 1):
        state = {key: value for key, value in state_of(files[f"{level}SE.pth"]).items() if "_aux." not in key}
        names = {re.sub(r"^conv(\d)(\d)\.", r"conv\1_\2.", key.replace("conv0.", "input.")): key for key in state}
        net.get_submodule(f"encoder{level}").load_state_dict({name: state[key] for name, key in names.items()})
        net.get_submodule(f"decoder{level}").load_state_dict(state_of(files[f"{level}SD.pth"]))
    return net.eval()
