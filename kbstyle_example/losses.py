"""What a style-transfer network is trained on, under any perceptual network: content, style, and what it imitates.

Style, at each layer l of the perceptual network, with o the result and s the painting::

    L_l = [ mean_c (μ_o − μ_s)² + mean_c (σ_o − σ_s)² ] / mean_c (μ_s² + σ_s²)        moments
    K_l = ‖Cov(o) − Cov(s)‖²_F / ‖Cov(s)‖²_F                                          covariance

    style = Σ_l w_l L_l + Σ_l k_l K_l

and, where asked for, Σ_l w_l L_l once more, of both pictures in grey, the result's luminance brought to the mean and
deviation of the painting's: colour can't lower it, only strokes and texture can. Against it stands, where asked for,
1 − SSIM of the result and the photograph (`kbstyle_example.similarity`): what keeps shapes, with a weight that can
follow. And where a network draws several pixels at once, the finest detail can be held to the painting's in strength,
and be kept off the lattice (`kbstyle_example.detail`).

Dividing by the painting's own energy makes the layers comparable (raw VGG features differ by orders of magnitude
between layers), so that the weights alone say what a layer counts. The abstract of the KBStyle paper speaks of a
weighted style loss and gives no formula: this one is ours.

With a guide, another network whose pictures t are imitated, and F_l the features::

    imitation = p · mean |o − t| + Σ_l f_l ‖F_l(o) − F_l(t)‖² / ‖F_l(t)‖²

Statistics alone leave it open where a stroke goes: in the few thousand steps that a CPU allows a network trained on
them smears. One that imitates first draws cleanly after some hundred steps, and then takes on more style.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self, TypeAlias

import torch
from torch import Tensor, nn

from kbstyle_example.by_turns import ByTurns
from kbstyle_example.detail import detail_distance
from kbstyle_example.distances import (
    content_distance,
    covariance_distance,
    feature_distance,
    moment_distance,
    weighted,
)
from kbstyle_example.luminance import matched_luminance
from kbstyle_example.networks import KBStyle
from kbstyle_example.perceptual import Perceptual, layer_weights
from kbstyle_example.similarity import Shapes
from skd.errors import ArgumentError, NonFiniteError, ShapeError
from skd.steps import Losses, Step

__all__ = [
    "Guide",
    "StyleTask",
    "Watching",
    "content_distance",
    "covariance_distance",
    "feature_distance",
    "guided",
    "moment_distance",
]

# Deep layers see strokes and shapes of strokes, shallow ones colour, which a small network gets right first.
STYLE_WEIGHTS = {"relu1_1": 0.5, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 0.5}
# Means and deviations alone are matched by recolouring; which channels fire together is the texture.
COVARIANCE_WEIGHTS = {"relu2_1": 0.1, "relu3_1": 0.1, "relu4_1": 0.1}
# Where things are, for which relu5_1 is too coarse.
FEATURE_WEIGHTS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
CONTENT_WEIGHT = 1.0
STYLE_WEIGHT = 5.0
PIXEL_WEIGHT = 10.0
FEATURE_WEIGHT = 1.0

# (B, 3, H, W) of photographs and of paintings, in 0..1 → as many pictures; a module goes where the losses go.
Guide: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Watching(nn.Module):
    """Base of what measures under a perceptual network: frozen here, moved along, in no checkpoint.

    Parameters
    ----------
    perceptual : Perceptual
        If it is `ByTurns`, whose turn it is stands in the checkpoints.

    Examples
    --------
    >>> from kbstyle_example.perceptual import VGG
    >>> watching = Watching(VGG("tiny", (4,), stages=((1, "1"),)))
    >>> len(watching.state_dict()), next(watching.double().perceptual.parameters()).dtype
    (0, torch.float64)
    """

    perceptual: Perceptual
    turn: Tensor

    def __init__(self, perceptual: Perceptual) -> None:
        super().__init__()
        # No submodule: what only measures is neither trained nor kept.
        self.__dict__["perceptual"] = perceptual.freeze()
        if isinstance(perceptual, ByTurns):
            self.register_buffer("turn", torch.zeros((), dtype=torch.long))

    def look(self, output: Tensor) -> dict[str, Tensor]:
        """The features of a step's pictures; in training, the next network's turn begins here."""
        if isinstance(self.perceptual, ByTurns):
            trained = output.requires_grad and torch.is_grad_enabled()
            self.perceptual.take_turn(int(self.turn) if trained else 0)
            if trained:
                self.turn += 1
        return self.perceptual(output)  # type: ignore[no-any-return]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            self.perceptual._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class StyleTask(Watching):
    """Trains a style-transfer network: its loss for photographs and paintings.

    Parameters
    ----------
    network : KBStyle
    perceptual : Perceptual
        Its features define content and style. It is frozen here.
    guide : callable, optional
        Given the photographs and the paintings, returns pictures that the network's shall be like, (B, 3, H, W), which
        are clamped to 0..1. A module is moved along; it is neither trained nor kept. The content is still compared
        with the photograph's.
    content_weight, style_weight, luminance_weight, similarity_weight, detail_weight : float
        Without a luminance weight the perceptual network doesn't run on the grey pictures.
    similarity_follows : float, optional
        Let the similarity's weight follow, so that shapes are kept as well as in the guide's pictures, and by so much
        of SSIM better (`kbstyle_example.similarity.Shapes`).
    pixel_weight, feature_weight : float
        p of the module's formula, and what its f_l are multiplied by; of the guide's pictures.
    style_weights, covariance_weights, feature_weights : mapping of str to float
        w_l, k_l and f_l of the module's formula; layers left out have weight 0.

    Raises
    ------
    ArgumentError
        A layer that the perceptual network doesn't have, or a weight that is negative or not finite; a weight that
        follows without a guide, or from 0.

    Examples
    --------
    >>> from kbstyle_example.networks import STUDENT
    >>> from kbstyle_example.perceptual import VGG
    >>> perceptual = VGG("tiny", (4, 4), stages=((1, "1"), (1, "2")), content_layer="relu2_1")
    >>> weights = {"style_weights": {"relu1_1": 1.0}, "covariance_weights": {}, "feature_weights": {"relu2_1": 1.0}}
    >>> content, style = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    >>> step = StyleTask(KBStyle(STUDENT), perceptual, **weights)(content, style)
    >>> step.output.shape, sorted(step.losses.terms)
    (torch.Size([2, 3, 16, 16]), ['content', 'style', 'texture'])
    >>> task = StyleTask(KBStyle(STUDENT), perceptual, guide=lambda content, style: 1 - content, **weights)
    >>> sorted(task(content, style).losses.terms)
    ['content', 'features', 'pixels', 'style', 'texture']
    """

    guide: Guide | None

    def __init__(
        self,
        network: KBStyle,
        perceptual: Perceptual,
        *,
        guide: Guide | None = None,
        content_weight: float = CONTENT_WEIGHT,
        style_weight: float = STYLE_WEIGHT,
        luminance_weight: float = 0.0,
        similarity_weight: float = 0.0,
        similarity_follows: float | None = None,
        detail_weight: float = 0.0,
        pixel_weight: float = PIXEL_WEIGHT,
        feature_weight: float = FEATURE_WEIGHT,
        style_weights: Mapping[str, float] = STYLE_WEIGHTS,
        covariance_weights: Mapping[str, float] = COVARIANCE_WEIGHTS,
        feature_weights: Mapping[str, float] = FEATURE_WEIGHTS,
    ) -> None:
        super().__init__(perceptual)
        self.style_weights = layer_weights(perceptual, style_weights)
        self.covariance_weights = layer_weights(perceptual, covariance_weights)
        # Without a guide they don't count, and the network may have none of these layers.
        self.feature_weights = {} if guide is None else layer_weights(perceptual, feature_weights)
        of_all = (content_weight, style_weight, luminance_weight, similarity_weight, detail_weight)
        for weight in (*of_all, pixel_weight, feature_weight):
            layer_weights(perceptual, {perceptual.content_layer: weight})
        if similarity_follows is not None and guide is None:
            remedy = "imitate a network, or leave the weight of shapes as it is"
            raise ArgumentError("the weight of shapes follows a guide's pictures", got="no guide", remedy=remedy)
        self.shapes = Shapes(similarity_weight, similarity_follows)
        self.network = network
        self.__dict__["guide"] = guide  # no submodule, either
        self.content_weight, self.style_weight, self.luminance_weight = content_weight, style_weight, luminance_weight
        self.detail_weight = detail_weight
        self.pixel_weight, self.feature_weight = pixel_weight, feature_weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse and isinstance(self.guide, nn.Module):
            self.guide._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)

    def forward(self, content: Tensor, style: Tensor) -> Step:
        """Stylise photographs after paintings, (B, 3, H, W) in 0..1 each, and weigh the result.

        Raises
        ------
        ShapeError, NonFiniteError
            What the guide gave isn't as many pictures of the same size, or holds NaN or infinite values.
        """
        output = self.network(content, style)
        return Step(output, self.losses(output, content, style))

    def losses(self, output: Tensor, content: Tensor, style: Tensor) -> Losses:
        """The weighted terms for pictures (B, 3, H, W) already stylised."""
        found, layer = self.look(output), self.perceptual.content_layer
        nothing = output.new_zeros(())
        wanted = None if self.guide is None else guided(self.guide, content, style)
        with torch.no_grad():  # and no run for what doesn't count
            shown = self.perceptual(content)[layer] if self.content_weight else None
            painted = self.perceptual(style) if self.style_weight else None
        moment, texture = (
            (nothing, nothing)
            if painted is None
            else (
                weighted(moment_distance, found, painted, self.style_weights),
                weighted(covariance_distance, found, painted, self.covariance_weights),
            )
        )
        terms = {
            "content": nothing if shown is None else self.content_weight * content_distance(found[layer], shown),
            "style": self.style_weight * moment,
            "texture": self.style_weight * texture,
        }
        if self.luminance_weight:
            grey = self.luminance_weight * luminance_distance(self.perceptual, output, style, self.style_weights)
            terms["luminance"] = grey
        if self.shapes.begun:
            terms["shapes"] = self.shapes(output, content, wanted)
        if self.detail_weight:
            terms["detail"] = self.detail_weight * detail_distance(output, style)
        if wanted is not None:
            with torch.no_grad():
                imitated = self.perceptual(wanted) if self.feature_weight else found
            terms["pixels"] = self.pixel_weight * (output - wanted).abs().mean()
            terms["features"] = self.feature_weight * weighted(feature_distance, found, imitated, self.feature_weights)
        return Losses(terms)


def luminance_distance(perceptual: Perceptual, output: Tensor, style: Tensor, weights: Mapping[str, float]) -> Tensor:
    """Σ_l w_l L_l of grey pictures, see the module; a scalar.

    Examples
    --------
    >>> from kbstyle_example.perceptual import VGG
    >>> tiny, painting = VGG("tiny", (4,), stages=((1, "1"),), content_layer="relu1_1"), torch.rand(1, 3, 8, 8)
    >>> bool(luminance_distance(tiny, 0.5 * painting, painting, {"relu1_1": 1.0}) < 1e-4)  # darker, and as painted
    True
    """
    with torch.no_grad():
        painted = perceptual(matched_luminance(style, style))
    return weighted(moment_distance, perceptual(matched_luminance(output, style)), painted, weights)


@torch.no_grad()
def guided(guide: Guide, content: Tensor, style: Tensor) -> Tensor:
    """What a guide makes of photographs and paintings: clamped to 0..1, where the photographs are.

    Raises
    ------
    ShapeError, NonFiniteError
        See `StyleTask.forward`.

    Examples
    --------
    >>> guided(lambda content, style: content[..., 1:], torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    Traceback (most recent call last):
    skd.errors.ShapeError: the guide gave other pictures than one for each photograph; got (1, 3, 8, 7); \
expected (1, 3, 8, 8).
    """
    with torch.autocast(content.device.type, enabled=False):  # it may know nothing of half precision
        pictures = guide(content, style)
    if not isinstance(pictures, Tensor) or pictures.shape != content.shape:
        got = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise ShapeError(
            "the guide gave other pictures than one for each photograph", got=got, expected=tuple(content.shape)
        )
    if not torch.isfinite(pictures).all():
        raise NonFiniteError("the guide gave a picture with NaN or infinite values")
    return pictures.to(content).clamp(0, 1)
