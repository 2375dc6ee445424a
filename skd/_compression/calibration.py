"""One pass over calibration data: what comes into every layer that reads channels, as mean and covariance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression.groups import Group
from skd._compression.layers import Port
from skd._measuring import arguments, quiet
from skd.errors import DataError, NonFiniteError
from skd.moments import Moments

LIMIT = 8192  # channels of a layer's input beyond which their covariance isn't taken: 0.5 GB


@dataclass(frozen=True)
class Reader:
    """How a layer's input becomes (B, C, N): of a flattened map, several features are positions of one channel."""

    layer: str
    width: int
    positions: int = 1

    def flat(self, module: nn.Module, given: Tensor) -> Tensor:
        """(B, C, N) of what the layer is given."""
        if isinstance(module, nn.Linear):
            rows = given.reshape(-1, self.width, self.positions)
            return rows if self.positions > 1 else rows.permute(2, 1, 0)
        ndim = {nn.Conv1d: 3, nn.ConvTranspose1d: 3, nn.Conv2d: 4, nn.ConvTranspose2d: 4}
        full = next((n for kind, n in ndim.items() if isinstance(module, kind)), 5)
        batched = given if given.ndim == full else given[None]
        return batched.flatten(2)


def readers(model: nn.Module, groups: Sequence[Group]) -> dict[str, Reader]:
    """The layers that read channels of groups which may be narrowed."""
    found: dict[str, Reader] = {}
    modules = dict(model.named_modules())
    for group in groups:
        for port, positions in group.ports.items():
            if port.side != "in" or group.whole is not None:
                continue
            module: Any = modules[port.layer]
            width = module.in_features if isinstance(module, nn.Linear) else module.in_channels
            count = positions.shape[1]
            regular = torch.equal(positions, positions[:, :1] + torch.arange(count))
            if count > 1 and not (
                isinstance(module, nn.Linear) and regular and not bool((positions[:, 0] % count).any())
            ):
                continue  # what is read is slices of the weights, without a lift
            if width // count <= LIMIT:
                found[port.layer] = Reader(port.layer, width // count, count)
    return found


def measure_inputs(
    model: nn.Module,
    wanted: Mapping[str, Reader],
    batches: Iterable[Any],
    inputs: Callable[[Any], Any] | None,
) -> dict[str, Moments]:
    """Moments of the inputs of these layers, all calls together, in float64 and in constant memory.

    Raises
    ------
    DataError
        No data, items of the wrong kind, or too few positions; says how many are needed.
    NonFiniteError
        A layer is given NaN or infinity; says which, and on which batch.
    """
    moments = {layer: Moments(reader.width) for layer, reader in wanted.items()}
    seen = 0

    def take(layer: str, module: nn.Module, given: Tensor) -> None:
        try:
            moments[layer].update(wanted[layer].flat(module, given))
        except NonFiniteError as error:
            raise NonFiniteError(
                f"layer {layer!r} is given NaN or infinity on batch {seen}",
                got=error.got,
                remedy="check this batch, or run the model in float32",
            ) from None

    with quiet(model), watched(model, wanted, take):
        for item in batches:
            args, kwargs = arguments(model, item if inputs is None else inputs(item), seen)
            model(*args, **kwargs)
            seen += 1
    if seen == 0:
        raise DataError("there are no data to calibrate on", got="0 batches", remedy="give at least one batch")
    for layer, found in moments.items():
        found.cpu()
        if 0 < found.count <= found.channels:
            raise DataError(
                f"too few positions for what layer {layer!r} is given",
                got=f"{found.count} positions for {found.channels} channels, in {seen} batches",
                expected=f"at least {found.channels + 1}",
                remedy="give more data, or larger inputs",
            )
    if moments and all(found.count == 0 or found.constant for found in moments.values()):
        raise DataError(
            "the calibration data are constant, so they have no directions to keep", remedy="give varied data"
        )
    return {layer: found for layer, found in moments.items() if found.count}


@contextmanager
def watched(model: nn.Module, layers: Iterable[str], take: Callable[[str, nn.Module, Tensor], None]) -> Iterator[None]:
    """Inside, `take` is given what these layers are given, at every call."""

    def hook_for(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            take(layer, module, given.detach())

        return hook

    handles = [
        model.get_submodule(layer).register_forward_pre_hook(hook_for(layer), with_kwargs=True) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def energy_matrix(group: Group, wanted: Mapping[str, Reader], moments: Mapping[str, Moments]) -> Tensor | None:
    """(n, n) of trace 1: the mean over the group's readers of their covariance over its trace; None without readers."""
    found = []
    for port, positions in group.ports.items():
        if port.side == "in" and port.layer in moments:
            where = positions[:, 0] // wanted[port.layer].positions
            covariance = moments[port.layer].cov[where][:, where]
            trace = covariance.diagonal().sum()
            if float(trace) > 0:
                found.append(covariance / trace)
    return torch.stack(found).mean(0) if found else None


__all__ = ["Port", "Reader", "energy_matrix", "measure_inputs", "readers", "watched"]
