"""What `kpnet predict` writes: a row per point, or a file to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.data.images import to_channels
from kpnet.inference.inputs import InputImage
from kpnet.inference.predictor import Prediction


class Table(Protocol):
    """Takes predictions one by one and writes them."""

    def add(self, prediction: Prediction, picture: InputImage, image: np.ndarray) -> None:
        """The prediction of a picture, whose image it is."""

    def save(self, folder: Path) -> Path:
        """Written into a folder; the file's path."""


class PredictionTable:
    """predictions.csv, or predictions.json: image, instance, name, x, y, confidence."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.frames: list[pd.DataFrame] = []

    def add(self, prediction: Prediction, picture: InputImage, image: np.ndarray) -> None:
        """Its points, a row each."""
        self.frames.append(prediction.to_frame())

    def save(self, folder: Path) -> Path:
        """Coordinates to four decimals in the CSV."""
        table = pd.concat(self.frames, ignore_index=True)
        path = folder / ("predictions.json" if self.as_json else "predictions.csv")
        if self.as_json:
            text = table.to_json(orient="records", indent=1)
        else:
            text = table.to_csv(index=False, float_format="%.4f")
        write_atomic(path, text.encode())
        return path


class LabelTable:
    """labels.csv, which `data.train` reads: NAME_x, NAME_y, NAME_weight of the model's points, and Image.

    A label that the picture came with stays as it is, weight included; the others are predicted, in pixels of the
    original image, with the confidence as their weight, both to four decimals.
    """

    def __init__(self, names: Sequence[str], in_channels: int) -> None:
        self.names, self.in_channels = names, in_channels
        self.rows: list[dict[str, Any]] = []
        self.size: tuple[int, ...] | None = None

    def add(self, prediction: Prediction, picture: InputImage, image: np.ndarray) -> None:
        """A KpnetError for what the layout, grey square images of one size, cannot hold."""
        self._check(picture.name, image)
        if len(prediction.keypoints) != 1:
            raise KpnetError(
                f"{picture.name}: {len(prediction.keypoints)} instances; --pseudo-labels writes one for each image"
            )
        if prediction.confidence is None:
            raise KpnetError(
                "--pseudo-labels writes the confidence as weight, and this head gives none: see kpnet calibrate"
            )
        predicted = np.column_stack([prediction.keypoints[0], prediction.confidence[0].astype(float)]).round(4)
        points = dict(zip(self.names, predicted.tolist(), strict=True)) | dict(picture.labels())
        row: dict[str, Any] = {"ImageId": picture.target.with_suffix("").as_posix()}
        for name in self.names:
            row |= zip((f"{name}_x", f"{name}_y", f"{name}_weight"), points[name], strict=True)
        pixels = to_channels(image, 1).ravel().tolist()
        self.rows.append(row | {"Image": " ".join(map(str, pixels))})

    def save(self, folder: Path) -> Path:
        """Labels are written as they were read."""
        path = folder / "labels.csv"
        write_atomic(path, pd.DataFrame(self.rows).to_csv(index=False).encode())
        return path

    def _check(self, name: str, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        self.size = self.size or (height, width)
        if height != width or self.size != (height, width):
            first = "" if self.size == (height, width) else f", as the first is {self.size[1]}x{self.size[0]}"
            raise KpnetError(
                f"{name}: {width}x{height} pixels; --pseudo-labels writes square images of one size{first}: "
                "crop or resize the pictures first"
            )
        if self.in_channels > 1 and image.ndim == 3 and np.ptp(image, axis=2).any():
            raise KpnetError(
                f"{name}: a colour picture, and the model looks at colour: --pseudo-labels writes grey values alone, "
                "which are other pictures"
            )
