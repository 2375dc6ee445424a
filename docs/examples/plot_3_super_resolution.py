"""
Super-resolution: declared pairs
================================

A super-resolution network works at one size until its end: there is neither an encoder nor a decoder to be seen. Its
pairs are declared, its residual stream is narrowed as one, and the student is distilled.
"""

# %%
# The network and its data
# ------------------------
# Crops of the bundled photographs, half the size and back: the network adds what bicubic enlarging lacks.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import kbstyle_example
import skd

SMALL = "SKD_DOCS_SMALL" in os.environ
STEPS = 10 if SMALL else 120
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(width, width, 3, padding=1), nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.relu(self.conv1(x)))


class SRNet(nn.Module):
    def __init__(self, width, blocks=4):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.tail = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x):
        return F.interpolate(x, scale_factor=2.0, mode="bicubic") + self.tail(self.body(self.head(x)))


folder = Path(kbstyle_example.__file__).parent / "samples" / "content"
pictures = [torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()) for path in sorted(folder.iterdir())]


def crops(pictures, count, side=64):
    """(count, 3, side, side), and half of that."""
    found = []
    for k in torch.randint(len(pictures), (count,)).tolist():
        top, left = (int(torch.randint(length - side, ())) for length in pictures[k].shape[:2])
        found.append(pictures[k][top : top + side, left : left + side].permute(2, 0, 1) / 255)
    large = torch.stack(found)
    return large, F.interpolate(large, scale_factor=0.5, mode="bicubic", antialias=True)


def psnr(found, wanted):
    return float(-10 * torch.log10((found.clamp(0, 1) - wanted).square().mean()))


# %%
# The teacher
# -----------

teacher = SRNet(32)
optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-3)
for _ in range(STEPS):
    large, little = crops(pictures[2:], 4)
    loss = (teacher(little) - large).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
teacher.eval()

# %%
# Pairs
# -----
# Automatic pairing takes the only reading that is left, and says so. Here we declare: the head mirrors the last block.

calibration = [crops(pictures[2:], 8)[1] for _ in range(3)]
print(skd.pair(teacher, calibration[0]))

# %%


def declared(network):
    return skd.Pairing.declare([("head", "body.3"), ("body.0", "body.2")], network, calibration[0])


spectra = skd.measure(teacher, declared(teacher), calibration)
small = skd.compress(teacher, spectra, data=calibration, ratio=4)
print(small)

# %%
# Distillation
# ------------

student = small.student
large, little = crops(pictures[:2], 8, side=96)
with torch.no_grad():
    answers = {
        "bicubic": F.interpolate(little, scale_factor=2.0, mode="bicubic"),
        "student, as it begins": student(little),
    }
method = skd.methods.SKD(skd.match(declared(teacher), declared(student)), spectra, basis="learned", output=20.0)
distiller = skd.Distiller(teacher, student, method)
skd.fit_adapters(distiller, calibration)
optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)
for _ in range(STEPS):
    large_crop, little_crop = crops(pictures[2:], 4)
    step = distiller(little_crop)
    loss = step.losses.total + 10 * (step.output - large_crop).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    answers["student, distilled"], answers["teacher"] = student.eval()(little), teacher(little)

# %%
# What came out
# -------------
# The figures are means over eight crops of pictures that nothing was trained on; the crop shown is the one
# with the most in it.

answers["the picture"] = large
shown = int(large.std((1, 2, 3)).argmax())
figure, panels = plt.subplots(1, len(answers), figsize=(10, 2.6), layout="constrained")
for axes, (name, found) in zip(panels, answers.items(), strict=True):
    axes.imshow(found[shown].clamp(0, 1).permute(1, 2, 0).numpy())
    axes.set_title(name if found is large else f"{name}\n{psnr(found, large):.2f} dB", fontsize=9)
    axes.set_axis_off()
plt.show()
