"""What the formats share whose images are files of their own, read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.data.formats.instances import InstanceDataset, Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.data.images import image_problem, read_image, read_image_size


class ImageFileDataset(InstanceDataset):
    """Base of formats whose images are picture files beneath `folder`; one that is missing or damaged is left out.

    exif: pictures as a viewer shows them; False: as they are stored; None: whichever has the size the file says.
    """

    def __init__(
        self, folder: Path, instances: Instances, skipped: Skipped, *, exif: bool | None = True, **options: Any
    ) -> None:
        troubles = list(_troubles(folder, instances.images))
        sizes = _sizes_under_boxes(folder, instances, troubles, bool(exif))
        super().__init__(replace(instances, sizes=sizes), skipped, troubles, **options)
        self._sizes = instances.sizes  # as the file says, which `image` is held against
        self.folder, self.exif = folder, exif

    def path(self, index: int) -> Path:
        """The sample's picture file."""
        return self.folder / self.image_name(index)

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 (H, W, 3). A KpnetError for a picture of another size than the file says."""
        path = self.path(index)
        image = read_image(path, exif=bool(self.exif))
        height, width = (0, 0) if self._sizes is None else self._sizes[self._image[index]]
        if not height or not width or image.shape[:2] == (height, width):
            return image
        turned = read_image(path) if self.exif is None else image
        if turned.shape[:2] != (height, width):
            raise KpnetError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, and {self.skipped.source} says {width}x{height}: "
                "were the pictures resized after they were labelled?"
            )
        return turned

    def as_stored(self, index: int) -> bool:
        """Are the file's own pixels, untouched by an EXIF rotation, those of `read`, for any reader?"""
        stored, shown = read_image(self.path(index), exif=False), read_image(self.path(index))
        return stored.shape == shown.shape and bool((stored == shown).all())


def find_folder(source: Path, names: Sequence[str] | np.ndarray, given: str | None) -> Path:
    """Where the pictures are: `given`, from the file's folder; else that folder or images/ in it, which has more."""
    if given is not None:
        folder = source.parent / given
        if not folder.is_dir():
            raise KpnetError(f"{source}: its pictures: no folder {folder}")
        return folder
    candidates = [source.parent, source.parent / "images"]
    return max(candidates, key=lambda folder: sum(_exists(folder, names)))


def read_text(path: Path, expected: str) -> str:
    """A text file; a KpnetError for one that is missing or no text."""
    if not path.is_file():
        raise KpnetError(f"{path}: no such file; expected {expected}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise KpnetError(f"{path}: not a text file; expected {expected}") from None


def _troubles(folder: Path, names: np.ndarray) -> Iterator[str | None]:
    for name, there in zip(names, _exists(folder, names), strict=True):
        yield image_problem(folder / name) if there else f"no picture {folder / name}"


def _sizes_under_boxes(folder: Path, instances: Instances, troubles: list[str | None], exif: bool) -> np.ndarray | None:
    """The file's sizes (M, 2), and the pictures' own where it says none and there is a box to hold against it.

    Only there, for it takes about 0.1 ms a picture. One that cannot be read is put among the `troubles`.
    """
    if instances.boxes is None:
        return instances.sizes
    count = len(instances.images)
    sizes = np.zeros((count, 2), int) if instances.sizes is None else instances.sizes.copy()
    boxed = np.isin(np.arange(count), instances.image[~np.isnan(instances.boxes).any(-1)])
    for number in np.flatnonzero(boxed & ~sizes.all(-1)).tolist():
        if troubles[number] is None:
            try:
                sizes[number] = read_image_size(folder / instances.images[number], exif=exif)
            except KpnetError as error:
                troubles[number] = str(error)
    return sizes


def _exists(folder: Path, names: Iterable[str]) -> Iterator[bool]:
    """Is each a file beneath the folder? Folders are listed once, which is quicker than to ask for every file."""
    listed: dict[str, set[str]] = {}
    for path in names:
        parent, name = os.path.split(path)
        if parent not in listed:
            try:
                listed[parent] = {entry.name for entry in os.scandir(folder / parent) if entry.is_file()}
            except (OSError, ValueError):  # ValueError: a name with a NUL
                listed[parent] = set()
        yield name in listed[parent]
