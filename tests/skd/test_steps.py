from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from skd import Losses, Step


def test_the_total_is_the_sum_with_all_gradients() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    losses = Losses({"a": 3 * weight[0], "b": weight[1] ** 2})
    assert losses.values() == {"a": 3.0, "b": 4.0, "total": 7.0}
    assert losses["b"] is losses.terms["b"]
    losses.total.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([3.0, 4.0]))


def test_no_terms_are_zero() -> None:
    assert torch.equal(Losses({}).total, torch.zeros(()))
    assert Losses({}).values() == {"total": 0.0}


def test_an_unknown_term_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="b"):
        Losses({"a": torch.zeros(())})["b"]


@pytest.mark.parametrize("value", [Losses({}), Step(None, Losses({}))])
def test_they_are_read_only(value: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_a_step_has_no_teacher_output_unless_asked() -> None:
    assert Step(1, Losses({})).teacher_output is None
