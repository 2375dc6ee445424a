"""Symmetric Knowledge Distillation: both sides of every pair, and what the encoder reads in the decoder's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple, cast, get_args

from torch import Tensor, nn

from skd.adapters import Adapter, BasisAdapter, Chain, ChannelAdapter, SpaceAdapter
from skd.distances import normalised_mse
from skd.errors import ArgumentError, LayerNotFoundError, ShapeError, closest
from skd.knowledge import Reread, centred, mean_std, raw
from skd.matching import Plan
from skd.methods.transfer import Method, Stage, Transfer
from skd.pairing import SymmetricPair
from skd.schedules import Ramp, Scaled, Weight
from skd.spectra import Kind, PairBasis, PairSpectra, Spectra
from skd.taps import Layout, Tap

Sides = Literal["both", "encoder", "decoder"]
Learned = Literal["learned", "learned_shared"]


class _Side(NamedTuple):
    """One layer of a pair, its counterpart in the student, and their widths; the teacher's basis, unless learned."""

    name: str
    teacher: Tap
    student: Tap
    widths: tuple[int, int]
    basis: Tensor | None = None
    lift: Tensor | None = None
    energy: float | None = None


class _Term(NamedTuple):
    """One row of a pair, before it has adapters."""

    name: str
    side: _Side
    knowledge: Callable[..., Tensor]
    weight: Weight


class SKD(Method):
    r"""Symmetric Knowledge Distillation, as this project reconstructs it.

    For every pair l and each of its sides X (encoder, decoder; companions count as encoder), with T the teacher's
    feature in the pair's basis, UᵀX_T, and S the student's feature:

    .. math:: L = \sum_l \alpha_l \sum_X \Big[ w_s \frac{\|\bar S - \bar T\|^2}{\|\bar T\|^2}
              + w_m \frac{\|m(S) - m(T)\|^2}{\|m(T)\|^2} \Big] + w_o \frac{\|y_S - y_T\|^2}{\|y_T\|^2}
              + w_r \frac{\|m(E(y_S)) - m(E(y_T))\|^2}{\|m(E(y_T))\|^2}

    A bar is the feature less its mean over positions, sample by sample (structure); m are the channels' means and
    standard deviations (statistics); y the outputs; E the teacher's encoder, which mirrors the decoder that made them
    and reads them again, where an output can be its input. Each term is in units of the teacher's own energy, so a
    weight means the same on every layer: 0 is a perfect copy, 1 what a student scores that says nothing.

    Parameters
    ----------
    plan : Plan
        Teacher pairs matched to student pairs, from `match`.
    spectra : Spectra
        The teacher's, from `measure`.
    sides : {"both", "encoder", "decoder"}
        Which sides count; the others are the controls that a claim about SKD is made against.
    basis : {"shared", "own", "linked", "subset", "own_subset", "learned", "learned_shared"}, optional
        Where the teacher's channels are compared with the student's: a basis from the spectra (`PairSpectra.basis`),
        or learned adapters from the student's width to the teacher's, one a side or one a pair (and width). By
        default the spectra's own choice: shared where both sides have equal widths in teacher and student. Where a
        student's side is as wide as the teacher's, the channels are compared as they are.
    structure, statistics : float, schedule, or (encoder, decoder) of them
        w_s and w_m. Rows of weight 0 are left out.
    output : float or schedule
        w_o; 0 leaves the outputs out (needed where the output isn't one tensor).
    reread : Reread, optional
        E: which of the teacher's layers read the outputs again. Without it that term is left out.
    rereading : float or schedule
        w_r.
    fade : int, optional
        Steps in which w_s and w_m go down to 0, by half a cosine. The features aren't read after that and cost nothing,
        unless they are all that is compared.
    pair_weights : mapping of pair name to float, optional
        α_l, by the teacher's pair names; 1 where not given.
    companions : bool
        Whether the pairs' companions count, those that both the teacher's pair and the student's have.
    distance : callable
        The distance of all terms.

    Raises
    ------
    ArgumentError
        A choice that isn't known, a weight for a pair that isn't there, or a schedule beside `fade`.
    ShapeError
        The plan and the spectra don't fit each other.

    Notes
    -----
    Source: KBStyle, IEEE TIP 33 (2024), doi 10.1109/TIP.2023.3335828, of which only the abstract is public: it says
    that SKD redefines the knowledge and compresses encoder and decoder symmetrically. The formula above is ours.

    Coordinates in a rotated basis are signed. Tap before the nonlinearity, or use ``basis="subset"``, whose coordinates
    are channels of the teacher; after a ReLU the statistics of a rotated basis can't all be met.

    Examples
    --------
    >>> import torch, skd
    >>> _ = torch.manual_seed(0)
    >>> def net(width):
    ...     return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1),
    ...                          nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ConvTranspose2d(width, 3, 2, 2))
    >>> teacher, student, x = net(8), net(2), torch.randn(2, 3, 16, 24)
    >>> pairing = skd.pair(teacher, x)
    >>> method = SKD(skd.match(pairing, skd.pair(student, x)), skd.measure(teacher, pairing, [x]))
    >>> [row.name for row in method.transfers()]
    ['1/2/encoder/structure', '1/2/encoder/statistics', '1/2/decoder/structure', '1/2/decoder/statistics', 'output']
    """

    def __init__(
        self,
        plan: Plan,
        spectra: Spectra,
        *,
        sides: Sides = "both",
        basis: Kind | Learned | None = None,
        structure: Weight | tuple[Weight, Weight] = 1.0,
        statistics: Weight | tuple[Weight, Weight] = 1.0,
        output: Weight = 1.0,
        reread: Reread | None = None,
        rereading: Weight = 1.0,
        fade: int | None = None,
        pair_weights: Mapping[str, float] | None = None,
        companions: bool = True,
        distance: Callable[[Tensor, Tensor], Tensor] = normalised_mse,
    ) -> None:
        if sides not in ("both", "encoder", "decoder"):
            raise ArgumentError("there are no such sides", got=repr(sides), expected="both, encoder or decoder")
        kinds = (*get_args(Kind), *get_args(Learned))
        if basis is not None and basis not in kinds:
            raise ArgumentError("there is no such basis", got=repr(basis), expected=", ".join(kinds))
        names = [teacher.name for teacher, _ in plan]
        for name in pair_weights or {}:
            if name not in names:
                raise ArgumentError(f"the plan has no pair {name!r} to weigh", remedy=closest(name, names))
        self.plan, self.spectra, self.sides, self.basis = plan, spectra, sides, basis
        self.structure = _faded(_two("structure", structure), fade)
        self.statistics = _faded(_two("statistics", statistics), fade)
        self.output, self.companions, self.distance = output, companions, distance
        self.reread, self.rereading, self.fade = reread, rereading, fade
        self.pair_weights = dict(pair_weights or {})

    def transfers(self) -> Sequence[Transfer]:
        """The rows of all pairs, outermost first, then the outputs'."""
        rows = [row for teacher, student in self.plan for row in self._pair(teacher, student)] + self._outputs()
        if not rows:
            raise ArgumentError("nothing is distilled", got="all weights 0", remedy="give a weight above 0")
        return rows

    def stages(self) -> Sequence[Stage]:
        """Where features fade, and outputs don't: one with all rows, then one with the outputs' alone."""
        outputs = [row.name for row in self._outputs()]
        features = [term.name for teacher, student in self.plan for term in self._terms(teacher, student)]
        if not (self.fade and outputs and features):
            return ()
        return Stage(self.fade, (*features, *outputs)), Stage(None, tuple(outputs))

    def _outputs(self) -> list[Transfer]:
        """As they are, and as the encoder reads them again."""
        rows = []
        if _counts(self.output):
            rows.append(Transfer("output", "", "", raw, self.distance, self.output))
        if self.reread is not None and _counts(self.rereading):
            rows.append(Transfer("output/reread", "", "", self.reread, self.distance, self.rereading))
        return rows

    def _pair(self, teacher: SymmetricPair, student: SymmetricPair) -> list[Transfer]:
        shared: dict[tuple[int, int, Layout], Adapter] = {}  # learned_shared: one adapter a pair and width
        rows = []
        for side, terms in groupby(self._terms(teacher, student), key=lambda term: term.side):
            ours, theirs = self._adapters(side, shared)  # for both rows of the side
            info = {} if side.energy is None else {"energy kept": side.energy}
            rows += [
                Transfer(
                    term.name,
                    side.student,
                    side.teacher,
                    term.knowledge,
                    self.distance,
                    term.weight,
                    student_adapters=ours,
                    teacher_adapters=theirs,
                    info=info,
                )
                for term in terms
            ]
        return rows

    def _terms(self, teacher: SymmetricPair, student: SymmetricPair) -> Iterator[_Term]:
        """What is compared of a pair, side by side, less what has no weight."""
        scale = self.pair_weights.get(teacher.name, 1.0)
        for side in self._sides(teacher, student):
            decoder = side.name == "decoder"
            if self.sides == ("encoder" if decoder else "decoder"):
                continue
            for kind, knowledge, weights in (
                ("structure", centred, self.structure),
                ("statistics", mean_std, self.statistics),
            ):
                weight = _scaled(weights[decoder], scale)
                if _counts(weight):
                    yield _Term(f"{teacher.name}/{side.name}/{kind}", side, knowledge, weight)

    def _sides(self, teacher: SymmetricPair, student: SymmetricPair) -> list[_Side]:
        """The sides of a pair, encoder first, then companions, then the decoder."""
        spectra = self._spectra_of(teacher)
        wide = teacher.width, student.width
        deep = teacher.decoder_width, student.decoder_width
        encoder = _Side("encoder", teacher.encoder, student.encoder, wide)
        decoder = _Side("decoder", teacher.decoder, student.decoder, deep)
        chosen = self._basis_of(spectra, student)
        if chosen is not None:
            encoder = encoder._replace(basis=chosen.encoder, lift=chosen.lift_encoder, energy=chosen.energy_encoder)
            decoder = decoder._replace(basis=chosen.decoder, lift=chosen.lift_decoder, energy=chosen.energy_decoder)
        sides = [encoder]
        both = zip(teacher.companions, student.companions, strict=False) if self.companions else ()
        for index, (theirs, ours) in enumerate(both):
            name = "companion" if len(teacher.companions) == 1 else f"companion{index + 1}"
            beside = encoder if spectra.companions[index].channels == teacher.width else decoder
            energy = None if chosen is None else chosen.energy_companions[index]
            sides.append(beside._replace(name=name, teacher=theirs, student=ours, energy=energy))
        return [*sides, decoder]

    def _spectra_of(self, teacher: SymmetricPair) -> PairSpectra:
        try:
            spectra = self.spectra[teacher.name]
        except LayerNotFoundError as error:
            raise ShapeError("the spectra are of another pairing than the plan", got=error.got) from None
        measured, planned = ((pair.encoder, *pair.companions, pair.decoder) for pair in (spectra.pair, teacher))
        if measured != planned:
            raise ShapeError(
                f"the spectra of pair {teacher.name!r} are of other layers than the plan's",
                got=", ".join(map(str, measured)),
                expected=", ".join(map(str, planned)),
                remedy="measure(teacher, pairing, data) with the pairing that is matched",
            )
        return spectra

    def _basis_of(self, spectra: PairSpectra, student: SymmetricPair) -> PairBasis | None:
        """The pair's bases at the student's widths; None where adapters are learned."""
        if self.basis in get_args(Learned):
            return None
        kind = cast(Kind | None, self.basis)
        if kind is None and spectra.default_kind == "shared" and not student.has_equal_widths:
            kind = "own" if spectra.cross is None else "linked"
        return spectra.basis(student.width, kind, decoder_width=student.decoder_width)

    def _adapters(
        self, side: _Side, shared: dict[tuple[int, int, Layout], Adapter]
    ) -> tuple[nn.Module | None, nn.Module | None]:
        """The student's adapter and the teacher's."""
        layout: Layout = side.teacher.layout or "BCHW"  # pairings state every other layout
        space = SpaceAdapter(layout=layout) if layout in ("BCHW", "BCDHW", "BCL") else None
        wide, narrow = side.widths
        if wide == narrow:  # the channels may correspond as they are: a student equal to its teacher has no loss
            return space, None
        if side.basis is None:
            learned: Adapter = ChannelAdapter(narrow, wide, layout=layout)
            if self.basis == "learned_shared":
                learned = shared.setdefault((narrow, wide, layout), learned)
            return (learned if space is None else Chain(learned, space)), None
        # Uncentred: μ would cancel in the structure, and the statistics compare means, which the student has no μ for.
        return space, BasisAdapter(side.basis, lift=side.lift, layout=layout)


def _two(name: str, weight: Weight | tuple[Weight, Weight]) -> tuple[Weight, Weight]:
    """Weights of the encoder's side and the decoder's."""
    both = weight if isinstance(weight, tuple) else (weight, weight)
    if len(both) != 2:
        raise ArgumentError(f"{name} takes one weight, or two: the encoder's and the decoder's", got=both)
    return both


def _faded(weights: tuple[Weight, Weight], fade: int | None) -> tuple[Weight, Weight]:
    """The weights as schedules that end at 0 after so many steps."""
    if fade is None:
        return weights
    if fade < 1 or any(callable(weight) for weight in weights):
        got = f"{fade} steps" if fade < 1 else "a schedule beside it"
        raise ArgumentError("fade makes schedules of numbers", got=got, expected="1 step or more, and plain weights")
    one, other = (Ramp(weight, 0.0, steps=fade, shape="cosine") if weight else 0.0 for weight in weights)  # type: ignore[arg-type]
    return one, other


def _counts(weight: Weight) -> bool:
    return callable(weight) or weight != 0


def _scaled(weight: Weight, factor: float) -> Weight:
    if factor == 0:
        return 0.0
    if callable(weight):
        return weight if factor == 1 else Scaled(weight, factor)
    return weight * factor
