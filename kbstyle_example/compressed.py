"""A student that begins as `skd.compress` makes it of its teacher: narrower on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import skd
from kbstyle_example.correction import flat
from kbstyle_example.data import StylePairs
from kbstyle_example.moments import StyleCode, moments
from kbstyle_example.networks import STUDENT, KBStyle, KBStyleConfig, padded
from kbstyle_example.pairing import kbstyle_pairing
from skd.errors import ArgumentError

COMPRESSED = "compressed"  # what `distill` calls this start
CROP, BATCH = 64, 8
SPARE = 32  # pairs beyond those without which a covariance can't be taken


def compressed(
    teacher: KBStyle,
    contents: Sequence[Path],
    styles: Sequence[Path],
    config: KBStyleConfig = STUDENT,
    *,
    seed: int = 0,
    start: Literal["projected", "fitted"] = "projected",
) -> KBStyle:
    """A student with the teacher's blocks and channels, as many of them as it has; blocks beyond those add nothing yet.

    Parameters
    ----------
    teacher : KBStyle
        It stays as it is.
    contents, styles : sequence of Path
        Photographs and paintings to measure features on: some hundred crops, as many as a style's statistics of the
        teacher have channels.
    config : KBStyleConfig
        The student's, no wider than the teacher.
    seed : int
        Of the crops.
    start : str
        As `skd.compress` has it.

    Raises
    ------
    ArgumentError
        The student is wider than its teacher.
    DataError
        No picture can be used.
    MissingExtraError
        torch-pruning isn't installed.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from kbstyle_example.beginning import scratch
    >>> teacher = scratch(KBStyleConfig(widths=(4, 5, 6)), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.effect_mandelbrot((96, 96), (-2, -1, 1, 1), 50).convert("RGB").save(path)
    ...     student = compressed(teacher, [path], [path], KBStyleConfig(widths=(2, 3, 4)))
    >>> student.config.widths, bool((student.decoder.up1.weight != 0).any())
    ((2, 3, 4), True)
    """
    plain = replace(config, correction=0)  # what comes after the statistics has nothing to be narrowed from
    deep = with_blocks_of(teacher, plain)
    if any(ours > theirs for ours, theirs in zip(config.widths, deep.config.widths, strict=True)):
        raise ArgumentError(
            "a compressed student can't be wider than its teacher", got=config.widths, expected=deep.config.widths
        )
    samples = StylePairs(contents, styles, crop=CROP, length=2 * max(deep.config.widths) + SPARE, seed=seed)

    def build(widths: Sequence[int]) -> KBStyle:
        first, second, third = widths
        return KBStyle(replace(plain, widths=(first, second, third)))

    with torch.random.fork_rng([]):  # loading and building draw numbers that say nothing here
        data = [tuple(batch) for batch in DataLoader(samples, batch_size=BATCH)]
        spectra = skd.measure(deep, kbstyle_pairing(deep), data)
        widths = deep.config.widths
        done = skd.compress(deep, spectra, data=data, widths=config.widths, build=build, full=widths, start=start)
    student = done.student
    if not isinstance(student, KBStyle):
        raise TypeError(f"compress() returned a {type(student).__name__}")
    if config.correction:
        student = with_blocks_of(student, config)
        settle(student, [style for _, style in data])
    return student.train().requires_grad_()


@torch.no_grad()
def with_blocks_of(network: KBStyle, config: KBStyleConfig) -> KBStyle:
    """The network with as many blocks at each level as `config` has, at the network's own widths.

    A code is corrected as it was, or not at all yet. A block is a residual: without the last ones the same picture is
    painted, less what these add. Further ones add nothing at first. The bundled teacher without its last two of five
    deep blocks differs by 6 of 255 (root mean square, 8 pairs).

    Examples
    --------
    >>> from kbstyle_example.beginning import scratch
    >>> network = scratch(KBStyleConfig((4, 5, 6), deep_blocks=3), seed=1)
    >>> with_blocks_of(network, KBStyleConfig((2, 2, 2), deep_blocks=1)).config
    KBStyleConfig(widths=(4, 5, 6), fine_blocks=2, deep_blocks=1, style_blocks=2, correction=0)
    """
    source = network.state_dict()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # of what a block that adds nothing yet looks at
        found = KBStyle(replace(config, widths=network.config.widths))
    for name, value in found.state_dict().items():
        if name not in source:
            if name.endswith((".out.weight", ".out.bias", ".film.2.weight")):
                value.zero_()
        elif name.endswith(".film.2.weight"):  # it makes what all blocks take, in their order
            known = min(len(value), len(source[name]))
            value.zero_()[:known] = source[name][:known]
        else:
            value.copy_(source[name])
    return found.train(network.training)


@torch.no_grad()
def settle(network: KBStyle, paintings: Sequence[Tensor]) -> None:
    """Let the network's correction know what its codes are like, from paintings (B, 3, H, W) in 0..1; it has one."""
    if network.correction is None:
        raise ArgumentError("a network without a correction", got=network.config, expected="correction above 0")
    codes = [StyleCode(*map(moments, network.style_encoder(padded(each)))) for each in paintings]
    network.correction.settle(torch.cat([flat(code) for code in codes]))
