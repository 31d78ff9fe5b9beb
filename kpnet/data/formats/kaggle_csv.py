"""The layout of Kaggle's Facial Keypoints Detection (https://www.kaggle.com/c/facial-keypoints-detection).

Layout: one CSV file with a header line and one sample in each row, image included:

    left_eye_center_x,left_eye_center_y,nose_tip_x,nose_tip_y,Image
    66.03,39.00,44.42,57.07,238 236 237 238 …
    64.33,34.97,,,219 215 204 196 …

Columns in any order: `NAME_x` and `NAME_y` for each keypoint, and `Image`, the grey values 0 to 255 of a square image,
row by row from the top, with spaces between. All images have one size. An empty cell is a missing keypoint. Optional:
`ImageId`, the name of the sample; `NAME_weight`, the weight of a keypoint in the loss, 1 where it is empty and 0 for a
missing keypoint. A file without keypoint columns (`ImageId,Image`) has no labels.

Coordinates: pixels, integers are pixel centres, as in kpnet: they stay as they are.

Nothing is skipped: a row that cannot be read is an error that names its line.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset, Transform
from kpnet.data.formats.cells import parse_numbers
from kpnet.data.formats.conventions import convert_points
from kpnet.data.formats.instances import number_in_image, tell_apart
from kpnet.data.formats.pixel_csv import PixelTable, read_header, read_pixel_csv
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import check_one_size, csv_cells, csv_text, sample_points, written_names
from kpnet.data.images import to_channels
from kpnet.data.surroundings import Surroundings


@DATASETS.register("kaggle_csv")
class KaggleCSV(KeypointDataset):
    """Grey square images and their keypoints in one CSV file, as in Kaggle's Facial Keypoints Detection.

    All images are held in memory. A sample's name is its `ImageId`, or the number of its row, counted from 0. Rows of
    one id that have other pixels are other images, and get a number behind the id.

    Args:
        path: The CSV file.
        skeleton: The keypoints to use, in its order; others in the file are ignored. None: all of the file's, in its
            order, or `facial15` if the names are the same or the file has no keypoint columns, as Kaggle's test.csv.
        complete_only: Use only rows that have every keypoint.
        missing: Value, or list of values, that both coordinates of a missing keypoint have, such as 0 or -1.
        normalized: Coordinates are parts of the image's width and height, from 0 to 1.
        index_base: Coordinate of the centre of the upper left pixel: 0; 1 as MATLAB counts; 0.5 where 0 is the edge of
            the image.
        swap_xy: The first coordinate of a keypoint is y, as in rows and columns.
        image_size: See `KeypointDataset`.
        in_channels: See `KeypointDataset`.
        transform: See `KeypointDataset`.
        seed: See `KeypointDataset`.

    Attributes:
        images: Uint8 (N, H, W).
        keypoints: Float64 (N, K, 2) in pixels, NaN where missing.
        weights: Weight of each keypoint in the loss, float64 (N, K).
        labelled: Whether the file has keypoint columns. Without them every keypoint is missing.
        skipped: `skipped.notes` has a line where an id stands for several images.

    Raises:
        KpnetError: The file has another layout.

    Example:
        >>> dataset = KaggleCSV("data/faces15/training.csv", complete_only=True)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        skeleton: Skeleton | None = None,
        complete_only: bool = False,
        missing: float | list[float] | None = None,
        normalized: bool = False,
        index_base: Annotated[float, Field(ge=0, le=1)] = 0,
        swap_xy: bool = False,
        image_size: tuple[int, int] | None = None,
        in_channels: int | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size=image_size, in_channels=in_channels, transform=transform, seed=seed)
        self.path, self.index_base = Path(path), index_base
        names = _point_names(self.path, read_header(self.path))
        self.labelled = bool(names)
        self.skeleton = _default_skeleton(names) if skeleton is None else skeleton
        self._check_skeleton(names)
        table = read_pixel_csv(self.path)
        self.images = table.images
        self.keypoints = convert_points(
            _keypoints(table, self.skeleton, self.labelled),
            np.full((len(self.images), 2), self.images.shape[1:]),
            missing=missing,
            normalized=normalized,
            index_base=index_base,
            swap_xy=swap_xy,
        )
        self.weights = _weights(table, self.skeleton)
        self.keypoints[self.weights == 0] = np.nan
        has_ids = "ImageId" in table
        names = table.column("ImageId") if has_ids else [str(row) for row in range(len(self.images))]
        names = [name or str(row) for row, name in enumerate(names)]
        self.skipped = Skipped(self.path)
        self._names = tell_apart(names, self.images, self.skipped)
        self.skipped.warn(len(self.images))
        self._instance = number_in_image(np.unique(self._names, return_inverse=True)[1])
        if complete_only:
            self._drop_incomplete(self.skeleton.names)

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **common: Any) -> Self:
        """Open a file with the skeleton's keypoints, or with its own if it lacks one of those.

        Args:
            data: The section of the config.
            source: The file, relative to `data.root`.
            skeleton: The keypoints that are wanted. None: the file's own.
            **common: Arguments of `KeypointDataset`.

        Returns:
            The dataset.
        """
        path = Path(data.root) / str(source)
        names = _point_names(path, read_header(path))
        if skeleton is None or not names or set(skeleton.names) <= set(names):
            return cls(path, skeleton=skeleton, complete_only=data.complete_only, **common)
        dataset = cls(path, **common)
        if data.complete_only:
            dataset._drop_incomplete([name for name in names if name in skeleton.names] or names)
        return dataset

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index].copy(), self.keypoints[index].copy()

    def surroundings(self) -> list[Surroundings]:
        if self.labelled:
            return []
        return [Surroundings(name, name, partial=True) for name in dict.fromkeys(self._names)]

    def point_weights(self, index: int) -> np.ndarray:
        return self.weights[index].copy()

    def labels(self) -> np.ndarray:
        has: np.ndarray = np.isfinite(self.keypoints).all(-1)
        return has

    def replace_keypoints(
        self, keypoints: np.ndarray, visibility: np.ndarray, sources: np.ndarray | None = None
    ) -> Self:
        other = copy.copy(self)
        other.keypoints = np.array(keypoints, np.float64)
        return other

    def image_name(self, index: int) -> str:
        return self._names[index]  # a row's number in the file, also where `complete_only` skips others

    def instance(self, index: int) -> int:
        return int(self._instance[index])

    def _check_skeleton(self, names: list[str]) -> None:
        known = set(names)
        for name in self.skeleton.names if names else ():
            if name not in known:
                close = did_you_mean(f"{name}_x", [f"{n}_x" for n in names])
                raise KpnetError(
                    f'{self.path}: no column "{name}_x"{close}, which the skeleton has; expected it and "{name}_y"'
                )

    def _drop_incomplete(self, points: Sequence[str]) -> None:
        keep = np.all(self.labels()[:, [self.skeleton.names.index(name) for name in points]], axis=1)
        if not keep.any():
            raise KpnetError(
                f"{self.path}: none of {len(keep)} rows has all {len(points)} points, "
                "and complete_only skips the others; set it to false"
            )
        if not keep.all():
            self.images, self.keypoints, self.weights = self.images[keep], self.keypoints[keep], self.weights[keep]
            self._names = [name for name, kept in zip(self._names, keep, strict=True) if kept]
            self._instance = number_in_image(np.unique(self._names, return_inverse=True)[1])


def _point_names(path: Path, columns: list[str]) -> list[str]:
    """Return the names that have both columns, in the file's order, or raise KpnetError for an unknown column."""
    names, known = [], set(columns)
    for column in columns:
        name = column.removesuffix("_weight")
        if column in ("Image", "ImageId") or (name != column and _paired(f"{name}_x", known)):
            continue
        if not column:
            raise KpnetError(
                f"{path}: a column without a name; expected NAME_x or NAME_y (pandas: to_csv(index=False))"
            )
        name, end = column[:-2], column[-2:]
        if not name or end not in ("_x", "_y"):
            close = did_you_mean(column, [c for c in _expected_columns(columns) if c not in known])
            raise KpnetError(
                f'{path}: column "{shorten(column)}" is neither NAME_x, NAME_y, NAME_weight, ImageId nor Image{close}; '
                "rename or drop it"
            )
        partner = name + {"_x": "_y", "_y": "_x"}[end]
        if partner not in known:
            unpaired = [c for c in columns if c != column and c.endswith(("_x", "_y")) and not _paired(c, known)]
            raise KpnetError(
                f'{path}: column "{shorten(column)}" without "{shorten(partner)}"{did_you_mean(partner, unpaired)}; '
                "add it, or drop the other"
            )
        if end == "_x":
            names.append(name)
    return names


def _paired(column: str, columns: set[str]) -> bool:
    return {f"{column[:-2]}_x", f"{column[:-2]}_y"} <= columns


def _expected_columns(columns: list[str]) -> list[str]:
    """Return what a misspelt column may mean: the partner of another column, or a column of facial15."""
    names = [c[:-2] for c in columns if c.endswith(("_x", "_y"))] + list(Skeleton.load("facial15").names)
    return [f"{name}{end}" for name in names for end in ("_x", "_y")] + ["ImageId"]


def _default_skeleton(names: list[str]) -> Skeleton:
    facial15 = Skeleton.load("facial15")
    return facial15 if not names or set(names) == set(facial15.names) else Skeleton.from_names(names)


def _keypoints(table: PixelTable, skeleton: Skeleton, labelled: bool) -> np.ndarray:
    """Return the keypoints, float64 (N, K, 2) in pixels and in the skeleton's order, NaN where x or y is empty."""
    xy = np.full((len(table.images), len(skeleton), 2), np.nan)
    for k, name in enumerate(skeleton.names if labelled else ()):
        for axis, end in enumerate("xy"):
            xy[:, k, axis] = _numbers(table, f"{name}_{end}", "pixels, or an empty cell for a missing point")
    xy[np.isnan(xy).any(-1)] = np.nan
    return xy


def _weights(table: PixelTable, skeleton: Skeleton) -> np.ndarray:
    """Return the weights, float64 (N, K) in the skeleton's order, 1 where the file has none."""
    weights = np.ones((len(table.images), len(skeleton)))
    for k, name in enumerate(skeleton.names):
        if (column := f"{name}_weight") in table:
            weights[:, k] = _numbers(
                table, column, "a weight of at least 0, or an empty cell for 1", least=0.0, empty=1.0
            )
    return weights


def _numbers(
    table: PixelTable, column: str, expected: str, least: float = -math.inf, empty: float = math.nan
) -> np.ndarray:
    """Return a column as float64 (N,), `empty` where the cell is empty or nan."""
    cells = table.column(column)
    values, wrong = parse_numbers(cells)
    wrong |= np.isinf(values) | (values < least)
    if wrong.any():
        row = int(wrong.argmax())
        raise KpnetError(f'{table.where(row)}: {column} is "{shorten(cells[row])}"; expected {expected}')
    return np.nan_to_num(values, nan=empty)


def write_kaggle_csv(dataset: KeypointDataset, file: io.BytesIO) -> None:
    """Write the CSV file. The images have to be square and of one size; colour becomes grey."""
    images, names = [dataset.read(index)[0] for index in range(len(dataset))], written_names(dataset)
    check_one_size(dataset, images, "kaggle_csv", square=True)
    header = [f"{name}_{axis}" for name in dataset.skeleton.names for axis in "xy"]
    lines: list[list[str]] = [["ImageId", *header, "Image"]]
    for index, image in enumerate(images):
        pixels = " ".join(map(str, to_channels(image, 1).ravel().tolist()))
        lines.append([names[index], *csv_cells(sample_points(dataset, index).ravel()), pixels])
    file.write(csv_text(lines).encode())
