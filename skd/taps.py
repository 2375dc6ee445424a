"""Run a model; return its output and the features at the taps; substitute a feature."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skd._capture import Run, Spot, capture
from skd._tap import Layout, Tap, as_layout, channels, to_bcn
from skd.errors import ArgumentError, LayerNotFoundError, closest

__all__ = ["Layout", "Tap", "Taps", "as_layout", "channels", "to_bcn"]


class _Plan(NamedTuple):
    """The taps looked up in a model: spots to hook, and the ways to them, by which a later change is noticed."""

    model: nn.Module
    spots: tuple[Spot, ...]
    links: tuple[tuple[nn.Module, str, nn.Module], ...]  # parent, key, child
    modules: tuple[nn.Module, ...]  # on these ways


class Taps(nn.Module):
    """Runs a model and returns its output and the features at the taps.

    Hooks are attached when a forward begins and are gone when it ends, also by an exception; nothing is retained, and
    copies and pickles of the model hold nothing of skd. The same mechanism is traced by ``torch.compile`` with
    ``fullgraph=True``: compile this module or what wraps it, and not the model alone. The model isn't registered
    as a submodule unless asked for, as whoever holds the taps (a distiller) mostly registers it already.

    Parameters
    ----------
    model : nn.Module
        The network, as a plain module. It stays as it is: neither its mode nor its parameters are touched.
    taps : iterable of Tap or str
        Where to read; repeated ones count once.
    stop_early : bool
        End the forward after the last capture, with None as the output. Only in eager mode: a compiled forward runs to
        its end, and so does one with taps whose call counts from the last.
    register : bool
        Make the model a submodule, named ``network``, e.g. for ``nn.DataParallel``, which replicates only submodules.

    Raises
    ------
    LayerNotFoundError
        A tap names a layer that the model doesn't have.
    ArgumentError
        A tap lies inside a module that is compiled on its own, where hooks aren't seen; or an argument is no model or
        no taps.

    Notes
    -----
    A layer's own activation checkpoint recomputes it in the backward, when the hooks are gone; counts and features
    stay right. Compiled, a tap inside such a segment needs
    ``torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True``.

    In eager mode, a feature that the model changes in place after its capture is an error, unless its tap says
    ``clone=True``. In a compiled graph and in inference mode such a change can't be seen; features are always copied
    there. Two forwards of one model in two threads don't disturb each other.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> taps = Taps(model, ["0", "2:input"])
    >>> output, features = taps(torch.zeros(5, 3))
    >>> {str(tap): tuple(feature.shape) for tap, feature in features.items()}
    {'0': (5, 4), '2:input': (5, 4)}
    >>> output, _ = taps(torch.zeros(5, 3), substitute={"1": torch.ones(5, 4)})
    >>> torch.equal(output, model[2](torch.ones(5, 4)))
    True
    """

    def __init__(
        self, model: nn.Module, taps: Iterable[Tap | str], *, stop_early: bool = False, register: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ArgumentError("taps need a model", got=type(model).__name__, expected="an nn.Module")
        if isinstance(taps, (str, Tap)):
            raise ArgumentError("taps come as a list", got=repr(taps), remedy=f"give [{str(taps)!r}]")
        self._held = (model,)  # in a tuple, which nn.Module doesn't register
        if register:
            self.network = model
        self.taps = tuple(dict.fromkeys(Tap.of(tap) for tap in taps))
        self.stop_early = stop_early
        self._plan = self._look_up()

    @property
    def model(self) -> nn.Module:
        """The network."""
        network = self._modules.get("network")  # which is a replica's own, and may be empty, hence false
        return self._held[0] if network is None else network

    def extra_repr(self) -> str:
        return ", ".join(str(tap) or "''" for tap in self.taps) + (", stop_early=True" if self.stop_early else "")

    def forward(
        self, *args: Any, substitute: Mapping[Tap | str, Tensor] | None = None, **kwargs: Any
    ) -> tuple[Any, dict[Tap, Tensor]]:
        """Run the model.

        Parameters
        ----------
        *args, **kwargs
            What the model is given.
        substitute : mapping of Tap or str to Tensor, optional
            The layer's value at the tap is replaced by the tensor, of the same shape, and the run goes on; a feature
            that is read at the same place is the substitute. The layer itself still runs.

        Returns
        -------
        output : Any
            What the model returns, or None where it stopped early.
        features : dict of Tap to Tensor
            One for each tap, in the order of the taps, with gradient and dtype as the model made them.

        Raises
        ------
        FeatureError
            A tap wasn't reached, holds no tensor or several, was changed in place after its capture, or is in a
            reentrant checkpoint, which hides its gradient; or a substitute is in a checkpoint.
        ShapeError
            A substitute has another shape than the feature.
        LayerNotFoundError
            A substitute's tap names a layer that the model doesn't have.
        ArgumentError
            A substitute isn't a tensor, or its call counts from the last; or a tapped layer was compiled on its own.
        """
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self._refresh()
        spots = self._plan.spots if not substitute else self._with(substitute)
        run = Run(self.taps, len(spots), stop=self.stop_early and not compiling, compiling=compiling)
        output = capture(self.model, spots, run, args, kwargs)
        return output, run.result(spots)

    def _look_up(self) -> _Plan:
        model = self.model
        links: dict[tuple[nn.Module, str, nn.Module], None] = {}
        wanted: dict[tuple[nn.Module, str], list[tuple[int, int]]] = {}
        for slot, tap in enumerate(self.taps):
            module = _find(model, tap, links)
            wanted.setdefault((module, tap.side), []).append((tap.call, slot))
        spots = tuple(
            Spot(
                module,
                side,
                fixed=tuple(want for want in wants if want[0] >= 0),
                last=tuple(want for want in wants if want[0] < 0),
            )
            for (module, side), wants in wanted.items()
        )
        modules = dict.fromkeys([*(parent for parent, _, _ in links), *(spot.module for spot in spots)])
        return _Plan(model, spots, tuple(links), tuple(modules))

    def _refresh(self) -> None:
        """Look the taps up again where the model changed (a replica, a layer replaced); refuse one compiled since."""
        if "_is_replica" in self.__dict__ and "network" not in self._modules:
            raise ArgumentError(
                "a replica of these taps doesn't hold its own model",
                remedy="Taps(..., register=True), or DistributedDataParallel",
            )
        if self._plan.model is not self.model or not all(
            parent._modules.get(key) is child for parent, key, child in self._plan.links
        ):
            self._plan = self._look_up()
        for module in self._plan.modules:
            if module._compiled_call_impl is not None:
                raise _compiled()

    def _with(self, substitute: Mapping[Tap | str, Tensor]) -> tuple[Spot, ...]:
        """The spots with the substitutes in their places."""
        spots = {(spot.module, spot.side): spot for spot in self._plan.spots}
        for key, tensor in substitute.items():
            tap = Tap.of(key)
            if not isinstance(tensor, Tensor):
                raise ArgumentError(f"the substitute for tap '{tap}' isn't a tensor", got=type(tensor).__name__)
            if tap.call < 0:
                raise ArgumentError(
                    f"tap '{tap}' can't be substituted, as no call is known to be the last before it is over",
                    remedy="count the call from 0",
                )
            place = (_find(self.model, tap, {}), tap.side)
            spot = spots.get(place) or Spot(*place)
            spots[place] = spot._replace(puts=(*spot.puts, (tap.call, tap, tensor)))
        return tuple(spots.values())


def _find(model: nn.Module, tap: Tap, links: dict[tuple[nn.Module, str, nn.Module], None]) -> nn.Module:
    """The module that a tap names; the steps to it are added to the links."""
    module = model
    for key in tap.layer.split(".") if tap.layer else ():
        if _is_wrapper(module):
            raise _compiled()
        child = module._modules.get(key)
        if child is None:
            known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
            raise LayerNotFoundError(f"the network has no layer {tap.layer!r}", remedy=closest(tap.layer, known))
        links[(module, key, child)] = None
        module = child
    return module


def _is_wrapper(module: nn.Module) -> bool:
    """Whether this is what ``torch.compile(model)`` returns."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # not imported, as that takes a second
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _compiled() -> ArgumentError:
    return ArgumentError(
        "a tap lies inside a module that is compiled on its own, where hooks aren't seen",
        remedy="give the plain model to skd, and compile what skd wraps around it",
    )
