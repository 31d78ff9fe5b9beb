"""Helpers of the functions that write a dataset in a format, each of which stands beside the format's reader."""

from __future__ import annotations

import csv
import io
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kpnet.core.errors import KpnetError, shorten
from kpnet.core.files import alike, file_name
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import InstanceDataset

_ENCODED = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # what `write_image` can encode
_LONGEST_SUFFIX = 10


def every_point(dataset: KeypointDataset, index: int) -> np.ndarray:
    """Return that a format can store all keypoints of a sample, bool (K,)."""
    return np.ones(len(dataset.skeleton), bool)


@dataclass(frozen=True)
class Writer:
    """How to write a format, and what it can store.

    Args:
        write: `write(dataset, target, **options)`. The target is an empty folder, or a binary file if there is a
            `suffix`. Its keyword-only parameters are the options of `kpnet data convert --to`.
        suffix: Suffix of the file. Empty: the format is a folder.
        boxes: Whether the format stores boxes.
        visibility: Whether the format stores which keypoints are hidden.
        holds: `holds(dataset, index)` returns which keypoints of a sample the format can store, bool (K,), whether
            the sample has them or not.
        sources: Whether the format stores who made each point.
    """

    write: Callable[..., None]
    suffix: str = ""
    boxes: bool = True
    visibility: bool = True
    holds: Callable[[KeypointDataset, int], np.ndarray] = every_point
    sources: bool = False


def sample_points(dataset: KeypointDataset, index: int) -> np.ndarray:
    """Return a sample's keypoints, float64 (K, 2) in pixels, without reading its image where that can be avoided."""
    return dataset.keypoints(index) if isinstance(dataset, InstanceDataset) else dataset.read(index)[1]


def sample_sources(dataset: KeypointDataset, index: int) -> np.ndarray | None:
    """Return who made a sample's keypoints, as `InstanceDataset.point_sources` does; None where nothing states it."""
    return dataset.point_sources(index) if isinstance(dataset, InstanceDataset) else None


def write_images(
    dataset: KeypointDataset, folder: Path | None, place: Callable[[Path], Path] = lambda path: path
) -> Iterator[tuple[int, Path, tuple[int, int]]]:
    """Write each image of a dataset once.

    Image files are copied as they are, unless EXIF rotates them: then the upright pixels are written without EXIF, so
    that every program reads them alike. Images that are no files become PNGs. Each image has a path of its own, also
    where a system knows no upper and lower case; a number tells those apart that would fall together.

    Args:
        dataset: The dataset.
        folder: Folder to write into. None: nothing is written and sizes are (0, 0).
        place: Maps the path of an image below the folder to another one.

    Yields:
        For each sample its index, the path of its image below the folder, and the image's height and width.

    Raises:
        KpnetError: Two samples have different images of one name.
    """
    known: dict[str, tuple[int, Path, tuple[int, int]]] = {}
    paths = _OwnPaths()
    for index in range(len(dataset)):
        name, key = dataset.image_name(index), dataset.image_key(index)
        if key not in known:
            path = paths.add(place(_image_path(dataset, index)))
            size = (0, 0) if folder is None else write_image(dataset, index, folder / path)
            known[key] = index, path, size
        elif key == name:  # the name may stand for other pixels
            check_same_image(dataset, known[key][0], index)
        yield index, *known[key][1:]


def check_same_image(dataset: KeypointDataset, one: int, other: int) -> None:
    """Raise KpnetError if two samples of one image name have different images."""
    if not np.array_equal(dataset.read(one)[0], dataset.read(other)[0]):
        raise KpnetError(
            f"samples {one} and {other} have different images of one name, {shorten(dataset.image_name(one))}; "
            "give each image a name of its own"
        )


class _OwnPaths:
    """Gives each image a path that differs from all others by more than upper and lower case."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}
        self._last: dict[str, int] = {}  # of each path that is taken, the last number behind its name

    def add(self, path: Path) -> Path:
        folder = self._folders.setdefault(alike(path.parent), path.parent)
        own = base = folder / path.name
        while alike(own) in self._last:
            self._last[alike(base)] += 1
            own = base.with_name(f"{base.stem}_{self._last[alike(base)]}{base.suffix}")
        self._last[alike(own)] = 1
        return own


def own_stems(paths: list[Path]) -> list[Path]:
    """Return the paths with a stem of its own for each: those that share one get a number."""
    shared = Counter(map(_stem, paths))
    taken = {stem for stem, count in shared.items() if count == 1}
    own = []
    for path in paths:
        if shared[_stem(path)] > 1:
            numbered = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(1))
            path = next(each for each in numbered if _stem(each) not in taken)
            taken.add(_stem(path))
        own.append(path)
    return own


def _stem(path: Path) -> str:
    return alike(path.with_suffix(""))


def _image_path(dataset: KeypointDataset, index: int) -> Path:
    """Return a relative path for a sample's image: below the folder, and of names that every program can write."""
    name = dataset.image_name(index)
    if not isinstance(dataset, ImageFileDataset):
        name = name if name.endswith(".png") else f"{name}.png"
    elif Path(name).suffix.lower() not in _ENCODED and not dataset.as_stored(index):
        name = f"{name}.png"  # its upright pixels have to be encoded
    path = Path(name)
    parts = [portable_name(part) for part in path.parts if part not in ("..", path.anchor)]
    last = parts[-1] if parts else ""
    if not last or (last.startswith(".") and not Path(last).suffix):  # a suffix without a name
        last = f"image{last}"
    return Path(*filter(None, parts[:-1]), last)


def portable_name(text: str) -> str:
    """Return a name of a file or folder that every system and table can hold; its suffix is kept."""
    stem, suffix = os.path.splitext(text.strip())
    if len(suffix) > _LONGEST_SUFFIX:
        stem, suffix = stem + suffix, ""
    name = file_name(stem, file_name(suffix))
    return name if name.strip(".") else "_" * len(name)


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


def written_names(dataset: KeypointDataset) -> list[str]:
    """Return a name for the image of each sample (N,) that a table can hold, and that no other image has.

    Raises:
        KpnetError: Two samples have different images of one name.
    """
    known: dict[str, tuple[int, str]] = {}
    paths = _OwnPaths()
    for index in range(len(dataset)):
        name, key = dataset.image_name(index), dataset.image_key(index)
        if key not in known:
            parts = [portable_name(part) for part in name.split("/") if part not in ("", ".", "..")]
            known[key] = index, paths.add(Path(*filter(None, parts)) if any(parts) else Path("image")).as_posix()
        elif key == name:
            check_same_image(dataset, known[key][0], index)
    return [known[dataset.image_key(index)][1] for index in range(len(dataset))]


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
