"""The layout of the course and of Kaggle: columns `NAME_x`, `NAME_y` in any order, and `Image` with grey values."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset, Transform
from kpnet.data.formats.cells import parse_numbers
from kpnet.data.formats.pixel_csv import PixelTable, read_header, read_pixel_csv
from kpnet.data.formats.writing import check_one_size, csv_cells, csv_text, sample_points
from kpnet.data.images import to_channels


@DATASETS.register("kaggle_csv")
class KaggleCSV(KeypointDataset):
    """Grey square images and K points from one CSV file, held in memory as uint8.

    `skeleton` names the points to take, in its order; other points of the file are left out. None takes all of
    them, in the file's order (as `facial15` where the names are the same). Empty cells are missing points;
    `complete_only` drops rows that have one. A column `NAME_weight` says what the point counts in the loss, 1 where
    it is empty; a point of weight 0 is a missing one. A file without point columns (`ImageId,Image`) has `labelled`
    False and every point of `skeleton` (None: `facial15`, as in Kaggle's test.csv) missing.

    `images` uint8 (N, H, W), `keypoints` float64 (N, K, 2) pixels, NaN where missing, `weights` float64 (N, K).
    A sample's name is its `ImageId`, else its data row in the file, from 0. Raises KpnetError for any other
    layout.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        skeleton: Skeleton | None = None,
        complete_only: bool = False,
        image_size: tuple[int, int] | None = None,
        in_channels: int | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size=image_size, in_channels=in_channels, transform=transform, seed=seed)
        self.path = Path(path)
        names = _point_names(self.path, read_header(self.path))
        self.labelled = bool(names)
        self.skeleton = _default_skeleton(names) if skeleton is None else skeleton
        self._check_skeleton(names)
        table = read_pixel_csv(self.path)
        self.images = table.images
        self.keypoints = _keypoints(table, self.skeleton, self.labelled)
        self.weights = _weights(table, self.skeleton)
        self.keypoints[self.weights == 0] = np.nan
        has_ids = "ImageId" in table.columns
        self._names = table.column("ImageId") if has_ids else [str(row) for row in range(len(self.images))]
        if complete_only:
            self._drop_incomplete(self.skeleton.names)

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **common: Any) -> Self:
        """The file `source` under `data.root`, with the skeleton's points, or its own where it lacks one of those."""
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
        """Image uint8 (H, W) and keypoints float64 (K, 2) in its pixels, NaN where missing; both are copies."""
        return self.images[index].copy(), self.keypoints[index].copy()

    def point_weights(self, index: int) -> np.ndarray:
        """Float64 (K,), from the file's `NAME_weight` columns; a copy."""
        return self.weights[index].copy()

    def labels(self) -> np.ndarray:
        """Which points each row has, bool (N, K)."""
        has: np.ndarray = np.isfinite(self.keypoints).all(-1)
        return has

    def image_name(self, index: int) -> str:
        """The `ImageId`, or the data row in the file, from 0 and before any row was dropped."""
        return self._names[index]

    def _check_skeleton(self, names: list[str]) -> None:
        for name in self.skeleton.names if names else ():
            if name not in names:
                close = did_you_mean(f"{name}_x", [f"{n}_x" for n in names])
                raise KpnetError(
                    f'{self.path}: no column "{name}_x"{close}, which the skeleton has; expected it and "{name}_y"'
                )

    def _drop_incomplete(self, points: Sequence[str]) -> None:
        keep = np.all(self.labels()[:, [self.skeleton.names.index(name) for name in points]], axis=1)
        if not keep.any():
            raise KpnetError(
                f"{self.path}: none of {len(keep)} rows has all {len(points)} points, "
                "and complete_only drops the others; set it to false"
            )
        if not keep.all():
            self.images, self.keypoints, self.weights = self.images[keep], self.keypoints[keep], self.weights[keep]
            self._names = [name for name, kept in zip(self._names, keep, strict=True) if kept]


def _point_names(path: Path, columns: list[str]) -> list[str]:
    """Names that have both columns, in the file's order; a KpnetError for any other column but their weights'."""
    names = []
    for column in columns:
        name = column.removesuffix("_weight")
        if column in ("Image", "ImageId") or (name != column and _paired(f"{name}_x", columns)):
            continue
        if not column:
            raise KpnetError(
                f"{path}: a column without a name; expected NAME_x or NAME_y (pandas: to_csv(index=False))"
            )
        name, end = column[:-2], column[-2:]
        if not name or end not in ("_x", "_y"):
            close = did_you_mean(column, [c for c in _expected_columns(columns) if c not in columns])
            raise KpnetError(
                f'{path}: column "{shorten(column)}" is neither NAME_x, NAME_y, NAME_weight, ImageId nor Image{close}; '
                "rename or drop it"
            )
        partner = name + {"_x": "_y", "_y": "_x"}[end]
        if partner not in columns:
            lonely = [c for c in columns if c != column and c.endswith(("_x", "_y")) and not _paired(c, columns)]
            raise KpnetError(
                f'{path}: column "{shorten(column)}" without "{shorten(partner)}"{did_you_mean(partner, lonely)}; '
                "add it, or drop the other"
            )
        if end == "_x":
            names.append(name)
    return names


def _paired(column: str, columns: list[str]) -> bool:
    return {f"{column[:-2]}_x", f"{column[:-2]}_y"} <= set(columns)


def _expected_columns(columns: list[str]) -> list[str]:
    """What a misspelt column may have meant: a partner of the file's columns, or a column of facial15."""
    names = [c[:-2] for c in columns if c.endswith(("_x", "_y"))] + list(Skeleton.load("facial15").names)
    return [f"{name}{end}" for name in names for end in ("_x", "_y")] + ["ImageId"]


def _default_skeleton(names: list[str]) -> Skeleton:
    facial15 = Skeleton.load("facial15")
    return facial15 if not names or set(names) == set(facial15.names) else Skeleton.from_names(names)


def _keypoints(table: PixelTable, skeleton: Skeleton, labelled: bool) -> np.ndarray:
    """Float64 (N, K, 2) pixels in the skeleton's order, NaN where x or y is empty."""
    xy = np.full((len(table.images), len(skeleton), 2), np.nan)
    for k, name in enumerate(skeleton.names if labelled else ()):
        for axis, end in enumerate("xy"):
            xy[:, k, axis] = _numbers(table, f"{name}_{end}", "pixels, or an empty cell for a missing point")
    xy[np.isnan(xy).any(-1)] = np.nan
    return xy


def _weights(table: PixelTable, skeleton: Skeleton) -> np.ndarray:
    """Float64 (N, K) in the skeleton's order, 1 where the file says none."""
    weights = np.ones((len(table.images), len(skeleton)))
    for k, name in enumerate(skeleton.names):
        if (column := f"{name}_weight") in table.columns:
            weights[:, k] = _numbers(table, column, "a weight from 0 on, or an empty cell for 1", least=0.0, empty=1.0)
    return weights


def _numbers(
    table: PixelTable, column: str, expected: str, least: float = -math.inf, empty: float = math.nan
) -> np.ndarray:
    """A column as float64 (N,), `empty` where the cell is empty or says nan."""
    cells = table.column(column)
    values, wrong = parse_numbers(cells)
    wrong |= np.isinf(values) | (values < least)
    if wrong.any():
        row = int(wrong.argmax())
        raise KpnetError(f'{table.where(row)}: {column} is "{shorten(cells[row])}"; expected {expected}')
    return np.nan_to_num(values, nan=empty)


def write_kaggle_csv(dataset: KeypointDataset, file: io.BytesIO) -> None:
    """Grey square images of one size alone."""
    images = [dataset.read(index)[0] for index in range(len(dataset))]
    check_one_size(dataset, images, "kaggle_csv", square=True)
    header = [f"{name}_{axis}" for name in dataset.skeleton.names for axis in "xy"]
    lines: list[list[str]] = [["ImageId", *header, "Image"]]
    for index, image in enumerate(images):
        pixels = " ".join(map(str, to_channels(image, 1).ravel().tolist()))
        lines.append([dataset.image_name(index), *csv_cells(sample_points(dataset, index).ravel()), pixels])
    file.write(csv_text(lines).encode())
