"""Capture under torch.compile(fullgraph=True), which raises at any graph break: values are those of the eager run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from skd.errors import ArgumentError, FeatureError
from skd.taps import Tap, Taps

import torch._dynamo as dynamo  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    dynamo.reset()
    torch.manual_seed(0)
    yield
    dynamo.reset()


class Parts(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"low": x[:, :1], "rest": (x * 2, None)}


class Net(nn.Module):
    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace))
        self.block = nn.Conv2d(3, 3, 1)
        self.parts = Parts()
        self.dec = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        x = self.enc(x)
        for _ in range(3):
            x = self.block(x)
        return self.dec(self.parts(x)["rest"][0]) * scale


X = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
NAMES = ["", ":input[0]", "enc", "enc.1", "block#1", "block#-1", "block#-1:input", "parts['rest'][0]", "parts['low']"]


def hook_dicts(model: nn.Module) -> list[Any]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    tables = [getattr(module, name) for module in model.modules() for name in names]
    return [(id(table), type(table), list(table.items())) for table in tables]


def gradients(model: nn.Module, output: Tensor, features: dict[Tap, Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss = output.square().sum() + sum(feature.square().mean() for feature in features.values())
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def check(taps: Taps, *args: Any, backend: str = "eager", **kwargs: Any) -> dict[Tap, Tensor]:
    """Compiled twice-called taps agree with eager ones in values and gradients, and leave the model as it was."""
    model = taps.model
    before = hook_dicts(model)
    output, features = taps(*args, **kwargs)
    expected = gradients(model, output, features)
    compiled = torch.compile(taps, backend=backend, fullgraph=True)
    for call in range(2):
        with dynamo.config.patch(error_on_recompile=call > 0):
            got_output, got = compiled(*args, **kwargs)
        assert list(got) == list(features)
        assert_close(got_output, output)
        assert_close(list(got.values()), list(features.values()))
        assert_close(gradients(model, got_output, got), expected)
    assert hook_dicts(model) == before
    return got


def test_features_are_those_of_the_eager_run() -> None:
    check(Taps(Net().eval(), NAMES), X, scale=2.0, backend="aot_eager")


@pytest.mark.parametrize("skip_guards", [True, False])
def test_where_the_model_was_compiled_unhooked_before(skip_guards: bool) -> None:
    with dynamo.config.patch(skip_nnmodule_hook_guards=skip_guards):
        model = Net().eval()
        expected = model(X)
        for network in (model, Net().eval()):
            torch.compile(network, backend="eager", fullgraph=True)(X)
        check(Taps(model, ["enc", "block#-1:input"]), X)
        assert_close(torch.compile(model, backend="eager", fullgraph=True)(X), expected)


def test_a_hook_within_a_model_compiled_before_is_not_seen() -> None:
    """Why the taps wrap the model, and refuse one that is compiled on its own."""
    model = Net().eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(X)
    seen = []
    model.enc.register_forward_hook(lambda *_: seen.append(1))
    compiled(X)
    assert seen == []


def test_two_taps_of_one_model_are_compiled_apart() -> None:
    model = Net().eval()
    check(Taps(model, ["enc"]), X)
    check(Taps(model, ["block#-1"]), X)


def test_another_batch_size() -> None:
    taps = Taps(Net().eval(), ["enc", "block#1"])
    compiled = torch.compile(taps, backend="eager", fullgraph=True)
    for size in (2, 1, 2):
        output, features = taps(X[:size])
        got_output, got = compiled(X[:size])
        assert_close(got_output, output)
        assert_close(list(got.values()), list(features.values()))


def test_in_place_layers_do_not_corrupt() -> None:
    """Versions can't be compared in a graph, so features are copied: right where the eager run refuses."""
    model = Net(inplace=True).eval()
    taps = Taps(model, ["enc.1"])
    with pytest.raises(FeatureError, match="changed in place"):
        taps(X)
    _, features = torch.compile(taps, backend="aot_eager", fullgraph=True)(X)
    assert_close(features[Tap("enc.1")], model.enc[1](model.enc[0](X)))
    assert features[Tap("enc.1")].min() < 0
    check(Taps(model, [Tap("enc.1", clone=True)]), X)


def test_train_mode_updates_batch_norm_once_a_call() -> None:
    model = Net().train()
    torch.compile(Taps(model, ["enc.1"]), backend="aot_eager", fullgraph=True)(X)
    assert model.enc[1].num_batches_tracked == 1


def test_substitutes() -> None:
    code = torch.randn(2, 3, 3, 3)
    taps = Taps(Net().eval(), ["block", "dec"])
    places = Tap("block"), Tap("block", call=2, side="input"), Tap("parts", path=("rest", 0))
    check(taps, X, substitute=dict.fromkeys(places, code))
    graph_code = code.clone().requires_grad_()
    compiled = torch.compile(taps, backend="aot_eager", fullgraph=True)
    output, _ = compiled(X, substitute={Tap("block", call=2): graph_code})
    eager, _ = taps(X, substitute={Tap("block", call=2): graph_code})
    (got,), (expected,) = (torch.autograd.grad(value.sum(), graph_code) for value in (output, eager))
    assert_close(got, expected)


def test_the_users_hooks_are_traced_and_come_first() -> None:
    model = Net().eval()
    model.enc.register_forward_hook(lambda module, args, output: output * 3)
    model.dec.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    features = check(Taps(model, ["enc", "dec:input"]), X)
    assert_close(features[Tap("enc")], model.enc(X))


def test_taps_within_taps() -> None:
    inner = Taps(Net().eval(), ["enc:input", "enc"], register=True)
    outer = Taps(inner, ["network.enc:input", "network.enc"])
    (_, theirs), ours = outer(X)
    (_, got_theirs), got_ours = torch.compile(outer, backend="eager", fullgraph=True)(X)
    assert_close([*got_theirs.values(), *got_ours.values()], [*theirs.values(), *ours.values()])


def test_stop_early_is_ignored() -> None:
    model = Net().eval()
    output, _ = torch.compile(Taps(model, ["enc"], stop_early=True), backend="eager", fullgraph=True)(X)
    assert_close(output, model(X))


def test_autocast() -> None:
    taps = Taps(Net().eval(), ["enc", "block#1"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, features = torch.compile(taps, backend="eager", fullgraph=True)(X)
        _, expected = taps(X)
    assert [feature.dtype for feature in features.values()] == [torch.bfloat16] * 2
    assert_close(list(features.values()), list(expected.values()))


class Step(nn.Module):
    """What a distiller is: two models and a loss, compiled as one."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = Net().eval().requires_grad_(False), Net()
        self.teacher_taps = Taps(self.teacher, ["enc", "block#-1"], stop_early=True)
        self.student_taps = Taps(self.student, ["enc", "block#-1"])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, theirs = self.teacher_taps(x)
        output, ours = self.student_taps(x)
        loss = torch.stack([(a - b).square().mean() for a, b in zip(ours.values(), theirs.values(), strict=True)]).sum()
        return output, loss


def test_two_models_and_a_loss_in_one_graph() -> None:
    step = Step()
    step.student.enc[1].eval()
    results = []
    for run in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        step.zero_grad()
        output, loss = run(X)
        (output.mean() + loss).backward()
        results.append([output, loss, *(p.grad.clone() for p in step.student.parameters())])
    assert_close(results[1], results[0])
    assert results[0][1] > 0


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(checkpoint(self.b, self.a(x), use_reentrant=False))


def test_taps_around_a_checkpoint() -> None:
    check(Taps(Checkpointed(), ["a", "c"]), torch.randn(4, 3), backend="aot_eager")


def test_taps_inside_a_checkpoint_need_dynamos_consent() -> None:
    taps = Taps(Checkpointed(), ["b.0", "b"])
    with pytest.raises(dynamo.exc.Unsupported, match="skip_fwd_side_effects_in_bwd_under_checkpoint"):
        torch.compile(taps, backend="eager", fullgraph=True)(torch.randn(4, 3))
    dynamo.reset()
    with dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True):
        check(taps, torch.randn(4, 3), backend="aot_eager")


class TestCompiledOnItsOwn:
    def test_the_whole_of_a_compiled_model(self) -> None:
        model = Net().eval()
        compiled = torch.compile(model, backend="eager")
        output, features = Taps(compiled, ["", ":input[0]"])(X)
        assert_close(output, model(X))
        assert_close(list(features.values()), [output, X])

    def test_a_layer_inside_is_refused(self) -> None:
        compiled = torch.compile(Net().eval(), backend="eager")
        for name in ("enc", "_orig_mod.enc"):
            with pytest.raises(ArgumentError, match="a tap lies inside a module that is compiled on its own"):
                Taps(compiled, [name])

    def test_a_module_that_is_compiled_later(self) -> None:
        model = Net().eval()
        taps = Taps(model, ["enc.0", "block"])
        expected = taps(X)[1]
        model.dec.compile(backend="eager")  # elsewhere
        assert_close(list(taps(X)[1].values()), list(expected.values()))
        model.enc.compile(backend="eager")
        with pytest.raises(ArgumentError, match="compile what skd wraps around it"):
            taps(X)
        whole = Net().eval()
        taps = Taps(whole, [""])
        whole.compile(backend="eager")
        with pytest.raises(ArgumentError, match="compile what skd wraps around it"):
            taps(X)

    def test_compiled_parts_within_a_compiled_whole(self) -> None:
        model = Net().eval()
        taps = Taps(model, ["enc.0", "block#-1"])
        output, features = taps(X)
        model.enc.compile(backend="eager")
        got_output, got = torch.compile(taps, backend="eager", fullgraph=True)(X)
        assert_close(got_output, output)
        assert_close(list(got.values()), list(features.values()))
