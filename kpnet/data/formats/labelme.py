"""labelme (https://github.com/wkentaro/labelme): a JSON file for each image, beside it.

Layout: a folder, with or without subfolders, or one file of it:

    a.jpg
    a.json
    labels.txt

Each file is a mapping with `imagePath`, relative to the file, `imageHeight`, `imageWidth`, and `shapes`, a list of

    {"label": "nose", "points": [[10.5, 20.0]], "group_id": 0, "shape_type": "point", "flags": {"occluded": true}}

The label of a point is the keypoint's name. Points of one `group_id` are an instance, and so are those without one. A
shape of type `rectangle` is the box of its group. A point whose flag `occluded`, `hidden` or `invisible` is set is
hidden. `labels.txt`, which `labelme --labels` reads, may state names in their order, one on each line; otherwise they
are in the order in which they appear.

Coordinates: labelme's canvas reaches from 0 to the image's width, so that the centre of the first pixel is 0.5. kpnet
subtracts 0.5 from points and boxes.

Ignored, with a note: shapes of other types, and files without a point (unless `empty`). Skipped with a warning: files
that are no such JSON, points of one name in one group, and missing or damaged images.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from kpnet.coordinates import edge_to_pixel, pixel_to_edge
from kpnet.core.errors import KpnetError, few, shorten
from kpnet.core.reading import read_json, read_text
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.gathering import (
    HIDDEN,
    VISIBLE,
    Gatherer,
    Shapes,
    check_name,
    image_size,
    number,
    says_hidden,
)
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import own_stems, sample_points, write_image, write_images
from kpnet.data.image_names import ImageFinder
from kpnet.data.images import IMAGE_SUFFIXES, find_files

_EXPECTED = "a labelme file: a mapping with imagePath and shapes"
_LABELS = "labels.txt"
_NO_POINTS = ("__ignore__", "_background_")  # what labelme's own examples of labels.txt begin with
_VERSION = "5.5.0"  # of the layout that is written


@DATASETS.register("labelme")
class LabelMe(ImageFileDataset):
    """Images with labelme's JSON files, one sample for each group of points.

    Args:
        path: The folder, or one of the files.
        empty: Also use files without a shape, which say that nothing is on their image, and boxes without points.
        exif: Apply the EXIF rotation, as labelme does; false reads pixels as they are stored.
        skeleton: Skeleton whose order of names is used if it has the names of the files.
        strict: Raise an error at the first file that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: There is no such file, or none in it has a point.

    Example:
        >>> dataset = LabelMe("mice")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        empty: bool = False,
        exif: bool = True,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        given = Path(path)
        folder = given if given.is_dir() else given.parent
        skipped = Skipped(given, strict)
        gatherer = Gatherer(skipped, empty)
        gatherer.names = dict.fromkeys(_stated_names(folder / _LABELS))
        reader = _Reader(folder, gatherer)
        for file in _label_files(given):
            reader.read(file)
        super().__init__(folder, reader.build(skeleton), skipped, skeleton=skeleton, exif=exif, **options)


def is_labelme(head: str) -> bool:
    """Return whether a JSON file that begins so may be labelme's."""
    return head.startswith("{") and '"shapes"' in head and any(f'"{key}"' in head for key in _KEYS)


_KEYS = ("imagePath", "shape_type", "group_id", "imageData")


def _label_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = find_files(path, (".json",))
    if not files:
        raise KpnetError(f"{path}: found no .json file in it; expected labelme's, one for each image")
    return files


def _stated_names(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = [line.strip() for line in read_text(path, "names of points, one on each line").splitlines()]
    return [line for line in lines if line and line not in _NO_POINTS]


class _Reader:
    """Reads files one by one, and counts what they hold besides points."""

    def __init__(self, folder: Path, gatherer: Gatherer) -> None:
        self.folder, self.gatherer, self.skipped = folder, gatherer, gatherer.skipped
        self.finder = ImageFinder(folder)
        self.others: Counter[str] = Counter()  # types of shapes that are not used
        self.stated = len(gatherer.names)
        self.points: set[str] = set()  # labels of points
        self.objects: set[str] = set()  # labels of other shapes

    def read(self, path: Path) -> None:
        name = os.path.relpath(path, self.folder)
        try:
            values = read_json(path, _EXPECTED)
        except KpnetError as error:
            self.skipped.add(str(error).replace(str(path), name, 1))
            return
        if not isinstance(values, dict) or not isinstance(values.get("shapes"), list):
            self.skipped.add(f"{name}: no list of shapes in it; expected {_EXPECTED}")
            return
        if (problem := check_name(values.get("imagePath"))) is not None:
            self.skipped.add(f"{name}: imagePath: {problem}")
            return
        shapes = Shapes()
        for k, shape in enumerate(values["shapes"]):
            if (reason := self._add(shapes, shape)) is not None:
                self.skipped.note(f"{name}: shapes[{k}]: {reason}; it is left out", lost=True)
        size = image_size(values.get("imageHeight"), values.get("imageWidth"))
        self.gatherer.add_image(self._image(path, values["imagePath"]), size, name, shapes)

    def _image(self, path: Path, stated: str) -> str:
        """Return the image's path below the folder: as stated, or of that name or the file's own beside it."""
        beside = Path(os.path.normpath(path.parent.absolute()))
        stated_ones = (stated.replace("\\", "/"), stated, PureWindowsPath(stated).name)
        candidates = [beside / each for each in stated_ones] + [beside / f"{path.stem}{s}" for s in IMAGE_SUFFIXES]
        root = self.folder.absolute()
        names = [os.path.relpath(os.path.normpath(each), root) for each in candidates]
        return next((name for name in names if self.finder.find(name) is not None), names[0])

    def _add(self, shapes: Shapes, shape: Any) -> str | None:
        """Add a point or box; return why it cannot be used, or None."""
        if not isinstance(shape, dict):
            return "it is no mapping"
        corners = _corners(shape.get("points"))
        label, kind, group = shape.get("label"), shape.get("shape_type"), shape.get("group_id")
        if corners is None:
            return f"points: expected pairs of numbers, found {shorten(str(shape.get('points')))}"
        if not isinstance(label, str) or not label.strip():
            return f"label: expected a name, found {shorten(str(label))}"
        if group is not None and (isinstance(group, bool) or not isinstance(group, (int, str))):
            return f"group_id: expected a number or null, found {shorten(str(group))}"
        is_point = kind == "point" or (kind is None and len(corners) == 1)
        (self.points if is_point else self.objects).add(label.strip())
        if is_point:
            flags = shape.get("flags")
            hidden = isinstance(flags, dict) and says_hidden(key for key, value in flags.items() if value is True)
            if len(corners) != 1:
                return f"a point has {len(corners)} pairs of numbers"
            shapes.add_point(group, label.strip(), *corners[0], HIDDEN if hidden else VISIBLE)
        elif kind == "rectangle" and len(corners) in (2, 4):
            xs, ys = zip(*corners, strict=True)
            if not shapes.add_box(group, (min(xs), min(ys), max(xs), max(ys))):
                return "a second rectangle of its group"
        else:
            self.others[shorten(str(kind))] += 1
            shapes.partial = True  # it may be of an instance
        return None

    def build(self, skeleton: Skeleton | None) -> Any:
        for name in self.objects - self.points:  # labels.txt has those of boxes, too
            self.stated -= self.gatherer.names.pop(name, 0) is None
        found = ", ".join(f"{count} of type {kind}" for kind, count in self.others.most_common(3))
        if found:
            self.skipped.note(f"shapes that are no points are not used: {found}")
        if len(self.gatherer.names) > self.stated > 0:
            added = list(self.gatherer.names)[self.stated :]
            self.skipped.note(f"{_LABELS} lacks {few(map(shorten, added))}, which are points nevertheless")
        if not self.gatherer.labelled and found and not self.skipped.messages:
            raise KpnetError(
                f"{self.skipped.source}: labelme's shapes are {found}, and none is a point; expected shapes of type "
                "point, whose labels are the keypoints' names"
            )
        return self.gatherer.build(skeleton)


def _corners(points: Any) -> list[tuple[float, float]] | None:
    """Return pairs of numbers in kpnet's pixels, or None for anything else."""
    if not isinstance(points, list) or not points:
        return None
    pairs = [(number(p[0]), number(p[1])) if isinstance(p, list) and len(p) == 2 else (math.nan,) * 2 for p in points]
    good = all(math.isfinite(x) and math.isfinite(y) for x, y in pairs)
    return [(edge_to_pixel(x), edge_to_pixel(y)) for x, y in pairs] if good else None


def write_labelme(dataset: KeypointDataset, folder: Path) -> None:
    """Write each image with a JSON file beside it, and labels.txt. Images of one stem get a number at their name."""
    (folder / _LABELS).write_text("".join(f"{name}\n" for name in dataset.skeleton.names), encoding="utf-8")
    samples: dict[Path, list[int]] = {}
    for index, path, _ in write_images(dataset, None):
        samples.setdefault(path, []).append(index)
    for path, indices in zip(own_stems(list(samples)), samples.values(), strict=True):
        height, width = write_image(dataset, indices[0], folder / path)
        values: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [shape for group, index in enumerate(indices) for shape in _shapes(dataset, index, group)],
            "imagePath": path.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (folder / path).with_suffix(".json").write_text(json.dumps(values, indent=2), encoding="utf-8")


def _shapes(dataset: KeypointDataset, index: int, group: int) -> Iterator[dict[str, Any]]:
    """Yield the shapes of one sample, without points that are absent."""
    xy = pixel_to_edge(sample_points(dataset, index))
    box = dataset.box(index)
    if box is not None:
        x0, y0, x1, y1 = pixel_to_edge(box).tolist()
        label = dataset.skeleton.name or "object"
        yield _shape(label, [[x0, y0], [x1, y1]], group, "rectangle", {})
    for name, point, level in zip(dataset.skeleton.names, xy.tolist(), dataset.visibility(index), strict=True):
        if level:
            yield _shape(name, [point], group, "point", {"occluded": True} if level == HIDDEN else {})


def _shape(label: str, points: list[list[float]], group: int, kind: str, flags: dict[str, bool]) -> dict[str, Any]:
    common = {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind}
    return {**common, "flags": flags, "mask": None}
