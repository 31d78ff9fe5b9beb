"""Weights that take less of the page: rounded, so that they compress."""

from __future__ import annotations

import numpy as np

MANTISSA = 23  # bits of a float32


def round_weights(model: bytes, bits: int) -> bytes:
    """Round the weights of an ONNX model, in single precision, to fewer bits.

    The file keeps its size, and the bits that are zero then compress to almost nothing: float16 has 10 bits, but its
    range is narrower.

    Args:
        model: The bytes of the ONNX file.
        bits: Bits of the mantissa that are kept, from 1 to 22; the relative error is at most 2^-(bits + 1).

    Returns:
        The bytes of the file with rounded weights.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    loaded = onnx.load_from_string(model)
    for tensor in loaded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(_rounded(values, MANTISSA - bits), tensor.name))
    return bytes(loaded.SerializeToString())


def _rounded(values: np.ndarray, dropped: int) -> np.ndarray:
    """Round to nearest, ties to even, by the bits of the numbers; a carry into the exponent is right."""
    pattern = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    pattern += (1 << (dropped - 1)) - 1 + ((pattern >> dropped) & 1)
    rounded = (pattern >> dropped << dropped).astype(np.uint32).view(np.float32).reshape(values.shape)
    return np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)
