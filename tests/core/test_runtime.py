"""Modes of a module and of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kpnet.core.runtime import best_device, evaluation_mode, is_tracing


def network() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)))


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_evaluation_mode_inside_and_each_modules_own_afterwards() -> None:
    model = network().train()
    model.get_submodule("1.0").eval()  # frozen
    before = modes(model)
    assert len(set(before)) == 2
    with evaluation_mode(model):
        assert modes(model) == [False] * 5
        images = torch.rand(4, 3)
        assert torch.equal(model(images), model(images)), "nothing is dropped"
    assert modes(model) == before
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        raise ZeroDivisionError
    assert modes(model) == before


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_tracing_and_transforming_are_noticed_and_a_plain_call_is_not() -> None:
    x = torch.rand(3)
    said: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        said.append(is_tracing())
        return x + 1

    ask(x)
    assert said == [False]
    with FakeTensorMode():
        ask(torch.rand(3))
    torch.func.vmap(ask)(x)
    torch.jit.trace(ask, x, check_trace=False)
    assert said == [False, True, True, True]
    ask(x)
    assert not said[-1]


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_where_there_is_one(there: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert best_device() == torch.device(expected)
