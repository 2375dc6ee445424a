"""One network of the zoo on trial: a teacher with random weights, and the student that compress makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import skd
from benchmarks.zoo.alone import SEED, answer
from benchmarks.zoo.entries import Entry, Example
from skd.methods import Transfer

CALIBRATION = 8  # batches; 16 samples and more suffice for every layer's covariance
MINIMUM = 2  # at 1, a gate of half the channels would have none


def call(model: Callable[..., Any], given: Example) -> Any:
    """The model's output: a tensor is one argument, a tuple several, a dict keyword arguments."""
    args, kwargs = arguments(given)
    return model(*args, **kwargs)


def arguments(given: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with."""
    if isinstance(given, dict):
        return (), given
    return (given if isinstance(given, tuple) else (given,)), {}


class Trial:
    """A teacher, its pairing and spectra, and a student that `compress` makes.

    Networks of libraries are built by their own class from narrower widths, so that a state dict saves them; plain ones
    are narrowed by the automatic route. Where compress refuses one, a student of half its width and with random weights
    stands in.

    Attributes
    ----------
    entry : Entry
    teacher : nn.Module
    batches : list
        Random data, for calibration; the first two are learned from.
    pairing : skd.Pairing
    spectra : skd.Spectra
    done : skd.Compressed or None
        None where compress refuses it.
    refusal : str
        What it says then.
    widths : sequence or mapping of int, or None
        What builds the student; None where it is a narrowed copy.
    student : nn.Module
    """

    def __init__(self, entry: Entry) -> None:
        torch.manual_seed(0)
        self.entry, self.teacher = entry, entry.build(2).eval()
        self.batches = [entry.inputs() for _ in range(CALIBRATION)]
        self.pairing = skd.pair(self.teacher, self.batches[0])
        self.spectra = skd.measure(self.teacher, self.pairing, self.batches)
        self.done: skd.Compressed | None = None
        self.refusal, self.widths = "", None
        try:
            self.done = self._compressed()
            self.student = self.done.student
        except skd.errors.CompressionError as error:
            self.refusal = str(error)
            self.student, self.widths = entry.build(1), entry.widths(1)
        if entry.unused:
            self.student.get_submodule(entry.unused).requires_grad_(False)

    def _compressed(self) -> skd.Compressed:
        entry = self.entry
        if not entry.package:
            return skd.compress(self.teacher, self.spectra, data=self.batches, ratio=entry.ratio, minimum=MINIMUM)

        def build(widths: Any) -> nn.Module:
            self.widths = widths  # the last that is built is the student
            return entry.make(widths)

        return skd.compress(
            self.teacher,
            self.spectra,
            data=self.batches,
            ratio=entry.ratio,
            build=build,
            full=entry.full,
            minimum=MINIMUM,
        )

    def distiller(self) -> skd.Distiller:
        """Both sides of every pair, and the output."""
        pairing = skd.match(self.pairing, skd.pair(self.student, self.batches[0]))
        method = skd.methods.SKD(pairing, self.spectra, output=0.0)
        tap = self.entry.output
        output = Transfer("output", tap, tap, distance=skd.distances.normalised_mse)
        return skd.Distiller(self.teacher, self.student, [*method.transfers(), output])

    def size(self, folder: Path) -> int:
        """Bytes of the student's file."""
        assert self.done is not None
        path = folder / f"{self.entry.name}.safetensors"
        self.done.save(path)
        size = path.stat().st_size
        path.unlink()
        return size

    def save(self, folder: Path) -> None:
        """The student and what it answers to one batch: all that `alone` needs."""
        batch, name = self.entry.inputs(), self.entry.name
        self.student.eval()
        torch.manual_seed(SEED)
        with torch.no_grad():
            kept = {"given": batch, "answer": answer(call(self.student, batch), self.entry.output)}
        if self.widths is None:
            assert self.done is not None
            args, kwargs = arguments(batch)
            self.done.export(folder / f"{name}.pt2", *args, **kwargs)
        else:
            kept |= {"weights": self.student.state_dict(), "widths": self.widths}
        torch.save(kept, folder / f"{name}.pt")
