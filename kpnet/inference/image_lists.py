"""Lists of image files: a CSV or Parquet with a column `image`, and perhaps the corners of a box."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from kpnet.core.errors import KpnetError, shorten
from kpnet.data.formats.points_csv import PARQUET
from kpnet.data.images import Box

IMAGE, BOX = "image", ("x0", "y0", "x1", "y1")
_HEADERS = ([IMAGE], [IMAGE, *BOX])
_HEAD = 200  # bytes that a header may take


def is_image_list(path: Path) -> bool:
    """Return whether a file is a CSV or Parquet with a column `image`, perhaps x0, y0, x1 and y1, and no other."""
    if path.suffix.lower() == ".csv" and path.is_file():
        with path.open("rb") as file:
            head = file.readline(_HEAD)
        return _columns(head.decode("utf-8-sig", "replace").strip().split(",")) in _HEADERS
    if path.suffix.lower() in PARQUET and path.is_file():
        try:
            import pyarrow.parquet as pq

            return _columns(pq.read_schema(path).names) in _HEADERS
        except (ImportError, OSError, ValueError):  # ValueError: not a Parquet file, which the format's reader says
            return False
    return False


def read_image_list(path: Path, failures: list[str]) -> Iterator[tuple[str, tuple[Box, ...] | None]]:
    """Read a list as it is asked for, so that a long one needs no more memory than a short one.

    Args:
        path: The file.
        failures: Gets a line for each row that cannot be used.

    Yields:
        The path of an image, as the list has it, and its boxes or None. Rows of one image that follow each other are
        its instances.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else enumerate(_parquet_rows(path), 1)
    for (name, _), group in groupby(_checked(path, rows, failures), key=lambda row: (row[0], row[1] is None)):
        boxes = [box for _, box in group]
        if boxes[0] is not None:
            yield name, tuple(box for box in boxes if box is not None)
        else:
            yield from [(name, None)] * len(boxes)


def _columns(names: Iterable[str]) -> list[str]:
    return [name.strip().strip('"').lower() for name in names]


def _checked(
    path: Path, rows: Iterable[tuple[int, list[Any]]], failures: list[str]
) -> Iterator[tuple[str, tuple[float, ...] | None]]:
    what = "line" if path.suffix.lower() == ".csv" else "row"
    for number, row in rows:
        name, *box = row or [""]
        try:
            corners = tuple(float(value) for value in box)
        except (TypeError, ValueError):
            corners = (math.nan,)
        if not isinstance(name, str) or not name or len(corners) not in (0, 4) or not all(map(math.isfinite, corners)):
            found = shorten(", ".join(map(str, row)))
            expected = "expected an image, and four numbers if it has a box"
            failures.append(f"{path}: {what} {number}: {expected}, found {found}")
        else:
            yield name, corners or None


def _csv_rows(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Yield the line that each row ends at, and the row."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            reader = csv.reader(file)
            next(reader, None)
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise KpnetError(f"{path}: {error}") from None


def _parquet_rows(path: Path) -> Iterator[list[Any]]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                yield from (list(row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (OSError, ValueError) as error:
        raise KpnetError(f"{path}: {error}") from None
