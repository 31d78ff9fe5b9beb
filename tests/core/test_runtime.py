"""Modes of a module and of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kpnet.core.runtime import best_device, evaluation_copy, evaluation_mode, is_tracing


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


class Indirect(nn.Module):
    """Layers that the forward pass finds in a list, through a method, and by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = network(), network()
        self.both = [self.first, self.second]
        self.call = self.run
        self.first.register_forward_hook(lambda module, _, output: output + float(module.training))

    def run(self, x: Tensor) -> Tensor:
        for layer in self.both:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def test_an_evaluation_copy_predicts_as_eval_mode_and_shares_the_weights() -> None:
    model = Indirect().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = evaluation_copy(model)
    x = torch.rand(4, 3)
    predicted = copy(x)
    assert modes(model) == [True] * len(modes(model))
    assert modes(copy) == [False] * len(modes(copy))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "no buffer has moved"
    assert [id(p) for p in copy.parameters()] == [id(p) for p in model.parameters()]
    assert torch.equal(predicted, model.eval()(x))
    assert evaluation_copy(model) is model


def test_an_evaluation_copy_keeps_what_is_set_on_it_to_itself() -> None:
    model = Indirect().train()
    copy = evaluation_copy(model)
    copy.first.register_forward_hook(lambda *_: 1 / 0)
    copy.second = nn.Sequential()
    copy.register_buffer("more", torch.zeros(1))
    model(torch.rand(4, 3))
    assert len(model.second) == 2
    assert not hasattr(model, "more")


def test_an_evaluation_copy_of_a_compiled_module_is_not_the_compiled_one() -> None:
    model = nn.Sequential(nn.Dropout(0.5)).train()
    model._compiled_call_impl = lambda *_: 1 / 0
    assert torch.equal(evaluation_copy(model)(torch.ones(100)), torch.ones(100))


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
