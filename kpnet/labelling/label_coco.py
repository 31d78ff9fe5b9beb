"""Labels in COCO's person-keypoints layout, with what COCO cannot hold in keys that others ignore.

The file is that of `kpnet.data.formats.coco`, an image or an annotation a line. An annotation's `kpnet` has `sources`,
who made each point, null for one that nobody has looked at, and `has_box`, false where `bbox` is that of the points.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.coordinates import corner_size_to_box
from kpnet.core.errors import KpnetError, few, show
from kpnet.core.reading import parse_json
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.coco import LABEL_MARK, NOTE, annotation_values, category_skeleton, category_values
from kpnet.data.formats.instances import PERSON
from kpnet.data.images import read_image_size
from kpnet.labelling.label_rows import DECIMALS, Entry, Instance, check_names, not_ours, parse_instance

_INFO = {"description": "Labels of kpnet label", LABEL_MARK: 1}
_HEAD = 1 << 16  # bytes in which the mark is looked for
_EXPECTED = "the labels of kpnet label"
# Keys of which nothing is lost when the file is written anew.
_FILE = ("info", "categories", "images", "annotations")
_CATEGORY = ("id", "name", "supercategory", "keypoints", "skeleton")
_IMAGE = ("id", "file_name", "width", "height")
_ANNOTATION = ("id", "image_id", "category_id", "iscrowd", "keypoints", "num_keypoints", "bbox", "area", NOTE)


class CocoEntries:
    """COCO JSON: ids stay with their images and instances as long as these are there.

    Args:
        folder: The folder of the file, from which images are named.
    """

    format = "coco"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, dict[str, Any]] = {}  # width and height of each image, if known
        self._image_ids, self._ids = itertools.count(1), itertools.count(1)

    def parse(self, path: Path, data: bytes) -> tuple[Skeleton, dict[str, Entry]]:
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
        names = self._read_images(lists["images"], path)
        found: dict[str, list[tuple[int, Instance]]] = {name: [] for name in names.values()}
        ids = _Ids(f"{path}: annotations")
        for number, each in enumerate(lists["annotations"]):
            own = ids.check(each.get("id"), number)
            image = each.get("image_id")
            if not isinstance(image, int) or image not in names:
                raise KpnetError(f"{path}: annotation {own}: no image {show(image)} in the file")
            try:
                found[names[image]].append((own, _read_instance(each, len(skeleton))))
            except KpnetError as error:
                raise KpnetError(f"{path}: annotation {own}: {error}") from None
        self._image_ids, self._ids = itertools.count(max(names, default=0) + 1), itertools.count(ids.largest + 1)
        entries = {
            name: Entry(tuple(instance for _, instance in found[name]), (), (number, *(own for own, _ in found[name])))
            for number, name in names.items()
        }
        return skeleton, entries

    def _read_images(self, images: list[dict[str, Any]], path: Path) -> dict[int, str]:
        """Return the name of each image by its id, and keep the sizes."""
        names: dict[int, str] = {}
        ids = _Ids(f"{path}: images")
        self._sizes = {}
        for number, each in enumerate(images):
            own, name = ids.check(each.get("id"), number), each.get("file_name")
            if not isinstance(name, str) or not name or name in self._sizes:
                raise KpnetError(f"{path}: images[{number}]: file_name: expected a name of its own, found {show(name)}")
            names[own] = name
            self._sizes[name] = {key: each[key] for key in ("width", "height") if key in each}
        return names

    def entry(self, name: str, instances: tuple[Instance, ...], before: Entry) -> Entry:
        if not instances and not before.ids:
            return Entry()
        image, *known = before.ids or (next(self._image_ids),)
        ids = [own or next(self._ids) for own in _match(known, before.instances, instances)]
        lines = [
            json.dumps(_annotation(own, image, each))
            for own, each in zip(ids, instances, strict=True)
            if not each.is_empty
        ]
        if not lines:
            return Entry(instances, (), (image, *ids))
        row = json.dumps({"id": image, "file_name": name, **self._size(name)})
        return Entry(instances, (row, ",\n".join(lines)), (image, *ids))

    def text(self, entries: Iterable[Entry], skeleton: Skeleton) -> str:
        rows = [each.lines for each in entries if each.lines]
        images, annotations = (",\n".join(part) for part in zip(*rows, strict=True)) if rows else ("", "")
        info, category = json.dumps(_INFO), json.dumps(category_values(skeleton))
        return (
            f'{{"info": {info},\n"categories": [\n{category}\n],\n"images": [\n{images}\n],\n'
            f'"annotations": [\n{annotations}\n]}}\n'
        )

    def _size(self, name: str) -> dict[str, Any]:
        """Return the width and height of an image, upright as the page shows it, or none if it cannot be read."""
        if name not in self._sizes:
            try:
                height, width = read_image_size(self._folder / name, exif=True)
            except KpnetError:
                return {}
            self._sizes[name] = {"width": int(width), "height": int(height)}
        return self._sizes[name]


def has_label_mark(path: Path) -> bool:
    """Return whether a JSON file begins as `kpnet label` writes it."""
    with path.open("rb") as file:
        return f'"{LABEL_MARK}"'.encode() in file.read(_HEAD)


class _Ids:
    """Checks that ids are whole numbers from 1, each for one entry of a list."""

    def __init__(self, where: str) -> None:
        self._where, self._known, self.largest = where, set[int](), 0

    def check(self, value: Any, number: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value in self._known:
            raise KpnetError(f"{self._where}[{number}]: id: expected a whole number of its own, found {show(value)}")
        self._known.add(value)
        self.largest = max(self.largest, value)
        return value


def _check_keys(values: Any, known: tuple[str, ...], where: str) -> None:
    """Raise KpnetError for what would be lost when the file is written anew."""
    if not isinstance(values, dict):
        raise KpnetError(f"{where}: expected a mapping, found {show(values)}")
    if more := [key for key in values if key not in known]:
        raise KpnetError(f"{where}: has {few(more)}, which kpnet label would not keep; give another --out")


def _skeleton(categories: list[dict[str, Any]], path: Path) -> Skeleton:
    names = categories[0].get("keypoints") if len(categories) == 1 else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise KpnetError(f"{path}: categories: expected one with names of keypoints, found {show(categories)}")
    check_names(names)
    return category_skeleton(names, categories[0].get("skeleton"))[0]


def _read_instance(values: dict[str, Any], count: int) -> Instance:
    numbers, note = values.get("keypoints"), values.get(NOTE)
    if not isinstance(numbers, list) or len(numbers) != 3 * count:
        found = len(numbers) if isinstance(numbers, list) else show(numbers)
        raise KpnetError(f"keypoints: expected {3 * count} numbers, x, y, v of {count} points, found {found}")
    note = note if isinstance(note, dict) else {"has_box": True}
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
    box = values.get("bbox") if note.get("has_box") else None
    if box is not None:
        try:
            box = corner_size_to_box(np.array(box, np.float64)).tolist()
        except (TypeError, ValueError, IndexError, OverflowError):
            raise KpnetError(f"bbox: expected four numbers, found {show(box)}") from None
    return parse_instance({"points": points, "box": box}, count)


def _match(ids: list[int], before: tuple[Instance, ...], after: tuple[Instance, ...]) -> list[int | None]:
    """Return the id of each instance: that of the same one before, or of those that have changed, in their order."""
    left = list(zip(ids, before, strict=True))
    own: list[int | None] = []
    for instance in after:
        place = next((k for k, (_, old) in enumerate(left) if old == instance), None)
        own.append(None if place is None else left.pop(place)[0])
    changed = iter([number for number, _ in left])
    return [next(changed, None) if number is None else number for number in own]


def _annotation(own: int, image: int, instance: Instance) -> dict[str, Any]:
    points = instance.points
    there = [point if point is not None and point.visibility else None for point in points]
    xy = np.array([(0, 0) if point is None else (point.x, point.y) for point in there], np.float64)
    levels = np.array([0 if point is None else point.visibility for point in there])
    row = annotation_values(xy, levels, None if instance.box is None else np.array(instance.box), np.nan)
    row["bbox"] = [round(value, DECIMALS) for value in row["bbox"]]
    row["area"] = round(row["area"], DECIMALS)
    sources = [None if point is None else point.source for point in points]
    note = {"sources": sources, "has_box": instance.box is not None}
    return {"id": own, "image_id": image, "category_id": 1, "iscrowd": 0, **row, NOTE: note}
