"""Predictions as columns of Parquet files: a row for each point (`kpnet[formats]` has pyarrow)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.files import replacing
from kpnet.inference.inputs import InputImage
from kpnet.inference.prediction import Prediction
from kpnet.inference.tables import TEXT, Table, further_values

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".parquet"
HELD = 100_000  # rows that are in memory, and in a row group


def pyarrow() -> Any:
    """Return pyarrow, or raise KpnetError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise KpnetError("Parquet needs pyarrow, which is not installed: pip install kpnet[formats]") from None
    return pyarrow


def encodable_in_parquet(text: str) -> str:
    """Return a text as Parquet holds it: a byte of a name that is not UTF-8 becomes its number."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def table_writer(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Write a table in parts: as Parquet where the file's name ends in .parquet, else as CSV with four decimals.

    Args:
        path: The file, which appears once it is complete.

    Yields:
        A function that appends rows; all parts have the same columns.
    """
    with replacing(path) as beside, ExitStack() as stack:
        if path.suffix.lower() != SUFFIX:
            file = stack.enter_context(beside.open("w", **TEXT))
            yield lambda rows: rows.to_csv(
                file, index=False, header=not file.tell(), float_format="%.4f", lineterminator="\n"
            )
            return
        pa: Any = pyarrow()
        writers: list[Any] = []

        def add(rows: pd.DataFrame) -> None:
            table = pa.Table.from_pandas(rows, preserve_index=False)
            if not writers:
                made = pa.parquet.ParquetWriter(beside, table.schema, compression="zstd")
                writers.append(stack.enter_context(made))
            writers[0].write_table(table)

        yield add


def schema(video: bool, extra: tuple[str, ...] = ()) -> Any:
    """Return the columns' types.

    Args:
        video: Whether there are the columns frame and time.
        extra: Columns of instances that were found; see `kpnet.inference.tables.further_columns`.
    """
    pa = pyarrow()
    text, number = pa.dictionary(pa.int32(), pa.string()), pa.float32()
    frame = {"frame": pa.int64(), "time": pa.float64()} if video else {}
    point = {"instance": pa.int32(), "name": text, "x": number, "y": number, "confidence": number}
    return pa.schema({"image": text, **frame, **point, **dict.fromkeys(extra, number)})


def columns(
    prediction: Prediction, extra: tuple[str, ...] = (), frame: int | None = None, time: float | None = None
) -> dict[str, list[Any]]:
    """Return the rows of an image's points, by column.

    Args:
        prediction: The points.
        extra: Columns of instances that were found, as for `schema`; null where the prediction lacks them.
        frame: Number of a video's frame.
        time: Its time in seconds.

    Returns:
        The values of each column of `schema`, and frame and time.
    """
    count, points = prediction.keypoints.shape[:2]
    rows = count * points
    found = further_values(prediction, extra)
    confidence = prediction.confidence
    return {
        "image": [encodable_in_parquet(prediction.image)] * rows,
        "frame": [frame] * rows,
        "time": [time] * rows,
        "instance": np.repeat(np.arange(count), points).tolist(),
        "name": [encodable_in_parquet(name) for name in prediction.names] * count,
        "x": prediction.keypoints[..., 0].ravel().tolist(),
        "y": prediction.keypoints[..., 1].ravel().tolist(),
        "confidence": [None] * rows if confidence is None else confidence.ravel().tolist(),
        **{name: [_known(found[row][i]) for row in range(rows)] for i, name in enumerate(extra)},
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


class ParquetTable(Table):
    """A Parquet file of predictions, with the columns of `predictions.csv`; it is complete once it is closed.

    Args:
        file_name: Name of the file.
        extra: Further columns, as of `kpnet.inference.tables.PredictionTable`.
    """

    def __init__(self, file_name: str, extra: Sequence[str] = ()) -> None:
        self.file_name, self.extra = file_name, tuple(extra)

    @contextmanager
    def writing(self, folder: Path) -> Iterator[Path]:
        path, self._schema = folder / self.file_name, schema(video=False, extra=self.extra)
        self._rows: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        made = pyarrow().parquet.ParquetWriter
        with replacing(path) as beside, made(beside, self._schema, compression="zstd") as self._writer:
            yield path
            self._flush()

    def add(self, prediction: Prediction, source: InputImage, pixels: np.ndarray) -> None:
        values = columns(prediction, self.extra)
        for name, rows in self._rows.items():
            rows += values[name]
        if len(self._rows["image"]) >= HELD:
            self._flush()

    def _flush(self) -> None:
        if self._rows["image"]:
            self._writer.write_table(pyarrow().table(self._rows, self._schema))
            self._rows = {name: [] for name in self._schema.names}
