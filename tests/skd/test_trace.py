from __future__ import annotations

import copy
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from skd.errors import ArgumentError, LayerNotFoundError
from skd.taps import Tap, Taps
from skd.trace import Trace, dry_run


class UNet(nn.Module):
    def __init__(self, *, inplace: bool = True) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace))
        self.pool = nn.MaxPool2d(2)
        self.mid = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1)])
        self.up = nn.Upsample(scale_factor=2)
        self.dec1 = nn.Conv2d(16, 3, 3, padding=1)
        self.aux = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        enc = self.enc1(x)
        code = self.mid[0](self.mid[0](self.pool(enc)))
        return {"out": self.dec1(torch.cat([self.up(code), enc], 1)), "c": code}


TABLE = """\
layer       type         output         layout  channels  scale  parameters  notes
(network)   UNet         -              -              -      -       1,263  ['out'] (1, 3, 8, 16), ['c'] (1, 8, 4, 8)
  enc1      Sequential   (1, 8, 8, 16)  BCHW           8      1         240
    enc1.0  Conv2d       (1, 8, 8, 16)  BCHW           8      1         224
    enc1.1  BatchNorm2d  (1, 8, 8, 16)  BCHW           8      1          16  changed in place
    enc1.2  ReLU         (1, 8, 8, 16)  BCHW           8      1           0
  pool      MaxPool2d    (1, 8, 4, 8)   BCHW           8    1/2           0
  mid.0     Conv2d       (1, 8, 4, 8)   BCHW           8    1/2         584  call 0 of 2
  mid.0#1   Conv2d       (1, 8, 4, 8)   BCHW           8    1/2         584  call 1 of 2
  up        Upsample     (1, 8, 8, 16)  BCHW           8      1           0
  dec1      Conv2d       (1, 3, 8, 16)  BCHW           3      1         435
never ran: aux"""

X = torch.linspace(-1, 1, 3 * 8 * 16).reshape(1, 3, 8, 16)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def summary(trace: Trace) -> dict[str, tuple[Any, ...]]:
    return {str(Tap(r.name, call=r.call)): (r.layout, r.channels, r.scale) for r in trace}


class TestRecords:
    def test_the_table(self) -> None:
        assert str(dry_run(UNet(), X)) == TABLE

    def test_every_call_in_call_order(self) -> None:
        trace = dry_run(UNet(), X)
        names = ["", "enc1", "enc1.0", "enc1.1", "enc1.2", "pool", "mid.0", "mid.0", "up", "dec1"]
        assert [record.name for record in trace] == names
        assert [record.order for record in trace] == list(range(len(trace)))
        assert [record.call for record in trace] == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
        assert [record.calls for record in trace] == [1, 1, 1, 1, 1, 1, 2, 2, 1, 1]
        assert [record.leaf for record in trace] == [False, False, *[True] * 8]
        assert [record.type for record in trace][:3] == ["UNet", "Sequential", "Conv2d"]
        assert [record.changed_in_place for record in trace].index(True) == 3
        assert trace.never_ran == ("aux",)

    def test_shapes_and_paths(self) -> None:
        model = UNet()
        trace = dry_run(model, X)
        dec = trace.find("dec1")
        assert (dec.input_shape, dec.output_shape, dec.paths) == ((1, 16, 8, 16), (1, 3, 8, 16), ())
        assert dec.parameters == sum(p.numel() for p in model.dec1.parameters())
        whole = trace.find("")
        assert (whole.output_shape, whole.layout, whole.channels, whole.scale) == (None, None, None, None)
        assert whole.paths == ((("out",), (1, 3, 8, 16)), (("c",), (1, 8, 4, 8)))
        assert whole.parameters == sum(p.numel() for p in model.parameters())

    def test_shapes_are_those_of_the_features(self) -> None:
        model = UNet(inplace=False)
        trace = dry_run(model, X)
        records = [record for record in trace if record.output_shape is not None]
        _, features = Taps(model, [Tap(record.name, call=record.call) for record in records])(X)
        for record, feature in zip(records, features.values(), strict=True):
            assert record.output_shape == tuple(feature.shape)

    def test_in_place_is_told_as_the_taps_tell_it(self) -> None:
        assert not any(record.changed_in_place for record in dry_run(UNet(inplace=False), X))

        class Add(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.b(x).add_(torch.relu_(self.a(x)))  # both freed before any other layer runs

        trace = dry_run(Add(), torch.ones(2, 3))
        assert [record.changed_in_place for record in trace] == [False, True, True]

    def test_find(self) -> None:
        trace = dry_run(UNet(), X)
        assert trace.find("mid.0", -1) is trace.find("mid.0", 1) is trace.records[7]
        with pytest.raises(LayerNotFoundError, match=r"no layer 'encl.0'. Remedy: did you mean 'enc1\.0'"):
            trace.find("encl.0")
        with pytest.raises(LayerNotFoundError, match=r"layer 'mid\.0' has no call 2; got 2 calls"):
            trace.find("mid.0", 2)
        with pytest.raises(LayerNotFoundError, match="layer 'aux' didn't run"):
            trace.find("aux")

    def test_a_trace_is_a_value(self) -> None:
        model = UNet()
        assert dry_run(model, X) == dry_run(model, X)
        assert len({dry_run(model, X), dry_run(model, X)}) == 1


class TestExamples:
    def test_arguments_and_keywords(self) -> None:
        class Two(nn.Module):
            def forward(self, content: Tensor, style: Tensor | None = None) -> Tensor:
                return content if style is None else content + style.mean()

        for example in (X, (X,), (X, X[..., :4]), {"content": X}, {"content": X, "style": X}):
            record = dry_run(Two(), example).find("")
            assert (record.output_shape, record.scale) == ((1, 3, 8, 16), (1.0, 1.0))

    @pytest.mark.parametrize("example", [[X], None, 3])
    def test_other_kinds(self, example: Any) -> None:
        with pytest.raises(ArgumentError, match="this isn't an example input; got"):
            dry_run(UNet(), example)

    def test_lazy_layers_are_not_set_up_on_the_quiet(self) -> None:
        model = nn.Sequential(nn.LazyLinear(3))
        with pytest.raises(ArgumentError, match=r"parameter '0\.weight' has no shape yet.*run the network once"):
            dry_run(model, torch.zeros(2, 3))
        assert isinstance(model[0], nn.LazyLinear)

    def test_the_example_is_left_alone(self) -> None:
        x = X.clone().requires_grad_()
        dry_run(nn.Sequential(nn.ReLU(inplace=True)), x)
        assert_close(x.detach(), X, rtol=0, atol=0)
        assert x._version == 0

    def test_one_tensor_given_twice_stays_one(self) -> None:
        class Same(nn.Module):
            def forward(self, a: Tensor, b: list[Tensor]) -> Tensor:
                return torch.zeros(1 + (a is b[0]), 1)

        assert dry_run(Same(), (X, [X])).find("").output_shape == (2, 1)


def sequence(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


class Tokens(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.pool = nn.AvgPool1d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(self.embed(x))
        return self.head(self.pool(x.transpose(1, 2)).transpose(1, 2))


class ChannelsLast(nn.Module):
    """As in Swin: maps are (B, H, W, C) inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Last(nn.Module):
    """Channels to the end."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


class TestLayoutAndScale:
    def test_maps_have_a_scale_for_each_axis(self) -> None:
        model = sequence(nn.Conv2d(3, 4, 3, stride=(1, 2), padding=1), nn.Upsample(scale_factor=(3, 1)))
        trace = dry_run(model, X)
        assert summary(trace)["0"] == ("BCHW", 4, (1.0, 0.5))
        assert summary(trace)["1"] == ("BCHW", 4, (3.0, 0.5))
        assert "1 × 1/2" in str(trace)

    def test_volumes(self) -> None:
        assert summary(dry_run(sequence(nn.MaxPool3d(2)), torch.zeros(1, 2, 4, 6, 8)))["0"] == ("BCDHW", 2, (0.5,) * 3)

    def test_odd_ratios(self) -> None:
        trace = dry_run(sequence(nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 199, 199))
        assert trace.find("0").scale == (197 / 199,) * 2
        assert "0.990" in str(trace)

    def test_signals(self) -> None:
        model = sequence(
            nn.Conv1d(2, 4, 4, stride=2, padding=1),
            sequence(nn.BatchNorm1d(4), nn.GELU(), nn.Dropout()),
            nn.ConvTranspose1d(4, 2, 2, stride=2),
        )
        assert summary(dry_run(model, torch.zeros(2, 2, 8))) == {
            "": ("BCL", 2, (1.0,)),
            "0": ("BCL", 4, (0.5,)),
            "1": ("BCL", 4, (0.5,)),
            "1.0": ("BCL", 4, (0.5,)),
            "1.1": ("BCL", 4, (0.5,)),
            "1.2": ("BCL", 4, (0.5,)),
            "2": ("BCL", 2, (1.0,)),
        }

    def test_tokens(self) -> None:
        found = summary(dry_run(Tokens(batch_first=True), torch.zeros(2, 6, dtype=torch.long)))
        assert found["embed"] == found["encode"] == found["encode.norm2"] == ("BNC", 8, (1.0,))
        assert found["encode.dropout"] == ("BNC", 16, (1.0,))
        assert found["pool"] == ("BCL", 8, (0.5,))
        assert found["head"] == found[""] == ("BNC", 3, (0.5,))

    def test_vectors_of_tokens_as_input(self) -> None:
        model = sequence(nn.LayerNorm(4), nn.Linear(4, 5))
        assert summary(dry_run(model, torch.zeros(2, 6, 4)))["1"] == ("BNC", 5, (1.0,))

    def test_the_batch_in_the_second_place_is_not_guessed(self) -> None:
        found = summary(dry_run(Tokens(batch_first=False), torch.zeros(6, 2, dtype=torch.long)))
        assert found["encode"] == found["encode.linear1"] == (None, None, None)

    def test_vectors_have_no_scale(self) -> None:
        model = sequence(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        found = summary(dry_run(model, X))
        assert found["2"] == found[""] == ("BC", 2, None)
        assert found["0"] == ("BCHW", 3, (1 / 8, 1 / 16))
        assert summary(dry_run(nn.Linear(3, 2), torch.zeros(4, 3)))[""] == ("BC", 2, None)

    def test_maps_turned_to_tokens_have_no_scale(self) -> None:
        model = sequence(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(2), nn.Linear(32, 5))
        assert summary(dry_run(model, X))["2"] == ("BNC", 5, None)

    def test_maps_with_channels_last_are_not_guessed(self) -> None:
        found = summary(dry_run(ChannelsLast(), X))
        for name in ("block.0", "block.1", "block.2", "block"):
            assert found[name] == (None, None, None)
        assert found["stem"] == ("BCHW", 4, (0.5, 0.5))
        assert found["head"] == found[""] == ("BCHW", 2, (0.5, 0.5))

    def test_a_layer_that_may_do_anything_is_not_guessed(self) -> None:
        class Turn(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.transpose(1, 2)

        found = summary(dry_run(sequence(nn.Conv1d(4, 4, 1), Turn(), nn.ReLU()), torch.zeros(1, 4, 4)))
        assert found["0"] == ("BCL", 4, (1.0,))
        assert found["1"] == (None, None, None)

    def test_channels_last_is_told_by_those_that_are_given_a_map(self) -> None:
        for size in ((8, 16), (4, 4)):  # the second with as many positions as channels
            trace = dry_run(sequence(nn.Conv2d(3, 4, 1), Last(), nn.Linear(4, 2)), torch.zeros(1, 3, *size))
            assert [(record.layout, record.channels_last) for record in trace] == [
                (None, True), ("BCHW", False), (None, True), (None, True),
            ]  # fmt: skip
        volumes = dry_run(sequence(Last(), nn.LayerNorm(3)), torch.zeros(1, 3, 4, 5, 6))
        assert [record.channels_last for record in volumes] == [True, True, True]
        assert not any(record.channels_last for record in dry_run(UNet(), X))

    def test_a_norm_over_all_of_a_map_does_not_tell(self) -> None:
        found = summary(dry_run(sequence(nn.Conv2d(3, 4, 1), nn.LayerNorm((4, 8, 16)), nn.Conv2d(4, 2, 1)), X))
        assert found["1"] == ("BCHW", 4, (1.0, 1.0))

    def test_signals_that_a_block_turns_round_for_its_recurrent_layers(self) -> None:
        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm, self.linear = nn.LSTM(4, 4, bidirectional=True), nn.Linear(8, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)

        found = summary(dry_run(sequence(nn.Conv1d(2, 4, 1), Recurrent()), torch.zeros(2, 2, 8)))
        assert found["1"] == ("BCL", 4, (1.0,))
        assert found["1.linear"] == (None, None, None)  # (positions, samples, channels)

    def test_gated_linear_units(self) -> None:
        found = summary(dry_run(sequence(nn.Conv1d(2, 6, 1), nn.GLU(1)), torch.zeros(2, 2, 8)))
        assert found["1"] == ("BCL", 3, (1.0,))

    def test_a_linear_layer_of_the_users_own(self) -> None:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(8, 5))

            def forward(self, x: Tensor) -> Tensor:
                return x @ self.weight

        found = summary(dry_run(sequence(nn.Embedding(9, 8), Own()), torch.zeros(2, 6, dtype=torch.long)))
        assert found["1"] == ("BNC", 5, (1.0,))
        square = summary(dry_run(sequence(nn.Embedding(9, 8), Own()), torch.zeros(2, 8, dtype=torch.long)))
        assert square["1"] == (None, None, None)  # it may have turned positions and channels round

    def test_several_outputs(self) -> None:
        record = dry_run(nn.GRU(3, 4, batch_first=True), torch.zeros(2, 5, 3)).find("")
        assert (record.output_shape, record.layout, record.scale) == (None, None, None)
        assert record.paths == (((0,), (2, 5, 4)), ((1,), (1, 2, 4)))


class Restless(nn.Module):
    """Changes whatever a module can change in its forward."""

    counter: Tensor

    def __init__(self, *, fail: bool) -> None:
        super().__init__()
        self.fail, self.calls = fail, 0
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.register_buffer("counter", torch.zeros(2))
        self.register_buffer("rebound", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.counter += 1
        self.rebound = self.rebound + 1
        self.register_buffer("fresh", torch.zeros(1))
        self.last = x
        self.norm.train()
        x = self.inner(self.norm(x) + torch.rand(3) + random.random())
        x = torch.nn.functional.dropout(x)
        if self.fail:
            raise RuntimeError("out of luck")
        return self.drop(x)


def state(model: nn.Module) -> Any:
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    return (
        [(module.training, [(k, id(v)) for k, v in module.__dict__.items()]) for module in model.modules()],
        [(name, id(value)) for name, value in (*model.named_buffers(), *model.named_parameters())],
        [list(getattr(module, name).items()) for module in model.modules() for name in names],
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


class TestRestoring:
    def test_versions_of_untouched_buffers_stay(self) -> None:
        """A backward that is still to come may need them."""
        model = nn.BatchNorm1d(3).eval()
        versions = [buffer._version for buffer in model.buffers()]
        dry_run(model, torch.ones(4, 3))
        assert [buffer._version for buffer in model.buffers()] == versions

    def test_a_model_built_in_inference_mode(self) -> None:
        with torch.inference_mode():
            model = UNet()
        assert str(dry_run(model, X)) == TABLE

    def test_on_the_meta_device(self) -> None:
        with torch.device("meta"):
            assert dry_run(UNet(), torch.zeros(1, 3, 8, 16)).find("enc1.1").changed_in_place

    @pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("fail", [False, True])
    def test_everything_is_as_it_was(self, fail: bool, context: Callable[[], Any]) -> None:
        model = Restless(fail=fail)
        model.inner[1].eval()
        model.norm.eval()
        model.inner[0].weight.requires_grad_(False)
        model.inner[0].register_forward_hook(lambda *_: None)
        values = copy.deepcopy(model.state_dict())
        with context():
            before = state(model)
            if fail:
                with pytest.raises(RuntimeError, match="out of luck"):
                    dry_run(model, torch.ones(4, 3))
            else:
                assert dry_run(model, torch.ones(4, 3)).find("drop").call == 0
            assert state(model) == before
        assert list(model.state_dict()) == list(values)
        for name, value in model.state_dict().items():
            assert_close(value, values[name], rtol=0, atol=0)

    def test_the_test_can_fail(self) -> None:
        model = Restless(fail=False)
        before = state(model)
        model(torch.ones(4, 3))
        after = state(model)
        assert [a == b for a, b in zip(before, after, strict=True)] == [
            False, False, True, True, True, False, False, True, True,
        ]  # fmt: skip

    def test_the_run_is_in_eval_mode_and_without_gradients(self) -> None:
        seen = []

        class Look(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                seen.append((self.training, torch.is_grad_enabled()))
                return x

            def train(self, mode: bool = True) -> Look:
                raise RuntimeError("not to be called")

        dry_run(nn.Sequential(Look()), X)
        assert seen == [(False, False)]

    def test_no_feature_is_kept(self) -> None:
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        seen = []
        model[0].register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
        trace = dry_run(model, torch.zeros(2, 3))
        assert len(trace) == 3
        assert seen[0]() is None

    def test_the_users_hooks_come_first(self) -> None:
        model = nn.Sequential(nn.Linear(3, 3))
        model[0].register_forward_pre_hook(lambda module, args: (args[0][:1],))
        model[0].register_forward_hook(lambda module, args, output: output[:, :2])
        record = dry_run(model, torch.zeros(2, 3)).find("0")
        assert (record.input_shape, record.output_shape) == ((1, 3), (1, 2))

    def test_a_network_that_attaches_hooks_in_its_first_run_attaches_them_once(self) -> None:
        class Watching(nn.Module):
            """As networks of transformers do, to collect what their layers return."""

            def __init__(self) -> None:
                super().__init__()
                self.layer, self.seen = nn.Linear(2, 2), list[Tensor]()

            def forward(self, x: Tensor) -> Tensor:
                if not getattr(self, "is_watching", False):
                    self.layer.register_forward_hook(lambda *_: self.seen.append(x))
                    self.is_watching = True
                return self.layer(x)

        model = Watching()
        dry_run(model, torch.zeros(1, 2))
        assert not model.layer._forward_hooks
        model.seen.clear()
        model(torch.zeros(1, 2))
        model(torch.zeros(1, 2))
        assert len(model.seen) == 2


class TestFailures:
    def test_the_error_is_the_users_own_and_names_the_layer(self) -> None:
        with pytest.raises(RuntimeError, match="expected input") as caught:
            dry_run(UNet(), X[:, :2])
        assert caught.value.__notes__ == [
            "The dry run failed in layer 'enc1.0' (Conv2d), which was given (1, 2, 8, 16)."
        ]

    def test_a_failure_in_the_network_itself(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            dry_run(Restless(fail=True), torch.ones(4, 3))
        assert caught.value.__notes__ == [
            "The dry run failed in the network itself (Restless), which was given (4, 3)."
        ]

    def test_wrong_arguments(self) -> None:
        with pytest.raises(TypeError, match="positional argument"):
            dry_run(UNet(), (X, X))

    def test_a_layer_that_fails_and_is_caught(self) -> None:
        class Tries(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.wrong, self.right = nn.Sequential(nn.Linear(7, 7)), nn.Linear(3, 3)

            def forward(self, x: Tensor) -> Tensor:
                try:
                    return self.wrong(x)
                except RuntimeError:
                    if x.shape[1] == 4:
                        raise ValueError("that is not all") from None
                    return self.right(x)

        trace = dry_run(nn.Sequential(Tries()), torch.zeros(2, 3))
        shapes = {record.name: record.output_shape for record in trace}
        assert shapes == {"": (2, 3), "0": (2, 3), "0.wrong": None, "0.wrong.0": None, "0.right": (2, 3)}
        with pytest.raises(ValueError, match="not all") as caught:
            dry_run(nn.Sequential(Tries()), torch.zeros(2, 4))
        assert caught.value.__notes__ == ["The dry run failed in layer '0' (Tries), which was given (2, 4)."]


def test_a_compiled_model_is_traced_as_it_is_written() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    assert [record.name for record in dry_run(compiled, X)] == ["", "_orig_mod", "_orig_mod.0", "_orig_mod.1"]
    assert_close(compiled(X), model(X))
