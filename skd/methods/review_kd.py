"""ReviewKD (Chen et al. 2021): the teacher's earlier layers teach the student's later ones, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skd.adapters import Adapter, ChannelAdapter
from skd.distances import distance
from skd.knowledge import raw
from skd.methods._convolution import Convolution
from skd.methods._layers import ONE_POSITION, POSITIONS, Layer, LayerMethod, chain
from skd.methods.transfer import Transfer
from skd.taps import Layout

_POOLS: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


class ReviewKD(LayerMethod):
    r"""ReviewKD: each layer, fused with those that run later, against the teacher's layer, at several scales.

    .. math:: L = w \sum_l H(c_l(r_l), t_l), \qquad
              r_l = a_l \odot p_l(s_l) + b_l \odot r_{l+1}, \qquad (a_l, b_l) = \sigma(v_l[p_l(s_l), r_{l+1}])

    .. math:: H(f, g) = \frac{\sum_k 2^{-k} \operatorname{mean}\, (P_k f - P_k g)^2}{\sum_k 2^{-k}}

    p and v are 1×1 convolutions, c one of 3×3; P₀ is the identity, the others average to 4, 2 and 1 cells on each axis,
    those of them that the feature is larger than. Fusion goes from the layer of a side that runs last, l + 1, to those
    that run before, l: in the encoder from the deepest to the shallowest, in the decoder from the outermost to the
    innermost.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.

    Raises
    ------
    ArgumentError
        The features are vectors.

    Notes
    -----
    P. Chen, S. Liu, H. Zhao, J. Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044, and
    its code for the fusion.

    Not a divergence of the features: the fusion is learned, so that a student equal to its teacher has a loss.

    Deviations: no batch normalisation behind the convolutions, so that a batch may be one sample. The fused features
    have the width of the student's last layer, as in the code; where they shrink they are averaged. Tokens are a line.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> def pairs(width):
    ...     return (SymmetricPair("1/2", Tap("down1"), Tap("up1"), width, width),
    ...             SymmetricPair("1/4", Tap("down2"), Tap("up2"), 2 * width, 2 * width))
    >>> for row in ReviewKD(Plan(tuple(zip(pairs(16), pairs(4)))), sides="encoder", output=0).transfers():
    ...     print(row)
    1/4/encoder/review: down2 → down2, spatial, pyramid, weight 1.0
    1/2/encoder/review: down1 → down2, down1, reviewed, pyramid, weight 1.0
    """

    layouts = POSITIONS
    why = ONE_POSITION

    def rows(self) -> Sequence[Transfer]:
        """One a layer, each side's from the one that runs last."""
        return [row for run in self.runs() for row in self._run(run[::-1])]

    def _run(self, last_first: Sequence[Layer]) -> list[Transfer]:
        width = min(512, last_first[0].student_width)
        last, fusions = Level(last_first[0], width), [Fusion(layer, width) for layer in last_first[1:]]
        rows = [
            self.row(last_first[0], "review", spatial, pyramid, adapter=chain(last, last_first[0].space(), last.out))
        ]
        for index, (layer, fusion) in enumerate(zip(last_first[1:], fusions, strict=True)):
            row = Transfer(
                f"{layer.name}/review",
                [each.student for each in last_first[: index + 2]],
                layer.teacher,
                Reviewed(fusions[: index + 1]),
                pyramid,
                self.weight,
                student_adapters=[last, *fusions[:index], chain(fusion, layer.space())],
            )
            rows.append(row)
        return rows


class Level(Adapter):
    """A layer's part: it brings the student's feature to the fusion's width, and what is fused to the teacher's."""

    def __init__(self, layer: Layer, width: int) -> None:
        super().__init__(layout=layer.layout)
        self.project = ChannelAdapter(layer.student_width, width, layout=layer.layout, bias=False)
        self.out = Convolution(width, layer.width, layout=layer.layout)

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        """The feature at the fusion's width; `out` is for others to call."""
        projected: Tensor = self.project(feature)
        return projected


class Fusion(Level):
    """A level that reviews those behind it."""

    def __init__(self, layer: Layer, width: int) -> None:
        super().__init__(layer, width)
        self.weigh = ChannelAdapter(2 * width, 2, layout="BCL" if layer.layout == "BNC" else layer.layout)

    def fuse(self, own: Tensor, later: Tensor) -> Tensor:
        """The layer's feature and what was fused before, (B, C, *space), each in its share."""
        later = _resized(later, tuple(own.shape[2:]))
        shares: Tensor = self.weigh(torch.cat([own, later], 1)).sigmoid()
        return own * shares[:, :1] + later * shares[:, 1:]


class Reviewed:
    """Knowledge of several student features, the last one first, fused; the teacher's one feature is taken as it is."""

    __name__ = "reviewed"

    def __init__(self, fusions: Sequence[Fusion]) -> None:
        self.fusions = tuple(fusions)  # of all features but the last; the row's adapters register them

    def __call__(self, *features: Tensor, layout: Layout = "BCHW") -> Tensor:
        fused, *others = (spatial(feature, layout=layout) for feature in features)
        if not others:
            return fused
        for fusion, feature in zip(self.fusions, others, strict=True):
            fused = fusion.fuse(feature, fused)
        out = self.fusions[-1].out
        return spatial(out(fused.transpose(1, 2) if layout == "BNC" else fused), layout=layout)


def spatial(feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """The feature with its channels first."""
    return feature.transpose(1, 2) if layout == "BNC" else raw(feature, layout=layout)


def _resized(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Averages of what shrinks, copies of what grows."""
    shrunk = tuple(min(sides) for sides in zip(feature.shape[2:], size, strict=True))
    return F.interpolate(_POOLS[len(size)](feature, shrunk), size, mode="nearest")


@distance(divergence=True)
def pyramid(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of two (B, C, *space), and of their averages over 4, 2 and 1 cells an axis, weighed 1 to ⅛.

    Examples
    --------
    >>> pyramid(torch.ones(1, 1, 3, 5), torch.zeros(1, 1, 3, 5))
    tensor(1.)
    """
    total, weights = F.mse_loss(student, teacher), 1.0
    weight = 1.0
    for cells in (4, 2, 1):
        if cells >= min(student.shape[2:]):
            continue
        weight /= 2
        pool = _POOLS[student.ndim - 2]
        total = total + weight * F.mse_loss(pool(student, cells), pool(teacher, cells))
        weights += weight
    return total / weights
