from __future__ import annotations

import copy
import dataclasses
import gc
import io
import json
import pickle
import re
import threading
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from skd.errors import ArgumentError, FeatureError, LayerNotFoundError, ShapeError
from skd.taps import Tap, Taps, as_layout, channels, to_bcn


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Net(nn.Module):
    """enc, then block three times, then dec; every value of a forward can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.block = nn.Linear(4, 4)
        self.dec = nn.Linear(4, 2)
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        x = self.enc(x) * scale
        for _ in range(3):
            x = self.block(x)
        return self.dec(x)

    def by_hand(self, x: Tensor) -> dict[str, Tensor]:
        values = {"": x, "enc.0": self.enc[0](x), "enc": self.enc(x)}
        step = values["enc"]
        for call in range(3):
            values[f"block#{call}"] = step = self.block(step)
        return {**values, "dec": self.dec(step), "": self.dec(step)}


class Lambda(nn.Module):
    """A layer that computes any function, with a layer of its own before it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.first = nn.Identity()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.first(args[0]), *args[1:], **kwargs)


class Second(nn.Module):
    """Calls one layer and hands its value to a function."""

    def __init__(self, layer: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def hooks(model: nn.Module) -> list[Any]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    return [(id(getattr(module, name)), *getattr(module, name).items()) for module in model.modules() for name in names]


@pytest.fixture
def net() -> Iterator[Net]:
    """A network that must be clean of hooks when the test is over."""
    model = Net()
    before = hooks(model)
    yield model
    assert hooks(model) == before


X = torch.linspace(-1, 1, 15).reshape(5, 3)


class TestTap:
    names = st.text(max_size=12)
    paths = st.lists(st.integers(-3, 99) | st.text(max_size=6), max_size=3).map(tuple)
    taps = st.builds(Tap, names, call=st.integers(-9, 9), side=st.sampled_from(["output", "input"]), path=paths)

    @given(taps)
    def test_the_short_form_comes_back_as_the_same_tap(self, tap: Tap) -> None:
        assert Tap.of(str(tap)) == tap

    @given(taps, st.sampled_from([None, "BCHW", "BCDHW", "BCL", "BNC", "BC"]), st.booleans())
    def test_json_comes_back_as_the_same_tap(self, tap: Tap, layout: Any, clone: bool) -> None:
        tap = dataclasses.replace(tap, layout=layout, clone=clone)
        again = Tap.from_json(json.loads(json.dumps(tap.to_json())))
        assert again == tap
        assert hash(again) == hash(tap)

    @pytest.mark.parametrize(
        ("text", "tap"),
        [
            ("", Tap("")),
            (":input", Tap("", side="input")),
            ("decoder.up1", Tap("decoder.up1")),
            ("decoder.up1:output", Tap("decoder.up1")),
            ("block#1", Tap("block", call=1)),
            ("block#-1:input[0]['hidden']", Tap("block", call=-1, side="input", path=(0, "hidden"))),
            ("enc[-1]", Tap("enc", path=(-1,))),
            ("'a[b]#c'#2", Tap("a[b]#c", call=2)),
        ],
    )
    def test_short_forms(self, text: str, tap: Tap) -> None:
        assert Tap.of(text) == tap
        assert Tap.of(tap) is tap

    @pytest.mark.parametrize(
        "text", ["enc#x", "enc[", "enc[hidden]", "enc:both", "enc#1#2", "enc[0]#1", "'enc", 3, None]
    )
    def test_what_is_no_tap(self, text: Any) -> None:
        with pytest.raises(ArgumentError, match="this isn't a tap; got"):
            Tap.of(text)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("layer", 1),
            ("call", 1.0),
            ("call", True),
            ("side", "inputs"),
            ("path", "hidden"),
            ("path", (0.5,)),
            ("layout", "NCHW"),
            ("clone", 1),
        ],
    )
    def test_fields_are_checked(self, field: str, value: Any) -> None:
        with pytest.raises(ArgumentError, match=re.escape(f"a tap can't have this {field}; got {value!r}; expected")):
            Tap(**{"layer": "enc", field: value})

    @pytest.mark.parametrize("data", [[], {"call": 1}, {"layer": "a", "colour": 1}])
    def test_what_is_no_json_of_a_tap(self, data: Any) -> None:
        with pytest.raises(ArgumentError, match="this isn't a tap's JSON"):
            Tap.from_json(data)


class TestLayout:
    features: ClassVar = {
        "BCHW": (1, 3, 4, 5),
        "BCDHW": (2, 3, 2, 4, 5),
        "BCL": (2, 3, 7),
        "BNC": (1, 7, 3),
        "BC": (2, 3),
    }

    @pytest.mark.parametrize("layout", features)
    def test_values_agree_with_numpy(self, layout: Any) -> None:
        shape = self.features[layout]
        feature = torch.randn(shape)
        values = feature.numpy()
        flat = values.reshape(*shape[:2], -1)
        expected = np.moveaxis(values, 2, 1) if layout == "BNC" else flat
        assert channels(feature, layout) == 3
        assert as_layout(feature, Tap("enc", layout=layout)) == layout
        bcn = to_bcn(feature, layout)
        assert_close(bcn, torch.from_numpy(expected.copy()), rtol=0, atol=0)
        assert bcn.data_ptr() == feature.data_ptr()  # a view

    def test_channels_last_memory_stays_a_view(self) -> None:
        feature = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
        bcn = to_bcn(feature, "BCHW")
        assert bcn.data_ptr() == feature.data_ptr()
        assert_close(bcn[1, 2], feature[1, 2].reshape(-1), rtol=0, atol=0)

    @pytest.mark.parametrize(("ndim", "layout"), [(2, "BC"), (4, "BCHW"), (5, "BCDHW")])
    def test_what_dimensions_tell(self, ndim: int, layout: str) -> None:
        assert as_layout(torch.zeros((1,) * ndim), Tap("enc")) == layout

    def test_three_dimensions_cannot_tell(self) -> None:
        with pytest.raises(
            ShapeError, match=r"tap 'enc' can't be told from its shape; got \(2, 9, 8\).*layout=\"BCL\""
        ):
            as_layout(torch.zeros(2, 9, 8), Tap("enc"))

    def test_one_dimension_is_no_feature(self) -> None:
        with pytest.raises(ShapeError, match=r"can't be told.*Remedy: tap a layer that returns a batch"):
            as_layout(torch.zeros(2), Tap("enc"))

    def test_a_layout_that_does_not_fit(self) -> None:
        with pytest.raises(ShapeError, match=r"tap 'enc' doesn't fit its layout BNC; got \(2, 3\); expected 3 dim"):
            as_layout(torch.zeros(2, 3), Tap("enc", layout="BNC"))
        with pytest.raises(ShapeError, match=r"doesn't fit the layout BCHW; got \(2, 3\); expected 4 dimensions"):
            to_bcn(torch.zeros(2, 3), "BCHW")
        with pytest.raises(ArgumentError, match="no such layout; got 'NCHW'"):
            channels(torch.zeros(2, 3), "NCHW")  # type: ignore[arg-type]


class TestCapture:
    def test_output_and_features_are_what_the_model_computes(self, net: Net) -> None:
        names = ["dec", "enc.0", "enc", "block#0", "block#1", "block#2", ""]
        output, features = Taps(net, names)(X)
        expected = net.by_hand(X)
        assert [str(tap) for tap in features] == ["dec", "enc.0", "enc", "block", "block#1", "block#2", ""]
        for name, feature in zip(names, features.values(), strict=True):
            assert_close(feature, expected[name], rtol=0, atol=0)
        assert_close(output, net(X), rtol=0, atol=0)

    def test_gradients_flow_through_features(self, net: Net) -> None:
        _, features = Taps(net, ["block#1"])(X)
        features[Tap("block", call=1)].square().sum().backward()
        got = [p.grad for p in (*net.enc.parameters(), *net.block.parameters())]
        net.zero_grad()
        net.by_hand(X)["block#1"].square().sum().backward()
        assert_close(got, [p.grad for p in (*net.enc.parameters(), *net.block.parameters())])

    def test_negative_calls_count_from_the_last(self, net: Net) -> None:
        _, features = Taps(net, ["block#-1", "block#-3", "block#-2", "block#0"])(X)
        expected = net.by_hand(X)
        for name, feature in zip(["block#2", "block#0", "block#1", "block#0"], features.values(), strict=True):
            assert_close(feature, expected[name], rtol=0, atol=0)

    def test_inputs(self, net: Net) -> None:
        _, features = Taps(net, ["block#-1:input", "enc:input", "dec:input", ":input"])(X, scale=2.0)
        step = net.enc(X) * 2
        second = net.block(net.block(step))
        for feature, expected in zip(features.values(), [second, X, net.block(second), X], strict=True):
            assert_close(feature, expected, rtol=0, atol=0)

    def test_keyword_and_further_inputs(self) -> None:
        model = Lambda(lambda x, y, *, z: x + y[1] + z)
        x, y, z = torch.randn(3, 2, 2)
        _, features = Taps(model, [":input[0]", ":input[1][1]", ":input['z']"])(x, (None, y), z=z)
        for feature, expected in zip(features.values(), (x, y, z), strict=True):
            assert feature is expected
        with pytest.raises(FeatureError, match=r"several tensors; got these tensors: \[0\] \(2, 2\).*\['z'\] \(2, 2\)"):
            Taps(model, [":input"])(x, (None, y), z=z)

    def test_equal_taps_count_once(self, net: Net) -> None:
        taps = Taps(net, ["enc", Tap("enc"), "enc#0"])
        assert taps.taps == (Tap("enc"),)
        assert len(taps(X)[1]) == 1

    def test_no_taps_at_all(self, net: Net) -> None:
        output, features = Taps(net, [])(X)
        assert features == {}
        assert_close(output, net(X))

    def test_a_layer_known_by_two_names_has_one_count(self) -> None:
        layer = nn.Linear(3, 3)
        model = nn.Sequential(OrderedDict(first=layer, second=layer))
        _, features = Taps(model, ["first", "second#1"])(X)
        assert_close(features[Tap("second", call=1)], layer(layer(X)), rtol=0, atol=0)

    def test_a_layer_that_is_replaced_later_is_found_again(self) -> None:
        net = Net()
        taps = Taps(net, ["enc.0", "block"])
        net.enc = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        _, features = taps(X)
        assert_close(features[Tap("enc.0")], net.enc[0](X), rtol=0, atol=0)
        del net.block
        with pytest.raises(LayerNotFoundError, match="no layer 'block'"):
            taps(X)

    @pytest.mark.parametrize(("dtype", "grad"), [(torch.float64, True), (torch.float32, False)])
    def test_dtype_and_grad_are_left_alone(self, net: Net, dtype: torch.dtype, grad: bool) -> None:
        net.to(dtype)
        with torch.set_grad_enabled(grad):
            _, features = Taps(net, ["enc"])(X.to(dtype))
        assert features[Tap("enc")].dtype == dtype
        assert features[Tap("enc")].requires_grad is grad

    def test_autocast_keeps_its_dtype(self, net: Net) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, features = Taps(net, ["block#1", "enc"])(X)
            assert_close(features[Tap("block", call=1)], net.by_hand(X)["block#1"], rtol=0, atol=0)
        assert [t.dtype for t in (output, *features.values())] == [torch.bfloat16] * 3

    def test_inference_mode(self, net: Net) -> None:
        model = Second(net, torch.relu_)
        with torch.inference_mode():
            _, features = Taps(model, ["layer"])(X)  # no version to compare here, so it must be a copy
            assert_close(features[Tap("layer")], net(X), rtol=0, atol=0)
        assert features[Tap("layer")].min() < 0

    @pytest.mark.parametrize(
        ("module", "shape"),
        [
            (nn.Conv3d(2, 3, 1), (1, 2, 2, 3, 4)),
            (nn.Conv2d(2, 3, 1), (1, 2, 3, 4)),
            (nn.Conv1d(2, 3, 1), (1, 2, 3)),
            (nn.Linear(2, 3), (1, 2)),
        ],
    )
    def test_any_number_of_dimensions_and_a_batch_of_one(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        x = torch.randn(shape)
        _, features = Taps(nn.Sequential(module), ["0"])(x)
        assert_close(features[Tap("0")], module(x), rtol=0, atol=0)


@dataclasses.dataclass(frozen=True)
class Parts:
    map: Tensor
    rest: Any = None


Pair = namedtuple("Pair", ["mean", "deviation"])


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """Like the one in transformers: an ordered dict whose keys are attributes too."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


CONTAINERS: list[tuple[Callable[[Tensor, Tensor], Any], tuple[Any, ...]]] = [
    (lambda a, b: (a, b), (1,)),
    (lambda a, b: (a, b), (-1,)),
    (lambda a, b: [a, (None, b)], (1, 1)),
    (lambda a, b: [a, (None, b)], (1,)),  # the only tensor below
    (lambda a, b: {"a": a, 3: {"b": b}}, (3, "b")),
    (lambda a, b: Parts(a, [b]), ("rest", 0)),
    (lambda a, b: Pair(a, b), (1,)),
    (lambda a, b: Pair(a, b), ("deviation",)),
    (lambda a, b: ModelOutput(a=a, b=b), ("b",)),
    (lambda a, b: OrderedDict(a="text", b=b), ()),
]


class TestPaths:
    @pytest.mark.parametrize(("container", "path"), CONTAINERS)
    def test_tensors_are_picked_out(self, container: Callable[..., Any], path: tuple[Any, ...]) -> None:
        a, b = torch.randn(2, 3, 4)
        _, features = Taps(Lambda(lambda x: container(a, x)), [Tap("", path=path)])(b)
        assert features[Tap("", path=path)] is b

    @pytest.mark.parametrize(("container", "path"), CONTAINERS)
    def test_tensors_are_replaced_in_a_copy(self, container: Callable[..., Any], path: tuple[Any, ...]) -> None:
        a, b, new = torch.randn(3, 3, 4)
        original = container(a, b)
        tap = Tap("layer", path=path)
        output, features = Taps(Second(Lambda(lambda x: original), lambda value: value), [tap])(
            b, substitute={tap: new}
        )
        assert features[tap] is new
        assert type(output) is type(original)
        found = Taps(Lambda(lambda x: output), [Tap("", path=path)])(b)[1][Tap("", path=path)]
        assert found is new
        kept = Taps(Lambda(lambda x: original), [Tap("", path=path)])(b)[1][Tap("", path=path)]
        assert kept is b
        if isinstance(output, ModelOutput):
            assert output.b is new
            assert original.b is b

    def test_errors_list_the_paths(self) -> None:
        model = Lambda(lambda x: {"low": x, "high": [x[:1], None]})
        paths = r"\['low'\] \(5, 3\), \['high'\]\[0\] \(1, 3\)"
        with pytest.raises(FeatureError, match=f"tap '' holds several tensors; got these tensors: {paths}"):
            Taps(model, [""])(X)
        with pytest.raises(FeatureError, match=rf"tap '\['middle'\]' has a path that isn't there; got .*{paths}"):
            Taps(model, ["['middle']"])(X)
        with pytest.raises(FeatureError, match=r"tap '\['high'\]\[1\]' holds no tensor but NoneType"):
            Taps(model, ["['high'][1]"])(X)
        with pytest.raises(FeatureError, match="tap '' holds no tensor but str; got no tensor at all"):
            Taps(Lambda(lambda x: "text"), [""])(X)


class TestErrors:
    def test_unknown_names_get_the_closest(self, net: Net) -> None:
        with pytest.raises(LayerNotFoundError, match=r"no layer 'encoder\.0'. Remedy: did you mean 'enc\.0'"):
            Taps(net, ["encoder.0"])
        with pytest.raises(LayerNotFoundError, match="did you mean 'block'"):
            Taps(net, ["enc"])(X, substitute={"blok": X})

    @pytest.mark.parametrize("taps", ["enc", Tap("enc")])
    def test_one_tap_is_no_list(self, net: Net, taps: Any) -> None:
        with pytest.raises(ArgumentError, match=r"taps come as a list.*give \['enc'\]"):
            Taps(net, taps)

    def test_a_function_is_no_model(self) -> None:
        with pytest.raises(ArgumentError, match="taps need a model; got function"):
            Taps(lambda x: x, ["enc"])  # type: ignore[arg-type]

    def test_a_layer_that_never_runs(self, net: Net) -> None:
        with pytest.raises(FeatureError, match=r"tap 'spare' was never reached: its layer \(Linear\) didn't run"):
            Taps(net, ["enc", "spare"])(X)
        with pytest.raises(FeatureError, match=r"tap 'spare#-1' was never reached"):
            Taps(net, ["spare#-1"])(X)

    def test_a_list_of_layers_never_runs(self) -> None:
        net = Second(nn.Identity(), lambda x: x)
        net.blocks = nn.ModuleList([nn.Identity()])
        with pytest.raises(FeatureError, match="a ModuleList is never called itself; tap one of its layers"):
            Taps(net, ["blocks"])(X)

    @pytest.mark.parametrize("tap", ["block#3", "block#-4", "block#3:input"])
    def test_a_layer_that_runs_less_often(self, net: Net, tap: str) -> None:
        with pytest.raises(FeatureError, match=f"tap '{tap}' asks for call .* got 3 calls in this forward"):
            Taps(net, ["block#2", tap])(X)

    def test_an_error_in_a_hook_is_not_swallowed_by_the_model(self) -> None:
        def forgiving(x: Tensor) -> Tensor:
            try:
                return layer(x)
            except Exception:
                return x

        model = Lambda(forgiving)
        layer = model.layer = nn.Identity()
        with pytest.raises(FeatureError, match="has a path that isn't there"):
            Taps(model, ["layer[0][0]"])(X[None])


class TestInPlace:
    def test_a_feature_that_is_changed_later_is_an_error(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        x = torch.randn(2, 3, 4, 4)
        with pytest.raises(FeatureError, match=r"tap '1' was changed in place.*Tap\('1', …, clone=True\)"):
            Taps(model, ["0", "1", "2"])(x)
        with pytest.raises(FeatureError, match="tap '2:input' was changed in place"):
            Taps(model, ["2:input"])(x)
        with pytest.raises(FeatureError, match="tap '1#-1' was changed in place"):
            Taps(model, ["1#-1"])(x)

    def test_without_the_check_it_would_have_been_corrupted(self) -> None:
        """The guard is needed: the plain hook's feature has the ReLU's minimum."""
        model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        kept = {}
        handle = model[0].register_forward_hook(lambda module, args, output: kept.update(it=output))
        model(torch.randn(2, 3, 4, 4))
        handle.remove()
        assert kept["it"].min() == 0

    def test_a_clone_is_right(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        x = torch.randn(2, 3, 4, 4)
        tap = Tap("1", clone=True)
        output, features = Taps(model, [tap, "2"])(x)
        expected = model[1](model[0](x))
        assert_close(features[tap], expected)
        assert features[tap].min() < 0
        features[tap].square().sum().backward()
        assert model[0].weight.grad is not None
        assert_close(features[Tap("2")], output)

    def test_a_view_of_what_is_changed_counts_too(self) -> None:
        model = Lambda(lambda x: x.mul_(2))
        with pytest.raises(FeatureError, match="tap 'first' was changed in place"):
            Taps(model, ["first"])(X.clone()[:2])


class TestSubstitute:
    def test_the_run_goes_on_with_the_substitute(self, net: Net) -> None:
        code = torch.randn(5, 4, requires_grad=True)
        output, features = Taps(net, ["block#1", "block#2"])(X, substitute={"block#1": code})
        assert features[Tap("block", call=1)] is code
        assert_close(features[Tap("block", call=2)], net.block(code), rtol=0, atol=0)
        assert_close(output, net.dec(net.block(code)), rtol=0, atol=0)
        (got,) = torch.autograd.grad(output.sum(), code)
        assert_close(got, (net.dec.weight @ net.block.weight).sum(0).expand(5, 4))

    def test_inputs_are_substituted(self, net: Net) -> None:
        code = torch.randn(5, 4, requires_grad=True)
        output, _ = Taps(net, [])(X, substitute={"block#1:input": code})
        assert_close(output, net.dec(net.block(net.block(code))), rtol=0, atol=0)
        assert torch.autograd.grad(output.sum(), code)[0].abs().sum() > 0

    def test_maps_whose_channels_are_last_are_given_and_taken_channels_first(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        x = torch.randn(2, 5, 6, 3)
        tap = Tap("0", channels_last=True)
        _, features = Taps(model, [tap])(x)
        assert_close(features[tap], model[0](x).permute(0, 3, 1, 2))
        new = torch.randn(2, 4, 5, 6)
        output, features = Taps(model, [tap])(x, substitute={tap: new})
        assert_close(output, model[1](new.permute(0, 2, 3, 1)))
        assert_close(features[tap], new, rtol=0, atol=0)
        with pytest.raises(ShapeError, match=r"another shape.*got \(2, 5, 6, 4\); expected \(2, 4, 5, 6\)"):
            Taps(model, [])(x, substitute={tap: new.permute(0, 2, 3, 1)})
        assert repr(tap).endswith("clone=False, channels_last=True)")
        assert "channels_last" not in repr(Tap("0"))

    def test_keyword_inputs_are_substituted(self) -> None:
        inner = Lambda(lambda x, *, y: x + 10 * y[0])
        model = Second(inner, lambda x: x)
        model.forward = lambda x: inner(x, y=(x, None))  # type: ignore[method-assign]
        output, _ = Taps(model, [])(X, substitute={"layer:input['y']": X + 1})
        assert_close(output, X + 10 * (X + 1))

    def test_frozen_layers_pass_the_gradient_on(self, net: Net) -> None:
        """The student's code through the teacher's decoder."""
        net.requires_grad_(False)
        code = torch.randn(5, 4, requires_grad=True)
        output, _ = Taps(net, [])(X, substitute={"block#2": code})
        assert_close(torch.autograd.grad(output.sum(), code)[0], net.dec.weight.sum(0).expand(5, 4))

    def test_shapes_are_checked(self, net: Net) -> None:
        with pytest.raises(
            ShapeError, match=r"tap 'block' has another shape than the feature; got \(1, 4\); expected \(5"
        ):
            Taps(net, [])(X, substitute={"block": torch.zeros(1, 4)})

    def test_wrong_substitutes(self, net: Net) -> None:
        taps = Taps(net, ["enc"])
        with pytest.raises(ArgumentError, match="the substitute for tap 'block' isn't a tensor; got float"):
            taps(X, substitute={"block": 1.0})
        with pytest.raises(ArgumentError, match="tap 'block#-1' can't be substituted"):
            taps(X, substitute={"block#-1": X})
        with pytest.raises(FeatureError, match="tap 'block#7' asks for call 7"):
            taps(X, substitute={"block#7": X})
        with pytest.raises(FeatureError, match="tap 'spare' was never reached"):
            taps(X, substitute={"spare": X})

    def test_nothing_stays_of_it(self, net: Net) -> None:
        taps = Taps(net, ["enc"])
        taps(X, substitute={"enc": torch.zeros(5, 4)})
        assert_close(taps(X)[0], net(X), rtol=0, atol=0)

    def test_a_substitute_that_the_model_changes_is_an_error(self) -> None:
        model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
        code = X.clone()
        with pytest.raises(FeatureError, match="the substitute given for tap '0' was changed in place by the model"):
            Taps(model, [])(X, substitute={"0": code})
        code = X.clone()
        output, _ = Taps(model, [])(X, substitute={Tap("0", clone=True): code})
        assert_close(code, X, rtol=0, atol=0)
        assert_close(output, X.relu())


class TestHooks:
    def test_they_are_gone_after_an_exception(self, net: Net) -> None:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            Taps(net, ["enc", "block:input", ""])(torch.zeros(5, 7))

    def test_they_are_gone_after_a_keyboard_interrupt(self) -> None:
        def interrupt(x: Tensor) -> None:
            raise KeyboardInterrupt

        model = Second(nn.Identity(), interrupt)
        with pytest.raises(KeyboardInterrupt):
            Taps(model, ["layer"], stop_early=False)(X)
        assert not model.layer._forward_hooks

    def test_the_users_own_hooks_work_and_come_first(self, net: Net) -> None:
        taps = Taps(net, ["enc", "dec:input"])
        order: list[str] = []
        for name in "ab":
            net.enc.register_forward_hook(lambda module, args, output, name=name: order.append(name))
        late = net.enc.register_forward_hook(lambda module, args, output: output * 3)
        early = net.dec.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        before = hooks(net)
        _, features = taps(X)
        assert order == ["a", "b"]
        assert hooks(net) == before
        assert_close(features[Tap("enc")], net.enc(X), rtol=0, atol=0)  # which is the value times 3
        late.remove()
        assert_close(features[Tap("enc")], net.enc(X) * 3, rtol=0, atol=0)
        step = net.block(net.block(net.block(features[Tap("enc")])))
        assert_close(features[Tap("dec", side="input")], step + 1)
        early.remove()
        net.enc._forward_hooks.clear()

    def test_a_hook_that_comes_and_goes_in_the_forward_keeps_its_handle(self, net: Net) -> None:
        handles = []

        def add(module: nn.Module, args: Any, output: Any) -> None:
            handles.append(net.enc.register_forward_hook(lambda *_: None))

        adding = net.enc.register_forward_hook(add)
        Taps(net, ["enc"])(X)
        assert len(net.enc._forward_hooks) == 2
        handles[0].remove()
        adding.remove()

    def test_full_backward_hooks_still_fire(self, net: Net) -> None:
        seen = []
        handle = net.block.register_full_backward_hook(lambda module, given, returned: seen.append(returned[0].shape))
        output, _ = Taps(net, ["enc", "block#1"])(X)
        output.sum().backward()
        assert seen == [(5, 4)] * 3
        handle.remove()

    def test_taps_within_taps(self, net: Net) -> None:
        inner = Taps(net, ["enc", "block"], register=True)
        _, features = Taps(inner, ["network.enc", "network.block#1", "[1]"][:2])(X)
        expected = net.by_hand(X)
        assert_close(features[Tap("network.enc")], expected["enc"])
        assert_close(features[Tap("network.block", call=1)], expected["block#1"])

    def test_modes_and_parameters_are_left_alone(self, net: Net) -> None:
        net.enc.eval()
        net.dec.requires_grad_(False)
        state = [(m.training, [p.requires_grad for p in m.parameters()]) for m in net.modules()]
        taps = Taps(net, ["enc"])
        taps.train(False)
        taps(X)
        assert state == [(m.training, [p.requires_grad for p in m.parameters()]) for m in net.modules()]


class TestRegistration:
    def test_the_model_is_not_registered_by_default(self, net: Net) -> None:
        taps = Taps(net, ["enc"])
        assert not list(taps.parameters())
        assert not taps.state_dict()
        assert taps.model is net

    def test_a_registered_model_can_be_exchanged(self, net: Net) -> None:
        taps = Taps(net, ["enc.0", ""], register=True)
        taps.network = other = Net()
        _, features = taps(X)
        assert_close(list(features.values()), [other.enc[0](X), other(X)], rtol=0, atol=0)
        taps.network = nn.Sequential()
        with pytest.raises(LayerNotFoundError, match=r"no layer 'enc\.0'"):
            taps(X)

    def test_it_is_on_demand(self, net: Net) -> None:
        taps = Taps(net, ["enc"], register=True)
        assert list(taps.state_dict()) == [f"network.{name}" for name in net.state_dict()]
        assert taps.model is net

    def test_repr_names_the_taps(self, net: Net) -> None:
        assert repr(Taps(net, ["enc", "", "block#1:input"], stop_early=True)) == (
            "Taps(enc, '', block#1:input, stop_early=True)"
        )


class TestCopies:
    def test_model_copied_before_and_after(self, net: Net) -> None:
        taps = Taps(net, ["enc"])
        for _ in range(2):
            other = copy.deepcopy(net)
            loaded = pickle.loads(pickle.dumps(net))
            for clone in (other, loaded):
                assert not any(module._forward_hooks for module in clone.modules())
                assert_close(clone(X), net(X), rtol=0, atol=0)
            taps(X)

    def test_torch_save_holds_nothing_of_skd(self, net: Net) -> None:
        Taps(net, ["enc"])(X)
        buffer = io.BytesIO()
        torch.save(net, buffer)
        assert not re.search(rb"skd\.(taps|_)", buffer.getvalue())
        buffer.seek(0)
        assert_close(torch.load(buffer, weights_only=False)(X), net(X), rtol=0, atol=0)

    def test_model_copied_during_a_forward(self, net: Net) -> None:
        copies: list[Any] = []

        def make(module: nn.Module, args: Any, output: Any) -> None:
            buffer = io.BytesIO()
            torch.save(net.enc[1], buffer)
            assert not re.search(rb"skd\.(taps|_)", buffer.getvalue())
            buffer.seek(0)
            copies.extend([copy.deepcopy(net.enc[1]), torch.load(buffer, weights_only=False)])

        handle = net.enc[0].register_forward_hook(make)
        _, features = Taps(net, ["enc.1", "enc.1:input", "dec"])(X)
        handle.remove()
        kept = features[Tap("enc.1")].clone()
        for clone in copies:
            assert_close(clone(2 * X), torch.tanh(2 * X), rtol=0, atol=0)
        assert_close(features[Tap("enc.1")], kept, rtol=0, atol=0)

    def test_copied_taps_run_the_copied_model(self, net: Net) -> None:
        taps = Taps(net, ["enc", "block#-1"])
        for other in (copy.deepcopy(taps), pickle.loads(pickle.dumps(taps))):
            with torch.no_grad():
                other.model.enc[0].weight.zero_()
                other.model.enc[0].bias.zero_()
            assert other(X)[1][Tap("enc")].abs().sum() == 0
            assert taps(X)[1][Tap("enc")].abs().sum() > 0

    def test_a_holder_of_model_and_taps_is_copied_as_one(self, net: Net) -> None:
        holder = nn.ModuleDict({"student": net, "taps": Taps(net, ["enc"])})
        other = copy.deepcopy(holder)
        assert other["taps"].model is other["student"]


class TestRetention:
    @pytest.fixture(autouse=True)
    def no_collector(self) -> Iterator[None]:
        """Nothing may need the garbage collector: features are freed with their last reference."""
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    @pytest.mark.parametrize("stop_early", [False, True])
    def test_features_die_with_the_step(self, net: Net, stop_early: bool) -> None:
        taps = Taps(net, ["enc", "block#1", "block#2:input"], stop_early=stop_early)
        output, features = taps(X)
        dead = [weakref.ref(feature) for feature in features.values()]
        assert all(ref() is not None for ref in dead)
        del output, features
        assert [ref() for ref in dead] == [None] * 3

    def test_features_of_negative_calls_die_too(self, net: Net) -> None:
        seen = []
        handle = net.block.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
        with torch.no_grad():
            _, features = Taps(net, ["block#-1"])(X)
        handle.remove()
        assert [ref() is None for ref in seen] == [True, True, False]
        del features
        assert seen[2]() is None

    @pytest.mark.parametrize("names", [["enc", "enc[0][0][0]"], ["enc", "spare"], ["enc", "dec[0][0]"]])
    def test_features_die_with_the_error(self, net: Net, names: list[str]) -> None:
        seen = []
        handle = net.enc.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
        raised = False
        try:
            Taps(net, names)(X)
        except FeatureError:
            raised = True
        handle.remove()
        assert raised
        assert seen[0]() is None


class TestStopEarly:
    @pytest.mark.parametrize(
        "names", [["block#1", "enc"], ["enc", "block#1"], ["block#1", "block#2:input", "enc:input"]]
    )
    def test_later_layers_do_not_run(self, net: Net, names: list[str]) -> None:
        ran = []
        handles = [
            module.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, module in net.named_modules()
        ]
        output, features = Taps(net, names, stop_early=True)(X)
        for handle in handles:
            handle.remove()
        assert output is None
        assert ran == ["enc.0", "enc.1", "enc", "block", "block"]
        expected = {**net.by_hand(X), "enc:input": X, "block#2:input": net.by_hand(X)["block#1"]}
        for name, feature in zip(names, features.values(), strict=True):
            assert_close(feature, expected[name], rtol=0, atol=0)

    @pytest.mark.parametrize("kind", [Exception, BaseException])
    def test_the_model_cannot_swallow_it(self, kind: type[BaseException]) -> None:
        def forgiving(x: Tensor) -> Tensor:
            try:
                return layer(x)
            except kind:
                reached.append(kind)
                return x

        reached: list[type[BaseException]] = []
        model = Lambda(forgiving)
        layer = model.layer = nn.Linear(3, 3)
        output, features = Taps(model, ["layer"], stop_early=True)(X)
        assert output is None
        assert reached == ([] if kind is Exception else [BaseException])
        assert_close(features[Tap("layer")], layer(X), rtol=0, atol=0)

    def test_grad_mode_is_restored(self) -> None:
        def frozen(x: Tensor) -> Tensor:
            with torch.no_grad():
                return layer(x)

        model = Lambda(frozen)
        layer = model.layer = nn.Linear(3, 3)
        _, features = Taps(model, ["layer"], stop_early=True)(X)
        assert torch.is_grad_enabled()
        assert not features[Tap("layer")].requires_grad

    def test_gradients_flow_through_what_ran(self, net: Net) -> None:
        _, features = Taps(net, ["enc"], stop_early=True)(X)
        features[Tap("enc")].sum().backward()
        assert net.enc[0].weight.grad is not None
        assert net.block.weight.grad is None

    def test_calls_from_the_last_need_the_whole_run(self, net: Net) -> None:
        output, features = Taps(net, ["enc", "block#-1"], stop_early=True)(X)
        assert_close(output, net(X), rtol=0, atol=0)
        assert_close(features[Tap("block", call=-1)], net.by_hand(X)["block#2"], rtol=0, atol=0)

    def test_one_stop_ends_only_its_own_run(self, net: Net) -> None:
        inner = Taps(net, ["enc"], stop_early=True, register=True)
        model = Second(inner, lambda value: value[1][Tap("enc")] + 1)
        output, _ = Taps(model, [""])(X)
        assert_close(output, net.enc(X) + 1)
        output, features = Taps(model, ["layer.network.enc.0"], stop_early=True)(X)
        assert output is None
        assert_close(features[Tap("layer.network.enc.0")], net.enc[0](X), rtol=0, atol=0)

    def test_a_missing_tap_is_still_an_error(self, net: Net) -> None:
        with pytest.raises(FeatureError, match="tap 'spare' was never reached"):
            Taps(net, ["enc", "spare"], stop_early=True)(X)

    def test_a_substitute_behind_the_stop_is_no_error(self, net: Net) -> None:
        output, _ = Taps(net, ["enc"], stop_early=True)(X, substitute={"dec": torch.zeros(5, 2)})
        assert output is None


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.ran = 0
        self.b[0].register_forward_hook(self.count)
        self.reentrant: bool | None = reentrant

    def count(self, *_: Any) -> None:
        self.ran += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(x) if self.reentrant is None else checkpoint(self.b, x, use_reentrant=self.reentrant)
        return self.c(x)


class TestCheckpointing:
    def plain(self, model: Checkpointed, names: list[str]) -> list[Tensor]:
        return self.gradients(model, names, reentrant=None)

    def gradients(self, model: Checkpointed, names: list[str], *, reentrant: bool | None) -> list[Tensor]:
        model.reentrant = reentrant
        output, features = Taps(model, names)(X)
        model.zero_grad()
        (output.sum() + sum(feature.square().sum() for feature in features.values())).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    def test_recomputation_changes_nothing(self) -> None:
        model = Checkpointed(reentrant=False)
        names = ["a", "b", "b.0", "b.1#-1", "b.0:input", "c"]
        expected = self.plain(model, names)
        model.ran = 0
        assert_close(self.gradients(model, names, reentrant=False), expected)
        assert model.ran == 2  # the layer did run again, and counts stayed right
        model.reentrant = False
        with pytest.raises(FeatureError, match=r"'b\.0#1' asks for call 1 of its layer; got 1 call in this forward"):
            Taps(model, ["b.0#1"])(X)

    def test_recomputation_inside_the_forward_is_no_call(self) -> None:
        """A model that takes a gradient in its forward recomputes its layers while the hooks are attached."""

        class Energy(Checkpointed):
            def forward(self, x: Tensor) -> Tensor:
                x = x.clone().requires_grad_()
                energy = super().forward(x).square().sum()
                (slope,) = torch.autograd.grad(energy, x, create_graph=True)
                return self.b(slope)

        model = Energy(reentrant=False)
        output, features = Taps(model, ["b.0#1", "b.0#-1", "b.0"])(X)
        assert model.ran == 3
        assert_close(torch.tanh(features[Tap("b.0", call=1)]), output)
        assert_close(torch.tanh(features[Tap("b.0", call=-1)]), output)
        with pytest.raises(FeatureError, match="got 2 calls"):
            Taps(model, ["b.0#2"])(X)

    def test_a_reentrant_one_hides_the_gradient(self) -> None:
        model = Checkpointed(reentrant=True)
        names = ["a", "c"]  # outside the segment all is well
        expected = self.plain(model, names)
        assert_close(self.gradients(model, names, reentrant=True), expected)
        with pytest.raises(FeatureError, match=r"'b\.0' carries no gradient.*use_reentrant=False"):
            Taps(model, ["b.0"])(X)
        with pytest.raises(FeatureError, match=r"'b\.0' carries no gradient"):
            Taps(model, [Tap("b.0", clone=True)])(X)

    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    @pytest.mark.parametrize("grad", [True, False])
    def test_a_reentrant_one_without_gradients_is_fine(self, grad: bool) -> None:
        model = Checkpointed(reentrant=True).requires_grad_(False)
        with torch.set_grad_enabled(grad):
            _, features = Taps(model, ["b.0"])(X)
            assert_close(features[Tap("b.0")], model.b[0](model.a(X)))

    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_no_substitute_inside(self, reentrant: bool) -> None:
        model = Checkpointed(reentrant=reentrant)
        with pytest.raises(FeatureError, match=r"'b\.0' can't be substituted inside a checkpointed segment"):
            Taps(model, [])(X, substitute={"b.0": X})
        with torch.no_grad():  # where nothing is recomputed
            output, _ = Taps(model, [])(X, substitute={"b.0": X})
            assert_close(output, model.c(torch.tanh(X)))
        output, _ = Taps(model, [])(X, substitute={"a": X})
        assert_close(output, model.c(model.b(X)))

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_the_whole_run_inside_a_checkpoint(self, reentrant: bool) -> None:
        model = Checkpointed(reentrant=False)
        model.reentrant = None
        taps = Taps(model, ["b.0", "b.1"])
        x = X.clone().requires_grad_()

        def run(x: Tensor) -> Tensor:
            output, features = taps(x)
            return output.sum() + features[Tap("b.0")].square().sum()

        checkpoint(run, x, use_reentrant=reentrant).backward()
        got, x.grad = x.grad, None
        run(x).backward()
        assert_close(got, x.grad)


class TestParallel:
    def test_two_threads_share_a_model(self, net: Net) -> None:
        together = threading.Barrier(2, timeout=10)

        def meet(*_: Any) -> None:
            together.wait()

        handle = net.enc.register_forward_hook(meet)
        results: dict[int, Any] = {}

        def run(number: int) -> None:
            results[number] = Taps(net, ["enc", "block#2", "dec:input"])(X * number)

        threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        handle.remove()
        for number in (1, 2):
            output, features = results[number]
            expected = net.by_hand(X * number)
            assert_close(output, expected["dec"], rtol=0, atol=0)
            assert_close(features[Tap("enc")], expected["enc"], rtol=0, atol=0)
            assert_close(features[Tap("block", call=2)], expected["block#2"], rtol=0, atol=0)

    def replica(self, module: nn.Module) -> nn.Module:
        """What nn.DataParallel makes: a shallow copy that shares the dicts of hooks."""
        copied = module._replicate_for_data_parallel()
        for key, child in module._modules.items():
            copied._modules[key] = self.replica(child) if child is not None else None
        for key, parameter in module._parameters.items():
            setattr(copied, key, parameter * 2 if parameter is not None else None)
        return copied

    def test_replicas_run_their_own_model(self, net: Net) -> None:
        taps = Taps(net, ["enc.0"], register=True)
        other = self.replica(taps)
        _, features = other(X)
        assert_close(features[Tap("enc.0")], taps(X)[1][Tap("enc.0")] * 2)

    def test_replicas_without_a_model_say_so(self, net: Net) -> None:
        holder = nn.ModuleDict({"taps": Taps(net, ["enc.0"])})
        with pytest.raises(ArgumentError, match="a replica of these taps doesn't hold its own model"):
            self.replica(holder)["taps"](X)

    def test_distributed(self, net: Net) -> None:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            plain = Taps(net, ["enc", "block#1"], register=True)
            output, features = plain(X)
            (output.sum() + features[Tap("enc")].square().sum()).backward()
            expected = net.enc[0].weight.grad.clone()
            for wrapped, name in (
                (nn.parallel.DistributedDataParallel(plain, find_unused_parameters=True), "enc"),
                (
                    Taps(nn.parallel.DistributedDataParallel(net, find_unused_parameters=True), ["module.enc"]),
                    "module.enc",
                ),
            ):
                net.zero_grad()
                output, features = wrapped(X)
                (output.sum() + features[Tap(name)].square().sum()).backward()
                assert_close(net.enc[0].weight.grad, expected)
            # Here and not when this function ends: gloo's threads let go of tensors, for which they need Python, and
            # whoever takes the group apart meanwhile, with Python held, waits for them forever.
            dist.barrier()
            del wrapped
        finally:
            dist.destroy_process_group()
