"""How good a network is on pictures that it wasn't trained on, while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kbstyle_example.data import StylePairs, of_split
from kbstyle_example.losses import StyleTask
from kbstyle_example.networks import KBStyle
from kbstyle_example.perceived import Perceived

PAIRS, BATCH = 16, 4
Folders = tuple[Sequence[Path], Sequence[Path]]


def pairs_to_validate(contents: Sequence[Path], styles: Sequence[Path]) -> Folders | None:
    """The photographs and paintings among some that are for validation; None where one of the kinds has none.

    Examples
    --------
    >>> pairs_to_validate([Path("tower.jpg"), Path("wave.jpg")], [Path("wave.jpg")])
    >>> pairs_to_validate([Path("tower.jpg"), Path("wave.jpg")], [Path("tower.jpg")])
    ([PosixPath('tower.jpg')], [PosixPath('tower.jpg')])
    """
    kept = of_split(list(contents), "validation"), of_split(list(styles), "validation")
    return kept if all(kept) else None


def style_losses(
    task: StyleTask, pictures: Folders, *, crop: int, seed: int
) -> Callable[[nn.Module], dict[str, float]]:
    """A function of a network: the task's losses on crops that are the same each time; `total` first.

    Parameters
    ----------
    task : StyleTask
        Whose network is evaluated.
    pictures : (sequence of Path, sequence of Path)
        Photographs and paintings.
    crop, seed : int
        As `StylePairs` takes them.

    Raises
    ------
    DataError
        None of the pictures can be used, which is better met now than after the training.

    Examples
    --------
    See `kbstyle_example.train.train`, which gives it to `skd.fit`.
    """
    pairs = _pairs(pictures, crop, seed)

    @torch.no_grad()
    def evaluate(_: nn.Module) -> dict[str, float]:
        terms: list[dict[str, Tensor]] = []
        for content, style in _batches(pairs, task.network):
            terms.append(dict(task(content, style).losses.terms))
        means = {name: float(torch.stack([each[name] for each in terms]).mean()) for name in terms[0]}
        return {"total": sum(means.values()), **means}

    return evaluate


def differences(
    teacher: KBStyle, pictures: Folders, *, crop: int, seed: int, perceived: Perceived | None = None
) -> Callable[[Any], dict[str, float]]:
    """A function of a student: the root mean squared difference of its pictures from the teacher's, of 255.

    With `perceived` also `style`: its distance from the paintings' style over the teacher's. At 1.05 it is 5 % farther.

    Parameters
    ----------
    teacher : KBStyle
    pictures, crop, seed
        As in `style_losses`.
    perceived : Perceived, optional
        Whose `style` it is.

    Raises
    ------
    DataError
        As `style_losses`.

    Examples
    --------
    See `kbstyle_example.distill.distill`, which gives it to `skd.distill`.
    """
    pairs = _pairs(pictures, crop, seed)

    @torch.no_grad()
    def evaluate(student: Any) -> dict[str, float]:
        squares, styles = list[Tensor](), list[Tensor]()
        for content, style in _batches(pairs, student):
            ours, theirs = student(content, style), teacher(content, style)
            squares.append((ours - theirs).double().square().mean())
            if perceived is not None:
                styles.append(torch.stack([perceived.style(picture, (content, style)) for picture in (ours, theirs)]))
        figures = {"difference": 255 * float(torch.stack(squares).mean().sqrt())}
        if styles:
            found, wanted = torch.stack(styles).double().mean(0)
            figures["style"] = float(found / wanted)
        return figures

    return evaluate


def _pairs(pictures: Folders, crop: int, seed: int) -> StylePairs:
    pairs = StylePairs(*pictures, crop=crop, length=PAIRS, seed=seed)
    pairs[0]
    return pairs


def _batches(pairs: StylePairs, network: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    device = next(network.parameters()).device
    for batch in DataLoader(pairs, batch_size=BATCH):
        yield tuple(x.to(device, memory_format=torch.channels_last) for x in batch)
