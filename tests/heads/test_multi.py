"""Several heads on one backbone: whose prediction it is, and their losses together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.small_heads import build, features

from kpnet.core.errors import KpnetError
from kpnet.heads import Head
from kpnet.heads.multi import MultiHead, MultiOutput


def test_the_prediction_of_several_heads() -> None:
    heads = {"coarse": "laplace_nll", "fine": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}}}
    for primary in ("coarse", "fine", None):
        head = build({"name": "multi", "heads": heads, "primary": primary}).eval()
        assert isinstance(head, MultiHead)
        output = head(features())
        assert isinstance(output, MultiOutput)
        own = output.parts[primary or "fine"]
        assert torch.equal(output.xy, own.xy)
        part = head.heads[primary or "fine"]
        assert isinstance(part, Head)
        expected = part.infer(own)
        torch.testing.assert_close(head.infer(output).covariance, expected.covariance)


def test_fused_is_the_mean_by_inverse_variance() -> None:
    spec = {"name": "multi", "heads": {"a": "laplace_nll", "b": "gaussian_nll"}, "primary": "fused"}
    head = build(spec).eval()
    assert isinstance(head, MultiHead)
    output = head(features())
    assert isinstance(output, MultiOutput)
    parts: dict[str, Any] = dict(head.heads.items())
    a, b = (parts[name].infer(output.parts[name]) for name in "ab")
    va, vb = (torch.diagonal(x.covariance, dim1=-2, dim2=-1).sum(-1)[..., None] for x in (a, b))
    torch.testing.assert_close(output.xy, (a.keypoints * vb + b.keypoints * va) / (va + vb))
    assert torch.equal(head.infer(output).keypoints, output.xy)
    bare = {**spec, "heads": {"a": "regression", "b": "gaussian_nll"}}
    with pytest.raises(KpnetError, match='fused needs a variance from every head, and "a" has none'):
        build(bare)


def test_the_loss_of_several_heads_is_weighted() -> None:
    heads = {"a": "regression", "b": "rle"}
    plain = build({"name": "multi", "heads": heads})
    half = build({"name": "multi", "heads": heads, "weights": {"b": 0.5}})
    half.load_state_dict(plain.state_dict())
    target, weight = torch.rand(2, 5, 2), torch.ones(2, 5)
    first, second = (head.loss(head(features()), target, weight) for head in (plain, half))
    assert list(first) == list(second) == ["a.mse", "b.nll"]
    torch.testing.assert_close(second["b.nll"], first["b.nll"] / 2)
    torch.testing.assert_close(second["a.mse"], first["a.mse"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": {}}, "heads: expected at least one"),
        ({}, '"heads" is missing'),
        ({"heads": {"a": "regresion"}}, 'unknown head "regresion"'),
        ({"heads": {"a": "rle"}, "primary": "b"}, 'there is no head "b".*there are: a'),
        ({"heads": {"a": "rle"}, "weights": {"b": 1}}, 'there is no head "b"'),
        ({"heads": {"a": "rle"}, "weights": {"a": 0}}, "weights.a: Input should be greater than 0"),
        ({"heads": {"fused": "rle"}}, '"fused" cannot be a name'),
        ({"heads": {"a.b": "rle"}}, r'"a\.b" cannot be a name'),
    ],
)
def test_bad_options_of_several_heads(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        build({"name": "multi", **options})
