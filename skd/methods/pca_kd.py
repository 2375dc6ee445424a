"""PCA distillation (Chiu & Gurari 2022): features in the teacher's eigenbasis, pair after pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from skd.adapters import BasisAdapter
from skd.bases import spectrum
from skd.distances import mse
from skd.errors import ArgumentError
from skd.knowledge import centred
from skd.matching import Plan
from skd.methods._layers import SPATIAL, Common, Layer, LayerMethod, moments_of, weighs
from skd.methods.transfer import Stage, Transfer
from skd.spectra import Spectra


class PCAKD(LayerMethod):
    r"""PCA distillation: the student's features are the teacher's leading principal components, learned pair by pair.

    .. math:: L_l = w \sum_X \operatorname{mean}\, (\bar s_X - \bar t_X W_X)^2 + w_o \frac{\|y_S - y_T\|^2}{\|y_T\|^2}

    for the pair l that is being learned, X its encoder's and decoder's side. A bar is the feature less its mean over
    positions, W the leading eigenvectors of the teacher's covariance, as many as the student has channels.

    Parameters
    ----------
    plan, sides, weight, output
        As in `LayerMethod`.
    spectra : Spectra
        The teacher's, which hold the eigenbases.
    steps : int, optional
        All optimizer steps of the training: each pair, from the outermost, has an equal share of them, in which the
        pairs before it stand still. By default all pairs are learned together.

    Raises
    ------
    ArgumentError
        There are no spectra, fewer steps than pairs, or the features aren't maps.
    ShapeError
        The spectra are of another pairing.

    Notes
    -----
    T.-Y. Chiu, D. Gurari, "PCA-Based Knowledge Distillation Towards Lightweight and Content-Style Balanced
    Photorealistic Style Transfer Models", CVPR 2022, arXiv:2203.13452.

    Where a student's side is as wide as the teacher's, the channels are compared as they are.

    Deviations: the error is measured among the c components, where the paper lifts the student's to C channels: the
    gradients are proportional. The paper's teacher is an autoencoder, whose decoder is to give the encoder's features
    back; here the decoder's side has the eigenbasis of the teacher's decoder. The perceptual term, the encoder's
    features of the output, is left out. A pair stands still by its two layers; what lies between pairs goes on
    learning.

    Examples
    --------
    >>> import torch, skd
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> def net(width):
    ...     return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ConvTranspose2d(width, width, 2, 2),
    ...                          nn.Conv2d(width, 3, 1))
    >>> teacher, student, x = net(8), net(2), torch.randn(2, 3, 8, 12)
    >>> pairings = [skd.Pairing.declare([("0", "0")], network, x) for network in (teacher, student)]
    >>> method = PCAKD(skd.match(*pairings), skd.measure(teacher, pairings[0], [x]), sides="encoder")
    >>> [row.name for row in method.transfers()]
    ['1/2/encoder/components', 'output']
    """

    layouts = SPATIAL
    why = "it centres features over the positions of a picture"

    def __init__(
        self, plan: Plan, spectra: Spectra | None = None, *, steps: int | None = None, **common: Unpack[Common]
    ) -> None:
        super().__init__(plan, spectra, **common)
        if spectra is None:
            raise ArgumentError("PCA distillation needs spectra", remedy="measure(teacher, pairing, data)")
        if steps is not None and (steps < len(plan) or not weighs(self.weight)):
            raise ArgumentError(
                "each pair needs a step and a weight", got=f"{steps} steps for {len(plan)} pairs, weight {self.weight}"
            )
        self.steps, self.measured = steps, spectra

    def rows(self) -> Sequence[Transfer]:
        """One a layer."""
        return [
            self.row(layer, "components", centred, mse, adapter=layer.space(), teacher_adapter=self._basis(layer))
            for layer in self.layers
        ]

    def _basis(self, layer: Layer) -> BasisAdapter | None:
        if layer.width == layer.student_width:
            return None
        vectors = spectrum(moments_of(layer, self.measured).cov)[1]
        return BasisAdapter(vectors[:, : layer.student_width], layout=layer.layout)

    def stages(self) -> Sequence[Stage]:
        """One a pair, from the outermost, where `steps` is given."""
        if self.steps is None:
            return ()
        names = [teacher.name for teacher, _ in self.plan]
        last = len(names) - 1
        output = ("output",) if weighs(self.output) else ()
        return [
            Stage(
                None if index == last else self.steps * (index + 1) // len(names),
                (name, *output),
                frozen=tuple(layer.student.layer for layer in self.layers if layer.pair in names[:index]),
            )
            for index, name in enumerate(names)
        ]
