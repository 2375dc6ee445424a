"""Devices that are there and that aren't, and what is set for the same result each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kbstyle_example.devices import as_device, exact
from skd.errors import ArgumentError


@pytest.mark.parametrize("name", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_is_always_there(name: Any) -> None:
    assert as_device(name).type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "xpu", 3.5])
def test_no_such_device(name: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"no such device; got {name}; expected cpu, cuda \(cuda:1, …\) or mps"):
        as_device(name)


def test_what_isnt_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ArgumentError, match=f"isn't on this machine; got {name}; expected one of cpu"):
            as_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(as_device("cuda:1")) == "cuda:1"
    assert str(as_device("cuda")) == "cuda"
    with pytest.raises(ArgumentError, match="got cuda:2; expected one of cpu, cuda:0, cuda:1"):
        as_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert as_device("mps").type == "mps"


def test_exact_is_set_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with pytest.raises(KeyError, match="True"), exact():
        raise KeyError((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False))
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
    assert before != (False, True, False)
