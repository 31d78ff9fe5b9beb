"""Labels in COCO's person-keypoints layout, with what COCO cannot hold in keys that others ignore.

The file is that of `kpnet.data.formats.coco`, an image or an annotation a line. An annotation's `kpnet` has `sources`,
who made each point, null for one that nobody has looked at, and `has_box`, false where `bbox` is that of the points.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.coordinates import box_of_points, edge_to_pixel, pixel_to_edge
from kpnet.core.errors import KpnetError, few, show
from kpnet.core.reading import parse_json
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.coco import LABEL_MARK, NOTE, category_skeleton, category_values
from kpnet.data.formats.instances import PERSON
from kpnet.data.images import read_image_size
from kpnet.labelling.label_rows import (
    DECIMALS,
    Entry,
    Instance,
    check_names,
    is_coordinate,
    not_ours,
    parse_box,
    parse_instance,
)

Json = dict[str, Any]
_INFO = {"description": "Labels of kpnet label", LABEL_MARK: 1}
_EXPECTED = "the labels of kpnet label"
# Keys of which nothing is lost when the file is written anew.
_FILE = ("info", "categories", "images", "annotations")
_CATEGORY = ("id", "name", "supercategory", "keypoints", "skeleton")
_IMAGE = ("id", "file_name", "width", "height")
_ANNOTATION = ("id", "image_id", "category_id", "iscrowd", "keypoints", "num_keypoints", "bbox", "area", NOTE)
_SAME = 0.01  # pixels, or parts of an area, by which a box or an area may be rounded by another program


class CocoEntries:
    """COCO JSON: images keep what the file has of them, also without labels; annotations are numbered at each writing.

    Args:
        folder: The folder of the file, from which images are named.
    """

    format = "coco"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._info: Json = _INFO
        self._category: Json = {}
        self._skeleton: Skeleton | None = None  # of this category
        self._ids: dict[str, int] = {}  # of each image that the file has, by its name
        self._rows: list[str] = []  # text of these images

    def parse(self, path: Path, data: bytes) -> tuple[Skeleton, dict[str, tuple[Instance, ...]]]:
        try:
            values = parse_json(data.decode("utf-8-sig"), str(path), _EXPECTED)
        except UnicodeDecodeError:
            raise not_ours(path) from None
        info = values.get("info") if isinstance(values, dict) else None
        if not isinstance(info, dict) or info.get(LABEL_MARK) != 1:
            raise not_ours(path)
        _check_keys(values, _FILE, str(path))
        lists = {}
        for key, known in zip(_FILE[1:], (_CATEGORY, _IMAGE, _ANNOTATION), strict=True):
            lists[key] = values.get(key)
            if not isinstance(lists[key], list):
                raise KpnetError(f"{path}: {key}: expected a list, found {show(lists[key])}")
            for number, each in enumerate(lists[key]):
                _check_keys(each, known, f"{path}: {key}[{number}]")
        skeleton = _skeleton(lists["categories"], path)
        self._info, self._category, self._skeleton = info, lists["categories"][0], skeleton
        names = self._read_images(lists["images"], path)
        found: dict[str, list[Instance]] = {name: [] for name in names.values()}
        ids: set[int] = set()
        for number, each in enumerate(lists["annotations"]):
            own = _check_id(each.get("id"), ids, f"{path}: annotations[{number}]")
            ids.add(own)
            image = each.get("image_id")
            if not isinstance(image, int) or image not in names:
                raise KpnetError(f"{path}: annotation {own}: no image {show(image)} in the file")
            try:
                found[names[image]].append(_read_instance(each, len(skeleton), self._category_id))
            except KpnetError as error:
                raise KpnetError(f"{path}: annotation {own}: {error}") from None
        return skeleton, {name: tuple(instances) for name, instances in found.items()}

    @property
    def _category_id(self) -> Any:
        return self._category.get("id", 1)

    def _read_images(self, images: list[Json], path: Path) -> dict[int, str]:
        """Return the name of each image by its id, and keep what the file has of it."""
        names: dict[int, str] = {}
        for number, each in enumerate(images):
            own, name = _check_id(each.get("id"), names, f"{path}: images[{number}]"), each.get("file_name")
            if not isinstance(name, str) or not name or name in self._ids or not _is_encodable(name):
                raise KpnetError(f"{path}: images[{number}]: file_name: expected a name of its own, found {show(name)}")
            names[own] = name
            self._ids[name] = own
            self._rows.append(json.dumps(each))
        return names

    def lines(self, name: str, instances: tuple[Instance, ...]) -> tuple[str, ...]:
        return tuple(json.dumps(_annotation(each)) for each in instances if not each.is_empty)

    def text(self, entries: Iterable[tuple[str, Entry]], skeleton: Skeleton) -> str:
        labelled = [(name, entry.lines) for name, entry in entries if entry.lines]
        free = max(self._ids.values(), default=0) + 1
        for name, _ in labelled:
            if name not in self._ids:
                self._rows.append(json.dumps({"id": free, "file_name": name, **self._size(name)}))
                self._ids[name] = free
                free += 1
        rows = [(self._ids[name], line) for name, lines in labelled for line in lines]
        head = f'"category_id": {json.dumps(self._category_id)}, '
        annotations = ",\n".join(
            f'{{"id": {number}, "image_id": {image}, {head}{line[1:]}' for number, (image, line) in enumerate(rows, 1)
        )
        kept = _CATEGORY if skeleton == self._skeleton else ("id", "name", "supercategory")
        category = category_values(skeleton) | {key: self._category[key] for key in kept if key in self._category}
        images = ",\n".join(self._rows)
        return (
            f'{{"info": {json.dumps(self._info)},\n"categories": [\n{json.dumps(category)}\n],\n'
            f'"images": [\n{images}\n],\n"annotations": [\n{annotations}\n]}}\n'
        )

    def _size(self, name: str) -> Json:
        """Return the width and height of an image, upright as the page shows it, or none if it cannot be read."""
        try:
            height, width = read_image_size(self._folder / name, exif=True)
        except KpnetError:
            return {}
        return {"width": int(width), "height": int(height)}


def has_label_mark(path: Path) -> bool:
    """Return whether a JSON file has the mark of `kpnet label`, wherever another program has moved it to."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(f'"{LABEL_MARK}"'.encode()) >= 0


def _check_id(value: Any, known: Container[int], where: str) -> int:
    """Return an id, which has to be a whole number from 1 that is not known yet."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value in known:
        raise KpnetError(f"{where}: id: expected a whole number of its own, found {show(value)}")
    return value


def _is_encodable(name: str) -> bool:
    """Return whether a text can be sent to the page: JSON can have halves of a character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_keys(values: Any, known: tuple[str, ...], where: str) -> None:
    """Raise KpnetError for what would be lost when the file is written anew."""
    if not isinstance(values, dict):
        raise KpnetError(f"{where}: expected a mapping, found {show(values)}")
    if more := [key for key in values if key not in known]:
        raise _lost(f"{where}: has {few(more)}")


def _lost(what: str) -> KpnetError:
    return KpnetError(f"{what}, which kpnet label would not keep; give another --out")


def _skeleton(categories: list[Json], path: Path) -> Skeleton:
    names = categories[0].get("keypoints") if len(categories) == 1 else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise KpnetError(f"{path}: categories: expected one with names of keypoints, found {show(categories)}")
    check_names(names)
    return category_skeleton(names, categories[0].get("skeleton"))[0]


def _read_instance(values: Json, count: int, category: Any) -> Instance:
    numbers, note = values.get("keypoints"), values.get(NOTE)
    if not isinstance(numbers, list) or len(numbers) != 3 * count:
        found = len(numbers) if isinstance(numbers, list) else show(numbers)
        raise KpnetError(f"keypoints: expected {3 * count} numbers, x, y, v of {count} points, found {found}")
    for key, expected in (("iscrowd", 0), ("category_id", category)):
        if values.get(key, expected) != expected:
            raise _lost(f"{key}: expected {show(expected)}, found {show(values[key])}")
    note = {"has_box": True} if note is None else note
    _check_keys(note, ("sources", "has_box"), NOTE)
    sources = note.get("sources", [None] * count)
    if not isinstance(sources, list) or len(sources) != count:
        raise KpnetError(f"{NOTE}: sources: expected a list of {count} words, found {show(sources)}")
    points: list[list[Any] | None] = []
    for k, source in enumerate(sources):
        x, y, v = numbers[3 * k : 3 * k + 3]
        if v == 0:
            points.append(None if source is None else [None, None, 0, source])
        else:
            points.append([x, y, v, source or PERSON])
    instance = parse_instance({"points": points}, count)
    corner_size = values.get("bbox")
    if corner_size is None:
        return instance
    if not isinstance(corner_size, list) or len(corner_size) != 4 or not all(map(is_coordinate, corner_size)):
        raise KpnetError(f"bbox: expected four numbers, found {show(corner_size)}")
    x, y, width, height = corner_size
    if note.get("has_box") or not _is_same(corner_size, _corner_size(instance)):
        box = parse_box([edge_to_pixel(value) for value in (x, y, x + width, y + height)])
        instance = Instance(instance.points, box)
    area = values.get("area", width * height)
    if not isinstance(area, (int, float)) or abs(area - width * height) > _SAME * max(width * height, 1):
        raise _lost(f"area: expected that of the bbox, found {show(area)}")
    return instance


def _is_same(box: list[float], other: list[float]) -> bool:
    return all(abs(a - b) <= _SAME for a, b in zip(box, other, strict=True))


def _corner_size(instance: Instance) -> list[float]:
    """Return x, y, width and height of an instance's box in COCO's coordinates, or of the pixels of its points.

    As `annotation_values` has it; that makes arrays of each box, which takes long for thousands of them.
    """
    box = instance.box
    if box is None:
        xy = [point[:2] for point in instance.points if point is not None and point.x is not None]
        if not xy:
            return [0.0] * 4
        box = box_of_points(np.array(xy)).tolist()
    x0, y0, x1, y1 = box
    return [round(value, DECIMALS) for value in (pixel_to_edge(x0), pixel_to_edge(y0), x1 - x0, y1 - y0)]


def _annotation(instance: Instance) -> Json:
    """Return an annotation without its ids, which come before the rest."""
    keypoints: list[float | None] = []
    for point in instance.points:
        keypoints += (0, 0, 0) if point is None or not point.visibility else point[:3]
    corner_size = _corner_size(instance)
    return {
        "iscrowd": 0,
        "keypoints": keypoints,
        "num_keypoints": sum(point is not None and point.visibility > 0 for point in instance.points),
        "bbox": corner_size,
        "area": round(corner_size[2] * corner_size[3], DECIMALS),
        NOTE: {
            "sources": [None if point is None else point.source for point in instance.points],
            "has_box": instance.box is not None,
        },
    }
