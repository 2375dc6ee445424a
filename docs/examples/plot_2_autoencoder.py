"""
An autoencoder, and where its bytes go
======================================

A convolutional autoencoder is made small at several sizes, without any training afterwards: once with widths chosen
by the energy that the data show, once with the same share of every layer. The curve says what the choice of widths is
worth on this network.
"""

# %%
# The network and its data
# ------------------------
# Pictures of two overlapping discs, drawn on the spot.

import os

import matplotlib.pyplot as plt
import torch
from torch import nn

import skd

SMALL = "SKD_DOCS_SMALL" in os.environ
STEPS = 20 if SMALL else 200
torch.manual_seed(0)


def discs(count):
    """(count, 3, 32, 32): coloured discs on a coloured ground."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    pictures = torch.rand(count, 3, 1, 1).expand(-1, -1, 32, 32).clone()
    for _ in range(2):
        middle, radius = torch.rand(count, 2, 1, 1) * 1.2 - 0.6, torch.rand(count, 1, 1) * 0.4 + 0.2
        inside = ((x - middle[:, 0]) ** 2 + (y - middle[:, 1]) ** 2).sqrt() < radius
        pictures = torch.where(inside[:, None], torch.rand(count, 3, 1, 1), pictures)
    return pictures


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def back(inputs, outputs):
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, 2), nn.BatchNorm2d(outputs), nn.ReLU())


teacher = nn.Sequential(
    block(3, 32), block(32, 48), block(48, 64), nn.Conv2d(64, 32, 1),
    back(32, 48), back(48, 32), nn.ConvTranspose2d(32, 3, 2, 2),
)  # fmt: skip

optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
for _ in range(STEPS):
    pictures = discs(32)
    loss = (teacher(pictures) - pictures).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
teacher.eval()

# %%
# Students of several sizes
# -------------------------
# ``allocation="uniform"`` is the control: the same share of every layer.

calibration, held_out = [discs(64) for _ in range(4)], discs(128)
spectra = skd.measure(teacher, skd.pair(teacher, calibration[0]), calibration)
ratios = (2, 6) if SMALL else (1.5, 2, 3, 4, 6)
errors = {"energy": [], "uniform": []}
sizes = {"energy": [], "uniform": []}
students = {}
with torch.no_grad():
    for allocation in errors:
        for ratio in ratios:
            made = skd.compress(teacher, spectra, data=calibration, ratio=ratio, allocation=allocation)
            students[allocation, ratio] = made.student
            errors[allocation].append(float((made.student(held_out) - held_out).square().mean()))
            sizes[allocation].append(made.bytes / 1024)
    best = float((teacher(held_out) - held_out).square().mean())

# %%
# What came out
# -------------
# Before any training: distillation goes on from here.

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for allocation, colour in (("energy", "#3b6fb6"), ("uniform", "#c8553d")):
    axes.plot(sizes[allocation], errors[allocation], "o-", color=colour, label=f"widths: {allocation}")
axes.axhline(best, color="#4a4a4a", ls=":", label="the teacher")
axes.set_xlabel("bytes of the student's file, in KB")
axes.set_ylabel("squared error, held out")
axes.set_yscale("log")
axes.legend()
plt.show()

# %%
# The same discs through the teacher, and through the student at the ratio in the middle.

ratio = ratios[len(ratios) // 2]
with torch.no_grad():
    rows = {
        "given": held_out,
        "teacher": teacher(held_out),
        f"energy, {ratio}× smaller": students["energy", ratio](held_out),
        f"uniform, {ratio}× smaller": students["uniform", ratio](held_out),
    }
figure, panels = plt.subplots(len(rows), 8, figsize=(8, 4.4))
for line, (name, found) in zip(panels, rows.items(), strict=True):
    line[0].set_title(name, fontsize=9, loc="left")
    for axes, picture in zip(line, found, strict=False):
        axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy())
        axes.set_axis_off()
figure.tight_layout()
plt.show()
