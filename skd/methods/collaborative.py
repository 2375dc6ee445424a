"""Collaborative distillation (Wang et al. 2020): the student's encoder, trained through the teacher's decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from skd.distances import mse
from skd.errors import ArgumentError
from skd.knowledge import raw
from skd.matching import Plan
from skd.methods._layers import SPATIAL, Common, LayerMethod, scaled
from skd.methods.transfer import Through, Transfer
from skd.spectra import Spectra
from skd.taps import Tap


class Collaborative(LayerMethod):
    r"""Collaborative distillation: what the teacher's own decoder makes of the student's features.

    .. math:: L = w \Big[ 10 \sum_l \operatorname{mean}\, (Q_l s_l - t_l)^2
              + \operatorname{mean}\, (\hat y - y_T)^2 + \sum_l \operatorname{mean}\, (\hat d_l - d_l)^2 \Big]

    s and t are the encoders' features, Q linear, from the student's width to the teacher's; y and d are the teacher's
    output and its decoder's features, ŷ and d̂ the same when it is run with Q s in the place of its encoder's features.

    Parameters
    ----------
    plan, spectra, weight, output
        As in `LayerMethod`.
    sides : {"encoder"}
        It trains the student's encoder. The decoder learns from the output's term, as all methods have it.
    embedding, reconstruction, perception : float
        The factors of the three terms: the paper's β, 1 and λ. 0 leaves a term out.

    Raises
    ------
    ArgumentError
        The sides are others, or the features aren't maps.

    Notes
    -----
    H. Wang, Y. Li, Y. Wang, H. Hu, M.-H. Yang, "Collaborative Distillation for Ultra-Resolution Universal Style
    Transfer", CVPR 2020, arXiv:2003.08436.

    The teacher runs twice a step. Q is there also where widths are equal (it starts as the identity then).

    Deviations: the paper's teacher is an autoencoder, whose output is to be its input, and its perceptual term the
    encoder's features of that output; here outputs are those of the teacher's task, and the decoder's features stand
    for the perception of them. The mean of squares stands for their sum.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> [row.name for row in Collaborative(Plan(((teacher, student),))).transfers()]
    ['1/2/encoder/embedding', 'reconstruction', '1/2/decoder/perception', 'output']
    """

    layouts = SPATIAL
    why = "it rebuilds the teacher's picture from the student's code, and sequences aren't made from one"

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        embedding: float = 10.0,
        reconstruction: float = 1.0,
        perception: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        if common.setdefault("sides", "encoder") != "encoder":
            raise ArgumentError(
                "collaborative distillation trains the encoder, through the teacher's decoder",
                got=f"sides={common['sides']!r}",
                expected="'encoder'",
            )
        super().__init__(plan, spectra, **common)
        self.embedding, self.reconstruction, self.perception = embedding, reconstruction, perception

    def rows(self) -> Sequence[Transfer]:
        """One for each encoder layer, the teacher's second output, one for each decoder layer of its second run."""
        linear = {layer: layer.adapter(always=True, bias=False) for layer in self.layers}
        through = Through(
            {layer.teacher: layer.student for layer in self.layers},
            {layer.teacher: adapter for layer, adapter in linear.items() if adapter is not None},
        )
        rows = [
            self.row(layer, "embedding", factor=self.embedding, adapter=adapter)
            for layer, adapter in linear.items()
            if self.embedding != 0
        ]
        taps = [("reconstruction", Tap(""), self.reconstruction)]
        taps += [(f"{teacher.name}/decoder/perception", teacher.decoder, self.perception) for teacher, _ in self.plan]
        for name, tap, factor in taps:
            if factor != 0:
                rows.append(Transfer(name, tap, tap, raw, mse, scaled(self.weight, factor), through=through))
        return rows
