"""A CSV or Parquet table with one instance in each row: an image's file name and its keypoints.

Layout: one `.csv` file (UTF-8, separated by commas), `.parquet` or `.pq`, and the images as files of their own:

    image,nose_x,nose_y,tail_x,tail_y
    a.png,10.5,20,30,40.25
    a.png,64,30,,
    b.png,12,18,33,41

Columns in any order: `image`, the path of the image from the folder of the images, and for each keypoint `NAME_x` and
`NAME_y`; or numbered ones `x_0`, `y_0`, `x_1`, … An empty cell is a missing keypoint. Several rows may have the same
image: they are its instances. Optional: `NAME_visibility` of 0 (absent, whatever its coordinates), 1 (hidden) and
2 (visible); `box_x0`, `box_y0`, `box_x1`, `box_y1`, the edges of the box. A column of another name is an error.

Coordinates: pixels, integers are pixel centres, as in kpnet. An image reaches from -0.5 to W - 0.5, and so do boxes.

Skipped with a warning: rows with too few or too many cells, without an image, with text instead of a number, an
infinite coordinate, another visibility, a box without area or outside its image, or a missing or damaged image.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, first_line, shorten
from kpnet.core.reading import read_text
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.cells import parse_numbers
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.instances import Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import csv_cells, sample_points, write_csv, write_images

BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
PARQUET = (".parquet", ".pq")
_EXPECTED = "a header line image,NAME_x,NAME_y,… and one row for each instance"


@DATASETS.register("points_csv")
class PointsCSV(ImageFileDataset):
    """A CSV or Parquet table with columns `image` and `NAME_x`, `NAME_y`, one instance in each row.

    Args:
        path: The file. Parquet needs pyarrow.
        images: Folder of the images, relative to the file's folder; null for the file's folder or `images/` in it,
            whichever has more of the images.
        exif: Apply the EXIF rotation, as an image viewer does; false reads pixels as they are stored.
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
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        skipped = Skipped(Path(path), strict)
        instances = _read(skipped, skeleton)
        folder = find_folder(skipped.source, instances.images, images)
        super().__init__(folder, instances, skipped, skeleton=skeleton, exif=exif, **options)


def _read(skipped: Skipped, skeleton: Skeleton | None) -> Instances:
    path = skipped.source
    table = _parquet(path) if path.suffix.lower() in PARQUET else _csv(path, skipped)
    own, xy_columns = _points(path, list(table), skeleton)
    names = table.pop("image")
    count, origins = len(names), table.pop("")
    good = np.array([bool(name) for name in names], bool)
    for row in np.flatnonzero(~good):
        skipped.add(f"{origins[row]}: the cell of its image is empty")
    levels = [f"{name}_visibility" if f"{name}_visibility" in table else None for name in own.names]
    wanted = [
        *(column for pair in xy_columns for column in pair),
        *(c for c in levels if c),
        *(BOX if _has_boxes(path, table) else ()),
    ]
    numbers = {column: _numbers(table[column], column, origins, good, skipped) for column in wanted}
    xy = np.stack([np.stack([numbers[x], numbers[y]], -1) for x, y in xy_columns], 1).reshape(count, len(own), 2)
    xy[np.isnan(xy).any(-1)] = np.nan
    images, image_index = np.unique(names[good], return_inverse=True)
    instances = Instances(own, images, image_index, xy[good], origins[good])
    if any(levels):
        instances.visibility = np.stack([numbers[c] if c else np.full(count, np.nan) for c in levels], 1)[good]
    if BOX[0] in numbers:
        instances.boxes = np.stack([numbers[column] for column in BOX], -1)[good]
    return instances


def _csv(path: Path, skipped: Skipped) -> dict[str, np.ndarray]:
    """Return the columns (N,) of text, and under "" where each row is, for messages.

    Rows with more or fewer cells than the header are skipped.
    """
    lines = list(csv.reader(read_text(path, _EXPECTED).splitlines(), skipinitialspace=True))
    header = [name.strip() for name in lines[0]] if lines else []
    _check_header(path, header)
    rows, origins = [], []
    for number, row in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            skipped.add(f"line {number}: {len(row)} cells, expected {len(header)} as in the header")
            continue
        rows.append([cell.strip() for cell in row])
        origins.append(f"line {number}")
    cells = np.array(rows, dtype=str).reshape(len(rows), len(header))
    return dict(zip(header, cells.T, strict=True)) | {"": np.array(origins, dtype=str)}


def _parquet(path: Path) -> dict[str, np.ndarray]:
    import pandas as pd

    if not path.is_file():
        raise KpnetError(f"{path}: no such file; expected a Parquet file")
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise KpnetError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow; or save it as CSV") from None
    except Exception as error:  # pyarrow raises all kinds of errors for a damaged file
        raise KpnetError(f"{path}: not a readable Parquet file: {first_line(error)}") from None
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    _check_header(path, list(columns))
    columns["image"] = np.array(["" if pd.isna(name) else str(name) for name in columns["image"]], dtype=str)
    return columns | {"": np.char.add("row ", np.arange(1, len(frame) + 1).astype(str))}


def _check_header(path: Path, header: list[str]) -> None:
    if "image" not in header:
        found = shorten(", ".join(header)) or "nothing"
        raise KpnetError(
            f'{path}: no column "image"{did_you_mean("image", header)} among {found}; expected {_EXPECTED}'
        )
    for name in header:
        if header.count(name) > 1:
            raise KpnetError(f'{path}: column "{shorten(name)}" appears {header.count(name)} times, expected once')


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
            raise KpnetError(
                f"{path}: no point among {shorten(', '.join(c for c in columns if c))}; expected {_EXPECTED}"
            )
        own = Skeleton.of_names(names)
    expected = (
        [each for pair in pairs for each in pair] + [f"{name}_visibility" for name in own.names] + [*BOX, "image", ""]
    )
    missing = next((y for _, y in pairs if y not in columns), None)
    if missing is not None:
        raise KpnetError(f'{path}: no column "{missing}"{did_you_mean(missing, columns)}; every point has an x and a y')
    unknown = next((c for c in columns if c not in expected), None)
    if unknown is not None:
        close = did_you_mean(unknown, [e for e in expected if e not in columns])
        raise KpnetError(
            f'{path}: column "{shorten(unknown)}"{close} is no point, visibility or box; rename or drop it'
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
    rows: list[list[Any]] = []
    for index, path, _ in write_images(dataset, folder / "images"):
        box = dataset.box(index)
        values = sample_points(dataset, index).ravel()
        values = np.append(values, dataset.visibility(index)) if hidden else values
        values = np.append(values, np.full(4, np.nan) if box is None else box) if boxed else values
        rows.append([str(path), *(values.tolist() if parquet else csv_cells(values))])
    if not parquet:
        return write_csv(folder / "points.csv", [header, *rows])
    import pandas as pd

    try:
        pd.DataFrame(rows, columns=header).to_parquet(folder / "points.parquet", index=False)
    except ImportError:
        raise KpnetError("writing Parquet needs pyarrow: pip install pyarrow; or write CSV") from None
