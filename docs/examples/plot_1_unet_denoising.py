"""
A U-Net that denoises
=====================

A denoising U-Net is trained on the bundled photographs, made small by :func:`skd.compress`, and distilled: the student
learns from the teacher's pictures and features, and sees no clean picture. Beside it stands the control, the same
student trained with clean pictures and no teacher.
"""

# %%
# A plain network
# ---------------
# Nothing in it knows of skd. It predicts the noise and takes it away.

import copy
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import nn

import kbstyle_example
import skd

SMALL = "SKD_DOCS_SMALL" in os.environ
STEPS, CROP = (12, 32) if SMALL else (300, 48)
torch.manual_seed(0)


def level(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1), nn.ReLU()
    )


class UNet(nn.Module):
    def __init__(self, one, two, three):
        super().__init__()
        self.down1, self.down2, self.middle = level(3, one), level(one, two, 2), level(two, three, 2)
        self.up2, self.back2 = nn.ConvTranspose2d(three, two, 2, 2), level(2 * two, two)
        self.up1, self.back1 = nn.ConvTranspose2d(two, one, 2, 2), level(2 * one, one)
        self.noise = nn.Conv2d(one, 3, 3, 1, 1)

    def forward(self, noisy):
        one = self.down1(noisy - 0.5)
        two = self.down2(one)
        x = self.back2(torch.cat((self.up2(self.middle(two)), two), 1))
        x = self.back1(torch.cat((self.up1(x), one), 1))
        return noisy - self.noise(x)


# %%
# Photographs, and noise on them
# ------------------------------
# Two pictures are kept apart; nothing is trained on them.

folder = Path(kbstyle_example.__file__).parent / "samples" / "content"
pictures = [torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()) for path in sorted(folder.iterdir())]
training, held_out = pictures[2:], pictures[:2]


def crops(pictures, count, generator):
    """Noisy crops and the clean ones, (count, 3, CROP, CROP)."""
    clean = []
    for k in torch.randint(len(pictures), (count,), generator=generator).tolist():
        height, width, _ = pictures[k].shape
        top = int(torch.randint(height - CROP, (), generator=generator))
        left = int(torch.randint(width - CROP, (), generator=generator))
        clean.append(pictures[k][top : top + CROP, left : left + CROP].permute(2, 0, 1) / 255)
    clean = torch.stack(clean)
    return clean + 25 / 255 * torch.randn(clean.shape, generator=generator), clean


def psnr(found, clean):
    return float(-10 * torch.log10((found - clean).square().mean()))


# %%
# The teacher
# -----------
# Trained for seconds, and not at its best; but far ahead of what the student begins with.

teacher = UNet(16, 32, 64)
draw = torch.Generator().manual_seed(1)
optimizer = torch.optim.Adam(teacher.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS)
for _ in range(STEPS):
    noisy, clean = crops(training, 8, draw)
    loss = (teacher(noisy) - clean).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
teacher.eval()

# %%
# A student of 20 KB
# ------------------
# The widths are those that lose the least energy under the budget, and the weights come from the teacher's.

calibration = [crops(training, 8, draw)[0] for _ in range(4)]
pairing = skd.pair(teacher, calibration[0])
spectra = skd.measure(teacher, pairing, calibration)
small = skd.compress(teacher, spectra, data=calibration, size="20 KB")
print(pairing, small, sep="\n\n")

# %%
# Distillation, and the control
# -----------------------------
# Both begin with the same weights and see the same crops.


def train(module, loss_of):
    """Half as many steps as the teacher had, of half as many crops."""
    draw = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(module.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS // 2)
    module.train()
    for _ in range(STEPS // 2):
        loss = loss_of(*crops(training, 4, draw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    module.eval()


student, control = small.student, copy.deepcopy(small.student)
noisy, clean = crops(held_out, 16, torch.Generator().manual_seed(3))
with torch.no_grad():
    answers = {"noisy": noisy, "student, as it begins": student(noisy)}

plan = skd.match(pairing, skd.pair(student, calibration[0]))
method = skd.methods.SKD(plan, spectra, basis="learned", structure=0.1, statistics=0.1, output=300.0)
distiller = skd.Distiller(teacher, student, method)
skd.fit_adapters(distiller, calibration)  # a student that compress() began is compared where it is right already
skd.check(distiller, calibration[0])
train(distiller, lambda noisy, clean: distiller(noisy).losses.total)
train(control, lambda noisy, clean: (control(noisy) - clean).square().mean())
with torch.no_grad():
    answers |= {"distilled": student(noisy), "no teacher": control(noisy), "teacher": teacher(noisy)}

# %%
# What came out
# -------------
# The figures are means over the sixteen crops. From the beginning to "distilled" is what the teacher has taught,
# without a clean picture. With clean pictures the control does about as well here, and needs no teacher, so train one
# like it on your task, too, before you say what distillation is worth.

answers["clean"] = clean
shown = int(clean.std((1, 2, 3)).argmax())  # of the crops the one with the most in it
figure, panels = plt.subplots(1, len(answers), figsize=(10, 2.3), layout="constrained")
for axes, (name, found) in zip(panels, answers.items(), strict=True):
    axes.imshow(found[shown].clamp(0, 1).permute(1, 2, 0).numpy())
    axes.set_title(name if name == "clean" else f"{name}\n{psnr(found, clean):.1f} dB", fontsize=9)
    axes.set_axis_off()
plt.show()

# %%
# The report says what was retained, layer by layer.

print(skd.report(distiller, [noisy]))
