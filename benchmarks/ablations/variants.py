"""Other shapes of KBStyle, made by exchanging parts of one: the product's code has no switches for what lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kbstyle_example.layers import Block, conv3, doubled
from kbstyle_example.moments import StyleCode, modulated, normalised
from kbstyle_example.networks import Decoder, Encoder, KBStyle, KBStyleConfig
from kbstyle_example.weights_file import encoded
from skd.errors import ArgumentError

Change: TypeAlias = Callable[[KBStyle], None]  # exchanges parts of the network in place
Features: TypeAlias = tuple[Tensor, Tensor, Tensor]
GROUPS = 4


class Unstyled(nn.Module):
    """The decoder's blocks, the same for every style."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor, _: object) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class PlainBlock(nn.Module):
    """Residual block of two plain 3×3 convolutions, the style between them as in `Block`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.act, self.out = conv3(width, width), nn.ReLU(), conv3(width, width)
        with torch.no_grad():
            self.out.weight.mul_(0.3)

    def forward(self, x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        middle = self.mix(x)
        if gain is not None and shift is not None:
            middle = torch.addcmul(shift, middle, 1 + gain)
        return x + self.out(self.act(middle))


class OwnStatistics(Encoder):
    """Levels 1 and 2 leave with mean 0 and deviation 1: what the decoder adds is normalised by its own statistics."""

    def forward(self, image: Tensor) -> Features:
        one, two, three = super().forward(image)
        return normalised(one), normalised(two), three


class WithoutSkip(Encoder):
    """The decoder is given zeros for one level."""

    def __init__(self, *args: Any, level: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.level = level

    def forward(self, image: Tensor) -> Features:
        one, two, three = super().forward(image)
        return (torch.zeros_like(one), two, three) if self.level == 1 else (one, torch.zeros_like(two), three)


class AfterDoubling(Decoder):
    """The decoder of the base: its 3×3 stand after the doublings, as KBStyle's did when the arms were run."""

    def forward(self, content: Features, style: StyleCode, known: Any = ()) -> Tensor:
        all_known = (*known, None, None, None)
        x = self._level3(content[2], style, all_known[0])
        x = self._level2(self.up2(doubled(x)) + content[1], style, all_known[1])
        x = self.level1(modulated(self.up1(doubled(x)) + content[0], style.level1, all_known[2]))
        return self.output(x) + 0.5


class WithoutModulation(AfterDoubling):
    """One level is neither normalised nor given the style's statistics."""

    def __init__(self, *args: Any, level: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.level = level

    def forward(self, content: Features, style: StyleCode, known: Any = ()) -> Tensor:
        all_known = [*known, None, None, None][:3]
        all_known[3 - self.level] = style[self.level - 1]  # (x − μ) · (σ / σ) + μ is x
        return super().forward(content, style, all_known)


def _same_weights(new: Any, old: nn.Module) -> Any:
    if next(old.parameters()).device.type != "meta":
        new.load_state_dict(old.state_dict())
    return new


def without_film(network: KBStyle) -> None:
    """Strokes are the same for every style, but for their strength and colour."""
    for name in ("level3", "level2"):
        setattr(network.decoder, name, Unstyled(getattr(network.decoder, name).blocks))


def strided_entrance(network: KBStyle) -> None:
    """A 3×3 convolution of stride 2 in place of space-to-depth and a 3×3 convolution."""
    for encoder in (network.content_encoder, network.style_encoder):
        encoder.level1 = nn.Sequential(nn.Identity(), conv3(3, network.config.widths[0], stride=2), nn.ReLU())


def plain_blocks(network: KBStyle) -> None:
    """Two plain 3×3 convolutions in place of 7×7 depthwise and two pointwise ones."""
    for parent in [module for module in network.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, Block):
                setattr(parent, name, PlainBlock(child.mix.in_channels))


def grouped_blocks(network: KBStyle) -> None:
    """3×3 in four groups in place of 7×7 depthwise."""
    for block in [module for module in network.modules() if isinstance(module, Block)]:
        width = block.mix.in_channels
        block.reach = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", groups=GROUPS)


def near_blocks(network: KBStyle) -> None:
    """3×3 depthwise in place of 7×7: a shorter reach."""
    for block in [module for module in network.modules() if isinstance(module, Block)]:
        width = block.mix.in_channels
        block.reach = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", groups=width)


def own_statistics(network: KBStyle) -> None:
    """What the decoder adds at levels 1 and 2 is normalised by its own statistics first."""
    network.content_encoder = _same_weights(OwnStatistics(network.config.widths, blocks=0), network.content_encoder)


def encoder_blocks(network: KBStyle) -> None:
    """The content encoder has as many blocks as the decoder."""
    config = network.config
    network.content_encoder = Encoder(config.widths, blocks=config.deep_blocks)
    network.content_encoder.level2.extend([Block(config.widths[1]) for _ in range(config.fine_blocks)])


def without_skip(level: int) -> Change:
    """The decoder isn't given what the content encoder found at this level."""

    def change(network: KBStyle) -> None:
        encoder = WithoutSkip(network.config.widths, blocks=0, level=level)
        network.content_encoder = _same_weights(encoder, network.content_encoder)

    return change


def without_modulation(level: int) -> Change:
    """This level of the decoder keeps its own statistics."""

    def change(network: KBStyle) -> None:
        config = network.config
        decoder = WithoutModulation(
            config.widths, fine_blocks=config.fine_blocks, deep_blocks=config.deep_blocks, level=level
        )
        network.decoder = _same_weights(decoder, network.decoder)

    return change


def before_doubling(network: KBStyle) -> None:
    """On the way up the 3×3 stand before the doublings, as they do in KBStyle now."""
    config = network.config
    decoder = Decoder(config.widths, fine_blocks=config.fine_blocks, deep_blocks=config.deep_blocks)
    network.decoder = _same_weights(decoder, network.decoder)


def without_style_blocks(network: KBStyle) -> None:
    """The style encoder takes its deepest statistics right after the last convolution."""
    network.style_encoder = Encoder(network.config.widths, blocks=0)


def build(config: KBStyleConfig, change: Change | None, seed: int) -> KBStyle:
    """The base, or a changed one, with random first weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = KBStyle(config)
        network.decoder.__class__ = AfterDoubling  # the same layers in another order
        if change is not None:
            change(network)
        return network


def fitted(
    config: KBStyleConfig, change: Change | None, *, multiple: int = 1, tolerance: float = 0.03
) -> KBStyleConfig:
    """The configuration whose changed network has as many bytes as the unchanged one of `config`.

    Widths are scaled together, as evenly as whole numbers allow: of those within 1 % of the bytes, the most even ones;
    else, within the tolerance, those nearest in bytes. Widths of levels 2 and 3 are multiples of `multiple`.

    Raises
    ------
    ArgumentError
        None is within the tolerance.

    Examples
    --------
    >>> fitted(KBStyleConfig(widths=(8, 20, 32)), None).widths
    (8, 20, 32)
    """
    budget, (first, second, third) = len(encoded(build(config, None, 0))), config.widths

    def changed(*widths: int) -> KBStyleConfig:
        return KBStyleConfig(**{**config.as_dict(), "widths": widths})

    def nearest(width: float, step: int) -> int:
        return max(step, step * round(width / step))

    def weights(*widths: int) -> int:
        with torch.device("meta"):
            return 4 * sum(p.numel() for p in build(changed(*widths), change, 0).parameters())

    if 4 * sum(p.numel() for p in build(config, None, 0).parameters()) == weights(*config.widths):
        return config
    deepest = multiple
    while weights(nearest(first * deepest / third, 1), nearest(second * deepest / third, multiple), deepest) < budget:
        deepest += multiple
    found: list[tuple[bool, float, KBStyleConfig]] = []
    for last in range(max(multiple, deepest - 2 * multiple), deepest + 2 * multiple + 1, multiple):
        scale = last / third
        middles = {nearest(second * scale + by * multiple, multiple) for by in (-1, 0, 1)}
        outers = {nearest(first * scale + by, 1) for by in (-1, 0, 1)}
        for one, two in itertools.product(outers, middles):
            if abs(weights(one, two, last) / budget - 1) > 3 * tolerance:
                continue  # before the file is made, which takes longer
            apart = abs(len(encoded(build(changed(one, two, last), change, 0))) / budget - 1)
            uneven = abs(one / (first * scale) - 1) + abs(two / (second * scale) - 1)
            if apart <= tolerance:
                found.append((apart > 0.01, uneven if apart <= 0.01 else apart, changed(one, two, last)))
    if not found:
        raise ArgumentError("no widths give equal bytes", got=f"{budget} bytes", expected=f"within {tolerance:.0%}")
    return min(found, key=lambda each: each[:2])[2]
