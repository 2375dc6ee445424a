"""The student's pictures as a perceptual network sees them, beside SKD's own terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kbstyle_example.detail import detail_distance
from kbstyle_example.distances import covariance_distance, feature_distance, moment_distance, weighted
from kbstyle_example.losses import COVARIANCE_WEIGHTS, FEATURE_WEIGHTS, STYLE_WEIGHTS, Watching, luminance_distance
from kbstyle_example.perceptual import Perceptual, identity_of, layer_weights
from kbstyle_example.similarity import Shapes
from skd.errors import ArgumentError
from skd.methods import Transfer


class Perceived(Watching):
    """How far pictures are from a teacher's, and from the style of paintings, under a perceptual network.

    Called with (student's picture, teacher's) it is a distance for a `skd.methods.Transfer` of the outputs; `style` is
    a task's loss. A squared error of pixels alone is least where strokes are blurred, and a blurred picture has
    another style.

    Parameters
    ----------
    perceptual : Perceptual
        It is frozen here.
    feature_weight, style_weight : float
        Of the distance, and of the task's loss; at 0 there is none.
    luminance_weight, similarity_weight, detail_weight : float
        Of the grey pictures' part in the task's loss, of 1 − SSIM with the photographs, and of the finest detail's
        distance from the paintings', beside 1 for the coloured pictures' part.
    similarity_follows : float, optional
        Let the similarity's weight follow, so that shapes are kept as well as in the teacher's pictures, and by so much
        of SSIM better (`kbstyle_example.similarity.Shapes`).
    style_weights, covariance_weights, feature_weights : mapping of str to float
        w_l, k_l and f_l of `kbstyle_example.losses`.

    Raises
    ------
    ArgumentError
        A layer that the perceptual network doesn't have, or a weight that is negative or not finite; a weight that
        follows from 0, or without a feature weight, which is what looks at the teacher's pictures.

    Examples
    --------
    >>> from kbstyle_example.perceptual import VGG
    >>> tiny = VGG("tiny", (4,), stages=((1, "1"),), content_layer="relu1_1")
    >>> weights = {"relu1_1": 1.0}
    >>> perceived = Perceived(tiny, style_weights=weights, covariance_weights={}, feature_weights=weights)
    >>> picture = torch.rand(1, 3, 8, 8)
    >>> float(perceived(picture, picture)), float(perceived.style(picture, (torch.rand(1, 3, 8, 8), picture)))
    (0.0, 0.0)
    """

    divergence = True

    def __init__(
        self,
        perceptual: Perceptual,
        *,
        feature_weight: float = 1.0,
        style_weight: float = 1.0,
        luminance_weight: float = 0.0,
        similarity_weight: float = 0.0,
        similarity_follows: float | None = None,
        detail_weight: float = 0.0,
        style_weights: Mapping[str, float] = STYLE_WEIGHTS,
        covariance_weights: Mapping[str, float] = COVARIANCE_WEIGHTS,
        feature_weights: Mapping[str, float] = FEATURE_WEIGHTS,
    ) -> None:
        super().__init__(perceptual)
        self.style_weights = layer_weights(perceptual, style_weights)
        self.covariance_weights = layer_weights(perceptual, covariance_weights)
        self.feature_weights = layer_weights(perceptual, feature_weights)
        for weight in (feature_weight, style_weight, luminance_weight, similarity_weight, detail_weight):
            layer_weights(perceptual, {perceptual.content_layer: weight})
        if similarity_follows is not None and not feature_weight:
            remedy = "a feature weight, which looks at them, or leave the weight of shapes as it is"
            raise ArgumentError("the weight of shapes follows the teacher's pictures", got="none", remedy=remedy)
        self.shapes = Shapes(similarity_weight, similarity_follows)
        self.feature_weight, self.style_weight, self.luminance_weight = feature_weight, style_weight, luminance_weight
        self.detail_weight = detail_weight
        self._seen: tuple[Tensor, dict[str, Tensor], Tensor] | None = None

    def transfers(self) -> list[Transfer]:
        """The row of the outputs, for a distillation."""
        return [Transfer("features", "", "", distance=self, weight=self.feature_weight)] if self.feature_weight else []

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Σ_l f_l ‖F_l(o) − F_l(t)‖² / ‖F_l(t)‖² of the student's pictures and the teacher's, a scalar."""
        found = self.look(student)
        with torch.no_grad():
            wanted = self.perceptual(teacher)
        self._seen = student, found, teacher  # the same pictures are looked at for their style next
        return weighted(feature_distance, found, wanted, self.feature_weights)

    def style(self, output: Tensor, batch: Sequence[Tensor]) -> Tensor:
        """The style's loss of `losses`, of pictures after a batch's paintings (photographs, paintings), a scalar."""
        seen, self._seen = self._seen, None
        seen = seen if seen is not None and seen[0] is output else None
        found = self.look(output) if seen is None else seen[1]
        with torch.no_grad():
            painted = self.perceptual(batch[1])
        moment = weighted(moment_distance, found, painted, self.style_weights)
        total = moment + weighted(covariance_distance, found, painted, self.covariance_weights)
        if self.luminance_weight:
            grey = luminance_distance(self.perceptual, output, batch[1], self.style_weights)
            total = total + self.luminance_weight * grey
        if self.shapes.begun:
            total = total + self.shapes(output, batch[0], None if seen is None else seen[2])
        if self.detail_weight:
            total = total + self.detail_weight * detail_distance(output, batch[1])
        return total

    def extra_repr(self) -> str:
        return self.identity()

    def identity(self) -> str:
        """What tells it from another: the network, its digest, and the layers' weights."""
        weights: list[Any] = [self.feature_weights, self.style_weights, self.covariance_weights]
        if self.luminance_weight:  # runs from before there was one go on
            weights.append(self.luminance_weight)
        if self.shapes.begun:
            weights.append(self.shapes.identity())
        if self.detail_weight:
            weights.append(f"detail {self.detail_weight}")
        return " ".join(map(str, (self.perceptual.name, identity_of(self.perceptual), *weights)))


class Painted(nn.Module):
    """A distillation's task loss: `Perceived.style`, as a module, so that what it counts is in the checkpoints.

    Parameters
    ----------
    perceived : Perceived

    Examples
    --------
    See `kbstyle_example.distill.distill`, which gives it to `skd.distill`.
    """

    def __init__(self, perceived: Perceived) -> None:
        super().__init__()
        self.perceived = perceived

    def forward(self, output: Tensor, batch: Sequence[Tensor]) -> Tensor:
        """A scalar, of pictures after a batch's paintings."""
        return self.perceived.style(output, batch)
