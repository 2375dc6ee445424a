"""The zoo's plain networks, written as people write them, with nothing of skd in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """(B, 3, H, W) → (B, 3, H, W) for multiples of 8. The decoder is shallower than the encoder, and narrower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 2 * w, 3, padding=1), nn.BatchNorm2d(2 * w), nn.ReLU(inplace=True)),
            *(nn.Conv2d(2 * w, 2 * w, 3, 2, 1), nn.BatchNorm2d(2 * w), nn.ReLU(inplace=True)),
            *(nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.BatchNorm2d(2 * w), nn.ReLU(inplace=True)),
            *(nn.Conv2d(2 * w, 4 * w, 3, 2, 1), nn.BatchNorm2d(4 * w), nn.ReLU(inplace=True)),
            *(nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.BatchNorm2d(4 * w), nn.ReLU(inplace=True)),
            nn.Conv2d(4 * w, 2 * w, 3, 2, 1),
        )
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(2 * w, 3 * w, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.ConvTranspose2d(3 * w, w, 4, 2, 1), nn.ReLU(inplace=True)),
            nn.ConvTranspose2d(w, 3, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out


class VAE(nn.Module):
    """(B, 1, 32, 32) → picture, mean and log variance of a vector code; drawn in training, its mean otherwise."""

    def __init__(self, width: int, code: int = 6) -> None:
        super().__init__()
        self.width = width
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU()),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU()),
            *(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.BatchNorm2d(4 * width), nn.LeakyReLU()),
        )
        self.fc_mean, self.fc_variance = nn.Linear(64 * width, code), nn.Linear(64 * width, code)
        self.fc_decoder = nn.Linear(code, 64 * width)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU()),
            *(nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x).flatten(1)
        mean, variance = self.fc_mean(hidden), self.fc_variance(hidden)
        code = mean + torch.randn_like(mean) * (variance / 2).exp() if self.training else mean
        return self.decoder(self.fc_decoder(code).view(-1, 4 * self.width, 4, 4)), mean, variance


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.prelu = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.PReLU()
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return out


class SRResNet(nn.Module):
    """(B, 3, H, W) → (B, 3, 4 H, 4 W): residual blocks at one size, then pixel shuffle (Ledig et al., 2017)."""

    def __init__(self, width: int, blocks: int = 4) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.fuse = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        up = (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
        self.upsample = nn.Sequential(*up, nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
        self.tail = nn.Conv2d(width, 3, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        out: Tensor = self.tail(self.upsample(x + self.fuse(self.body(x))))
        return out


class BLSTM(nn.Module):
    """(B, C, L) → (B, C, L); the recurrent layers inside work on (L, B, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, bidirectional=True)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.lstm(x.permute(2, 0, 1))[0])
        return out.permute(1, 2, 0)


class SpeechUNet(nn.Module):
    """(B, 1, L) → (B, 1, L) for multiples of 64: strides of 4, gated linear units, added skips (Defossez et al., 2020).

    The skip that is added inside the loop is no layer's output.
    """

    def __init__(self, width: int, depth: int = 3) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for k in range(depth):
            given, made = (1 if k == 0 else width << (k - 1)), width << k
            self.encoder.append(
                nn.Sequential(nn.Conv1d(given, made, 8, 4, 2), nn.ReLU(), nn.Conv1d(made, 2 * made, 1), nn.GLU(1))
            )
            up = nn.ConvTranspose1d(made, given, 8, 4, 2)
            self.decoder.insert(
                0, nn.Sequential(nn.Conv1d(made, 2 * made, 1), nn.GLU(1), up, *([nn.ReLU()] if k else []))
            )
        self.lstm = BLSTM(width << (depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.lstm(x)
        for decode in self.decoder:
            x = decode(x + skips.pop())
        return x


class DoubleConv(nn.Sequential):
    def __init__(self, given: int, made: int) -> None:
        super().__init__(
            *(nn.Conv3d(given, made, 3, padding=1, bias=False), nn.InstanceNorm3d(made, affine=True), nn.LeakyReLU()),
            *(nn.Conv3d(made, made, 3, padding=1, bias=False), nn.InstanceNorm3d(made, affine=True), nn.LeakyReLU()),
        )


class UNet3d(nn.Module):
    """(B, 1, D, H, W) → (B, 2, D, H, W), any size: pooling, concatenated skips, upsampling to the skip's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inc, self.down1 = DoubleConv(1, width), DoubleConv(width, 2 * width)
        self.down2 = DoubleConv(2 * width, 4 * width)
        self.up1, self.up2 = DoubleConv(6 * width, 2 * width), DoubleConv(3 * width, width)
        self.outc = nn.Conv3d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(F.max_pool3d(one, 2))
        x = self.down2(F.max_pool3d(two, 2))
        for up, skip in ((self.up1, two), (self.up2, one)):
            x = up(torch.cat([skip, F.interpolate(x, size=skip.shape[2:], mode="trilinear")], 1))
        out: Tensor = self.outc(x)
        return out
