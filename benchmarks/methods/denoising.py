"""Denoising: photographs with noise of deviation 25 of 255, a U-Net, PSNR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import skd
from benchmarks.methods.task import Setting, Task
from benchmarks.methods.training import taught
from benchmarks.worth.unet import NoisyCrops, UNet
from kbstyle_example.data import list_pictures
from kbstyle_example.splits import of_split


class Denoiser(nn.Sequential):
    """The U-Net on 2×2 pixels at once, as FFDNet does: twice the reach, and a quarter of the work.

    K. Zhang, W. Zuo, L. Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", IEEE TIP
    27 (2018).

    Examples
    --------
    >>> Denoiser((2, 3, 4))(torch.rand(1, 3, 8, 16)).shape
    torch.Size([1, 3, 8, 16])
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(nn.PixelUnshuffle(2), UNet(widths, 12), nn.PixelShuffle(2))


def denoising(setting: Setting, data: Path, cache: Path) -> Task:
    """The teacher is trained first, once."""
    paths = list_pictures(data / "content")

    def samples(split: Any, seed: int, length: int) -> NoisyCrops:
        return NoisyCrops(of_split(paths, split), crop=setting.crop, length=length, seed=seed)

    def measured(student: nn.Module, split: str) -> dict[str, float]:
        return {"PSNR, dB": psnr(student, DataLoader(samples(split, 0, setting.held_out), batch_size=8))}

    teacher = taught(
        "denoiser", lambda: Denoiser(setting.widths), samples, _noisy, squared_error, setting, cache, warmup=50
    )
    return Task("denoising", teacher, setting, unet_pairing, samples, _noisy, measured, True, loss)


def psnr(network: Callable[[Tensor], Tensor], batches: Any) -> float:
    """In decibels, the mean of the pictures'."""
    found = list[Tensor]()
    with torch.no_grad():
        for noisy, clean in batches:
            ours = network(noisy).clamp(0, 1).double()
            found.append(-10 * (ours - clean).square().mean((1, 2, 3)).log10())
    return float(torch.cat(found).mean())


def squared_error(output: Tensor, batch: Any) -> Tensor:
    """What the teacher is trained on."""
    return (output - batch[1]).square().mean()


def loss(output: Tensor, batch: Any) -> Tensor:
    """The squared error from the truth, in units of what the noise alone would leave."""
    noisy, clean = batch
    return (output - clean).square().mean() / (noisy - clean).square().mean()


def unet_pairing(network: Any) -> skd.Pairing:
    """The two symmetric pairs, each side read before its last nonlinearity."""
    return skd.Pairing.declare(
        {"1/2": ("1.down1.2", "1.back1.2"), "1/4": ("1.down2.2", "1.back2.2")},
        network,
        torch.zeros(1, 3, 32, 48),
        bottleneck="1.middle.2",
    )


def _noisy(batch: Any) -> Any:
    return batch[0]
