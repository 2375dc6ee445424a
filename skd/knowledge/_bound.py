"""A function together with its options, as a value that can be called, compared, pickled and printed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from skd.errors import ArgumentError, closest
from skd.taps import Layout


@dataclass(frozen=True, init=False, repr=False)
class Bound:
    """Base of `Knowledge` and `Distance`; see there."""

    function: Callable[..., Tensor]
    options: tuple[tuple[str, object], ...]
    reserved: ClassVar[tuple[str, ...]] = ()

    def __init__(self, function: Callable[..., Tensor], /, **options: object) -> None:
        name = getattr(function, "__qualname__", "")
        if not name or "<" in name:
            raise ArgumentError(
                f"{type(self).__name__} takes a named function of a module, so that it can be pickled and printed",
                got=name or type(function).__name__,
                remedy="define it with def at the top level of a module, and give its options here as keywords",
            )
        parameters = inspect.signature(function).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.reserved]
        for option, value in options.items():
            if option not in known:
                raise ArgumentError(f"{name} has no option {option!r}", remedy=closest(option, known))
            if isinstance(value, Tensor):
                raise ArgumentError(
                    f"{name} can't keep a tensor as its option {option!r}, it wouldn't move with the distiller",
                    got=f"a tensor of shape {tuple(value.shape)}",
                    remedy="use a BasisAdapter, which holds it as a buffer",
                )
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    @classmethod
    def of(cls, function: Callable[..., Tensor]) -> Self:
        """`function` itself where it is one already, otherwise bound without options."""
        return function if isinstance(function, cls) else cls(function)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options)
        name: str = self.function.__name__
        return f"{name}({options})" if options else name


class Knowledge(Bound):
    """A knowledge function with its options.

    Parameters
    ----------
    function : callable
        ``(feature, *, layout, **options) -> Tensor``, defined at the top level of a module.
    **options
        Keyword-only options of `function`, except its layout, which is given with the feature.

    Raises
    ------
    ArgumentError
        If the function has no name, an option isn't known, or an option is a tensor.

    Examples
    --------
    >>> import torch
    >>> from skd.knowledge import Knowledge, attention
    >>> knowledge = Knowledge(attention, power=4)
    >>> knowledge, knowledge == Knowledge(attention, power=4), Knowledge.of(attention)
    (attention(power=4), True, attention)
    >>> knowledge(torch.ones(1, 3, 2, 2), layout="BCHW")
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """

    reserved = ("layout",)

    def __call__(self, feature: Tensor, *, layout: Layout = "BCHW") -> Tensor:
        """The knowledge in `feature`."""
        return self.function(feature, layout=layout, **dict(self.options))
