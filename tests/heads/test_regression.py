"""The regression head: the course's network."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_heads import CHANNELS, build, features
from torch import nn

from kpnet.core.errors import KpnetError
from kpnet.heads import HEADS, PyramidInfo


def test_regression_initialisation() -> None:
    """Kaiming normal before a ReLU, Xavier normal before the tanh, as the course has it."""
    head = build({"name": "regression", "hidden": [400, 300]}, 100)
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6 * 3 * 4, 400), (400, 300), (300, 200)]
    for m in linear[:2]:
        assert m.weight.std().item() == pytest.approx(math.sqrt(2 / m.in_features), rel=0.02)
    assert linear[2].weight.std().item() == pytest.approx(math.sqrt(2 / (300 + 200)), rel=0.02)


def test_regression_is_the_courses_network() -> None:
    head = build("regression", 15).eval()
    first, last = (m for m in head.modules() if isinstance(m, nn.Linear))
    x = features()[-1]
    course = torch.tanh(last(F.relu(first(x.flatten(1)))))
    assert first.out_features == 256
    assert torch.equal(head(features()).xy, course.view(-1, 15, 2))
    assert list(head.loss(head(features()), torch.zeros(2, 15, 2), torch.ones(2, 15))) == ["mse"]


def test_the_case_studys_layers() -> None:
    """FC, LeakyReLU, dropout 0.2, twice (I2DL, exercise 8), initialised for that slope."""
    spec = {"name": "regression", "hidden": [400, 300], "hidden_activation": "leaky_relu", "dropout": 0.2}
    head: Any = build(spec, 15).eval()
    kinds = [type(m).__name__ for m in head.layers]
    assert kinds == ["Linear", "LeakyReLU", "Dropout", "Linear", "LeakyReLU", "Dropout", "Linear", "Tanh"]
    assert [m.p for m in head.layers if isinstance(m, nn.Dropout)] == [0.2, 0.2]
    first, second, last = (m for m in head.layers if isinstance(m, nn.Linear))
    x = features()[-1].flatten(1)
    for layer in (first, second):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1.0001 / layer.in_features), rel=0.02)
        x = layer(x)
        x = torch.where(x > 0, x, 0.01 * x)
    torch.testing.assert_close(head(features()).xy, torch.tanh(last(x)).view(-1, 15, 2))


@pytest.mark.parametrize("name", ["rle", "gaussian_nll", "laplace_nll"])
def test_every_regression_head_has_the_hidden_activation(name: str) -> None:
    head: Any = build({"name": name, "hidden_activation": "leaky_relu"})
    assert [type(m) for m in head.layers][:2] == [nn.Linear, nn.LeakyReLU]


def test_regression_dropout_is_off_in_eval() -> None:
    head = build({"name": "regression", "dropout": 0.5})
    assert not torch.equal(head(features()).xy, head(features()).xy)
    head.eval()
    assert torch.equal(head(features()).xy, head(features()).xy)


def test_flatten_is_bound_to_its_size_and_avg_is_not() -> None:
    other = features(size=(64, 64))
    with pytest.raises(
        KpnetError, match="built for feature maps of 3x4, got 4x4: use the configured input_size, or pool: avg"
    ):
        build("regression")(other)
    head = build({"name": "regression", "pool": "avg"}).eval()
    assert head(other).xy.shape == (2, 5, 2)
    constant = [torch.ones(1, c, h, h) for c, h in zip(CHANNELS, (16, 8, 4), strict=True)]
    wider = [torch.ones(1, c, h, 3 * h) for c, h in zip(CHANNELS, (16, 8, 4), strict=True)]
    torch.testing.assert_close(head(constant).xy, head(wider).xy)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pool": "max"}, "pool: Input should be 'flatten' or 'avg', found 'max'"),
        ({"activation": "relu"}, "activation: Input should be 'tanh' or 'none', found 'relu'"),
        ({"hidden_activation": "tanh"}, "hidden_activation: Input should be 'relu' or 'leaky_relu', found 'tanh'"),
        ({"hidden": [0]}, "hidden.0: Input should be greater than 0, found 0"),
        ({"hidden": 256}, "hidden: Input should be a valid list, found 256"),
        ({"dropout": 1.0}, "dropout: Input should be less than 1, found 1.0"),
        ({"loss": {"cross_entropy": 1.0}}, 'unknown loss "cross_entropy" for head "regression"'),
    ],
)
def test_bad_regression_options(option: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        build({"name": "regression", **option})


def test_regression_predictions_in_float32_under_autocast() -> None:
    """bfloat16 has eight bits: on a 96 px image its rounding alone is a fifth of a pixel."""
    torch.manual_seed(0)
    head = HEADS.build("regression", PyramidInfo([8], [32], [(3, 3)]), 15)
    features = [torch.randn(4, 8, 3, 3)]
    expected = head(features).xy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(features).xy
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
