"""compress(): a student of the size that is named, started from its teacher's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from skd._compression.analysis import Analysis, Data, analyse, run_once
from skd._compression.budget import file_bytes, parse_size, sizes_of
from skd._compression.costs import Costs
from skd._compression.factory import Factory
from skd._compression.foreign import plain, restore
from skd._compression.narrowing import norms_following
from skd._compression.outcome import output_energy
from skd._compression.plan import Plan, given_widths, names_of, pair_widths
from skd._compression.projection import kept_places, project
from skd._compression.refitting import refitted
from skd._compression.renorming import renorm
from skd._compression.result import Compressed, Row
from skd.errors import ArgumentError, CompressionError
from skd.spectra import Spectra

__all__ = ["Compressed", "compress"]

Allocation = Literal["energy", "uniform"]
Start = Literal["fitted", "projected", "cut"]
Bases = Literal["subset", "rotated"]


def compress(
    teacher: nn.Module,
    spectra: Spectra | None,
    *,
    data: Any,
    size: str | int | None = None,
    ratio: float | None = None,
    widths: Mapping[str, int] | Sequence[int] | None = None,
    build: Callable[[Any], nn.Module] | None = None,
    full: Sequence[int] | Mapping[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    allocation: Allocation = "energy",
    start: Start = "projected",
    bases: Bases = "subset",
    minimum: int = 1,
    multiple: int = 1,
    inputs: Callable[[Any], Any] | None = None,
    batches: int | None = None,
) -> Compressed:
    """Make a narrower student of a teacher, both sides of each pair by the same share, started from its weights.

    The network is traced, and channels that are one and the same are found: a residual stream's, a concatenation's
    parts, a norm's and a depthwise convolution's. Each such group is narrowed as one; that its places are the right
    ones is proven by running a narrowed copy. What can't be narrowed stays whole, with its reason in the report. Groups
    that a pair reads on its two sides keep the same share of their widths.

    One pass over the data measures what every layer reads. Widths are given where they keep the most of that under the
    budget: the sum over all layers of the logarithm of the energy kept. Of a group, those channels are kept that
    explain the others best (pivoted Cholesky), and what the others were is folded into the layers that read them, by
    least squares with a ridge in proportion to what is lost. Norms over channels get the scale that makes them say of
    fewer channels what they said of all.

    Parameters
    ----------
    teacher : nn.Module
        It is left as it is.
    spectra : Spectra or None
        Of `measure`: its pairs are narrowed together, and its covariances count. None: no pairs.
    data : iterable
        Calibration batches of what the teacher is called with, read several times; some hundred positions a channel.
    size, ratio, widths : optional
        One of them. Bytes of the student's file, as "200 KB" (of 1,024), "1.5 MB" or an integer; or how many times
        smaller than the teacher's file; or the widths themselves: by the names of groups, as `Compressed.widths` has
        them, or with `build`, what it is called with. Counted is a safetensors file of all parameters and buffers, in
        `dtype`, its head included.
    build : callable, optional
        A function from widths to a narrower network of the teacher's class, which is filled by name. Its student is
        saved as a state dict like any other. Without it, a copy of the teacher is narrowed: `Compressed.export` saves
        it, or `save` and `save_widths`.
    full : sequence or mapping of int, optional
        The widths with which `build` makes the teacher; it is called with the same kind. By default the pairs' widths,
        outermost first, and the bottleneck's.
    dtype : torch.dtype
        Floating point numbers are saved in this one; the student itself keeps the teacher's.
    allocation : {"energy", "uniform"}
        Widths by energy, or one share for all.
    start : {"fitted", "projected", "cut"}
        Weights folded, or only cut: a control. "fitted": folded first; then, in the order in which they run, each layer
        is fitted to what the teacher's says, from what the student's is given, by least squares, and its outputs get
        the teacher's deviations back. That corrects what the narrower layers before it have got wrong, on both sides of
        the pairs. It takes longer, keeps the calibration batches in memory, and asks for some hundred positions a
        channel; where it doesn't bring the output nearer, the student stays as it was projected, and a note says so.
    bases : {"subset", "rotated"}
        Channels, or leading directions where nothing but linear operations that treat all channels alike is between
        layers (elsewhere channels).
    minimum, multiple : int
        Least width, and what widths are multiples of.
    inputs : callable, optional
        Turns an item of `data` into what the teacher takes, e.g. ``lambda batch: batch[0]``.
    batches : int, optional
        Read so many batches at most.

    Returns
    -------
    Compressed
        The student, a plain module without anything of skd in it, its widths, and a report.

    Raises
    ------
    CompressionError
        The size is impossible (says the smallest that is possible), the network can't be traced, or `build` doesn't
        make narrower copies of it.
    DataError, NonFiniteError
        No data, too few (says how many are needed), constant ones, or NaN.
    ArgumentError
        A size or another argument that can't be.
    MissingExtraError
        torch-pruning isn't installed.

    Examples
    --------
    >>> from skd import measure, pair
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
    ...                     nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 3, 2, 2))
    >>> data = [torch.randn(4, 3, 16, 24) for _ in range(4)]
    >>> done = compress(net, measure(net, pair(net, data[0]), data), data=data, size="10 KB")
    >>> done.bytes <= 10 * 1024, done.student[0].out_channels == done.student[4].out_channels
    (True, True)
    """
    for name, value, kind in (("allocation", allocation, Allocation), ("start", start, Start), ("bases", bases, Bases)):
        if value not in get_args(kind):
            raise ArgumentError(f"there is no such {name}", got=repr(value), expected=", ".join(get_args(kind)))
    if sum(each is not None for each in (size, ratio, widths)) != 1:
        raise ArgumentError("a student needs one of size=, ratio= and widths=")
    teacher_bytes = file_bytes(sizes_of(teacher, dtype))
    budget = teacher_bytes
    if size is not None:
        budget = parse_size(size)
    elif ratio is not None:
        if not ratio >= 1:
            raise ArgumentError("a ratio says how many times smaller", got=ratio, expected="1 or more")
        budget = int(teacher_bytes / ratio)
    teacher = plain(teacher)
    source = Data.of(data, inputs, batches)
    factory = None if build is None else Factory(build, full or pair_widths(spectra), teacher, dtype)
    found = analyse(teacher, spectra, source, rotated=bases == "rotated", verified=factory is None)
    costs = Costs(teacher, found.groups, dtype)
    plan = Plan(found, costs, budget, allocation, factory, minimum, multiple)
    if widths is None:
        plan.choose()
    elif factory is None:
        plan.widths = given_widths(found, widths)
    else:
        plan.picked = list(widths.values()) if isinstance(widths, Mapping) else list(widths)
        plan.widths = costs.infer(factory.sizes(plan.picked))
    budget = costs.total(plan.widths) if widths is not None else budget
    chosen = {k: width for k, width in plan.widths.items() if k in found.choices}
    student = project(teacher, found.groups, found.choices, chosen, found.wanted, found.moments, lifted=start != "cut")
    if start != "cut":
        renorm(teacher, student, kept_places(teacher, found.groups, found.choices, chosen), source)
    if factory is None:
        try:
            with norms_following(student):
                run_once(*source.example(teacher))(student)
        except Exception as error:
            raise CompressionError(
                "the student doesn't run",
                got=f"{type(error).__name__}: {' '.join(str(error).split())}",
                remedy="give build=…, a function from widths to a narrower network",
            ) from error
    else:
        student = plain(factory.filled(plan.picked, student))
    energy = output_energy(teacher, student, source)
    further: list[str] = []
    if start == "fitted":
        student, energy, further = refitted(teacher, student, source, found, chosen, energy)
    restore(student).eval()
    if not any(parameter.requires_grad for parameter in teacher.parameters()):  # as `Distiller` leaves a teacher
        for parameter in student.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    names = names_of(found)
    notes = [
        f"{names[k]}: narrowed by build, though it is {reason}"
        for k, reason in found.forced.items()
        if reason is not None and plan.widths[k] < found.groups[k].width
    ]
    if factory is not None:
        notes.append(f"build was called with {factory.given(plan.picked)!r}")
    return Compressed(
        student,
        {names[k]: width for k, width in chosen.items() if k not in found.forced or width < found.groups[k].width},
        tuple(_row(found, costs, chosen, k, names[k]) for k in range(len(found.groups))),
        file_bytes(sizes_of(student, dtype)),
        budget,
        teacher_bytes,
        plan.following,
        energy,
        dtype,
        (*found.notes, *notes, *further),
        None if factory is None else factory.given(plan.picked),
    )


def _row(found: Analysis, costs: Costs, widths: Mapping[int, int], k: int, name: str) -> Row:
    group, choice = found.groups[k], found.choices.get(k)
    kept = widths.get(k, group.width)
    return Row(
        name,
        group.layers,
        group.width,
        kept,
        1.0 if choice is None else choice.energy[kept - 1],
        "-" if choice is None else "rotated" if choice.rotated else "subset",
        int(costs.of([k], widths, [[kept]])[0]),
        group.whole or (found.forced.get(k) if kept == group.width else None),
    )
