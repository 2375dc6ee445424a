"""Where a feature is read: the tap, its short form, and what the feature's dimensions mean."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from torch import Tensor

from skd.errors import ArgumentError, ShapeError

Path = tuple[str | int, ...]
Layout = Literal["BCHW", "BCDHW", "BCL", "BNC", "BC"]

_LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)
_LAYOUT_OF_NDIM: Final[dict[int, Layout]] = {2: "BC", 4: "BCHW", 5: "BCDHW"}
_NDIM_OF_LAYOUT: Final[dict[Layout, int]] = {name: len(name) for name in _LAYOUTS}

_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_INDEX = re.compile(rf"\[(-?[0-9]+|{_STRING})\]", re.DOTALL)
_PLAIN = re.compile(r"""[^#:\[\]'"]*""", re.DOTALL)
_TAP = re.compile(
    rf"(?:(?P<quoted>{_STRING})|(?P<plain>{_PLAIN.pattern}))"
    rf"(?:\#(?P<call>-?[0-9]+))?(?::(?P<side>input|output))?(?P<path>(?:\[(?:-?[0-9]+|{_STRING})\])*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Tap:
    """A named place where a feature is read, or replaced by another.

    Parameters
    ----------
    layer : str
        Dotted module name, as in ``model.named_modules()``; ``""`` is the whole network.
    call : int
        Which call of the layer in one forward run, from 0; negative counts from the last. A module that is known by
        several names has one count for all of them.
    side : {"output", "input"}
        What the layer returns, or what it is given. An input is addressed as ``[0]``, ``[1]``, … for positional
        arguments and ``['name']`` for keyword arguments.
    path : tuple of str or int
        Picks the tensor out of a tuple, list, dict, dataclass or ``ModelOutput``. ``()`` is the value itself, or its
        only tensor.
    layout : {"BCHW", "BCDHW", "BCL", "BNC", "BC"}, optional
        What the feature's dimensions mean. Without it 4, 5 and 2 dimensions are read as BCHW, BCDHW and BC; three
        dimensions can't be told and must be stated where it matters.
    clone : bool
        Copy the feature at capture: for layers that are followed by an in-place operation. A substitute is copied too.
    channels_last : bool
        The layer returns a map as (B, H, W, C) or (B, D, H, W, C). The feature is given as BCHW or BCDHW, and so is a
        substitute.

    Raises
    ------
    ArgumentError
        A field has a value that can't be used.

    Examples
    --------
    >>> Tap("decoder.up1", call=-1, path=(0,))
    Tap(layer='decoder.up1', call=-1, side='output', path=(0,), layout=None, clone=False)
    >>> str(Tap("decoder.up1", call=-1, path=(0,)))
    'decoder.up1#-1[0]'
    """

    layer: str
    call: int = 0
    side: Literal["output", "input"] = "output"
    path: Path = ()
    layout: Layout | None = None
    clone: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, str], ...] = (
            ("layer", isinstance(self.layer, str), "a dotted module name"),
            ("call", type(self.call) is int, "an int"),
            ("side", self.side in ("output", "input"), "'output' or 'input'"),
            ("path", _is_path(self.path), "a tuple of str and int"),
            ("layout", self.layout is None or self.layout in _LAYOUTS, "None or one of " + ", ".join(_LAYOUTS)),
            ("clone", type(self.clone) is bool, "a bool"),
            ("channels_last", type(self.channels_last) is bool, "a bool"),
        )
        for name, good, expected in checks:
            if not good:
                raise ArgumentError(f"a tap can't have this {name}", got=repr(getattr(self, name)), expected=expected)

    @classmethod
    def of(cls, tap: Tap | str) -> Tap:
        """A tap from its short form: ``layer``, ``#call``, ``:side`` and ``[path]``, in this order.

        A layer whose name holds one of ``# : [ ] ' "`` is written in quotes. A tap is returned as it is.

        Raises
        ------
        ArgumentError
            The text isn't a tap.

        Examples
        --------
        >>> Tap.of("block#-1").call, Tap.of("enc:input").side, Tap.of("enc['hidden'][0]").path
        (-1, 'input', ('hidden', 0))
        """
        if isinstance(tap, Tap):
            return tap
        found = _TAP.fullmatch(tap) if isinstance(tap, str) else None
        if found is None:
            raise ArgumentError(
                "this isn't a tap", got=repr(tap), expected="'layer', 'layer#1', 'layer:input', 'layer[0]' or a Tap"
            )
        quoted, plain, call, side, path = found.group("quoted", "plain", "call", "side", "path")
        return cls(
            layer=plain if quoted is None else str(ast.literal_eval(quoted)),
            call=int(call or 0),
            side="input" if side == "input" else "output",
            path=tuple(ast.literal_eval(key) if key[0] in "'\"" else int(key) for key in _INDEX.findall(path)),
        )

    def __repr__(self) -> str:
        shown = [
            field.name for field in dataclasses.fields(self) if field.name != "channels_last" or self.channels_last
        ]
        return f"Tap({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __str__(self) -> str:
        layer = self.layer if _PLAIN.fullmatch(self.layer) else repr(self.layer)
        call = f"#{self.call}" if self.call else ""
        return layer + call + (":input" if self.side == "input" else "") + brackets(self.path)

    def to_json(self) -> dict[str, Any]:
        """The tap as a dict of plain values, for JSON.

        Examples
        --------
        >>> Tap.from_json(Tap("enc", layout="BNC").to_json()) == Tap("enc", layout="BNC")
        True
        """
        return {**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, "path": [*self.path]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tap:
        """The tap that `to_json` wrote.

        Raises
        ------
        ArgumentError
            A key is missing or unknown, or a value can't be used.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or "layer" not in data or not known.issuperset(data):
            got = sorted(map(str, data)) if isinstance(data, Mapping) else repr(data)
            raise ArgumentError("this isn't a tap's JSON", got=got, expected=f"'layer' and some of {sorted(known)}")
        path = data.get("path", ())
        return cls(**{**data, "path": tuple(path) if isinstance(path, list) else path})


def brackets(path: Path) -> str:
    """A path as it is written behind a layer's name."""
    return "".join(f"[{key!r}]" for key in path)


def _is_path(path: object) -> bool:
    return isinstance(path, tuple) and all(type(key) in (str, int) for key in path)


def as_layout(feature: Tensor, tap: Tap) -> Layout:
    """What the dimensions of a feature mean.

    Parameters
    ----------
    feature : Tensor
        The feature at the tap.
    tap : Tap
        Where it was read; its `layout` decides, else the number of dimensions.

    Raises
    ------
    ShapeError
        The layout doesn't fit the dimensions, or isn't stated and can't be told.

    Examples
    --------
    >>> import torch
    >>> as_layout(torch.zeros(2, 8, 4, 4), Tap("enc")), as_layout(torch.zeros(2, 9, 8), Tap("enc", layout="BNC"))
    ('BCHW', 'BNC')
    """
    layout = tap.layout or _LAYOUT_OF_NDIM.get(feature.ndim)
    if layout is None:
        raise ShapeError(
            f"the layout of the feature at tap '{tap}' can't be told from its shape",
            got=tuple(feature.shape),
            expected="2, 4 or 5 dimensions, or 3 with a stated layout",
            remedy=f'Tap({tap.layer!r}, …, layout="BCL"), or layout="BNC" for tokens'
            if feature.ndim == 3
            else "tap a layer that returns a batch of features",
        )
    if feature.ndim != _NDIM_OF_LAYOUT[layout]:
        raise ShapeError(
            f"the feature at tap '{tap}' doesn't fit its layout {layout}",
            got=tuple(feature.shape),
            expected=f"{_NDIM_OF_LAYOUT[layout]} dimensions",
        )
    return layout


def _check_layout(feature: Tensor, layout: Layout) -> None:
    if layout not in _LAYOUTS:
        raise ArgumentError("there is no such layout", got=repr(layout), expected=f"one of {', '.join(_LAYOUTS)}")
    if feature.ndim != _NDIM_OF_LAYOUT[layout]:
        raise ShapeError(
            f"a feature doesn't fit the layout {layout}",
            got=tuple(feature.shape),
            expected=f"{_NDIM_OF_LAYOUT[layout]} dimensions",
        )


def channels(feature: Tensor, layout: Layout) -> int:
    """The number of channels of a feature.

    Raises
    ------
    ArgumentError
        There is no such layout.
    ShapeError
        The layout doesn't fit the feature's dimensions.

    Examples
    --------
    >>> import torch
    >>> channels(torch.zeros(2, 8, 4, 4), "BCHW"), channels(torch.zeros(2, 9, 8), "BNC")
    (8, 8)
    """
    _check_layout(feature, layout)
    return feature.shape[2 if layout == "BNC" else 1]


def to_bcn(feature: Tensor, layout: Layout) -> Tensor:
    """A feature as (B, C, N), its positions flattened to one axis; a view wherever the strides allow it.

    Raises
    ------
    ArgumentError
        There is no such layout.
    ShapeError
        The layout doesn't fit the feature's dimensions.

    Examples
    --------
    >>> import torch
    >>> to_bcn(torch.zeros(2, 8, 4, 5), "BCHW").shape, to_bcn(torch.zeros(2, 8), "BC").shape
    (torch.Size([2, 8, 20]), torch.Size([2, 8, 1]))
    """
    _check_layout(feature, layout)
    if layout == "BNC":
        return feature.transpose(1, 2)
    return feature.unsqueeze(2) if layout == "BC" else feature.flatten(2)
