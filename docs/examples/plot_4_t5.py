"""
T5: an encoder-decoder without scales
=====================================

A transformer has no scales to mirror, so its layers are mirrored by depth. A small T5 with random weights learns to
write digits backwards, is built anew at a third of its size through its own configuration, and is distilled.
"""

# %%
# The teacher
# -----------
# T5 of the transformers library; no weights are fetched. The task: read some digits, write them backwards.

import os

import matplotlib.pyplot as plt
import torch
from transformers import T5Config, T5ForConditionalGeneration

import skd

SMALL = "SKD_DOCS_SMALL" in os.environ
STEPS = 12 if SMALL else 300
LENGTH, START, VOCABULARY = 4, 1, 12
torch.manual_seed(0)


def t5(widths):
    config = T5Config(
        vocab_size=VOCABULARY,
        d_kv=16,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=START,
        **widths,
    )
    return T5ForConditionalGeneration(config)


def batch(count=32):
    """What the network is called with, and the digits that are right."""
    digits = torch.randint(2, VOCABULARY, (count, LENGTH))
    wanted = digits.flip(1)
    given = torch.cat((torch.full((count, 1), START), wanted[:, :-1]), 1)
    return {"input_ids": digits, "decoder_input_ids": given}, wanted


def right(network, inputs, wanted):
    """The share of digits that are right."""
    with torch.no_grad():
        return float((network(**inputs).logits.argmax(-1) == wanted).float().mean())


full = {"d_model": 64, "d_ff": 128}
teacher = t5(full)
optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
for _ in range(STEPS):
    inputs, wanted = batch()
    loss = torch.nn.functional.cross_entropy(teacher(**inputs).logits.flatten(0, 1), wanted.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
teacher.eval()
test = batch(256)
print(f"the teacher writes {right(teacher, *test):.1%} of the digits right")

# %%
# Pairs by depth, and a student of its own class
# ----------------------------------------------
# ``build`` makes the network from widths, so the student is a T5 that transformers can load.

data = [batch()[0] for _ in range(8)]
pairing = skd.pair(teacher, data[0])
spectra = skd.measure(teacher, pairing, data)
small = skd.compress(teacher, spectra, data=data, ratio=3, build=t5, full=full)
print(pairing, small, sep="\n\n")

# %%
# Distillation, and the same student from random weights
# ------------------------------------------------------
# Both see the same batches and no right answers: only what the teacher says.

arms = {"begun from the teacher": small.student, "random weights": t5(small.built)}
curves = {}
for name, student in arms.items():
    torch.manual_seed(1)
    plan = skd.match(pairing, skd.pair(student, data[0]))
    rows = skd.methods.SKD(plan, spectra, basis="learned", output=0.0).transfers()
    scores = skd.methods.Hinton(plan, temperature=1.0, logits="['logits']", output=0.0).transfers()
    distiller = skd.Distiller(teacher, student, [*rows, *scores])
    optimizer = torch.optim.Adam(distiller.parameters(), lr=2e-3)
    curve = [(0, right(student.eval(), *test))]
    for number in range(1, STEPS // 2 + 1):
        student.train()
        loss = distiller(**batch()[0]).losses.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % max(1, STEPS // 16) == 0:
            curve.append((number, right(student.eval(), *test)))
    curves[name] = curve

# %%
# What came out
# -------------

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for (name, curve), colour in zip(curves.items(), ("#3b6fb6", "#c8553d"), strict=True):
    axes.plot(*zip(*curve, strict=True), "o-", ms=4, color=colour, label=name)
axes.axhline(right(teacher, *test), color="#4a4a4a", ls=":", label="the teacher")
axes.set_xlabel("steps of distillation")
axes.set_ylabel("share of digits that are right")
axes.legend()
plt.show()
