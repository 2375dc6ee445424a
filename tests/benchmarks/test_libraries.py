"""The comparison of libraries: the loss is that of the papers' formulas, lines are counted, rounds are fair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import libraries


def test_skd_s_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    teacher, student = libraries.UNet(libraries.TEACHER).eval(), libraries.UNet(libraries.STUDENT)
    regressors = {name: nn.Conv2d(*widths, 1) for name, widths in libraries.LAYERS.items()}
    noisy, clean = torch.rand(2, 2, 3, 16, 24)

    def features(network: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        found: dict[str, Tensor] = {}
        for name in libraries.LAYERS:
            layer = network.get_submodule(name)
            layer.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        with torch.no_grad():
            return network(noisy), found

    output, ours = features(student)
    _, theirs = features(teacher)
    wanted = F.mse_loss(output, clean)
    for name, regressor in regressors.items():
        maps = [each.square().sum(1).flatten(1) for each in (ours[name], theirs[name])]
        s, t = (each / each.norm(dim=1, keepdim=True) for each in maps)
        wanted = wanted + F.mse_loss(regressor(ours[name]), theirs[name]) + 1000 * F.mse_loss(s, t)
    step = libraries.with_skd(teacher, student, regressors)
    assert step(noisy, clean) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert step(noisy, clean) < float(wanted.detach())  # it trains


def test_lines_and_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(x: int) -> int:
        y = x + 1

        # a comment
        return y * 2

    assert libraries.lines_of(some) == 2
    now = [0.0]

    def step(seconds: float) -> object:
        def take(noisy: Tensor, clean: Tensor) -> float:
            now[0] += seconds
            return float(noisy.sum())

        return take

    monkeypatch.setattr(libraries.time, "process_time", lambda: now[0])
    batches = [(torch.full((1,), float(k)), torch.zeros(1)) for k in range(3)]
    found = libraries.timed({"skd": step(1.0), "other": step(2.5)}, batches, rounds=4)
    assert (found["other"]["ratio"], found["skd"]["seconds"]) == (2.5, 1.0)
    assert found["other"]["losses"] == found["skd"]["losses"] == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
