"""
A method of your own
====================

A method is a short class that says which features are compared, and how. Here: the histogram-like *quantiles* of each
channel, which nothing in skd compares. It is then trained beside the output alone, on one network with the same
batches.
"""

# %%
# Knowledge, and a method of it
# -----------------------------
# Knowledge is a pure function, features in, tensors out. The method says for which layers, with which adapter and
# distance.

import os

import matplotlib.pyplot as plt
import torch
from torch import nn

import skd
from skd.distances import normalised_mse
from skd.methods import LayerMethod, OutputOnly
from skd.taps import to_bcn

SMALL = "SKD_DOCS_SMALL" in os.environ
STEPS, SEEDS = (10, 1) if SMALL else (80, 3)


def quantiles(feature, *, layout="BCHW"):
    """Each channel's quantiles over the positions, (B, C, 9)."""
    levels = torch.linspace(0.1, 0.9, 9, dtype=feature.dtype, device=feature.device)
    return torch.quantile(to_bcn(feature, layout), levels, dim=2).permute(1, 2, 0)


class Quantiles(LayerMethod):
    default_weight = 1.0
    layouts = ("BCL", "BCHW")
    why = "it sorts the positions of a signal or a picture"

    def rows(self):
        return [
            self.row(layer, "quantiles", quantiles, normalised_mse, adapter=layer.channels()) for layer in self.layers
        ]


# %%
# A task
# ------
# A network that inverts a blur. The teacher is trained on it; students see the teacher only.


def network(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ReLU(), nn.ConvTranspose2d(width, 3, 2, 2),
    )  # fmt: skip


def blurred(count=16):
    """Blurred blobs and the sharp ones."""
    sharp = (nn.functional.interpolate(torch.rand(count, 3, 8, 8), size=32, mode="bicubic") > 0.5).float()
    return nn.functional.avg_pool2d(sharp, 5, 1, 2), sharp


torch.manual_seed(0)
teacher = network(32)
optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
for _ in range(2 * STEPS):
    given, wanted = blurred()
    loss = (teacher(given) - wanted).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# Three arms, three seeds
# -----------------------
# One seed proves nothing; three still prove little. The plot shows each of them.

calibration, held_out = [blurred()[0] for _ in range(8)], blurred(128)[0]
pairing = skd.pair(teacher, held_out)
spectra = skd.measure(teacher, pairing, calibration)
arms = {"output only": OutputOnly, "quantiles": Quantiles, "SKD": skd.methods.SKD}
ends = {name: [] for name in arms}
for seed in range(SEEDS):
    for name, method in arms.items():
        torch.manual_seed(seed)
        student = network(6)
        plan = skd.match(pairing, skd.pair(student, held_out))
        distiller = skd.Distiller(teacher, student, method(plan, spectra))
        optimizer = torch.optim.Adam(distiller.parameters(), lr=3e-3)
        torch.manual_seed(100 + seed)  # all arms see the same batches
        for _ in range(STEPS):
            loss = distiller(blurred()[0]).losses.total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            ends[name].append(float((student(held_out) - teacher(held_out)).square().mean()))

# %%
# What came out
# -------------

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
for k, (_name, values) in enumerate(ends.items()):
    axes.plot(values, [k] * len(values), "o", ms=8, alpha=0.7)
axes.set_yticks(range(len(ends)), list(ends))
axes.set_ylim(-0.5, len(ends) - 0.5)
axes.invert_yaxis()
axes.set_xlabel("squared difference from the teacher's pictures, held out\n(smaller is better; a point a seed)")
plt.show()

# %%
# Whatever the points say here, it is about this toy alone. How a method is compared with others so that the figures
# mean something: the same budget, weights chosen alike, several seeds, paired differences; see
# ``benchmarks/methods``.
