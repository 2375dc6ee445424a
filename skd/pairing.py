"""pair(): which decoder layer of a network mirrors which encoder layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from skd._pairing.found import By
from skd._pairing.mirror import find_mirror
from skd._pairing.network import Network
from skd._pairing.pairs import Companions, Example, Pairing, beside
from skd._pairing.symmetric import SymmetricPair, pair_of
from skd.errors import ArgumentError, PairingError
from skd.matching import Plan, match
from skd.trace import dry_run

__all__ = ["Pairing", "Plan", "SymmetricPair", "match", "pair"]


def pair(
    model: nn.Module,
    example: Example,
    *,
    companions: Companions | None = None,
    ignore: Sequence[str] = (),
    by: By | None = None,
) -> Pairing:
    """The symmetric pairs of a network, from one dry run.

    The rule, so that the answer can be predicted:

    1. The network is cut into *blocks*: the largest layers inside which everything works at the scale the block starts
       from or at the scale it ends at, and which end with features of their own, not with pooling or upsampling, nor
       with a layer that moves them to another scale and keeps their width. Activations, pooling, upsampling, padding
       and dropout on their own aren't candidates. So a chain of single layers is read before its nonlinearities, and a
       block at its end.
    2. The bottleneck is the last block at the smallest scale, outside the container that holds the decoder's layers. A
       vector code that a map is flattened into is smaller than any scale. Where the smallest scale has a waist, layers
       narrower than those before and behind, the bottleneck is in it: the first of them outside the containers of both
       sides, else the last in the encoder's.
    3. At each larger scale the encoder's side is the last block before the first one at a smaller scale. The decoder's
       is the last block of the same width after all of smaller scales; what pooling or upsampling returns counts only
       if no block has that width. Failing that it is the last block of any width, but never the network's output. Pairs
       are named by their scale. At the smallest scale there is a pair where the decoder has a block of the bottleneck's
       width there, or behind its waist; the encoder's side is in the container that holds its other sides.
    4. If that gives no pair, blocks are opened, and the same is done with what is inside.
    5. If there is still none, as there is no scale, or if encoder and decoder are two stacks of layers over tokens,
       layers are mirrored by depth: numbered layers of one type, the first such stack and the last,
       ``encoder.layers.0`` … with ``decoder.layers.n-1`` …; else by width, that is 1 to
       4 with channels for scales (an autoencoder of linear layers); else, if the network returns a map at least as
       large as its features (super-resolution), its only stack is folded in the middle.

    What was ambiguous or left out is in the notes.

    Parameters
    ----------
    model : nn.Module
        The network.
    example : Tensor, tuple or dict
        One input, as for `dry_run`.
    companions : mapping of layer or pair name to layers, optional
        Layers that share the width and basis of the pair that has the key on one side: ``{"content.1": ["style.1"]}``.
        Their network takes no part in the search, and a key at the scale of a pair becomes its encoder's side.
    ignore : sequence of str
        Layers, with all inside them, that take no part in the search.
    by : {"scale", "depth", "width"}, optional
        Look for this kind of mirror only.

    Raises
    ------
    PairingError
        There is no mirror, or a companion fits no pair.
    LayerNotFoundError
        A layer of `companions` or `ignore` isn't there or didn't run.
    ArgumentError
        `by` is something else.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
    ...     nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2),
    ... )
    >>> print(pair(net, torch.zeros(1, 3, 16, 24)))
    Pairing, 1 pair, bottleneck 2
      pair  encoder  decoder  channels  scale  companions
      1/2   0        4        8         0.5    -
    """
    if by not in (None, "scale", "depth", "width"):
        raise ArgumentError("layers can't be mirrored by this", got=repr(by), expected="scale, depth or width")
    network = Network(dry_run(model, example))
    mirror = find_mirror(network.root, by, network.ignored(ignore, companions or {}))
    if mirror is None:
        raise PairingError(
            "no decoder layer mirrors an encoder layer" + (f" by {by}" if by else ""),
            got=network.seen(),
            expected="a way down and a way up again in scale or width, or two stacks of like layers",
            remedy='declare the pairs: Pairing.declare([("encoder layer", "decoder layer"), …], model, example)',
        )
    scaled = mirror.by == "scale"
    pairs = tuple(pair_of(network, name, e.tap, d.tap, scaled=scaled) for name, e, d in mirror.pairs)
    pairing = Pairing(pairs, mirror.bottleneck.tap if mirror.bottleneck else None, tuple(mirror.notes))
    pairing = beside(pairing, network, companions or {})
    copied = [f"'{tap}'" for tap in pairing.taps if tap.clone]
    if not copied:
        return pairing
    note = f"{', '.join(copied)}: read as a copy, since the next layer works in place"
    return dataclasses.replace(pairing, notes=(*pairing.notes, note))
