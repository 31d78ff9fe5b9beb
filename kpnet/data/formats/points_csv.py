"""A CSV or Parquet table with one instance in each row: an image's file name and its keypoints.

Layout: one `.csv` file, `.parquet` or `.pq`, and the images as files of their own:

    image,nose_x,nose_y,tail_x,tail_y
    a.png,10.5,20,30,40.25
    a.png,64,30,,
    b.png,12,18,33,41

Columns in any order: `image`, the path of the image from the folder of the images, and for each keypoint `NAME_x` and
`NAME_y`; or numbered ones `x_0`, `y_0`, `x_1`, … An empty cell is a missing keypoint. Several rows may have the same
image: they are its instances. A row without any keypoint says that its image shows nothing; among other rows of its
image it is an instance that is not labelled. Optional: `NAME_visibility` of 0 (absent, whatever its coordinates), 1
(hidden) and 2 (visible); `NAME_source`, who made the point, `person` or `proposed` (by a model, or copied from another
image), as `kpnet label` writes it; `box_x0`, `box_y0`, `box_x1`, `box_y1`, the edges of the box. A column of another
name is an error.

Also read: `filename`, `image_path`, `file` and the like for `image`; `NAME.x` and `x0` for `NAME_x` and `x_0`; columns
0, 1, 2, … that are x and y in turn, with or without a header; an index that pandas wrote; and one row for each point,
with columns `image`, `name` or `point`, `x`, `y` and, for several instances, `instance`. Cells may be separated by
semicolons or tabs, with a decimal comma. Text that is not UTF-8 is Windows-1252. `kpnet data check` says what was
assumed.

Coordinates: pixels, integers are pixel centres, as in kpnet. An image reaches from -0.5 to W - 0.5, and so do boxes.

Skipped with a warning: rows with too few or too many cells, without an image, with text instead of a number, an
infinite coordinate, or a missing or damaged image. Left out with a warning: points with a visibility other than 0, 1
and 2, and boxes without area or outside their image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, few, first_line, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.cells import parse_numbers
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.instances import SOURCES, Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.table_columns import EXPECTED, IMAGE, INSTANCE, POINT, canonical_columns, widen
from kpnet.data.formats.text_table import is_number, read_text_table
from kpnet.data.formats.unpacking import MAX_GIB, check_unpacked_size
from kpnet.data.formats.writing import csv_cells, sample_points, sample_sources, write_csv, write_images

BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
PARQUET = (".parquet", ".pq")
_MAX_NAME = 4096  # characters of a path on Linux


@DATASETS.register("points_csv")
class PointsCSV(ImageFileDataset):
    """A CSV or Parquet table with columns `image` and `NAME_x`, `NAME_y`, one instance in each row.

    Args:
        path: The file. Parquet needs pyarrow.
        images: Folder of the images, relative to the file's folder; null for the file's folder or `images/` in it,
            whichever has more of the images.
        exif: Apply the EXIF rotation, as an image viewer does; false reads pixels as they are stored.
        max_gib: Size in memory, in GiB, up to which a Parquet file is read that is over twenty times as large unpacked.
        proposed_weight: Weight in the loss of the points whose `NAME_source` is `proposed`; 0 leaves them out.
        skeleton: Skeleton to use if its keypoint names are the file's, or if the file has as many numbered keypoints.
            None: the file's names; numbered keypoints are called 0, 1, 2, …
        strict: Raise an error at the first row that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: The file is no such table, or no row in it can be used.

    Example:
        >>> dataset = PointsCSV("mice/points.csv", images="frames")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | None = None,
        exif: bool = True,
        max_gib: float = MAX_GIB,
        proposed_weight: float = 1.0,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        skipped = Skipped(Path(path), strict)
        instances = _read(skipped, skeleton, max_gib)
        instances.weigh_proposed(proposed_weight)
        folder = find_folder(skipped.source, instances.images, images, skipped)
        super().__init__(folder, instances, skipped, skeleton=skeleton, exif=exif, **options)
        labelled, names = self.labels().any(-1), self.images[self._image_index]
        boxed = np.zeros(len(self), bool) if self._boxes is None else np.isfinite(self._boxes).all(-1)
        self._background.partial |= set(names[labelled].tolist()) & set(names[~labelled & ~boxed].tolist())


def _read(skipped: Skipped, skeleton: Skeleton | None, max_gib: float) -> Instances:
    path = skipped.source
    is_parquet = path.suffix.lower() in PARQUET
    table, origins = _parquet(path, max_gib) if is_parquet else _csv(path, skipped)
    if POINT in table and "x" in table:
        table, origins = widen(path, table, origins)
    own, xy_columns = _points(path, list(table), skeleton)
    names = table.pop(IMAGE)
    count = len(names)
    good = np.array([0 < len(name) <= _MAX_NAME for name in names], bool)
    for row in np.flatnonzero(~good):
        what = "is empty" if not names[row] else f"has {len(names[row])} characters"
        skipped.add(f"{origins[row]}: the cell of its image {what}")
    levels = [f"{name}_visibility" if f"{name}_visibility" in table else None for name in own.names]
    wanted = [
        *(column for pair in xy_columns for column in pair),
        *(c for c in levels if c),
        *(BOX if _has_boxes(path, table) else ()),
    ]
    numbers = {column: _numbers(table[column], column, origins, good, skipped) for column in wanted}
    sources = _sources(table, own.names, origins, good, skipped)
    xy = np.stack([np.stack([numbers[x], numbers[y]], -1) for x, y in xy_columns], 1).reshape(count, len(own), 2)
    xy[np.isnan(xy).any(-1)] = np.nan
    images, image_index = np.unique(names[good].astype(str), return_inverse=True)
    instances = Instances(own, images, image_index, xy[good], origins[good])
    if any(levels):
        instances.visibility = np.stack([numbers[c] if c else np.full(count, np.nan) for c in levels], 1)[good]
    if BOX[0] in numbers:
        instances.boxes = np.stack([numbers[column] for column in BOX], -1)[good]
    instances.sources = None if sources is None else sources[good]
    instances.background.partial |= {str(name) for name in names[~good] if 0 < len(name) <= _MAX_NAME}
    return instances


def _sources(
    table: dict[str, np.ndarray], names: Sequence[str], origins: np.ndarray, good: np.ndarray, skipped: Skipped
) -> np.ndarray | None:
    """Return who made each point, as `Instances` has it, or None. A row with another word is skipped."""
    columns = {k: table[column] for k, name in enumerate(names) if (column := f"{name}_source") in table}
    if not columns:
        return None
    sources = np.zeros((len(good), len(names)), np.uint8)
    for k, cells in columns.items():
        words = np.array(["" if cell is None or cell != cell else str(cell) for cell in cells.tolist()], object)
        for code, word in enumerate(SOURCES):
            sources[words == word, k] = code
        for row in np.flatnonzero(~np.isin(words, SOURCES) & good):
            good[row] = False
            found, expected = shorten(words[row]), ", ".join(SOURCES[1:])
            skipped.add(f'{origins[row]}: {names[k]}_source is "{found}"; expected {expected} or an empty cell')
    return sources


def _csv(path: Path, skipped: Skipped) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns (N,) of text, and where each row is, for messages.

    Rows with more or fewer cells than the header are skipped.
    """
    table = read_text_table(path, EXPECTED)
    header, first = (table.lines[0] if table.lines else []), (table.lines[1] if len(table.lines) > 1 else [])
    names, has_header = canonical_columns(path, header, first)
    skipped.notes += table.notes
    if not has_header:
        skipped.notes.append(f"it has no header line; its columns were read as {few(filter(None, names), 6)}")
    elif "x_0" in names and "x_0" not in header and "x0" not in header:
        skipped.notes.append(f"its columns were read as {few(filter(None, names), 6)}")
    rows, origins = [], []
    for number, row in list(zip(table.numbers, table.lines, strict=True))[has_header:]:
        if len(row) != len(header):
            skipped.add(f"line {number}: cells: expected {len(header)} as in the header, found {len(row)}")
            continue
        rows.append(row)
        origins.append(f"line {number}")
    cells = zip(*rows, strict=True) if rows else ([] for _ in header)
    columns = {name: np.array(column, object) for name, column in zip(names, cells, strict=True) if name is not None}
    if table.decimal_comma:
        columns |= {name: _with_points(column) for name, column in columns.items() if name not in (IMAGE, POINT)}
    return columns, np.array(origins, str)


def _with_points(cells: np.ndarray) -> np.ndarray:
    """Write decimal points in the numbers of a column that have a decimal comma."""
    return np.array([cell.replace(",", ".") if is_number(cell) else cell for cell in cells.tolist()], object)


def _parquet(path: Path, max_gib: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns (N,) of text or numbers, and where each row is, for messages."""
    if not path.is_file():
        raise KpnetError(f"{path}: no such file; expected a Parquet file")
    try:
        from pyarrow import parquet
    except ImportError:
        raise KpnetError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow; or save it as CSV") from None
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
            size = 8 * file.metadata.num_rows * max(file.metadata.num_columns, 1)
            size = max(size, sum(group.total_byte_size for group in groups))
        check_unpacked_size(path, "its table", size, max_gib)
        # Text that repeats is kept once, as in the file.
        texts = [field.name for field in parquet.read_schema(path) if str(field.type) in ("string", "large_string")]
        table = parquet.read_table(path, read_dictionary=texts, partitioning=None)
    except KpnetError:
        raise
    except Exception as error:  # pyarrow raises all kinds of errors for a damaged file
        raise KpnetError(f"{path}: not a readable Parquet file: {first_line(error)}") from None
    header, columns = [str(name) for name in table.column_names], {}
    first = [str(column[0]) if len(column) else "" for column in table.columns]
    for name, column in zip(canonical_columns(path, header, first)[0], table.columns, strict=True):
        if name is not None:
            try:
                columns[name] = column.to_pandas().to_numpy()
            except Exception as error:
                raise KpnetError(f'{path}: column "{shorten(name)}": {first_line(error)}') from None
    if IMAGE not in columns:
        raise KpnetError(f'{path}: its only names of images are its header; expected a column "image"')
    for name in (IMAGE, POINT, INSTANCE):
        if name in columns:
            columns[name] = np.array(
                ["" if value is None or value != value else str(value) for value in columns[name].tolist()], object
            )
    return columns, np.char.add("row ", np.arange(1, table.num_rows + 1).astype(str))


def _points(path: Path, columns: list[str], skeleton: Skeleton | None) -> tuple[Skeleton, list[tuple[str, str]]]:
    """Return the skeleton and the names of each keypoint's two columns, or raise KpnetError for an unknown column."""
    numbers = sorted(int(c[2:]) for c in columns if c.startswith("x_") and c[2:].isdecimal())
    if numbers:
        pairs = [(f"x_{k}", f"y_{k}") for k in numbers]
        own = unnamed_skeleton(len(pairs), skeleton)
    else:
        names = [c[:-2] for c in columns if c.endswith("_x") and len(c) > 2]
        pairs = [(f"{name}_x", f"{name}_y") for name in names]
        if not names:
            raise KpnetError(f"{path}: no point among {shorten(', '.join(columns))}; expected {EXPECTED}")
        own = Skeleton.of_names(names)
    known = set(columns)
    more = [f"{name}_{what}" for what in ("visibility", "source") for name in own.names]
    expected = [each for pair in pairs for each in pair] + more + [*BOX, IMAGE]
    missing = next((y for _, y in pairs if y not in known), None)
    if missing is not None:
        close = did_you_mean(missing, columns)
        raise KpnetError(f'{path}: no column "{missing}"{close}; every point has an x and a y')
    unknown = next(iter(sorted(known.difference(expected))), None)
    if unknown is not None:
        close = did_you_mean(unknown, [e for e in expected if e not in known])
        raise KpnetError(
            f'{path}: column "{shorten(unknown)}"{close} is no point, visibility, source or box; rename or drop it'
        )
    return own, pairs


def _has_boxes(path: Path, columns: Sequence[str] | dict[str, Any]) -> bool:
    found = [name for name in BOX if name in columns]
    if found and len(found) < len(BOX):
        raise KpnetError(f"{path}: a box needs all of {', '.join(BOX)}; found only {', '.join(found)}")
    return bool(found)


def _numbers(cells: np.ndarray, column: str, origins: np.ndarray, good: np.ndarray, skipped: Skipped) -> np.ndarray:
    """Return a column as float64 (N,), NaN where empty. A row with other text in it is skipped and no longer `good`."""
    if cells.dtype.kind in "fiub":
        return cells.astype(np.float64)
    values, wrong = parse_numbers(cells)
    for row in np.flatnonzero(wrong & good):
        good[row] = False
        skipped.add(f'{origins[row]}: {column} is "{shorten(str(cells[row]))}"; expected a number or an empty cell')
    return values


def write_points_csv(dataset: KeypointDataset, folder: Path, *, parquet: bool = False) -> None:
    """Write points.csv, or points.parquet if `parquet`, and the images in `images/`."""
    names = dataset.skeleton.names
    every = range(len(dataset))
    hidden = any((dataset.visibility(index) == 1).any() for index in every)
    boxed = any(dataset.box(index) is not None for index in every)
    header = ["image", *(f"{name}_{axis}" for name in names for axis in "xy")]
    header += [f"{name}_visibility" for name in names] if hidden else []
    header += BOX if boxed else []
    sourced = any(sample_sources(dataset, index) is not None for index in every)
    header += [f"{name}_source" for name in names] if sourced else []
    rows: list[list[Any]] = []
    for index, path, _ in write_images(dataset, folder / "images"):
        box = dataset.box(index)
        values = sample_points(dataset, index).ravel()
        values = np.append(values, dataset.visibility(index)) if hidden else values
        values = np.append(values, np.full(4, np.nan) if box is None else box) if boxed else values
        sources = sample_sources(dataset, index)
        words = [] if sources is None else [SOURCES[code] for code in sources]
        rows.append([str(path), *(values.tolist() if parquet else csv_cells(values)), *words])
    if not parquet:
        return write_csv(folder / "points.csv", [header, *rows])
    import pandas as pd

    try:
        pd.DataFrame(rows, columns=header).to_parquet(folder / "points.parquet", index=False)
    except ImportError:
        raise KpnetError("writing Parquet needs pyarrow: pip install pyarrow; or write CSV") from None
