"""Attention of sequence models (TinyBERT, Jiao et al. 2020): which token looks at which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from skd.errors import ShapeError
from skd.knowledge import Knowledge
from skd.knowledge._common import full_precision
from skd.matching import Plan
from skd.methods._layers import Common, LayerMethod
from skd.methods.transfer import Transfer
from skd.spectra import Spectra
from skd.taps import Layout, Tap


class AttentionMSE(LayerMethod):
    r"""Attention: the matrices of which token looks at which, compared by their squared error.

    .. math:: L = w \sum_l \operatorname{mean}\, (a(s_l) - a(t_l))^2, \qquad
              a(f) = \operatorname{softmax}_n \frac{F F^T}{\sqrt C}

    with F (N, C) a sample's hidden states. Where the networks return attention matrices, these are compared instead.

    Parameters
    ----------
    plan, spectra, sides, weight, output
        As in `LayerMethod`.
    attention : sequence of (Tap or str, Tap or str), optional
        Where the teacher's and the student's attention matrices are read, (B, heads, N, N); they are averaged over the
        heads, whose numbers may differ. The plan's layers aren't looked at then.
    most : int
        The longest sequence that is compared: the matrices have N² numbers.

    Raises
    ------
    ArgumentError
        The features aren't tokens.

    Notes
    -----
    X. Jiao, Y. Yin, L. Shang, X. Jiang, X. Chen, L. Li, F. Wang, Q. Liu, "TinyBERT: Distilling BERT for Natural
    Language Understanding", Findings of EMNLP 2020, arXiv:1909.10351. Without the networks' own matrices, a(f)
    is the relation that MiniLM (W. Wang et al., NeurIPS 2020, arXiv:2002.10957) takes of an attention's values.

    A longer sequence is a ShapeError. Deviations: the heads' average stands for heads of equal number; PyTorch's own
    layers don't return their matrices, hence the relation of hidden states. Padding counts as tokens do.

    Examples
    --------
    >>> from skd import Plan, SymmetricPair, Tap
    >>> teacher = SymmetricPair("block 1", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 32, 32)
    >>> student = SymmetricPair("block 1", Tap("enc", layout="BNC"), Tap("dec", layout="BNC"), 8, 8)
    >>> print(AttentionMSE(Plan(((teacher, student),)), sides="encoder").transfers()[0])
    block 1/encoder/attention: enc → enc, self_attention(most=1024), mse, weight 1.0
    """

    layouts = ("BNC",)
    why = "it is about the attention between tokens; of maps it is AT, or StructuredKD"

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        attention: Sequence[tuple[Tap | str, Tap | str]] = (),
        most: int = 1024,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(plan, spectra, **common)
        self.attention = [(Tap.of(teacher), Tap.of(student)) for teacher, student in attention]
        self.most = most

    def rows(self) -> Sequence[Transfer]:
        """One a layer, or one for each two attention matrices."""
        if self.attention:
            return [
                Transfer(f"attention/{theirs}", ours, theirs, over_heads, weight=self.weight)
                for theirs, ours in self.attention
            ]
        knowledge = Knowledge(self_attention, most=self.most)
        return [self.row(layer, "attention", knowledge) for layer in self.layers]


@full_precision
def self_attention(feature: Tensor, *, layout: Layout = "BNC", most: int = 1024) -> Tensor:
    """Each token's softmax over all tokens of the products of their states, (B, N, N).

    Examples
    --------
    >>> import torch
    >>> self_attention(torch.zeros(1, 4, 3))[0, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    tokens = feature.shape[1]
    if feature.ndim != 3 or layout != "BNC" or not 2 <= tokens <= most:
        raise ShapeError(
            "attention is compared between tokens, from two up to the most that memory is for",
            got=f"{tuple(feature.shape)} in layout {layout}",
            expected=f"(B, N, C) with N from 2 to {most}",
            remedy="give most=",
        )
    products = feature @ feature.mT / math.sqrt(feature.shape[2])
    return products.softmax(-1)


@full_precision
def over_heads(matrices: Tensor, *, layout: Layout = "BCHW") -> Tensor:
    """(B, heads, N, N) averaged over the heads; (B, N, N), which PyTorch averages itself, as it is."""
    return matrices.mean(1) if matrices.ndim == 4 else matrices
