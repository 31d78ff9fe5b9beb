"""Smaller and quicker graphs: half precision and 8-bit integers."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.export.graph import ExportGraph
from kpnet.models.exported import INPUTS

BATCH = 16
PERCENTILE = 99.99  # of an activation's values that its 8 bits cover: a rare large one costs all others precision


def halve(graph: ExportGraph) -> ExportGraph:
    """Return a copy of a graph with weights and maps of half precision; decoding is at least single precision."""
    half = copy.deepcopy(graph)
    half.model.half()
    return half


def quantize(data: bytes, images: Sequence[np.ndarray]) -> bytes:
    """Quantise the convolutions of an ONNX graph to 8 bits, statically.

    The first and the last convolution stay in single precision, and weights take 7 bits: products of unsigned and
    signed bytes are summed in 16 bits, which would overflow on processors without VNNI.

    Args:
        data: The ONNX file.
        images: Inputs of the graph that the ranges of its activations are calibrated on.

    Returns:
        The quantised ONNX file.

    Raises:
        KpnetError: The graph has fewer than three convolutions.
    """
    import onnx
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder) / "exact.onnx", Path(folder) / "int8.onnx"
        exact.write_bytes(data)
        # It folds batch norms into the convolutions.
        quant_pre_process(str(exact), str(exact), skip_symbolic_shape=True)
        layers = [node.name for node in onnx.load(exact).graph.node if node.op_type == "Conv"]
        if len(layers) < 3:
            raise KpnetError(
                f"int8: expected at least three convolutions, found {len(layers)}; the first and the last one are left "
                "as they are: use fp16"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints what it does
            ort.quantize_static(
                str(exact),
                str(small),
                _Images(images),
                quant_format=ort.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[layers[0], layers[-1]],
                per_channel=True,
                reduce_range=True,
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                calibrate_method=ort.CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},  # one batch at a time in memory
            )
        return small.read_bytes()


class _Images:
    """Batches of images for onnxruntime's calibration, which asks for a range of them, then for each until None."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        self.set_range(0, len(self.batches))

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.rest, None)
        if batch is None:
            return None
        matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(batch), 1, 1))
        return dict(zip(INPUTS, (np.stack(batch), matrices), strict=True))
