"""A denoising U-Net: noisy photographs in, clean ones out; and crops of photographs with noise on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import skd
from kbstyle_example.data import Pictures

SIGMA = 25.0  # of 255


def level(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two 3×3 convolutions, the first of which may halve the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1), nn.ReLU()
    )


class UNet(nn.Module):
    """Three levels, concatenated skips, no norms; it predicts the noise and takes it away.

    Parameters
    ----------
    widths : sequence of int
        Of the three levels.
    channels : int
        Of the picture.

    Examples
    --------
    >>> UNet((2, 3, 4))(torch.rand(1, 3, 8, 12)).shape
    torch.Size([1, 3, 8, 12])
    """

    def __init__(self, widths: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        one, two, three = widths
        self.down1 = level(channels, one)
        self.down2 = level(one, two, stride=2)
        self.middle = level(two, three, stride=2)
        self.up2 = nn.ConvTranspose2d(three, two, 2, 2)
        self.back2 = level(2 * two, two)
        self.up1 = nn.ConvTranspose2d(two, one, 2, 2)
        self.back1 = level(2 * one, one)
        self.noise = nn.Conv2d(one, channels, 3, 1, 1)

    def forward(self, noisy: Tensor) -> Tensor:
        """(B, C, H, W), sides multiples of 4 → the same shape."""
        one = self.down1(noisy - 0.5)
        two = self.down2(one)
        x = self.up2(self.middle(two))
        x = self.up1(self.back2(torch.cat((x, two), 1)))
        clean: Tensor = noisy - self.noise(self.back1(torch.cat((x, one), 1)))
        return clean


def unet_pairing(network: Any) -> skd.Pairing:
    """The two symmetric pairs, each side read before its last nonlinearity."""
    return skd.Pairing.declare(
        {"1/1": ("down1.2", "back1.2"), "1/2": ("down2.2", "back2.2")},
        network,
        torch.zeros(1, 3, 16, 24),
        bottleneck="middle.2",
    )


class NoisyCrops(Dataset[tuple[Tensor, Tensor]]):
    """Noisy crops of photographs beside the clean ones; sample i depends on the seed and i alone.

    Parameters
    ----------
    paths : sequence of Path
    crop, length, seed : int
        Side in pixels, how many, and which.
    """

    def __init__(self, paths: Sequence[Path], *, crop: int, length: int, seed: int) -> None:
        self.pictures, self.crop, self.length, self.seed = Pictures(paths, smallest=crop), crop, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        random = np.random.default_rng([self.seed, index])
        picture = self.pictures.open(int(random.integers(len(self.pictures))))
        left, top = (int(random.integers(side - self.crop + 1)) for side in picture.size)
        pixels = np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)), dtype=np.float32) / 255
        noisy = pixels + SIGMA / 255 * random.standard_normal(pixels.shape, dtype=np.float32)
        clean, other = (torch.from_numpy(each).permute(2, 0, 1).contiguous() for each in (pixels, noisy))
        return other, clean


class Denoising(nn.Module):
    """The squared error of a network's pictures, as a training module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, clean: Tensor) -> skd.Step:
        found = self.network(noisy)
        return skd.Step(found, skd.Losses({"error": (found - clean).square().mean()}))


def trained_teacher(
    cache: Path, widths: Sequence[int], paths: Sequence[Path], *, steps: int, batch: int, crop: int, seed: int = 0
) -> UNet:
    """A denoiser of the clean pictures, trained here or, where its run is complete already, taken from its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(widths)
    recipe = skd.Recipe(
        steps=steps, learning_rate=1e-3, warmup=min(50, steps // 10), channels_last=True, seed=seed, cpu=True
    )
    samples = NoisyCrops(paths, crop=crop, length=steps * batch, seed=seed)
    name = "-".join(map(str, ("teacher", *widths, steps, batch, crop)))
    loader = DataLoader(samples, batch_size=batch)
    skd.fit(Denoising(network), loader, cache / name, recipe=recipe, product=network, label="teacher")
    return network.eval()
