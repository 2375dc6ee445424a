"""Denoising: photographs with noise of deviation 25 of 255, a U-Net, PSNR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.methods.task import Setting, Task
from benchmarks.methods.training import BUNDLED, taught
from benchmarks.methods.widening import widen
from benchmarks.worth.unet import NoisyCrops, UNet, unet_pairing
from kbstyle_example.data import list_pictures
from kbstyle_example.splits import of_split
from skd.knowledge import Reread


def begin(network: nn.Module) -> None:
    """He et al.'s start (2015): without norms, what layers begin with by themselves fades on the way through them."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            # A transposed one whose stride is its kernel reads each input once for each output.
            reads = layer.in_channels * (layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)
            nn.init.normal_(layer.weight, std=(2 / reads) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if isinstance(network, UNet):
        nn.init.normal_(network.noise.weight, std=0.1 * (2 / network.noise.weight[0].numel()) ** 0.5)  # nearly no noise


def _made(setting: Setting) -> UNet:
    network = UNet(setting.widths)
    begin(network)
    if setting.begins_as:
        weights = load_file(BUNDLED / f"{setting.begins_as}.safetensors")
        narrow = UNet([weights[f"{layer}.weight"].shape[0] for layer in ("down1.0", "down2.0", "middle.0")])
        narrow.load_state_dict(weights)
        widen(narrow, network)
    return network


def denoising(setting: Setting, data: Path, cache: Path) -> Task:
    """The teacher is trained first, once."""
    paths = list_pictures(data / "content")

    def samples(split: Any, seed: int, length: int) -> NoisyCrops:
        return NoisyCrops(of_split(paths, split), crop=setting.crop, length=length, seed=seed)

    def measured(student: nn.Module, split: str, count: int) -> dict[str, float]:
        return {"PSNR, dB": psnr(student, DataLoader(samples(split, 0, count), batch_size=8))}

    teacher = taught("denoiser", lambda: _made(setting), samples, _noisy, squared_error, setting, cache, warmup=50)
    reread = Reread(teacher, [pair.encoder for pair in unet_pairing(teacher)])
    return Task("denoising", teacher, setting, unet_pairing, samples, _noisy, measured, True, loss, reread, begin)


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


def _noisy(batch: Any) -> Any:
    return batch[0]
