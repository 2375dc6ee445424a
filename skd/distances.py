"""How far apart two pieces of knowledge are: pure functions, (student, teacher) in, scalar out.

Each carries ``.divergence``: True where it is zero for equal inputs and never negative. Each computes in float32 (in
float64 where given it) and never in half. None detaches the teacher as a whole: that is the distiller's part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from skd.errors import ArgumentError, ShapeError
from skd.knowledge._bound import Bound
from skd.knowledge._common import full_precision, require_positive, unit
from skd.knowledge.alignment import Estimator, alignment_kernel, kernel_alignment, require_same_samples


class DistanceFunction(Protocol):
    """A function that `distance` has marked."""

    __name__: str
    divergence: bool

    def __call__(self, student: Tensor, teacher: Tensor, **options: Any) -> Tensor: ...


def distance(*, divergence: bool, same_shape: bool = True) -> Callable[[Callable[..., Tensor]], DistanceFunction]:
    """Mark a function of (student, teacher) as a distance.

    Parameters
    ----------
    divergence : bool
        Whether it is zero for equal inputs and never negative. Kept as the function's attribute.
    same_shape : bool
        Whether both sides must have the same shape, which is then checked (broadcasting would hide a mistake).

    Returns
    -------
    callable
        A decorator; the decorated function computes in float32 or float64.

    Examples
    --------
    >>> import torch
    >>> @distance(divergence=True)
    ... def largest(student, teacher):
    ...     return (student - teacher).abs().amax()
    >>> largest(torch.zeros(2), torch.ones(2)), largest.divergence
    (tensor(1.), True)
    """

    def mark(function: Callable[..., Tensor]) -> DistanceFunction:
        precise = full_precision(function)

        @functools.wraps(function)
        def checked(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
            if same_shape:
                _require_same_shape(student, teacher)
            return precise(student, teacher, **options)

        marked = cast(DistanceFunction, checked)
        marked.divergence = divergence
        return marked

    return mark


def _require_same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(
            "student and teacher knowledge have different shapes",
            got=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
            remedy="give the transfer an adapter (ChannelAdapter or BasisAdapter for channels, SpaceAdapter for height "
            "and width, TokenAdapter for tokens), or use knowledge that doesn't depend on the size",
        )


class Distance(Bound):
    """A distance function with its options.

    Parameters
    ----------
    function : callable
        Marked by `distance`, defined at the top level of a module.
    **options
        Keyword-only options of `function`.

    Raises
    ------
    ArgumentError
        If the function isn't marked or has no name, an option isn't known, or an option is a tensor.

    Examples
    --------
    >>> import torch
    >>> from skd.distances import Distance, huber
    >>> d = Distance(huber, delta=0.5)
    >>> d, d.divergence, d(torch.zeros(2), torch.ones(2))
    (huber(delta=0.5), True, tensor(0.3750))
    """

    def __init__(self, function: Callable[..., Tensor], /, **options: object) -> None:
        super().__init__(function, **options)
        if not isinstance(getattr(function, "divergence", None), bool):
            raise ArgumentError(
                f"{self.function.__name__} doesn't say whether it is a divergence",
                remedy="decorate it with @skd.distances.distance(divergence=...)",
            )

    @property
    def divergence(self) -> bool:
        """Whether the distance is zero for equal inputs and never negative."""
        return cast(DistanceFunction, self.function).divergence

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance, a scalar."""
        return self.function(student, teacher, **dict(self.options))


@distance(divergence=True)
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error: mean (s − t)².

    Parameters
    ----------
    student, teacher : Tensor
        Knowledge of the same shape.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))
    tensor(2.5000)
    """
    return F.mse_loss(student, teacher)


@distance(divergence=True)
def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute error: mean |s − t|; arguments, result and errors as `mse`.

    Examples
    --------
    >>> import torch
    >>> l1(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))
    tensor(1.5000)
    """
    return F.l1_loss(student, teacher)


@distance(divergence=True)
def huber(student: Tensor, teacher: Tensor, *, delta: float = 1.0) -> Tensor:
    """Mean Huber loss (1964): ½ d² where |d| ≤ δ, δ (|d| − ½ δ) beyond. Arguments, result and errors as `mse`.

    Parameters
    ----------
    delta : float
        δ, positive. Divided by δ, this is the smooth L1 loss.

    Examples
    --------
    >>> import torch
    >>> huber(torch.tensor([0.5, 3.0]), torch.zeros(2))  # (0.125 + 2.5) / 2
    tensor(1.3125)
    """
    require_positive("delta", delta)
    return F.huber_loss(student, teacher, delta=delta)


@distance(divergence=True)
def frobenius(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of the unsquared norm ‖s_b − t_b‖₂ (AT, Zagoruyko & Komodakis 2017, eq. 2, p = 2).

    Arguments, result and errors as `mse`. The first axis is the batch.

    Examples
    --------
    >>> import torch
    >>> frobenius(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2))
    tensor(2.5000)
    """
    # The gradient at equal inputs is zero, not NaN: PyTorch's norm takes that subgradient.
    norms: Tensor = torch.linalg.vector_norm((student - teacher).flatten(1), dim=1)
    return norms.mean()


@distance(divergence=True)
def normalised_mse(student: Tensor, teacher: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Squared error in units of the teacher's energy: mean (s − t)² / mean t² (the structure distance of SKD).

    Give it centred knowledge (`centred`, or a `BasisAdapter` with a mean), so that the energy is that of what varies.
    0 is a perfect copy and 1 is what a student that outputs zero scores, on every layer. The denominator takes no
    gradient.

    Parameters
    ----------
    student, teacher : Tensor
        Knowledge of the same shape.
    eps : float
        The least energy that is divided by.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> normalised_mse(torch.zeros(3), torch.tensor([100.0, -100.0, 50.0]))
    tensor(1.)
    """
    require_positive("eps", eps)
    return F.mse_loss(student, teacher) / teacher.detach().square().mean().clamp_min(eps)


@distance(divergence=True)
def cosine(student: Tensor, teacher: Tensor, *, dim: int = 1) -> Tensor:
    """Mean of 1 − cos along one axis, as ½ ‖s/‖s‖ − t/‖t‖‖², which rounding can't make negative.

    Parameters
    ----------
    student, teacher : Tensor
        Knowledge of the same shape.
    dim : int
        The axis of the vectors; 1 compares the channels position by position (−1 in layout BNC).

    Returns
    -------
    Tensor
        Scalar in [0, 2].

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor(0.4000)
    """
    return (unit(student, dim) - unit(teacher, dim)).square().sum(dim).mean() / 2


@distance(divergence=True)
def kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback–Leibler divergence KL(t ‖ s) of log-probabilities: τ² mean Σ_n [ e^t (t − s) − e^t + e^s ].

    For log-probabilities the last two terms sum to zero and this is Σ e^t (t − s), as in KD (Hinton et al. 2015) and
    CWD (Shu et al. 2021). With them it is never negative for unnormalised inputs either.

    Parameters
    ----------
    student, teacher : Tensor
        Finite log-probabilities of the same shape, over the last axis (`channel_distribution`, `class_distribution`).
    temperature : float
        τ of both distributions; τ² keeps gradients of the same size for every τ.

    Returns
    -------
    Tensor
        Scalar: summed over the last axis, mean over the others.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.1308)
    """
    require_positive("temperature", temperature)
    probability = teacher.exp()
    terms = probability * (teacher - student) + (student.exp() - probability)
    # Each sum is non-negative; only its rounding can fall below.
    return temperature**2 * terms.sum(-1).clamp_min(0).mean()


@distance(divergence=True, same_shape=False)
def alignment_distance(student: Tensor, teacher: Tensor, *, estimator: Estimator = "debiased") -> Tensor:
    """1 − kernel alignment (CKA), as ½ ‖K − L‖² of kernels of norm 1, which rounding can't make negative.

    Parameters
    ----------
    student, teacher : Tensor
        (n, p) and (n, q): rows from `position_samples` on both sides; p and q may differ, so no channel adapter is
        needed.
    estimator : {"debiased", "centred", "plain"}
        See `alignment_kernel`.

    Returns
    -------
    Tensor
        Scalar in [0, 2]; 0 for samples equal up to rotation and scale. ½ where one side has no spread at all.

    Raises
    ------
    ShapeError
        If the numbers of rows differ, or there are too few.

    Examples
    --------
    >>> import torch
    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [-1.0, 3.0], [1.0, 1.0]])
    >>> alignment_distance(2 * rows, rows)
    tensor(0.)
    """
    require_same_samples(student, teacher)
    ours, theirs = (alignment_kernel(side, estimator=estimator) for side in (student, teacher))
    return (ours - theirs).square().sum() / 2


@distance(divergence=False, same_shape=False)
def negative_alignment(student: Tensor, teacher: Tensor, *, estimator: Estimator = "plain") -> Tensor:
    """−KA, as CAT (Jin et al. 2021) sums it: −1 for equal inputs, so not a divergence.

    Arguments as `alignment_distance`; CAT's rows are `batch_samples`. Its value is near −1 for independent
    features too: see `kernel_alignment`.

    Examples
    --------
    >>> import torch
    >>> round(negative_alignment(torch.eye(2), torch.eye(2)).item(), 4)
    -1.0
    """
    return -kernel_alignment(student, teacher, estimator=estimator)


DISTANCES: dict[str, DistanceFunction] = {
    function.__name__: function
    for function in (mse, l1, huber, frobenius, normalised_mse, cosine, kl, alignment_distance, negative_alignment)
}
"""Every distance of this module by name."""
