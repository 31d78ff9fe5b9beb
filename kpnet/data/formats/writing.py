"""Helpers of the functions that write a dataset in a format, each of which stands beside the format's reader."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import InstanceDataset


@dataclass(frozen=True)
class Writer:
    """How to write a format, and what it can store.

    Args:
        write: `write(dataset, target, **options)`. The target is an empty folder, or a binary file if there is a
            `suffix`. Its keyword-only parameters are the options of `kpnet data convert --to`.
        suffix: Suffix of the file. Empty: the format is a folder.
        boxes: Whether the format stores boxes.
        visibility: Whether the format stores which keypoints are hidden.
    """

    write: Callable[..., None]
    suffix: str = ""
    boxes: bool = True
    visibility: bool = True


def sample_points(dataset: KeypointDataset, index: int) -> np.ndarray:
    """Return a sample's keypoints, float64 (K, 2) in pixels, without reading its image where that can be avoided."""
    return dataset.keypoints(index) if isinstance(dataset, InstanceDataset) else dataset.read(index)[1]


def write_images(
    dataset: KeypointDataset, folder: Path | None, place: Callable[[Path], Path] = lambda path: path
) -> Iterator[tuple[int, Path, tuple[int, int]]]:
    """Write each image of a dataset once.

    Image files are copied as they are, unless EXIF rotates them: then the upright pixels are written without EXIF, so
    that every program reads them alike. Images that are no files become PNGs.

    Args:
        dataset: The dataset.
        folder: Folder to write into. None: nothing is written and sizes are (0, 0).
        place: Maps the path of an image below the folder to another one.

    Yields:
        For each sample its index, the path of its image below the folder, and the image's height and width.

    Raises:
        KpnetError: Two images would be written to one path.
    """
    known: dict[str, tuple[Path, tuple[int, int]]] = {}
    taken: dict[Path, str] = {}
    for index in range(len(dataset)):
        name = dataset.image_name(index)
        if name not in known:
            files = isinstance(dataset, ImageFileDataset)
            path = place(_beneath(Path(name) if files else Path(f"{name}.png")))
            if path in taken:
                raise KpnetError(f"{name} and {taken[path]} would both be written as {path}: rename one")
            taken[path] = name
            size = (0, 0) if folder is None else write_image(dataset, index, folder / path)
            known[name] = path, size
        yield index, *known[name]


def _beneath(path: Path) -> Path:
    """Make a path relative and without `..`, so that nothing is written outside the target folder."""
    return Path(*(part for part in path.parts if part not in ("..", path.anchor)))


def write_image(dataset: KeypointDataset, index: int, target: Path) -> tuple[int, int]:
    """Write a sample's image as `write_images` does, and return its height and width."""
    image = dataset.read(index)[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(dataset, ImageFileDataset) and dataset.as_stored(index):
        shutil.copyfile(dataset.path(index), target)
    else:
        bgr = image if image.ndim == 2 or image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, 100] if target.suffix.lower() in (".jpg", ".jpeg") else []
        done, data = cv2.imencode(target.suffix, bgr, options)
        if not done:
            raise KpnetError(f"{target}: the image could not be encoded")
        target.write_bytes(data.tobytes())
    return image.shape[0], image.shape[1]


def check_one_size(dataset: KeypointDataset, images: list[np.ndarray], form: str, *, square: bool = False) -> None:
    """Raise KpnetError if the images differ in size, or are not square where the format needs that."""
    shape = images[0].shape
    for index, image in enumerate(images):
        if image.shape != shape or (square and shape[0] != shape[1]):
            what = "square images of one size" if square else "images of one size"
            raise KpnetError(
                f"{dataset.image_name(index)}: {image.shape[1]}x{image.shape[0]} pixels; {form} holds {what}; "
                "crop or resize the images first, or convert to coco or points_csv"
            )


def csv_cells(values: np.ndarray) -> list[str]:
    """Format numbers (n,) as CSV cells that read back exactly; NaN becomes an empty cell."""
    return ["" if np.isnan(value) else repr(value) for value in values.tolist()]


def csv_text(lines: list[list[Any]]) -> str:
    """Format lines of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_csv(path: Path, lines: list[list[Any]]) -> None:
    """Write lines of cells as a CSV file."""
    path.write_text(csv_text(lines), encoding="utf-8")
