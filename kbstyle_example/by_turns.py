"""Several perceptual networks as one: each step of a training is under the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kbstyle_example.perceptual import Perceptual
from skd.errors import ArgumentError


class ByTurns(Perceptual):
    """Perceptual networks that look by turns, so that pictures please none of them alone.

    What one network can't see, a training under it alone paints: KBStyle's networks had a lattice of two pixels
    (docs: KBStyle). Two of different depth, by turns, cost as much time as one.

    Parameters
    ----------
    networks : sequence of Perceptual
        Two or more. What they have in common of layers can be weighed; the first looks where nothing is trained.

    Raises
    ------
    ArgumentError
        Less than two, or they have no layer in common, or the first's content layer is missing in another.

    Examples
    --------
    >>> from kbstyle_example.perceptual import VGG
    >>> shallow, deep = VGG("4SE", (4, 4), stages=((1, "1"), (1, "2"))), VGG("5SE", (4,), stages=((1, "1"),))
    >>> shallow.content_layer = deep.content_layer = "relu1_1"
    >>> both = ByTurns([shallow, deep])
    >>> both.name, both.layers
    ('4SE and 5SE by turns', ('relu1_1',))
    """

    def __init__(self, networks: Sequence[Perceptual]) -> None:
        super().__init__()
        if len(networks) < 2:
            raise ArgumentError("perceptual networks that look by turns", got=len(networks), expected="2 or more")
        first = networks[0]
        self.networks = nn.ModuleList(networks)
        self.name = " and ".join(network.name for network in networks) + " by turns"
        self.layers = tuple(name for name in first.layers if all(name in other.layers for other in networks))
        self.content_layer = first.content_layer
        if self.content_layer not in self.layers:
            raise ArgumentError(f"not all of {self.name} have {self.content_layer!r}", got=", ".join(self.layers))
        self.smallest_side = max(network.smallest_side for network in networks)
        self.sha256 = " + ".join(f"{network.sha256} {network.variant}".strip() for network in networks)
        self.present = 0

    def take_turn(self, turn: int) -> None:
        """Let the network of this turn, counted from 0, look from now on."""
        self.present = turn % len(self.networks)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """As the network whose turn it is, of the layers that all have."""
        found = self.networks[self.present](image)
        return {name: found[name] for name in self.layers}
