"""Small models of every head, the files that they are exported to, and images of odd sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kpnet import KeypointModel, Predictor, build_model
from kpnet.data import SyntheticFaces
from kpnet.data.images import model_inputs
from kpnet.export import to_onnx
from kpnet.heads.base import POINT_VALUES
from kpnet.inference.prediction import Prediction
from kpnet.models.calibration import Calibration
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportInfo
from kpnet.models.guarantee import By, Guarantee
from kpnet.models.test_time import TestTime

SIZE = (32, 48)
NAMES = ("left_eye", "right_eye", "nose")
IMAGE_SIZES = ((33, 47), (57, 31), (45, 97), (111, 167), (321, 481))  # the last is ten times the input's
SHARP = {"name": "heatmap", "stride": 2, "temperature": 0.1}  # random maps with peaks
PLAIN: dict[str, Any] = {
    "regression": "regression",
    "blend": {**SHARP, "decoding": "blend"},
    "dark": {**SHARP, "decoding": "dark"},
    "offset": {"name": "offset", "stride": 4},
    "simcc": "simcc",
    "rle": "rle",
    "gaussian_nll": "gaussian_nll",
    "laplace_nll": "laplace_nll",
    "multi": {"name": "multi", "heads": {"a": {**SHARP, "decoding": "local"}, "b": "rle"}, "primary": "fused"},
    "temporal": {"name": "temporal", "past": 1, "future": 1, "head": {**SHARP, "decoding": "quarter"}},
}
CALIBRATED = ("regression", "dark", "simcc", "rle", "multi")
GUARANTEED: dict[str, By | None] = {"regression": None, "simcc": "size", "rle": "confidence"}
EDGES: dict[str | None, list[float]] = {None: [], "size": [0.06, 0.09], "confidence": [0.05, 0.1]}  # of the thirds
COLOUR = ("dark", "rle", "offset")
OPTIONS: dict[str, dict[str, Any]] = {"blend": {"any_size": True}, "ensemble": {"flip_test": True}}
KINDS = (*PLAIN, "ensemble")


class Exported(NamedTuple):
    """A model, the file that it was exported to, and what the file says of itself."""

    model: KeypointModel | Ensemble
    path: Path
    info: ExportInfo

    def predictor(self) -> Predictor:
        return Predictor(self.model, test_time=TestTime(flip=True) if self.info.flip_test else None)


class Exports:
    """Exports of models by kind, each of them written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, Exported] = {}

    def __call__(self, kind: str) -> Exported:
        if kind not in self.written:
            model, path = make_model(kind), self.folder / f"{kind}.onnx"
            self.written[kind] = Exported(model, path, to_onnx(model, path, **OPTIONS.get(kind, {})))
        return self.written[kind]


def make_model(kind: str) -> KeypointModel | Ensemble:
    if kind == "quantizable":
        wide = {"name": "conv_sandwich", "channels": [16, 32, 64], "norm": "batch"}
        return small({"name": "heatmap", "stride": 2}, backbone=wide)
    if kind == "ensemble":
        return Ensemble([small(SHARP, seed=seed) for seed in (1, 2)])
    model = small(PLAIN[kind], channels=3 if kind in COLOUR else 1, calibrated=kind in CALIBRATED)
    if kind in GUARANTEED:
        model.guarantee = guarantee(GUARANTEED[kind])
    return model


def guarantee(by: By | None = None) -> Guarantee:
    """Radii of three points, far apart between the thirds."""
    thirds = 1 if by is None else 3
    quantiles = [[(row + 2.0) * 3**third for third in range(thirds)] for row in range(4)]
    counts = [[20] * thirds] * 4
    return Guarantee(0.9, quantiles, counts, counts, [EDGES[by][: thirds - 1]] * 4, by)


def small(
    head: Any, *, backbone: Any = None, channels: int = 1, calibrated: bool = False, seed: int = 0, size: Any = SIZE
) -> KeypointModel:
    """A random model with three points, of which nothing is zero."""
    torch.manual_seed(seed)
    model = build_model(
        backbone=backbone or {"name": "conv_sandwich", "channels": [4, 8], "norm": "batch"},
        head=head,
        num_keypoints=len(NAMES),
        in_channels=channels,
        input_size=size,
        skeleton={"names": list(NAMES), "pairs": [["left_eye", "right_eye"]]},
    ).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    if calibrated:
        model.calibration = Calibration([0.3, -0.2, 0.5], 0.8, 4.0, 100)
    return model


def odd_images(count: int) -> list[np.ndarray]:
    """Drawn faces of five sizes in turn, grey and RGB."""
    images = []
    for i in range(count):
        height, width = IMAGE_SIZES[i % len(IMAGE_SIZES)]
        grey = SyntheticFaces(1, size=max(height, width), seed=i).read(0)[0][:height, :width]
        images.append(grey if i % 2 else np.stack([grey, 255 - grey, grey // 2], -1))
    return images


def graph_inputs(model: Any, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the graph is fed for images; for a temporal head clips without motion."""
    views = [model_inputs(image, None, model.config)[0] for image in images]
    pixels = np.stack([view.reshape(*view.shape[:2], -1) for view, _ in views])
    if frames := sum(model.frame_window):
        pixels = np.repeat(pixels[:, None], 1 + frames, 1)
    return pixels, np.stack([matrix for _, matrix in views]).astype(np.float32)


def check_equal(found: Sequence[np.ndarray], expected: Sequence[Prediction]) -> None:
    """Points to a thousandth of a pixel, confidence to 1e-4, covariance and radii to a thousandth of their size."""
    points = np.concatenate([each.keypoints for each in expected])
    assert len(found[0]) == len(points)
    assert np.linalg.norm(found[0] - points, axis=-1).max() <= 1e-3
    names = [name for name in POINT_VALUES if getattr(expected[0], name) is not None]
    assert len(found) == 1 + len(names)
    for name, values in zip(names, found[1:], strict=True):
        if name.endswith("radius"):
            np.testing.assert_allclose(values, np.concatenate([getattr(each, name) for each in expected]), rtol=1e-3)
    if expected[0].covariance is None:
        return
    confidence = np.concatenate([each.confidence for each in expected if each.confidence is not None])
    covariance = np.concatenate([each.covariance for each in expected if each.covariance is not None])
    assert np.abs(found[1] - confidence).max() <= 1e-4
    size = np.trace(covariance, axis1=-2, axis2=-1)[..., None, None]
    assert (np.abs(found[2] - covariance) / size).max() <= 1e-3
