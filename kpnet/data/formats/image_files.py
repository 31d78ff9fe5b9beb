"""Base class of the formats whose images are files of their own, which are read when they are needed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.validation import check_bits
from kpnet.data.formats.instances import InstanceDataset, Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.data.image_cache import ImageCache
from kpnet.data.image_names import ImageFinder
from kpnet.data.images import image_problem, is_turned, read_image, read_image_size

_ABOVE = 3  # folders above a file of labels in which its images are looked for
_LABEL_FOLDERS = ("annotations", "annotation", "labels")  # their images are beside them
_SAMPLE = 50  # names of images that are looked for there
_MOST = 200  # folders that are looked into
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file, not read yet, and how it is read.

    Attributes:
        path: The file.
        exif: As in `ImageFileDataset`.
        bits: As in `ImageFileDataset`.
        size: Height and width that the file of labels states, or None.
        source: The file of labels, for messages.
    """

    path: Path
    exif: bool | None = True
    bits: int = 16
    size: tuple[int, int] | None = None
    source: str = ""

    def read(self) -> np.ndarray:
        """Read the image, RGB uint8 (H, W, 3).

        Raises:
            KpnetError: It cannot be read, or has another size than the file of labels states.
        """
        image = read_image(self.path, exif=bool(self.exif), bits=self.bits)
        if self.size is None or image.shape[:2] == self.size:
            return image
        height, width = self.size
        turned = read_image(self.path, exif=not self.exif, bits=self.bits)
        if turned.shape[:2] != self.size:
            raise KpnetError(
                f"{self.path}: {image.shape[1]}x{image.shape[0]} pixels, and {self.source} says {width}x{height}: "
                "were the images resized after they were labelled?"
            )
        return turned if self.exif is None else image


class ImageFileDataset(InstanceDataset):
    """Base class of formats whose images are files below `folder`. Missing and damaged ones are skipped.

    Names are found as `ImageFinder` finds them, and those of one file are one image.

    Args:
        folder: The folder to which the images' names are relative.
        instances: What the file of labels holds.
        skipped: Collects the reasons why instances are skipped.
        exif: Apply the EXIF rotation, as an image viewer does; false reads pixels as they are stored, and null takes
            whichever has the image size that the file of labels states.
        bits: Bits, from 8 to 16, that the values of 16-bit images fill, such as 12 for a camera of 12 bits. All images
            are scaled alike.
        normalized: Coordinates are fractions of the image, for which the size of every image is read.
        **options: Arguments of `InstanceDataset`.

    Attributes:
        folder: The folder.
        exif: The argument.
        bits: The argument.
    """

    boxes_are_normalized_too: ClassVar[bool] = False  # else the boxes are in pixels whatever `normalized` says

    def __init__(
        self,
        folder: Path,
        instances: Instances,
        skipped: Skipped,
        *,
        exif: bool | None = True,
        bits: int = 16,
        normalized: bool = False,
        **options: Any,
    ) -> None:
        check_bits(bits)
        finder = ImageFinder(folder)
        instances, problems = _find_images(finder, instances)
        sizes = _sizes_of_images(folder, instances, problems, bool(exif), every=normalized)
        boxes = instances.boxes
        if normalized and self.boxes_are_normalized_too and boxes is not None and sizes is not None:
            with np.errstate(invalid="ignore"):
                boxes = (boxes + 0.5) * np.tile(sizes[instances.image_index, ::-1], 2) - 0.5
        instances = replace(instances, boxes=boxes)
        super().__init__(replace(instances, sizes=sizes), skipped, problems, normalized=normalized, **options)
        self._scales_boxes = normalized and self.boxes_are_normalized_too
        self._sizes = instances.sizes  # as the file states them, for `image` to compare
        self.folder, self.exif, self.bits, self._finder = folder, exif, bits, finder
        self._cache: ImageCache | None = None
        self._cached = np.zeros(0, np.int64)  # the number in the cache of each of the file's images

    def cache_images(self, most: int) -> int:
        """Keep decoded images in memory that the workers of a loader share, from when each is first read.

        Args:
            most: Bytes to keep; images that do not fit are read from their files each time.

        Returns:
            The bytes that are taken.

        Raises:
            KpnetError: The system has less shared memory, or an image cannot be read.
        """
        used, firsts = np.unique(self._image_index, return_index=True)
        self._cached = np.full(len(self.images), -1)
        self._cached[used] = np.arange(len(used))
        pixels = [math.prod(read_image_size(self.path(int(first)))) for first in firsts]
        self._cache = ImageCache(np.array(pixels, np.int64), most)
        return self._cache.nbytes

    def path(self, index: int) -> Path:
        """Return the sample's image file."""
        return self.folder / self.image_name(index)

    def image_file(self, index: int) -> Path | None:
        return self.path(index)

    def image(self, index: int) -> np.ndarray:
        """Read the image of a sample, RGB uint8 (H, W, 3).

        Raises:
            KpnetError: It cannot be read, or has another size than the file of labels states.
        """
        read = self.image_source(index).read
        return read() if self._cache is None else self._cache.get(int(self._cached[self._image_index[index]]), read)

    def image_shape(self, index: int) -> tuple[int, int]:
        stated = self.image_source(index).size
        return read_image_size(self.path(index), exif=bool(self.exif)) if stated is None else stated

    def _key(self, name: str) -> str | None:
        found = self._finder.find(name)
        return None if found is None else self._finder.identity(found)

    def _file(self, name: str) -> Path:
        return self.folder / str(self._finder.find(name))

    def _reader(self, name: str, size: tuple[int, int]) -> Callable[[], np.ndarray] | None:
        path = self._file(name)
        if image_problem(path) is not None:
            return None
        return ImageFile(path, self.exif, self.bits, size if all(size) else None, str(self.skipped.source)).read

    def _region(self, name: str, box: np.ndarray) -> np.ndarray:
        if not self._scales_boxes:
            return box
        height, width = read_image_size(self._file(name), exif=bool(self.exif))
        return (box + 0.5) * (width, height, width, height) - 0.5

    def image_source(self, index: int) -> ImageFile:
        """Return the file of a sample's image, and how it is read."""
        height, width = (0, 0) if self._sizes is None else self._sizes[self._image_index[index]].tolist()
        size = (height, width) if height and width else None
        return ImageFile(self.path(index), self.exif, self.bits, size, str(self.skipped.source))

    def image_key(self, index: int) -> str:
        """Return the absolute path of the image, so that it is one image in all files of labels."""
        return self._finder.identity(self.image_name(index))

    def as_stored(self, index: int) -> bool:
        """Return whether the stored pixels need no EXIF rotation, so that every program reads the image alike."""
        return not is_turned(self.path(index))


def find_folder(
    source: Path, names: Sequence[str] | np.ndarray, given: str | None, skipped: Skipped | None = None
) -> Path:
    """Find the folder of the images that a file of labels names.

    Args:
        source: The file of labels.
        names: Names of the images.
        given: The folder, relative to the file's. None: the file's folder or `images/` in it, whichever has more of
            the images; if neither has one, a folder in these; beside a folder `annotations` or `labels`, as COCO's
            `train2017` and CVAT's `images/default`; or one above, for names that begin with a folder.
        skipped: Notes if the images are read from another folder than the file's and `images/` in it.

    Returns:
        The folder.

    Raises:
        KpnetError: The given folder does not exist, or several folders have the images.
    """
    if given is not None:
        folder = source.parent / given
        if not folder.is_dir():
            raise KpnetError(f"{source}: images: no such folder {folder}")
        return folder
    near = [source.parent, source.parent / "images"]
    best = max(near, key=lambda folder: sum(_exists(folder, names)))
    sample = [str(name) for name in names[:: max(1, len(names) // _SAMPLE)]]
    if any(_exists(best, names)) or not sample:
        return best
    for level in _places_around(source.parent, sample):
        found = {folder: sum(_exists(folder, sample)) for folder in level}
        most = [folder for folder, count in found.items() if count and count == max(found.values())]
        # The name of the file says of which part of the data it is, as in person_keypoints_train2017.json.
        named = [folder for folder in most if folder.name and folder.name in source.stem] if len(most) > 1 else most
        if len(named) == 1:
            if skipped is not None:
                skipped.note(f"images are read from {os.path.relpath(named[0], source.parent)}")
            return named[0]
        if most:
            folders = ", ".join(os.path.relpath(folder, source.parent) for folder in most[:_SHOWN])
            raise KpnetError(f"{source}: several folders have its images: {folders}; set images to one of them")
    return best


def _places_around(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Yield groups of folders in which images may be, the likelier ones first."""
    yield _folders_in(folder) + _folders_in(folder / "images")
    above = [folder]
    for _ in range(_ABOVE):
        last = above[-1]
        above.append(last / ".." if last.name in ("", "..") else last.parent)
    if folder.absolute().name.lower() in _LABEL_FOLDERS:
        yield [above[1], above[1] / "images"]
        yield _folders_in(above[1]) + _folders_in(above[1] / "images")
    if all("/" in name.replace("\\", "/") for name in names):  # the folder in each name is there too
        yield above[1:]


def _folders_in(folder: Path) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names[:_MOST]]


def _find_images(finder: ImageFinder, instances: Instances) -> tuple[Instances, list[str | None]]:
    """Name the images as the disk does, one for each file, and return why each cannot be used, or None."""
    sizes = None if instances.sizes is None else instances.sizes.copy()
    number: dict[str, int] = {}
    place = np.zeros(len(instances.images), np.int64)
    first: list[int] = []
    names: list[str] = []
    problems: list[str | None] = []
    for index, name in enumerate(instances.images.tolist()):
        found = finder.find(name)
        key = name if found is None else finder.identity(found)
        known = number.setdefault(key, len(names))
        if known < len(names) and sizes is not None and sizes[index].all():
            one = sizes[first[known]]
            if not one.all():
                one[:] = sizes[index]
            elif (one != sizes[index]).any():
                known = len(names)  # these labels are of an image of another size
        place[index] = known
        if known < len(names):
            continue
        path = finder.folder / (name if found is None else found)
        if sizes is not None and known != number[key]:
            said = [f"{width}x{height}" for height, width in (sizes[first[number[key]]], sizes[index])]
            problems.append(f"{path}: it is {said[0]} in one place of the file and {said[1]} in another")
        else:
            problems.append(f"no image {path}" if found is None else image_problem(path))
        first.append(index)
        names.append(name if found is None else found)
    sizes = None if sizes is None else sizes[first]
    images, image_index = np.array(names, str), place[instances.image_index]
    return replace(instances, images=images, image_index=image_index, sizes=sizes), problems


def _sizes_of_images(
    folder: Path, instances: Instances, problems: list[str | None], exif: bool, *, every: bool
) -> np.ndarray | None:
    """Return the stated image sizes (M, 2), read from the image where none is stated and one is needed.

    `every` image's is, or those that have a box to check. Others are not read, because that takes about 0.1 ms each.
    An image that cannot be read is added to `problems`.
    """
    if instances.boxes is None and not every:
        return instances.sizes
    count = len(instances.images)
    sizes = np.zeros((count, 2), int) if instances.sizes is None else instances.sizes.copy()
    boxed = np.ones(count, bool)
    if instances.boxes is not None and not every:
        boxed = np.isin(np.arange(count), instances.image_index[~np.isnan(instances.boxes).any(-1)])
    for number in np.flatnonzero(boxed & ~sizes.all(-1)).tolist():
        if problems[number] is None:
            try:
                sizes[number] = read_image_size(folder / instances.images[number], exif=exif)
            except KpnetError as error:
                problems[number] = str(error)
    return sizes


def _exists(folder: Path, names: Iterable[str]) -> Iterator[bool]:
    """Yield whether each name is found below the folder."""
    finder = ImageFinder(folder)
    for name in names:
        yield finder.find(str(name)) is not None
