"""Writing a dataset in another format: one function a format, each into a folder or file that is not there yet."""

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
    """`write(dataset, target, **options)`: target is an empty folder, or a file to write, by `suffix`.

    Its keyword-only parameters are the options.
    """

    write: Callable[..., None]
    suffix: str = ""  # of a file; empty: a folder
    boxes: bool = True
    visibility: bool = True


def sample_points(dataset: KeypointDataset, index: int) -> np.ndarray:
    return dataset.keypoints(index) if isinstance(dataset, InstanceDataset) else dataset.read(index)[1]


def write_images(
    dataset: KeypointDataset, folder: Path | None, place: Callable[[Path], Path] = lambda path: path
) -> Iterator[tuple[int, Path, tuple[int, int]]]:
    """Index of each sample, its picture's path beneath the folder, and H, W. Each picture is written once (None: not).

    Files are copied as they are, unless they are turned by EXIF: then the upright pixels are written, which no reader
    turns again. Other images become PNGs. place: another path for one.
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
    """Never above or outside of the folder that is written."""
    return Path(*(part for part in path.parts if part not in ("..", path.anchor)))


def write_image(dataset: KeypointDataset, index: int, target: Path) -> tuple[int, int]:
    image = dataset.read(index)[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(dataset, ImageFileDataset) and dataset.as_stored(index):
        shutil.copyfile(dataset.path(index), target)
    else:
        bgr = image if image.ndim == 2 or image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, 100] if target.suffix.lower() in (".jpg", ".jpeg") else []
        done, data = cv2.imencode(target.suffix, bgr, options)
        if not done:
            raise KpnetError(f"{target}: the picture could not be encoded")
        target.write_bytes(data.tobytes())
    return image.shape[0], image.shape[1]


def check_one_size(dataset: KeypointDataset, images: list[np.ndarray], form: str, *, square: bool = False) -> None:
    shape = images[0].shape
    for index, image in enumerate(images):
        if image.shape != shape or (square and shape[0] != shape[1]):
            what = "square images of one size" if square else "images of one size"
            raise KpnetError(
                f"{dataset.image_name(index)}: {image.shape[1]}x{image.shape[0]} pixels; {form} holds {what}; "
                "crop or resize the pictures first, or convert to coco or points_csv"
            )


def csv_cells(values: np.ndarray) -> list[str]:
    return ["" if np.isnan(value) else repr(value) for value in values.tolist()]


def csv_text(lines: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_csv(path: Path, lines: list[list[Any]]) -> None:
    path.write_text(csv_text(lines), encoding="utf-8")
