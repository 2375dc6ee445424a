"""What is measured of a network of the zoo: its pairing, a short distillation, one graph, and the student alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import skd
from benchmarks.zoo.entries import Entry, Example
from benchmarks.zoo.trials import Trial, arguments, call

ROOT = Path(__file__).resolve().parents[2]
PAIRINGS = Path(__file__).parent / "pairings"
BATCHES = 2  # that are learned from
STEPS, RATE = 10, 2e-3

Drawn = tuple[str, str, str, int, int]


@dataclass(frozen=True)
class Expected:
    """The pairing that a person draws: (name, encoder, decoder, width, decoder's width), and the bottleneck."""

    pairs: tuple[Drawn, ...]
    bottleneck: str | None
    ambiguous: str | None

    @classmethod
    def of(cls, name: str) -> Expected:
        """Read from `pairings`, where they are written by hand."""
        data = json.loads((PAIRINGS / f"{name}.json").read_text(encoding="utf-8"))
        return cls(tuple(map(tuple, data["pairs"])), data["bottleneck"], data.get("ambiguous"))


def differences(model: nn.Module, given: Example, found: skd.Pairing, expected: Expected) -> list[str]:
    """Where a pairing isn't the expected one; empty where it is.

    A layer may have several names for what it returns (a container and its last layer), so a tap is the expected one if
    it reads the very same tensor.
    """
    drawn = [(name, width, decoder) for name, _, _, width, decoder in expected.pairs]
    named = [(pair.name, pair.width, pair.decoder_width) for pair in found]
    if named != drawn:
        return [f"pairs {named} and not {drawn}"]
    both = [("bottleneck", found.bottleneck, expected.bottleneck)]
    for pair, (name, encoder, decoder, _, _) in zip(found, expected.pairs, strict=True):
        both += [(f"{name}, encoder", pair.encoder, encoder), (f"{name}, decoder", pair.decoder, decoder)]
    wrong = [f"{what}: {tap} and not {layer}" for what, tap, layer in both if (tap is None) != (layer is None)]
    known = [(what, skd.Tap.of(str(tap)), skd.Tap.of(layer)) for what, tap, layer in both if tap and layer]
    taps = skd.Taps(model, [tap for _, *sides in known for tap in sides])
    args, kwargs = arguments(given)
    with torch.inference_mode():  # where features are copied before a later layer changes them in place
        features = taps(*args, **kwargs)[1]
    wrong += [f"{what}: {tap} and not {layer}" for what, tap, layer in known if not _same(features, tap, layer)]
    return wrong


def _same(features: dict[skd.Tap, Tensor], one: skd.Tap, other: skd.Tap) -> bool:
    return torch.equal(features[one], features[other])


def total(distiller: skd.Distiller, batches: Sequence[Example]) -> float:
    """The loss over all batches as it is trained, in train mode, and with the same random numbers each time.

    After a few steps batch norm's running statistics are still far from those of the batches.
    """
    distiller.train()
    torch.manual_seed(1)
    with torch.no_grad():
        return sum(float(call(distiller, batch).losses.values()["total"]) for batch in batches)


def train(distiller: skd.Distiller, batches: Sequence[Example], steps: int = STEPS) -> tuple[float, float]:
    """The loss before and after a few steps."""
    optimizer = torch.optim.Adam(distiller.parameters(), lr=RATE)
    skd.check(distiller, batches[0], optimizer=optimizer)
    before = total(distiller, batches)
    for step in range(steps):
        optimizer.zero_grad()
        call(distiller, batches[step % len(batches)]).losses.total.backward()
        optimizer.step()
    return before, total(distiller, batches)


def graph(distiller: skd.Distiller, batch: Example, backend: str = "eager") -> tuple[float, float]:
    """The loss of the plain distiller and of the one compiled into one graph, in eval mode, gradients and all.

    Raises
    ------
    torch._dynamo.exc.TorchDynamoException
        It doesn't fit into one graph; the message says why.
    """
    torch._dynamo.reset()
    distiller.eval()
    compiled = torch.compile(distiller, fullgraph=True, backend=backend)
    losses = []
    for module in (distiller, compiled):
        torch.manual_seed(2)
        loss = call(module, batch).losses.total
        loss.backward()
        losses.append(float(loss.detach()))
    return losses[0], losses[1]


# Run in a process of its own, where `import skd` is an error.
_ALONE = """
import sys
sys.modules["skd"] = None
from benchmarks.zoo.alone import answers
answers(sys.argv[1])
"""


def alone(folder: Path) -> dict[str, float]:
    """For each student in the folder: how far its answers in a process without skd are from those before."""
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the process without skd failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(entry: Entry, folder: Path, *, compiled: bool = True) -> dict[str, Any]:
    """One row of the table; the student is left in the folder."""
    trial, expected = Trial(entry), Expected.of(entry.name)
    compressed = outcome(trial, folder)
    batches = trial.batches[:BATCHES]
    distiller = trial.distiller()
    before, after = train(distiller, batches)
    trial.save(folder)
    return {
        "parameters": [sum(p.numel() for p in net.parameters()) for net in (trial.teacher, trial.student)],
        "pairs": len(trial.pairing),
        "differences": differences(trial.teacher, trial.batches[0], trial.pairing, expected),
        "ambiguous": expected.ambiguous,
        "compress": compressed,
        "loss": [before, after],
        "graph": in_one_graph(distiller, batches[0]) if compiled else None,
    }


def outcome(trial: Trial, folder: Path) -> dict[str, Any]:
    """What compress made: its way, budget and bytes as saved, the next size up, the output's energy, what is whole."""
    done = trial.done
    if done is None:
        return {"refused": trial.refusal}
    return {
        "by": "build" if trial.entry.package else "itself",
        "teacher": done.teacher_bytes,
        "budget": done.budget,
        "bytes": trial.size(folder),
        "next": done.next_bytes,
        "energy": done.output_energy,
        "whole": sorted({row.whole for row in done.rows if row.whole} - ENDS),
    }


ENDS = {"the network's input", "the network's output"}  # whole in every network


def in_one_graph(distiller: skd.Distiller, batch: Example) -> str:
    """ "yes", or the reason why not."""
    try:
        plain, whole = graph(distiller, batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        return "no: " + " ".join(str(error).split("\n\n")[0].split())[:160]
    return "yes" if abs(plain - whole) <= 1e-5 * abs(plain) else f"no: the loss is {whole} and not {plain}"
