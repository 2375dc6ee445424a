"""
Style transfer with KBStyle
===========================

The bundled KBStyle paints bundled photographs like bundled paintings. Nothing is trained here: these are the weights
that come with the package, and their card says what they are worth beside others.
"""

# %%
# Two photographs, three paintings
# --------------------------------

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import kbstyle_example
from kbstyle_example import stylize
from kbstyle_example.weights_file import bundled

SIDE = 96 if "SKD_DOCS_SMALL" in os.environ else 320
samples = Path(kbstyle_example.__file__).parent / "samples"


def opened(name):
    picture = Image.open(samples / name).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


photographs = [opened(f"content/{name}.jpg") for name in ("chelsea_cat", "coffee")]
paintings = [opened(f"style/{name}.jpg") for name in ("cafe_terrace_at_night", "harvest", "church_at_auvers")]

# %%
# ``kbstyle_example.stylize`` takes paths, pictures, arrays and tensors.

figure, panels = plt.subplots(3, 4, figsize=(9, 6.9), layout="constrained")
for axes in panels.flat:
    axes.set_axis_off()
for axes, painting in zip(panels[0, 1:], paintings, strict=True):
    axes.imshow(painting)
for line, photograph in zip(panels[1:], photographs, strict=True):
    line[0].imshow(photograph)
    for axes, painting in zip(line[1:], paintings, strict=True):
        axes.imshow(stylize(photograph, painting))
plt.show()

# %%
# The teacher, the student, and the student in a quarter of its bytes
# -------------------------------------------------------------------
# What the eye should look for: the teacher's strokes are stronger than the student's. In int8 nothing is lost that
# can be seen.

names = ("teacher", "kbstyle", "kbstyle-int8")
painted = [stylize(photographs[1], paintings[0], network=name) for name in names]
figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
for axes, name, picture in zip(panels, names, painted, strict=True):
    axes.imshow(picture)
    axes.set_title(f"{name}: {bundled()[name].stat().st_size:,} bytes", fontsize=10)
    axes.set_axis_off()
plt.show()
teacher, student, int8 = (np.asarray(picture, dtype=float) for picture in painted)
print(
    f"root mean squared difference, of 255: teacher – student {np.sqrt(((teacher - student) ** 2).mean()):.1f}, ",
    end="",
)
print(f"student – int8 {np.sqrt(((int8 - student) ** 2).mean()):.2f}")

# %%
# Less of it, or two paintings at once
# ------------------------------------

figure, panels = plt.subplots(1, 4, figsize=(9, 2.7), layout="constrained")
choices = {
    "strength 0.5": {"style": paintings[0], "strength": 0.5},
    "colours kept": {"style": paintings[0], "keep_colour": True},
    "two paintings": {"style": paintings[:2]},
    "mostly the second": {"style": paintings[:2], "style_weights": [1, 4]},
}
for axes, (name, options) in zip(panels, choices.items(), strict=True):
    axes.imshow(stylize(photographs[0], **options))
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
plt.show()
