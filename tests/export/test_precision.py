"""Half precision and 8-bit integers: smaller files, points nearby."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.exports import PLAIN, Exports, graph_inputs, odd_images, small

from kpnet import Predictor
from kpnet.core.errors import KpnetError
from kpnet.export import to_onnx
from kpnet.export.precision import quantize

IMAGES = odd_images(20)
WIDE = {"name": "conv_sandwich", "channels": [16, 32, 64], "norm": "batch"}


def widths(data: bytes, kind: int) -> int:
    """How many weights of convolutions, tensors of four dimensions, have an element type."""
    return sum(each.data_type == kind and len(each.dims) == 4 for each in onnx.load_from_string(data).graph.initializer)


def distance(data: bytes, model: object) -> float:
    """The largest distance from `Predictor`, in pixels of the input, which is 48 wide."""
    pixels = graph_inputs(model, IMAGES)[0]
    identity = np.tile(np.eye(2, 3, dtype=np.float32), (len(pixels), 1, 1))
    points = onnxruntime.InferenceSession(data).run(None, {"images": pixels, "matrices": identity})[0]
    expected = Predictor(model).predict_inputs(list(zip(pixels, identity, strict=True))).keypoints  # type: ignore[arg-type]
    return float(np.linalg.norm(points - expected, axis=-1).max())


def test_half_precision(tmp_path: Path) -> None:
    """Maps of eleven significant bits: a flat map's mean moves by far less than a cell."""
    model = small({"name": "heatmap", "stride": 2}, backbone=WIDE)
    info = to_onnx(model, tmp_path / "half.onnx", precision="fp16")
    data = (tmp_path / "half.onnx").read_bytes()
    assert widths(data, onnx.TensorProto.FLOAT16) > 3
    assert widths(data, onnx.TensorProto.FLOAT) == 0
    assert len(data) < 2.5 * sum(p.numel() for p in model.parameters()) + 600_000
    assert info.precision == "fp16"
    assert info.parity is not None
    assert 1e-5 < distance(data, model) < 0.1
    assert info.parity.pixels > 1e-5


def test_integers(exports: Exports) -> None:
    """The first and the last convolution stay as they are; 7 bits of weights move a flat map's mean a little."""
    exported = exports("quantizable")
    images, plain = graph_inputs(exported.model, IMAGES)[0], exported.path.read_bytes()
    data = quantize(plain, list(images))
    found = onnx.load_from_string(data).graph
    layers = sum(node.op_type == "Conv" for node in found.node)
    assert widths(data, onnx.TensorProto.INT8) == layers - 2 > 3
    weights = [
        onnx.numpy_helper.to_array(each) for each in found.initializer if each.data_type == onnx.TensorProto.INT8
    ]
    assert max(np.abs(each.astype(int)).max() for each in weights) <= 64
    assert len(data) < len(plain)
    assert 1e-4 < distance(data, exported.model) < 0.5


def test_integers_need_three_convolutions(tmp_path: Path) -> None:
    model = small(PLAIN["regression"], backbone={"name": "mlp", "hidden": 8}, size=(32, 32))
    to_onnx(model, tmp_path / "a.onnx")
    images = list(graph_inputs(model, IMAGES[:1])[0])
    with pytest.raises(KpnetError, match=r"^int8: expected at least three convolutions, found 0; .*use fp16"):
        quantize((tmp_path / "a.onnx").read_bytes(), images)
