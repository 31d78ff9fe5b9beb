"""Tables that `kpnet predict` writes as it predicts: a row for each point, or a file to train on."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.files import replacing
from kpnet.data.images import to_channels
from kpnet.inference.inputs import InputImage
from kpnet.inference.prediction import OF_INSTANCES, Prediction

COLUMNS = ("image", "instance", "name", "x", "y", "confidence")
# A file name that is not UTF-8 keeps its bytes, so that the file can be found again.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}


def encodable(text: str) -> str:
    """Return a text that can be written with `TEXT`: half of a surrogate pair becomes its number."""
    try:
        text.encode(TEXT["encoding"], TEXT["errors"])
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class Table(ABC):
    """A file of predictions.

    Attributes:
        file_name: Name of the file.

    Example:
        ```python
        with PredictionTable(as_json=False).writing(folder) as path:
            table.add(prediction, source, pixels)
        ```
    """

    file_name: str

    @abstractmethod
    def writing(self, folder: Path) -> AbstractContextManager[Path]:
        """Open the table in a folder, beside the path that is yielded; it is renamed to that path at the end.

        An error within leaves no file.
        """

    @abstractmethod
    def add(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        """Add the prediction of an image with these pixels.

        Raises:
            KpnetError: The table cannot hold it. Nothing is added.
            OSError: The disk is full. Nothing is added.
        """


class TextTable(Table):
    """A text file of predictions, which is complete after each row that is added.

    Attributes:
        tail: What stands behind the last row.
    """

    tail: str = ""
    _text: io.StringIO
    _file: BinaryIO

    @contextmanager
    def writing(self, folder: Path) -> Iterator[Path]:
        path = folder / self.file_name
        self._text = io.StringIO(newline="")
        with replacing(path) as beside, beside.open("wb", buffering=0) as self._file:
            self._begin()
            self._store()
            yield path

    def add(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        self._write(prediction, source, pixels)
        self._store()

    def _store(self) -> None:
        """Move what was written from memory to the file, all or nothing."""
        tail = self.tail.encode()
        end = max(0, self._file.seek(0, os.SEEK_END) - len(tail))
        rest = self._text.getvalue().encode(**TEXT) + tail
        self._text.seek(0)
        self._text.truncate()
        try:
            self._file.seek(end)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            self._file.write(tail)
            raise

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _write(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None: ...

    def _row(self, values: Sequence[Any]) -> None:
        csv.writer(self._text, lineterminator="\n").writerow(values)


class PredictionTable(TextTable):
    """`predictions.csv` or `predictions.json`: image, instance, name, x, y, confidence. A CSV has four decimals.

    An image without instances has no row in a CSV; in JSON it is an object with its `image` and an empty list of
    `instances`.

    Args:
        as_json: Write JSON.
        extra: Further columns; see `further_columns`.
    """

    def __init__(self, as_json: bool, extra: Sequence[str] = ()) -> None:
        self.as_json, self.extra = as_json, tuple(extra)
        self.file_name, self.tail = ("predictions.json", "\n]\n") if as_json else ("predictions.csv", "")

    def _begin(self) -> None:
        self._separator = "\n"
        if self.as_json:
            self._text.write("[")
        else:
            self._row([*COLUMNS, *self.extra])

    def _write(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        confidence = prediction.confidence
        further = further_values(prediction, self.extra)
        for instance, points in enumerate(prediction.keypoints.tolist()):
            for k, (name, (x, y)) in enumerate(zip(prediction.names, points, strict=True)):
                sure = math.nan if confidence is None else float(confidence[instance, k])
                numbers = [x, y, sure, *further[instance * len(points) + k]]
                if self.as_json:
                    values = [number if math.isfinite(number) else None for number in numbers]
                    keys = (*COLUMNS, *self.extra)
                    self._record(dict(zip(keys, (prediction.image, instance, name, *values), strict=True)))
                else:
                    cells = ["" if math.isnan(number) else f"{number:.4f}" for number in numbers]
                    self._row([encodable(prediction.image), instance, encodable(name), *cells])
        if self.as_json and not len(prediction.keypoints):
            self._record({"image": prediction.image, "instances": []})

    def _record(self, record: dict[str, Any]) -> None:
        self._text.write(f"{self._separator} {json.dumps(record)}")
        self._separator = ",\n"


def instance_columns(model: Any) -> tuple[str, ...]:
    """Return the columns on instances that a model's tables have: none unless it finds instances."""
    if not model.finds_instances:
        return ()
    return OF_INSTANCES[: 1 if getattr(model, "instance_calibration", None) is None else 2]


def further_columns(model: Any) -> tuple[str, ...]:
    """Return the columns that the tables of images have beside `COLUMNS`: what is known of each point and instance."""
    return (*model.point_values, *instance_columns(model))


def further_values(prediction: Prediction, names: Sequence[str]) -> list[list[float]]:
    """Return what each point has in the columns of these names, a row each; NaN where it has nothing."""
    rows = math.prod(prediction.keypoints.shape[:2])
    found = [np.full(rows, np.nan) if (own := prediction.column(name)) is None else own for name in names]
    return np.array(found, float).reshape(len(names), rows).T.tolist()


class LabelTable(TextTable):
    """`labels.csv`, which `data.train` reads: NAME_x, NAME_y, NAME_weight of the model's points, and Image.

    Labels that an image came with are kept, weight included and with all their digits. The others are predicted, in
    pixels of the original image, with the confidence as their weight, both to four decimals.
    """

    file_name = "labels.csv"

    def __init__(self, names: Sequence[str], in_channels: int) -> None:
        self.names, self.in_channels = names, in_channels
        self.size: tuple[int, ...] | None = None

    def _begin(self) -> None:
        columns = [f"{name}_{column}" for name in self.names for column in ("x", "y", "weight")]
        self._row(["ImageId", *map(encodable, columns), "Image"])

    def _write(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
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
        self.size = (pixels.shape[0], pixels.shape[1])
        values = [value for name in self.names for value in points[name]]
        grey = " ".join(map(str, to_channels(pixels, 1).ravel().tolist()))
        self._row([encodable(source.target.with_suffix("").as_posix()), *values, grey])

    def _check(self, name: str, pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        size = self.size or (height, width)
        if height != width or size != (height, width):
            first = "" if size == (height, width) else f", as the first is {size[1]}x{size[0]}"
            raise KpnetError(
                f"{name}: {width}x{height} pixels; --pseudo-labels writes square images of one size{first}: "
                "crop or resize the images first"
            )
        if self.in_channels > 1 and pixels.ndim == 3 and np.ptp(pixels, axis=2).any():
            raise KpnetError(
                f"{name}: a colour image for a model that uses colour: --pseudo-labels writes grey values only, "
                "which are different images"
            )
