"""Models for the page whose answer is known in closed form: the centre of the light, moved by a few pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

COVARIANCE = ((9.0, 3.0), (3.0, 4.0))


def metadata(names: list[str], **more: Any) -> dict[str, Any]:
    """What the entry `kpnet` of an exported file holds, as far as the page reads it."""
    about = {"format": 1, "kpnet": "0.1.0", "names": names, "pairs": [], "edges": [], "input_size": [24, 32]}
    about |= {"channels": 3, "crop": None, "box_scale": 1.25, "window": [0, 0], "dof": None, "weights": 64 * "a"}
    return about | more


def light_model(about: dict[str, Any], offsets: np.ndarray, confidence: np.ndarray | None = None) -> bytes:
    """An ONNX model with the inputs and outputs of kpnet's.

    Point k of an image is the centre of its light plus `offsets[k]` (K, 2), in pixels of the original; in clips of T
    frames, that of frame k modulo T.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (height, width), channels, frames = about["input_size"], about["channels"], 1 + sum(about["window"])
    points = len(offsets)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grid = np.stack([np.ones_like(x), x, y], -1).reshape(1, 1, height * width, 3)
    constants: dict[str, np.ndarray] = {
        "grid": grid,
        "offsets": offsets.astype(np.float32),
        "shape": np.array([-1, frames, height * width, channels]),
        "frame": np.arange(points) % frames,
        "channel": np.array([-1]),
        "pixels": np.array([2]),
        **{name: np.array(values) for name, values in {"zero": [0], "one": [1], "two": [2], "three": [3]}.items()},
        "last": np.array([-1]),
        "row": np.array([1]),
        "diagonal": np.eye(2, dtype=np.float32)[None],
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["light"], to=TensorProto.FLOAT),
        node("Reshape", ["light", "shape"], ["flat"]),
        node("ReduceSum", ["flat", "channel"], ["grey"], keepdims=1),
        node("Mul", ["grey", "grid"], ["weighted"]),
        node("ReduceSum", ["weighted", "pixels"], ["sums"], keepdims=0),  # (B, T, 3)
        node("Slice", ["sums", "one", "three", "last"], ["moments"]),
        node("Slice", ["sums", "zero", "one", "last"], ["total"]),
        node("Div", ["moments", "total"], ["centre"]),
        node("Gather", ["centre", "frame"], ["each"], axis=1),  # (B, K, 2)
        node("Slice", ["matrices", "two", "three", "last"], ["shift"]),  # (B, 2, 1)
        node("Transpose", ["shift"], ["shift_row"], perm=[0, 2, 1]),
        node("Slice", ["matrices", "zero", "two", "last"], ["linear"]),
        node("Mul", ["linear", "diagonal"], ["scales"]),
        node("ReduceSum", ["scales", "row"], ["scale"], keepdims=1),  # (B, 1, 2): the matrix is a diagonal
        node("Sub", ["each", "shift_row"], ["moved"]),
        node("Div", ["moved", "scale"], ["back"]),
        node("Add", ["back", "offsets"], ["points"]),
    ]
    outputs: dict[str, list[int]] = {"points": [2]}
    if confidence is not None:
        constants["sure"] = confidence.astype(np.float32)[None]
        constants["covariances"] = np.tile(np.array(COVARIANCE, np.float32), (1, points, 1, 1))
        constants["none"] = np.zeros(1, np.float32)
        constants["axes"] = np.array([3])
        nodes += [
            node("Slice", ["points", "zero", "one", "last"], ["first"]),
            node("Mul", ["first", "none"], ["blank"]),  # (B, K, 1) zeros
            node("Squeeze", ["blank", "last"], ["blanks"]),
            node("Add", ["blanks", "sure"], ["confidence"]),
            node("Unsqueeze", ["blank", "axes"], ["blank4"]),
            node("Add", ["blank4", "covariances"], ["covariance"]),
        ]
        outputs |= {"confidence": [], "covariance": [2, 2]}
    shape = ["B", *([frames] if frames > 1 else []), height, width, channels]
    graph = helper.make_graph(
        nodes,
        "light",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, shape),
            helper.make_tensor_value_info("matrices", TensorProto.FLOAT, ["B", 2, 3]),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", points, *rest])
            for name, rest in outputs.items()
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def centre_of_light(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The same of a model's input (H, W) or (H, W, C), in pixels of the original."""
    light = pixels.reshape(*pixels.shape[:2], -1).sum(-1).astype(float)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    centre = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
    return np.asarray((centre - matrix[:, 2]) / np.diag(matrix[:, :2]))
