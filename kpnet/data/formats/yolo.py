"""YOLO's pose labels (https://docs.ultralytics.com/datasets/pose/): a text file for each image, in a folder of its own.

Layout: a folder with `data.yaml`, and beside each folder `images` one called `labels`:

    data.yaml
    images/train/a.jpg
    labels/train/a.txt

or `train/images/a.jpg` and `train/labels/a.txt`, as Roboflow writes it. `data.yaml` states `kpt_shape`, the number of
keypoints and of numbers for each (2, or 3 with a visibility); optionally `flip_idx`, the keypoint that takes the place
of each in a mirrored image, `names` of the classes, and `kpt_names`, the keypoints' names by class. Each line of a text
file is an instance: its class, the centre and size of its box, and x, y and, if there are 3, the visibility of each
keypoint, 0 (absent), 1 (hidden) or 2 (visible), all divided by the image's width and height.

Coordinates: times width and height, keypoints are pixel indices and stay as they are, and the edges of a box are moved
by -0.5, as in COCO's files, from which most of these are made. A keypoint with a negative coordinate is missing.

An empty text file is that of an image with nothing on it. Ignored: images without a text file. Skipped with a warning:
lines with another number of values, text or an unknown class, and missing or damaged images. Left out with a warning:
boxes without area or outside their image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from kpnet.coordinates import box_of_points, corner_size_to_box, pixel_to_edge
from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import read_yaml, write_yaml
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.cells import parse_numbers
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.text_table import decode_text, read_bytes
from kpnet.data.formats.writing import own_stems, sample_points, write_image, write_images
from kpnet.data.images import find_image_files, read_image_size
from kpnet.data.surroundings import Background

_EXPECTED = "a data.yaml with kpt_shape, or the folder that has one"
_BOX = 5  # numbers before the points: the class and the box
_ABOVE = 3  # folders above the images in which data.yaml is looked for


@DATASETS.register("yolo")
class YOLO(ImageFileDataset):
    """Images with YOLO's pose labels, one sample for each instance.

    Args:
        path: The folder that has data.yaml, the file itself, or a folder of images below it, such as `images/train`.
        category: Name of the class to use; null for all of them.
        exif: Apply the EXIF rotation, as ultralytics does; false reads pixels as they are stored.
        skeleton: Skeleton to use if its keypoint names are the file's, or if it has as many as a file without names.
            None: the file's names, or 0, 1, 2, …
        strict: Raise an error at the first line that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: There is no data.yaml with `kpt_shape`, or no usable label.

    Example:
        >>> dataset = YOLO("tiger-pose", category="tiger")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        category: str | None = None,
        exif: bool = True,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        if options.get("normalized"):
            raise KpnetError(f"{path}: normalized: YOLO's labels are parts of the image anyway; leave the option out")
        given = Path(path)
        folder = given if given.is_dir() else given.parent
        skipped = Skipped(folder, strict)
        layout = _read_layout(_find_yaml(given), category, skeleton)
        instances = _read_folder(folder, layout, exif, skipped)
        super().__init__(folder, instances, skipped, skeleton=skeleton, exif=exif, **options)


@dataclass
class _Layout:
    """What data.yaml says: the points, the numbers for each of them, and the numbers of the classes to use."""

    skeleton: Skeleton
    numbers: int
    classes: Sequence[int] | None  # None: all


def label_folder(images: Path) -> Path:
    """Return the folder of the labels of a folder of images: the last part `images` of its path becomes `labels`.

    Without such a part the labels lie beside the images.
    """
    parts = list(images.absolute().parts)
    if "images" not in parts:
        return images
    last = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:last], "labels", *parts[last + 1 :])


def _find_yaml(path: Path) -> Path:
    """Return the YAML that describes the data: the file itself, or the one in the folder or above it."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise KpnetError(f"{path}: no such file or folder; expected {_EXPECTED}")
    for folder in (path, *path.absolute().parents[:_ABOVE]):
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".yaml", ".yml") and file.is_file())
        with_points = [file for file in found if b"kpt_shape" in file.read_bytes()]
        if len(with_points) > 1:
            raise KpnetError(
                f"{folder}: several files have kpt_shape: {', '.join(file.name for file in with_points)}; give one"
            )
        if found:
            return (with_points or found)[0]
    raise KpnetError(
        f"{path}: no data.yaml in it or above it, which says how many points there are; add kpt_shape: [K, 3]"
    )


def _read_layout(path: Path, category: str | None, skeleton: Skeleton | None) -> _Layout:
    values = _read_yaml(path)
    shape = values.get("kpt_shape")
    if not _are_numbers(shape, 2) or shape[0] < 1 or shape[0] > 10_000 or shape[1] not in (2, 3):
        found = "nothing" if shape is None else shorten(str(shape)[:100])
        raise KpnetError(
            f"{path}: kpt_shape: expected [points, 2 or 3], found {found}; without it there are boxes alone"
        )
    count = shape[0]
    names = _point_names(path, values.get("kpt_names"), count)
    if names is not None:
        own = Skeleton.of_names(names)
    elif skeleton is not None and len(skeleton) == count:
        own = skeleton
    else:
        own = _with_pairs(path, unnamed_skeleton(count, None), values.get("flip_idx"))
    return _Layout(own, shape[1], _classes(path, values.get("names"), category))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    values = read_yaml(path, _EXPECTED)
    if not isinstance(values, Mapping):
        raise KpnetError(f"{path}: expected a mapping, found {type(values).__name__}")
    return values


def _are_numbers(values: Any, count: int) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) == count and all(type(value) is int for value in values)


def _point_names(path: Path, names: Any, count: int) -> list[str] | None:
    """Return the keypoints' names, which all classes share."""
    each = list(names.values()) if isinstance(names, Mapping) else [names]
    if names is None or not each:
        return None
    if any(not isinstance(n, list) or len(n) != count or not all(isinstance(v, (str, int)) for v in n) for n in each):
        raise KpnetError(f"{path}: kpt_names: expected {count} names for each class")
    if any(n != each[0] for n in each):
        raise KpnetError(f"{path}: kpt_names: classes have different points; keep one class")
    return list(map(str, each[0]))


def _with_pairs(path: Path, skeleton: Skeleton, flip: Any) -> Skeleton:
    """Return the skeleton with the pairs of `flip_idx`; COCO's if they are the same."""
    count = len(skeleton)
    if flip is None or flip == []:
        return skeleton
    if not _are_numbers(flip, count) or sorted(flip) != list(range(count)) or any(flip[flip[k]] != k for k in flip):
        raise KpnetError(f"{path}: flip_idx: expected for each of the {count} points the one it swaps with")
    coco = Skeleton.load("coco17")
    if flip == coco.flip_permutation:
        return coco
    names = skeleton.names
    return Skeleton(names, tuple((names[k], names[other]) for k, other in enumerate(flip) if k < other))


def _classes(path: Path, names: Any, category: str | None) -> list[int] | None:
    if category is None:
        return None
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names if isinstance(names, list) else [])
    known = {str(name): int(number) for number, name in pairs if str(number).isdecimal()}  # keys are text
    if category not in known:
        raise KpnetError(
            f'{path}: no class "{shorten(category)}"{did_you_mean(category, known)}; there are: '
            f"{', '.join(list(known)[:5]) or 'none'}"
        )
    return [known[category]]


def _read_folder(folder: Path, layout: _Layout, exif: bool, skipped: Skipped) -> Instances:
    width = _BOX + layout.numbers * len(layout.skeleton)
    labels = 0
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    values: list[np.ndarray] = []
    origins: list[str] = []
    index: list[int] = []
    background = Background()
    for image in find_image_files(folder):
        label = label_folder(image.parent) / f"{image.stem}.txt"
        if not label.is_file():
            continue
        labels += 1
        where = label.relative_to(folder.absolute()) if label.is_relative_to(folder.absolute()) else label
        name, before = str(image.relative_to(folder)), len(skipped.messages)
        rows = list(_rows(label, str(where), width, layout, skipped))
        if len(skipped.messages) > before:
            background.partial.add(name)
        if not rows:
            background.images[name] = 0, 0
            continue
        try:
            sizes.append(read_image_size(image, exif=exif))
        except KpnetError as error:
            skipped.add(str(error))
            continue
        names.append(name)
        for origin, row in rows:
            values.append(row)
            origins.append(origin)
            index.append(len(names) - 1)
    if not labels:
        raise KpnetError(
            f"{folder}: no text file of labels for any of its images; expected them in {label_folder(folder)}"
        )
    if not values:
        skipped.warn(0)
    numbers, size = np.array(values), np.array(sizes)[index]
    scale = size[:, None, ::-1]
    points = numbers[:, _BOX:].reshape(len(numbers), len(layout.skeleton), layout.numbers)
    xy = points[..., :2] * scale
    xy[(points[..., :2] < 0).any(-1)] = np.nan
    centre, extent = numbers[:, 1:3] * scale[:, 0], numbers[:, 3:5] * scale[:, 0]
    boxes = corner_size_to_box(np.concatenate([centre - extent / 2, extent], -1))
    level = points[..., 2] if layout.numbers == 3 else None
    images, rows_of = np.array(names), np.array(origins)
    return Instances(
        layout.skeleton, images, np.array(index), xy, rows_of, level, boxes, np.array(sizes), background=background
    )


def _rows(label: Path, where: str, width: int, layout: _Layout, skipped: Skipped) -> Iterator[tuple[str, np.ndarray]]:
    """Yield where each instance is, and its numbers (width,)."""
    text, _ = decode_text(label, read_bytes(label, "labels"), "labels of YOLO")
    for number, line in enumerate(text.splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        row, wrong = parse_numbers(cells[: width + 1])
        if len(cells) != width:
            boxes = "; these are boxes without points" if len(cells) == _BOX else ""
            skipped.add(f"{where}, line {number}: numbers: expected {width}, found {len(cells)}{boxes}")
        elif wrong.any() or not np.isfinite(row).all():
            bad = cells[int((wrong | ~np.isfinite(row)).argmax())]
            skipped.add(f'{where}, line {number}: "{shorten(bad)}", expected a number')
        elif (np.abs(row[1:_BOX]) > 2).any():
            box = ", ".join(cells[1:_BOX])
            skipped.add(f"{where}, line {number}: its box is {shorten(box)}, expected parts of the image's size")
        elif layout.classes is None or row[0] in layout.classes:
            yield f"{where}, line {number}", row


def holds_yolo(dataset: KeypointDataset, index: int) -> np.ndarray:
    """Return which points the format can store, bool (K,): those that do not lie outside the image."""
    height, width = dataset.read(index)[0].shape[:2]
    return _inside(sample_points(dataset, index) / (width, height))


def _inside(parts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(~((parts < 0) | (parts > 1)).any(-1))


def write_yolo(dataset: KeypointDataset, folder: Path) -> None:
    """Write data.yaml, the images in `images/`, and a text file for each in `labels/`, with three numbers a point.

    Points outside the image are left out, as ultralytics refuses them. Every line needs a box: without one of its own,
    it is that of the points' pixels. Boxes are cut at the image's edge.
    """
    skeleton, names = dataset.skeleton, list(dataset.skeleton.names)
    category = skeleton.name or "object"
    values: dict[str, Any] = {"path": ".", "train": "images", "val": "images", "kpt_shape": [len(names), 3]}
    values |= {"flip_idx": skeleton.flip_permutation, "names": {0: category}, "kpt_names": {0: names}}
    samples: dict[Path, list[int]] = {}
    for index, path, _ in write_images(dataset, None):
        samples.setdefault(path, []).append(index)
    for path, indices in zip(own_stems(list(samples)), samples.values(), strict=True):
        size = write_image(dataset, indices[0], folder / "images" / path)
        label = label_folder((folder / "images" / path).parent) / f"{path.stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for index in indices if (line := _line(dataset, index, size))]
        label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "data.yaml").write_text(write_yaml(values), encoding="utf-8")


def _line(dataset: KeypointDataset, index: int, size: tuple[int, int]) -> str:
    """Return the line of an instance, empty without a point and a box."""
    parts, box = sample_points(dataset, index) / size[::-1], dataset.box(index)
    level = np.where(_inside(parts), dataset.visibility(index), 0)
    if not level.any() and box is None:
        return ""
    if box is None:
        box = box_of_points(sample_points(dataset, index)[level > 0])
    edges = np.clip(pixel_to_edge(box) / np.tile(size[::-1], 2), 0, 1)
    numbers = [*((edges[:2] + edges[2:]) / 2).tolist(), *(edges[2:] - edges[:2]).tolist()]
    for (x, y), v in zip(np.where(level[:, None] > 0, parts, 0).tolist(), level.tolist(), strict=True):
        numbers += [x, y, v]
    return " ".join(["0", *(f"{number:.9g}" for number in numbers)])
