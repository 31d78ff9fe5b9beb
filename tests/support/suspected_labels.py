"""Labels of which one is far off, beside images of noise: a run's own predictions with errors of half a pixel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kpnet.core.skeleton import Skeleton
from kpnet.inference.predictor import Predictor
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile

IMAGES, SIDE = 20, 32
WRONG, NOSE, OFF = 7, 2, np.array([13.0, -12.0])


def write_suspected(folder: Path, run: Path) -> np.ndarray:
    """Write images and labels.csv; return the predictions (N, K, 2). The nose of image `WRONG` is off by `OFF`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{k:02d}.png" for k in range(IMAGES)]
    for name in names:
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (SIDE, SIDE), np.uint8))
    predictor = Predictor(run, device="cpu")
    predicted = np.stack([predictor(folder / name).keypoints[0] for name in names]).astype(float)
    points = (predicted + rng.normal(0, 0.5, predicted.shape)).round(3)
    points[WRONG, NOSE] = (predicted[WRONG, NOSE] + OFF).round(3)
    labels = LabelFile(folder / "labels.csv", names, Skeleton.from_names(predictor.model.skeleton.names))
    for index, each in enumerate(points):
        labels.put(index, (Instance(tuple(Point(x, y, 2, "person") for x, y in each.tolist())),), labels.revision)
    return predicted
