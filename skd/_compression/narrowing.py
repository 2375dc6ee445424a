"""A copy of a network with some of its channels; and the proof, by running it, that they are the right ones."""

from __future__ import annotations

import contextlib
import copy
import math
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from skd._compression import attention
from skd._compression.groups import Group
from skd._compression.layers import Port, is_depthwise, narrow, ports_of
from skd._values import tensors

Keep = Mapping[int, Tensor]  # number of a group → the atoms it keeps, ascending


def kept_positions(groups: Sequence[Group], keep: Keep, model: nn.Module) -> dict[Port, Tensor]:
    """For each side of a layer that loses channels, the positions that stay, ascending."""
    stays: dict[Port, Tensor] = {}
    for k, atoms in keep.items():
        for port, positions in groups[k].ports.items():
            if port not in stays:
                stays[port] = torch.ones(width_of(port, model), dtype=torch.bool)
            stays[port][positions.flatten()] = False
            stays[port][positions[atoms].flatten()] = True
    return {port: mask.nonzero().flatten() for port, mask in stays.items()}


def width_of(port: Port, model: nn.Module) -> int:
    """Channels of a side of a layer, or of a parameter."""
    try:
        return ports_of(model.get_submodule(port.layer))[port.side]
    except AttributeError:
        return model.get_parameter(port.layer).shape[parameter_dim(model.get_parameter(port.layer))]


def parameter_dim(parameter: nn.Parameter) -> int:
    """The dimension of a parameter of no known layer that counts channels: the last one above 1."""
    return max((dim for dim, size in enumerate(parameter.shape) if size > 1), default=0)


def narrowed(model: nn.Module, groups: Sequence[Group], keep: Keep) -> nn.Module:
    """A copy of the network that keeps these atoms; its other weights are the network's."""
    twin = copy.deepcopy(model)
    by_layer: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for port, kept in kept_positions(groups, keep, model).items():
        by_layer[port.layer][port.side] = kept
    sharing = _sharing(twin)
    for layer, sides in by_layer.items():
        try:
            module = twin.get_submodule(layer)
        except AttributeError:
            owner, _, name = layer.rpartition(".")
            old = twin.get_parameter(layer)
            new = old.detach().index_select(parameter_dim(old), sides["both"].to(old.device))
            twin.get_submodule(owner)._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        else:
            narrow(module, sides)
    for k, atoms in keep.items():
        if groups[k].head_count:
            attention.resize(twin, groups[k].layers, groups[k].width, len(atoms))
        if groups[k].scaled:
            attention.scale_queries(twin, groups[k].layers, len(atoms) / groups[k].width)
    for places in sharing:
        owner, _, name = places[0].rpartition(".")
        first = twin.get_submodule(owner)._parameters[name]
        for place in places[1:]:
            owner, _, name = place.rpartition(".")
            twin.get_submodule(owner)._parameters[name] = first
    return twin


@contextlib.contextmanager
def norms_following(model: nn.Module) -> Iterator[None]:
    """While it is open, norms without weights take on the number of channels that they are given.

    They have nothing to narrow, and no place in the graph, but know a number, and some check it.
    """

    def follow(module: Any, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            batched = args[0].ndim == SIZES[type(module)]
            module.num_features = args[0].shape[1 if batched else 0]

    handles = [
        module.register_forward_pre_hook(follow)
        for module in model.modules()
        if type(module) in SIZES and not module.affine and not module.track_running_stats
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# Dimensions of a batch, for each norm that may have no weights.
SIZES: dict[type[Any], int] = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}


def _sharing(model: nn.Module) -> list[list[str]]:
    places: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places[id(parameter)].append(name)
    return [names for names in places.values() if len(names) > 1]


def find_breaking(
    model: nn.Module,
    groups: Sequence[Group],
    units: Sequence[Sequence[int]],
    run: Callable[[nn.Module], Any],
) -> dict[int, str]:
    """Which units can't be narrowed, with the reason: found by narrowing them and running the network.

    In one copy with random weights the dropped channels are silenced (nothing makes them, nothing reads them), from
    another they are gone; where the two give the same, nothing else knew of them. Norms over channels count as their
    scale and shift alone here, as what they compute does change with the number of channels.
    """
    example = _randomised(model)
    reasons: dict[int, str] = {}
    queue = [list(range(len(units)))]
    while queue:
        trial = queue.pop()
        if not trial:
            continue
        keep = {k: atoms for number in trial for k, atoms in _of_unit(groups, units[number], number).items()}
        reason = _difference(example, groups, keep, run)
        if reason is None:
            continue
        if len(trial) == 1:
            reasons[trial[0]] = reason
        else:
            middle = len(trial) // 2
            queue += [trial[:middle], trial[middle:]]
    return reasons


def half(group: Group, share: Fraction = Fraction(1, 2), seed: int = 0) -> Tensor:
    """About this share of the atoms, as many of each cell, scattered."""
    count = max(1, int(group.width // group.step * share))
    numbers = torch.randperm(group.width, generator=torch.Generator().manual_seed(1000 * seed + group.width))
    chosen = [numbers[group.cells[numbers] == cell][:count] for cell in range(group.step)]
    return torch.cat(chosen).sort().values


def _of_unit(groups: Sequence[Group], unit: Sequence[int], number: int) -> dict[int, Tensor]:
    """What the trial keeps of a unit: half or less, another share than its neighbours, and other atoms.

    Units that only fit each other as they are would otherwise pass for free ones. Within a unit the share is one that
    all of its groups can have.
    """
    parts = math.gcd(*(groups[k].width // groups[k].step for k in unit))
    most = parts // 2
    share = Fraction(most - number % most, parts) if most > 0 else Fraction(1, 2)
    return {k: half(groups[k], share, number) for k in unit}


def _difference(model: nn.Module, groups: Sequence[Group], keep: Keep, run: Callable[[nn.Module], Any]) -> str | None:
    try:
        small = narrowed(model, groups, keep)
    except Exception as error:
        return f"it can't be narrowed: {_first_line(error)}"
    silent = copy.deepcopy(model)
    for k, atoms in keep.items():
        gone = torch.ones(groups[k].width, dtype=torch.bool)
        gone[atoms] = False
        for port, positions in groups[k].ports.items():
            _silence(silent, port, positions[gone].flatten())
    for twin in (small, silent):
        _plain_norms(twin)
    try:
        with norms_following(small):
            ours = [value for _, value in tensors(run(small))]
    except Exception as error:
        return f"narrower, the network doesn't run: {_first_line(error)}"
    theirs = [value for _, value in tensors(run(silent))]
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        return "narrower, the network's output has another shape"
    for one, other in zip(ours, theirs, strict=True):
        if one.is_floating_point():
            scale = float(other.abs().max())
            if not float((one - other).abs().max()) <= 1e-3 * scale:
                return "something in the network depends on all of its channels"
    return None


def _silence(model: nn.Module, port: Port, gone: Tensor) -> None:
    with torch.no_grad():
        try:
            module: Any = model.get_submodule(port.layer)
        except AttributeError:
            parameter = model.get_parameter(port.layer)
            parameter.data.index_fill_(parameter_dim(parameter), gone, 0.0)
            return
        if isinstance(module, nn.modules.conv._ConvNd) and port.side == "in" and module.groups > 1:
            _silence_grouped(module, gone)
            return
        dim = 0
        if isinstance(module, nn.modules.conv._ConvNd) and not is_depthwise(module):
            dim = int((port.side == "in") != module.transposed)
        elif isinstance(module, nn.Linear):
            dim = int(port.side == "in")
        elif isinstance(module, nn.Embedding):
            dim = 1
        elif isinstance(module, nn.LayerNorm):
            dim = -1
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and module.transposed and dim == 1:
            size = module.out_channels // module.groups
            weight = module.weight.data.view(module.groups, -1, *module.weight.shape[1:])
            for channel in gone.tolist():
                weight[channel // size, :, channel % size] = 0.0
        elif module.weight is not None:
            module.weight.data.index_fill_(dim, gone, 0.0)
        if port.side != "in" and getattr(module, "bias", None) is not None:
            module.bias.data.index_fill_(-1, gone, 0.0)


def _silence_grouped(module: Any, gone: Tensor) -> None:
    size = module.in_channels // module.groups
    if module.transposed:
        module.weight.data.index_fill_(0, gone, 0.0)
        return
    weight = module.weight.data.view(module.groups, -1, *module.weight.shape[1:])
    for channel in gone.tolist():
        weight[channel // size, :, channel % size] = 0.0


def _plain_norms(model: nn.Module) -> None:
    """Norms over channels become their scale and shift."""

    def forward(self: Any, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        shape = (1, -1, *(1,) * (x.ndim - 2)) if isinstance(self, nn.GroupNorm) else self.weight.shape
        bias = getattr(self, "bias", None)
        out: Tensor = x * self.weight.view(shape)
        return out if bias is None else torch.add(out, bias.view(shape))

    for module in model.modules():
        if is_norm(module) and not isinstance(module, nn.modules.batchnorm._NormBase):
            module.forward = types.MethodType(forward if module.weight is not None else _same, module)


def _same(_self: Any, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return x


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises over channels, as far as its kind and its name tell (T5LayerNorm, RMSNorm, …)."""
    weight: Any = getattr(module, "weight", False)
    if weight is False or any(True for _ in module.children()):
        return False
    return "norm" in type(module).__name__.lower() and (weight is None or weight.ndim >= 1)


def _randomised(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights are random, so that none is zero by chance or by initialisation."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in twin.modules():
            module.training = False
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.is_floating_point():
                    continue
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                if parameter.ndim < 2:
                    parameter.copy_(0.1 * noise + (1.0 if name == "weight" else 0.0))
                else:
                    fan = parameter[0].numel() if not isinstance(module, nn.Embedding) else 1
                    parameter.copy_(noise * (2 / fan) ** 0.5)
    return twin


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"
