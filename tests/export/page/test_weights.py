"""Rounded weights in an ONNX model."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from kpnet.export.page.weights import round_weights

onnx = pytest.importorskip("onnx")


def model_with(**tensors: np.ndarray) -> bytes:
    values = [onnx.numpy_helper.from_array(each, name) for name, each in tensors.items()]
    graph = onnx.helper.make_graph([], "weights", [], [], values)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def tensors_of(model: bytes) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load_from_string(model).graph.initializer}


def test_ten_bits_are_those_of_half_precision() -> None:
    """Ties included; and what is no weight stays as it is."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((200, 40)).astype(np.float32)
    weights[0] = 1 + np.arange(40) / 2048  # every second one is a tie
    whole, index = np.array(2.0, np.float32), np.arange(3)
    found = tensors_of(round_weights(model_with(weights=weights, whole=whole, index=index), 10))
    normal = np.abs(weights) > 2**-14
    np.testing.assert_array_equal(found["weights"][normal], weights.astype(np.float16).astype(np.float32)[normal])
    np.testing.assert_allclose(found["weights"], weights, rtol=2**-11)
    assert found["whole"].shape == ()
    assert found["whole"] == 2
    np.testing.assert_array_equal(found["index"], index)


def test_more_bits_are_closer_and_compress_less() -> None:
    model = model_with(weights=np.random.default_rng(0).standard_normal(20_000).astype(np.float32))
    rounded = [round_weights(model, bits) for bits in (10, 14)]
    sizes = [len(gzip.compress(each)) for each in (*rounded, model)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.7 * sizes[2]
    errors = [np.abs(tensors_of(each)["weights"] / tensors_of(model)["weights"] - 1).max() for each in rounded]
    assert errors[0] < 2**-11
    assert 2**-17 < errors[1] < 2**-15


def test_numbers_at_the_end_of_the_range() -> None:
    extreme = np.array([np.inf, -np.inf, np.nan, np.finfo(np.float32).max, -0.0, 1e-44], np.float32)
    found = tensors_of(round_weights(model_with(extreme=extreme), 10))["extreme"]
    np.testing.assert_array_equal(found[:4], extreme[:4])
    np.testing.assert_allclose(found[4:], extreme[4:], atol=1e-40)
