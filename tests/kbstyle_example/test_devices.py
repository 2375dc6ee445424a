"""Devices that are there and that aren't, and what is set for the same result each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kbstyle_example.devices import as_device, as_precision, exact, has_bfloat16
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


def test_bfloat16_only_where_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for found, there in (({"avx2": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert has_bfloat16() is there
        assert as_precision("float32", cpu) == torch.float32
        if there:
            assert as_precision("bfloat16", cpu) == torch.bfloat16
            with pytest.raises(ArgumentError, match=r"painting in bfloat16; got device cuda:0; expected cpu. Remedy: "):
                as_precision("bfloat16", torch.device("cuda:0"))
        else:
            with pytest.raises(ArgumentError, match=r"can't multiply in bfloat16; expected one with AVX512.*float32"):
                as_precision("bfloat16", cpu)
    with pytest.raises(ArgumentError, match="precision to paint in; got half; expected float32 or bfloat16"):
        as_precision("half", cpu)


def test_exact_is_set_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with pytest.raises(KeyError, match="True"), exact():
        raise KeyError((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False))
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
    assert before != (False, True, False)
