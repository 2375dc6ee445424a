"""Knowledge of an output: what an encoder says of it when it is given the output to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skd.errors import ArgumentError, ShapeError, SkdError
from skd.knowledge.statistics import mean_std
from skd.taps import Layout, Tap, Taps, as_layout


class Reread:
    """What a network's encoder reads in an output: means and deviations of its features' channels, layer by layer.

    A decoder undoes what an encoder does, so the encoder that mirrors it can judge what it has made. An output's
    squared error hardly counts fine detail, which it would rather have blurred than in the wrong place; the encoder's
    channels are what the teacher itself looks for, and their statistics say how much of it there is, wherever it is.

    Give it as `skd.methods.SKD`'s `reread`, or as the knowledge of a `Transfer` of outputs.

    Parameters
    ----------
    network : nn.Module
        Whose encoder reads, mostly the teacher. It is held, not copied, and not registered: it moves with the
        distiller whose teacher it is. It isn't trained by this, and stays in the mode that it is in.
    read : iterable of Tap or str
        Where, such as ``[pair.encoder for pair in pairing]``. The network's run ends after the last of them.
    inputs : callable, optional
        From an output to what the network is called with (a tensor, a tuple of arguments or a dict of them), where
        that isn't the output itself: ``lambda y: (y, y)`` for a network of two pictures.

    Raises
    ------
    ArgumentError
        There is nothing to read, or `network` isn't one.
    LayerNotFoundError
        The network has no such layer.

    Notes
    -----
    Source: this project. Perceptual losses (Johnson et al. 2016, arXiv:1603.08155) read outputs with a network that was
    trained for something else; here it is the teacher's own. The statistics are AdaIN's.

    Examples
    --------
    >>> from skd.methods import Transfer
    >>> teacher = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2))
    >>> reread = Reread(teacher, ["0"])
    >>> reread(torch.zeros(2, 3, 16, 24)).shape
    torch.Size([2, 16])
    >>> print(Transfer("outputs read again", "", "", reread, weight=30.0))
    outputs read again: output → output, reread(0), mse, weight 30.0
    """

    def __init__(
        self,
        network: nn.Module,
        read: Iterable[Tap | str],
        *,
        inputs: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.taps = Taps(network, read, stop_early=True)
        if not self.taps.taps:
            raise ArgumentError("an output can't be read again without a layer", remedy="name the encoder's layers")
        self.inputs = inputs

    def __call__(self, output: Tensor, *, layout: Layout = "BCHW") -> Tensor:
        """(B, twice the channels of all layers): layer by layer the means, then the deviations.

        Raises
        ------
        ShapeError
            The network can't be called with the output.
        FeatureError
            A layer isn't reached, as in `Taps`.
        """
        given = output if self.inputs is None else self.inputs(output)
        args = given if isinstance(given, tuple) else () if isinstance(given, dict) else (given,)
        try:
            with _untrained(self.taps.model):
                _, features = self.taps(*args, **(given if isinstance(given, dict) else {}))
        except (SkdError, torch.OutOfMemoryError):  # which are RuntimeErrors, too
            raise
        except (RuntimeError, TypeError) as error:
            raise ShapeError(
                "the network that reads an output again can't be called with it",
                got=f"{tuple(output.shape)} ({' '.join(str(error).split())})",
                expected="an output that could be its input",
                remedy="inputs=… makes what it takes of the output; without such a way there is nothing to read again",
            ) from error
        read = [mean_std(feature, layout=as_layout(feature, tap)) for tap, feature in features.items()]
        return torch.cat(read, 1)

    def __repr__(self) -> str:
        return f"reread({', '.join(str(tap) or 'output' for tap in self.taps.taps)})"


@contextmanager
def _untrained(network: nn.Module) -> Iterator[None]:
    """Gradients go through the network, and none to it: a teacher in a distiller is so anyway."""
    trained = [] if torch.compiler.is_compiling() else [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
