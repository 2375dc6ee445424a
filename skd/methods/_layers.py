"""The layers that a plan names, and the base of the methods that work on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, TypedDict, get_args

from torch import Tensor, nn

from skd.adapters import Adapter, Chain, ChannelAdapter, SpaceAdapter
from skd.distances import mse, normalised_mse
from skd.errors import ArgumentError, LayerNotFoundError, ShapeError
from skd.knowledge import raw
from skd.matching import Plan
from skd.methods.symmetric import Sides
from skd.methods.transfer import Method, Transfer
from skd.moments import Moments
from skd.pairing import SymmetricPair
from skd.schedules import Scaled, Weight
from skd.spectra import Spectra
from skd.taps import Layout, Tap

_EVERY: tuple[Layout, ...] = get_args(Layout)
SPATIAL: tuple[Layout, ...] = ("BCL", "BCHW", "BCDHW")
POSITIONS: tuple[Layout, ...] = (*SPATIAL, "BNC")
ONE_POSITION = "it compares positions, and a vector has one"


class Layer(NamedTuple):
    """A layer of the teacher, and its counterpart in the student.

    Attributes
    ----------
    pair, side : str
        The teacher's pair, and "encoder", "decoder" or "companion" (numbered where a pair has several).
    teacher, student : Tap
    width, student_width : int
        Their channels.

    Examples
    --------
    >>> layer = Layer("1/2", "encoder", Tap("down"), Tap("small"), 32, 8)
    >>> layer.name, layer.layout, layer.adapter()
    ('1/2/encoder', 'BCHW', Chain(
      BCHW
      (adapters): ModuleList(
        (0): ChannelAdapter(8 → 32, BCHW)
        (1): SpaceAdapter(to the reference, BCHW)
      )
    ))
    """

    pair: str
    side: str
    teacher: Tap
    student: Tap
    width: int
    student_width: int

    @property
    def name(self) -> str:
        """What the names of the layer's terms begin with."""
        return f"{self.pair}/{self.side}"

    @property
    def layout(self) -> Layout:
        """The features' layout."""
        return self.teacher.layout or "BCHW"  # pairings state every other layout

    def space(self) -> Adapter | None:
        """From the student's size to the teacher's; None where the layout has no space."""
        return SpaceAdapter(layout=self.layout) if self.layout in SPATIAL else None

    def channels(self, *, always: bool = False, bias: bool = True) -> Adapter | None:
        """A learned linear map from the student's width to the teacher's; None where they are equal, unless `always`.

        One that isn't needed starts as the identity.
        """
        if self.student_width == self.width and not always:
            return None
        init: Literal["kaiming", "identity"] = "identity" if self.student_width == self.width else "kaiming"
        return ChannelAdapter(self.student_width, self.width, layout=self.layout, bias=bias, init=init)

    def adapter(self, *, always: bool = False, bias: bool = True) -> Adapter | None:
        """`channels`, then `space`."""
        return chain(self.channels(always=always, bias=bias), self.space())


def chain(*adapters: Adapter | None) -> Adapter | None:
    """Those adapters that there are, one after the other."""
    some = [adapter for adapter in adapters if adapter is not None]
    return Chain(*some) if len(some) > 1 else some[0] if some else None


class Common(TypedDict, total=False):
    """The options that every `LayerMethod` has."""

    sides: Sides
    weight: Weight | None
    output: Weight


class LayerMethod(Method):
    """Base of the methods that compare the layers of a plan; a subclass says in `rows` how.

    Parameters
    ----------
    plan : Plan
        Teacher pairs matched to student pairs, from `match`.
    spectra : Spectra, optional
        The teacher's, from `measure`; few methods need them.
    sides : {"both", "encoder", "decoder"}
        Which sides of the pairs count. Companions count as encoder, as they do in `SKD`.
    weight : float or schedule, optional
        Of the features' terms; `default_weight`, the paper's, if not given. 0 leaves them out.
    output : float or schedule
        Of the term on the networks' outputs, ‖y_S − y_T‖² / ‖y_T‖², the same for every method so that they compare;
        0 leaves it out (needed where the output isn't one tensor).

    Raises
    ------
    ArgumentError
        There are no such sides, or the method has no meaning for the layout of the plan's features.

    Notes
    -----
    `transfers` raises ArgumentError where nothing is left to distil.

    Examples
    --------
    A method is a short file:

    >>> from skd.distances import cosine
    >>> class Cosine(LayerMethod):
    ...     default_weight = 2.0
    ...     def rows(self):
    ...         return [self.row(layer, "cosine", distance=cosine, adapter=layer.adapter()) for layer in self.layers]
    >>> teacher = SymmetricPair("1/2", Tap("down"), Tap("up"), 32, 32)
    >>> student = SymmetricPair("1/2", Tap("small"), Tap("big"), 8, 8)
    >>> for row in Cosine(Plan(((teacher, student),)), sides="decoder").transfers():
    ...     print(row)
    1/2/decoder/cosine: up → big, raw, cosine, weight 2.0
    output: output → output, raw, normalised_mse, weight 1.0
    """

    default_weight: ClassVar[float] = 1.0
    layouts: ClassVar[tuple[Layout, ...]] = _EVERY
    """Of the features that the method has a meaning for."""
    why: ClassVar[str] = ""
    """Why it has none for the others."""

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra | None = None,
        *,
        sides: Sides = "both",
        weight: Weight | None = None,
        output: Weight = 1.0,
    ) -> None:
        require_choice("sides", sides, get_args(Sides))
        self.plan, self.spectra, self.sides = plan, spectra, sides
        self.weight: Weight = self.default_weight if weight is None else weight
        self.output = output
        self.layers = layers_of(plan, spectra, sides)
        for layer in self.layers:
            if layer.layout not in self.layouts:
                raise ArgumentError(
                    f"{type(self).__name__} has no meaning here: {self.why}",
                    got=f"features in layout {layer.layout} at '{layer.teacher}'",
                    expected=", ".join(self.layouts),
                )

    def transfers(self) -> Sequence[Transfer]:
        """The features' rows, then the output's."""
        rows = [*self.rows()] if weighs(self.weight) else []
        if weighs(self.output):
            rows.append(Transfer("output", "", "", raw, normalised_mse, self.output))
        if not rows:
            raise ArgumentError("nothing is distilled", got="all weights 0", remedy="give a weight above 0")
        return rows

    def rows(self) -> Sequence[Transfer]:
        """The features' rows; called once, when the distiller is made, so adapters made here are trained."""
        raise NotImplementedError

    def row(
        self,
        layer: Layer,
        term: str,
        knowledge: Callable[..., Tensor] = raw,
        distance: Callable[[Tensor, Tensor], Tensor] = mse,
        *,
        factor: float = 1.0,
        adapter: nn.Module | None = None,
        teacher_adapter: nn.Module | None = None,
    ) -> Transfer:
        """A row of one layer, called ``pair/side/term``, of the method's weight times `factor`."""
        return Transfer(
            f"{layer.name}/{term}",
            layer.student,
            layer.teacher,
            knowledge,
            distance,
            scaled(self.weight, factor),
            student_adapters=adapter,
            teacher_adapters=teacher_adapter,
        )

    def runs(self) -> list[list[Layer]]:
        """The layers in the order in which they run, one list a side: encoder, companions, decoder."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(layer.side, []).append(layer)
        return [layers[::-1] if side == "decoder" else layers for side, layers in found.items()]


def layers_of(plan: Plan, spectra: Spectra | None, sides: Sides) -> list[Layer]:
    """The plan's layers, pair by pair from the outermost: encoder, companions, decoder."""
    layers = []
    for teacher, student in plan:
        wide, narrow = teacher.width, student.width
        deep = teacher.decoder_width, student.decoder_width
        if sides != "decoder":
            layers.append(Layer(teacher.name, "encoder", teacher.encoder, student.encoder, wide, narrow))
            for index, (theirs, ours) in enumerate(zip(teacher.companions, student.companions, strict=False)):
                side = "companion" if len(teacher.companions) == 1 else f"companion{index + 1}"
                widths = deep if _width_of(teacher, index, spectra) != wide else (wide, narrow)
                layers.append(Layer(teacher.name, side, theirs, ours, *widths))
        if sides != "encoder":
            layers.append(Layer(teacher.name, "decoder", teacher.decoder, student.decoder, *deep))
    return layers


def _width_of(pair: SymmetricPair, index: int, spectra: Spectra | None) -> int:
    """A companion's width: measured, or else taken for the encoder's, which is the only one where sides are equal."""
    try:
        measured = None if spectra is None else spectra[pair.name]
    except LayerNotFoundError:
        measured = None
    if measured is None or measured.pair.companions != pair.companions:
        return pair.width
    return measured.companions[index].channels


def moments_of(layer: Layer, spectra: Spectra) -> Moments:
    """The measured mean and covariance of a layer of the teacher.

    Raises
    ------
    ShapeError
        The spectra don't have it.
    """
    found: dict[Tap, Moments] = {}
    for each in spectra:
        taps = each.pair.encoder, each.pair.decoder, *each.pair.companions
        found.update(zip(taps, (each.encoder, each.decoder, *each.companions), strict=True))
    if layer.teacher not in found:
        raise ShapeError(
            "the spectra are of other layers than the plan's",
            got=", ".join(map(str, found)),
            expected=layer.teacher,
            remedy="measure(teacher, pairing, data) with the pairing that is matched",
        )
    return found[layer.teacher]


def require_choice(what: str, value: object, known: Sequence[str]) -> None:
    """Raise ArgumentError unless the option has one of its values."""
    if value not in known:
        expected = ", ".join(known[:-1]) + f" or {known[-1]}"
        raise ArgumentError(f"there is no such {what}", got=repr(value), expected=expected)


def weighs(weight: Weight) -> bool:
    """Whether a weight is more than a plain 0."""
    return callable(weight) or weight != 0


def scaled(weight: Weight, factor: float) -> Weight:
    """A weight times a number."""
    if callable(weight):
        return weight if factor == 1 else Scaled(weight, factor)
    return weight * factor
