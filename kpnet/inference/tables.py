"""Tables that `kpnet predict` writes: a row for each point, or a file to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.data.images import to_channels
from kpnet.inference.inputs import InputImage
from kpnet.inference.predictor import Prediction

if TYPE_CHECKING:
    import pandas as pd


class Table(Protocol):
    """Collects predictions one by one and writes them."""

    file_name: str

    def add(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        """Add the prediction of an image with these pixels."""

    def save(self, folder: Path) -> Path:
        """Write the table into a folder; return the file's path."""


class PredictionTable:
    """`predictions.csv` or `predictions.json`: image, instance, name, x, y, confidence."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.file_name = "predictions.json" if as_json else "predictions.csv"
        self.frames: list[pd.DataFrame] = []

    def add(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        """Add a row for each point."""
        self.frames.append(prediction.to_frame())

    def save(self, folder: Path) -> Path:
        """Write the file; a CSV has four decimals."""
        import pandas as pd

        table = pd.concat(self.frames, ignore_index=True)
        path = folder / self.file_name
        if self.as_json:
            text = table.to_json(orient="records", indent=1)
        else:
            text = table.to_csv(index=False, float_format="%.4f")
        write_atomic(path, text.encode())
        return path


class LabelTable:
    """`labels.csv`, which `data.train` reads: NAME_x, NAME_y, NAME_weight of the model's points, and Image.

    Labels that an image came with are kept, weight included. The others are predicted, in pixels of the original image,
    with the confidence as their weight, both to four decimals.
    """

    file_name = "labels.csv"

    def __init__(self, names: Sequence[str], in_channels: int) -> None:
        self.names, self.in_channels = names, in_channels
        self.rows: list[dict[str, Any]] = []
        self.size: tuple[int, ...] | None = None

    def add(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        """Add an image; raise for one that the layout (grey square images of one size) cannot hold."""
        self._check(source.name, pixels)
        if len(prediction.keypoints) != 1:
            raise KpnetError(
                f"{source.name}: {len(prediction.keypoints)} instances; --pseudo-labels writes one for each image"
            )
        if prediction.confidence is None:
            raise KpnetError(
                "--pseudo-labels writes the confidence as weight, and this head gives none: see kpnet calibrate"
            )
        predicted = np.column_stack([prediction.keypoints[0], prediction.confidence[0].astype(float)]).round(4)
        points = dict(zip(self.names, predicted.tolist(), strict=True)) | dict(source.labels())
        row: dict[str, Any] = {"ImageId": source.target.with_suffix("").as_posix()}
        for name in self.names:
            row |= zip((f"{name}_x", f"{name}_y", f"{name}_weight"), points[name], strict=True)
        values = to_channels(pixels, 1).ravel().tolist()
        self.rows.append(row | {"Image": " ".join(map(str, values))})

    def save(self, folder: Path) -> Path:
        """Write the file; labels keep all their digits."""
        path = folder / self.file_name
        import pandas as pd

        write_atomic(path, pd.DataFrame(self.rows).to_csv(index=False).encode())
        return path

    def _check(self, name: str, pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        self.size = self.size or (height, width)
        if height != width or self.size != (height, width):
            first = "" if self.size == (height, width) else f", as the first is {self.size[1]}x{self.size[0]}"
            raise KpnetError(
                f"{name}: {width}x{height} pixels; --pseudo-labels writes square images of one size{first}: "
                "crop or resize the images first"
            )
        if self.in_channels > 1 and pixels.ndim == 3 and np.ptp(pixels, axis=2).any():
            raise KpnetError(
                f"{name}: a colour image for a model that uses colour: --pseudo-labels writes grey values only, "
                "which are different images"
            )
