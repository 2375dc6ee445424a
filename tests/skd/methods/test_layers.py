"""What all methods on a plan's layers share, FitNets and output-only."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skd
from skd import Plan, SymmetricPair, Tap
from skd.adapters import ChannelAdapter
from skd.errors import ArgumentError, ShapeError
from skd.methods import FitNets, Layer, LayerMethod, OutputOnly, Transfer
from skd.methods._layers import layers_of
from skd.schedules import Ramp


def names(method: LayerMethod) -> list[str]:
    return [row.name for row in method.transfers()]


def with_companions(teacher: int, student: int, widths: tuple[int, int] = (8, 8)) -> Plan:
    def one(count: int, width: int, deep: int) -> SymmetricPair:
        taps = tuple(Tap(f"style{index}") for index in range(count))
        return SymmetricPair("1/2", Tap("enc"), Tap("dec"), width, deep, companions=taps)

    return Plan(((one(teacher, *widths), one(student, 4, 2)),))


def test_rows_are_named_as_those_of_skd(case: Any) -> None:
    plan = case().plan
    layers = ["1/2/encoder/hint", "1/2/decoder/hint", "1/4/encoder/hint", "1/4/decoder/hint"]
    assert names(FitNets(plan)) == [*layers, "output"]
    assert names(FitNets(plan, sides="encoder")) == [layers[0], layers[2], "output"]
    assert names(FitNets(plan, sides="decoder", output=0)) == [layers[1], layers[3]]
    assert names(FitNets(plan, weight=0)) == ["output"]


def test_companions_count_as_encoder() -> None:
    plan = with_companions(1, 1)
    assert names(FitNets(plan)) == ["1/2/encoder/hint", "1/2/companion/hint", "1/2/decoder/hint", "output"]
    assert names(FitNets(plan, sides="decoder")) == ["1/2/decoder/hint", "output"]
    sides = [layer.side for layer in FitNets(with_companions(2, 2)).layers]
    assert sides == ["encoder", "companion1", "companion2", "decoder"]
    assert [layer.side for layer in FitNets(with_companions(2, 1)).layers] == ["encoder", "companion1", "decoder"]
    assert [layer.side for run in FitNets(plan).runs() for layer in run] == ["encoder", "companion", "decoder"]


def test_a_companion_s_width_is_the_measured_one() -> None:
    """Where a pair's sides differ in width, only the spectra know which of the two a companion has."""
    network = nn.ModuleDict({name: nn.Conv2d(3, width, 1) for name, width in
                             {"enc": 8, "dec": 6, "style0": 6}.items()})  # fmt: skip

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.dec, self.style0 = (network[name] for name in ("enc", "dec", "style0"))

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.enc(x).mean() + self.dec(x).mean() + self.style0(x).mean()
            return total

    plan = with_companions(1, 1, (8, 6))
    spectra = skd.measure(Both(), skd.Pairing((plan[0][0],)), [torch.randn(2, 3, 4, 5)])
    assert [layer.width for layer in layers_of(plan, spectra, "both")] == [8, 6, 6]
    assert [layer.student_width for layer in layers_of(plan, spectra, "both")] == [4, 2, 2]
    assert [layer.width for layer in layers_of(plan, None, "both")] == [8, 8, 6]
    other = skd.measure(
        Both(), skd.Pairing((SymmetricPair("x", Tap("enc"), Tap("dec"), 8, 6),)), [torch.randn(2, 3, 4, 5)]
    )
    assert [layer.width for layer in layers_of(plan, other, "both")] == [8, 8, 6]


def test_layers_run_from_outside_in_and_back(case: Any) -> None:
    runs = [[layer.name for layer in run] for run in FitNets(case().plan).runs()]
    assert runs == [["1/2/encoder", "1/4/encoder"], ["1/4/decoder", "1/2/decoder"]]


def test_adapters_are_learned_only_where_widths_differ() -> None:
    layer = Layer("1/2", "encoder", Tap("a"), Tap("b"), 8, 8)
    assert layer.channels() is None
    always = layer.channels(always=True)
    assert isinstance(always, ChannelAdapter)
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(always(x), x)  # starts as the identity
    tokens = Layer("1/2", "encoder", Tap("a", layout="BNC"), Tap("b", layout="BNC"), 8, 8)
    assert tokens.space() is None
    assert tokens.adapter() is None
    assert tokens._replace(student_width=3).adapter()(torch.randn(2, 5, 3)).shape == (2, 5, 8)
    assert layer._replace(student_width=3).adapter()(torch.randn(2, 3, 2, 2), torch.zeros(2, 8, 4, 3)).shape[2:] == (
        4,
        3,
    )


def test_the_output_s_row_is_that_of_skd(case: Any) -> None:
    made = case()
    student, teacher = made.both()[""]
    expected = 3 * (student - teacher).square().mean() / teacher.square().mean()
    losses = made.losses(OutputOnly(made.plan, output=3.0))
    assert list(losses) == ["output"]
    torch.testing.assert_close(losses["output"], expected)


def test_weights_may_be_schedules(case: Any) -> None:
    made = case()
    distiller = made.distiller(FitNets(made.plan, sides="encoder", weight=Ramp(0, 2, steps=4), output=0))
    assert distiller.factors.tolist() == [0, 0]
    distiller.advance(2)
    assert distiller.factors.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sides": "encoders"}, "no such sides; got 'encoders'; expected both, encoder or decoder"),
        ({"weight": 0, "output": 0}, "nothing is distilled"),
        ({"hint_steps": 0}, "hints come first"),
        ({"hint_steps": 3, "output": 0}, "hints come first"),
        ({"hint_steps": 3, "weight": 0}, "hints come first"),
    ],
)
def test_choices_that_can_not_be(case: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        FitNets(case().plan, **options).transfers()
    with pytest.raises(ArgumentError, match="nothing is distilled"):
        OutputOnly(case().plan, output=0).transfers()


def test_a_method_without_rows_says_so(case: Any) -> None:
    with pytest.raises(NotImplementedError):
        LayerMethod(case().plan).transfers()


def test_another_number_of_tokens_is_refused(case: Any) -> None:
    made = case("tokens")
    made.student.enc1.register_forward_hook(lambda _module, _given, value: value[:, :-1])
    with pytest.raises(ShapeError, match=r"different shapes.*TokenAdapter for tokens"):
        made.losses(FitNets(made.plan, sides="encoder", output=0))


# --- FitNets ---


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_fitnets_is_the_squared_error_behind_a_regressor(case: Any, kind: str) -> None:
    made = case(kind)
    distiller = made.distiller(FitNets(made.plan, weight=2.0, output=0)).double()
    both = made.both()
    for row in distiller.transfers:
        (adapter,) = row.student_adapters
        linear = adapter if kind == "tokens" else adapter.adapters[0]
        linear.bias.data.normal_()
    losses = distiller(made.x).losses
    for row in distiller.transfers:
        student, teacher = both[row.name.removesuffix("/hint")]
        (adapter,) = row.student_adapters
        linear = adapter if kind == "tokens" else adapter.adapters[0]
        if kind == "tokens":
            regressed = torch.einsum("bnc,dc->bnd", student, linear.weight) + linear.bias
        else:
            regressed = torch.einsum("bchw,dc->bdhw", student, linear.weight) + linear.bias[:, None, None]
        torch.testing.assert_close(losses[row.name], 2 * (regressed - teacher).square().mean())


def test_fitnets_in_two_stages(case: Any) -> None:
    made = case()
    distiller = made.distiller(FitNets(made.plan, hint_steps=2))
    assert list(distiller(made.x).losses.terms) == [
        f"{pair}/{side}/hint" for pair in ("1/2", "1/4") for side in ("encoder", "decoder")
    ]
    distiller.advance(2)
    assert list(distiller(made.x).losses.terms) == ["output"]
    assert FitNets(made.plan).stages() == ()


# --- with everything else ---


def test_distill_takes_the_class_or_a_partial_of_it() -> None:
    torch.manual_seed(0)

    def net(width: int) -> nn.Sequential:
        down = [nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)]
        up = [nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ConvTranspose2d(width, 3, 2, 2)]
        return nn.Sequential(*down, *up)

    data = [torch.randn(4, 3, 8, 12) for _ in range(2)]
    for method in (FitNets, functools.partial(FitNets, sides="encoder", weight=0.5)):
        with tempfile.TemporaryDirectory() as out:
            done = skd.distill(net(4), data, out, student=net(2), recipe=skd.Recipe(steps=2), method=method)
        sides = ["encoder"] if isinstance(method, functools.partial) else ["encoder", "decoder"]
        assert [row.name for row in done.report.rows] == [*(f"1/2/{side}/hint" for side in sides), "output"]


def test_the_networks_controls_are_made_of_the_same_method(case: Any) -> None:
    """Encoder-only and decoder-only train their side, and the output's row is the only other."""
    made = case()
    for sides, other in (("encoder", "dec1"), ("decoder", "up1")):
        made.student.zero_grad()
        sum(made.losses(FitNets(made.plan, sides=sides, output=0)).values()).backward()
        assert made.student.get_submodule(other).weight.grad is None
        assert float(made.student.enc1.weight.grad.abs().max()) > 0


def test_a_method_of_one_s_own(case: Any) -> None:
    class Twice(LayerMethod):
        layouts = ("BCHW",)
        why = "it is about pictures"

        def rows(self) -> Sequence[Transfer]:
            return [self.row(layer, "twice", factor=2.0, adapter=layer.adapter()) for layer in self.layers]

    assert {row.weight for row in Twice(case().plan, output=0).transfers()} == {2.0}
    with pytest.raises(ArgumentError, match=r"Twice has no meaning here: it is about pictures; got .*BNC at 'enc1'"):
        Twice(case("tokens").plan)
