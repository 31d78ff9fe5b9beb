"""COCO keypoints (https://cocodataset.org/#format-data): instances of objects in one JSON file.

Layout: a JSON file, and the images as files of their own. The file is a mapping with three lists:

- `images`: `{"id": 7, "file_name": "a.jpg", "height": 480, "width": 640}`.
- `annotations`: one for each instance: `{"id": 1, "image_id": 7, "category_id": 1, "keypoints": [x, y, v, …],
  "bbox": [x, y, width, height], "area": 1234.5, "iscrowd": 0}`. Three numbers for each keypoint; v is 0 for absent,
  1 for labelled but hidden, 2 for visible. `bbox`, `area` and `iscrowd` may be missing.
- `categories`: `{"id": 1, "name": "person", "keypoints": ["nose", …], "skeleton": [[1, 2], …]}`. The edges of the
  skeleton count keypoints from 1.

Coordinates: keypoints are pixel indices, whose integers are pixel centres, as in kpnet, and stay as they are. A box
begins at the pixel's corner, so its edges are moved by -0.5.

`kpnet label` and `kpnet data convert` add `"kpnet": {"sources": ["person", "proposed", null, …]}` to an annotation: who
made each point; null where nobody has looked at it. A person's point of v 0 is one that a person marked as absent. In a
file of `kpnet label`, `info` has `"kpnet_label": 1`, and the points are those of the upright image.

Ids may be numbers or text; 1, 1.0 and "1" are the same id. Those of annotations serve messages alone.

An image without annotations shows nothing, except in a file of `kpnet label`, where nobody has looked at it yet. An
image whose entry has `"kpnet": {"partial": true}` shows instances without annotations, and so does one that has an
annotation with neither a labelled keypoint nor a box; alone on its image, one of `kpnet label` or with a box of four
zeros says that there is nothing.

Ignored: crowds, annotations of other categories, and instances without a labelled keypoint (unless `empty`); they count
in COCO's evaluation as it counts them. Skipped with a warning: annotations without a known image or category, whose
image's id stands for several images, with the wrong number of keypoints or a coordinate that is no number, or with a
missing or damaged image. Left out with a warning: points with a visibility other than 0, 1 and 2, boxes without area or
outside their image, and edges that are no pair of keypoints. A file whose boxes seem to be corners is an error.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.coordinates import box_of_points, box_to_corner_size, corner_size_to_box
from kpnet.core.errors import KpnetError, did_you_mean, few, shorten
from kpnet.core.reading import read_json
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.instances import SOURCES, InstanceDataset, Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import sample_points, sample_sources, write_images
from kpnet.data.surroundings import Background

Json = dict[str, Any]
NOTE = "kpnet"  # key of an annotation that holds what COCO cannot
LABEL_MARK = "kpnet_label"  # key of `info` in a file that `kpnet label` wrote
_SOURCE_CODES = {word: code for code, word in enumerate(SOURCES)}
_MAX_SIDE = 2**31  # no image has so long a side, in pixels
_MAX_NAME = 4096  # characters of a path
_EXPECTED = "COCO keypoints JSON: a mapping with images, annotations and categories"


@DATASETS.register("coco")
class COCO(ImageFileDataset):
    """COCO keypoints: one sample for each instance that is no crowd and has a labelled keypoint.

    Names and edges of the keypoints are the category's, and left/right pairs are derived from the names.

    Args:
        path: The JSON file.
        images: Folder of the images, relative to the file's folder; null for the file's folder or `images/` in it,
            whichever has more of the images.
        category: Name of the category to use, if several have keypoints.
        empty: Also use instances without a labelled keypoint.
        exif: Apply the EXIF rotation, as an image viewer does; false reads pixels as they are stored, and null takes
            whichever has the width and height that the file states, and the stored pixels where both have, as
            pycocotools does. A file of `kpnet label` has labels of the upright images, whatever their shape.
        proposed_weight: Weight in the loss of the points that a model proposed and nobody has moved, as `kpnet label`
            notes them; 0 leaves them out.
        skeleton: Skeleton to use if its keypoint names are the file's. None: the file's own.
        strict: Raise an error at the first instance that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Attributes:
        source: The JSON file.
        image_ids: The file's image id of each sample, object (N,).
        category_ids: The file's category id of each sample, object (N,).
        areas: Area of each sample in square pixels, float64 (N,), NaN where the file has none.
        ignored: Annotations on the samples' images that are no samples, for COCO's evaluation.

    Raises:
        KpnetError: The file is no such JSON, or no instance in it can be used.

    Example:
        >>> dataset = COCO("coco/annotations/person_keypoints_val2017.json", images="../val2017")
    """

    boxes_are_normalized_too = True

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | None = None,
        category: str | None = None,
        empty: bool = False,
        exif: bool | None = None,
        proposed_weight: float = 1.0,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        skipped = Skipped(path, strict)
        index = _Index(path, category, empty, skeleton, skipped)
        index.instances.weigh_proposed(proposed_weight)
        exif = True if exif is None and index.is_upright else exif
        folder = find_folder(path, index.instances.images, images, skipped)
        super().__init__(folder, index.instances, skipped, skeleton=skeleton, exif=exif, **options)
        self.source = path
        self.image_ids, self.category_ids = index.image_ids[self.kept], index.category_ids[self.kept]
        self.areas = index.areas[self.kept]
        self.ignored = index.ignored.on(self.image_ids)

    def area(self, index: int) -> float | None:
        return None if np.isnan(self.areas[index]) else float(self.areas[index])


class COCOLabels(InstanceDataset):
    """The labels of a COCO file as `COCO` reads them, without its images, which need not exist.

    Args:
        path: The JSON file.

    Attributes:
        image_ids: As `COCO` has it, and so are the next three.
        category_ids: See above.
        areas: See above.
        ignored: See above.
    """

    def __init__(self, path: str | Path) -> None:
        skipped = Skipped(Path(path))
        index = _Index(Path(path), None, False, None, skipped)
        super().__init__(index.instances, skipped)
        self.image_ids, self.category_ids = index.image_ids[self.kept], index.category_ids[self.kept]
        self.areas = index.areas[self.kept]
        self.ignored = index.ignored.on(self.image_ids)


@dataclass
class Ignored:
    """Annotations that are no samples, but that COCO's evaluation does not count as background either.

    Attributes:
        image_ids: The file's image id of each, object (N,).
        category_ids: The file's category id of each, object (N,).
        keypoints: Float32 (N, K, 2) in pixels, NaN where not labelled.
        boxes: Float64 (N, 4): edges x0, y0, x1, y1 in pixels.
        areas: Float64 (N,) in square pixels, NaN where the file has none.
        crowds: Whether it is a crowd, bool (N,); else it is an instance without a labelled keypoint.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray

    def on(self, image_ids: np.ndarray) -> Ignored:
        """Return those on images that have samples."""
        used = set(image_ids.tolist())
        keep = np.array([each in used for each in self.image_ids.tolist()], bool)
        return Ignored(*(getattr(self, each.name)[keep] for each in fields(self)))


@dataclass(frozen=True)
class _Image:
    """An entry of `images`."""

    id: Any
    name: str
    size: tuple[float, float]  # height and width, NaN where the file has no number
    problem: str | None = None  # why it cannot be used
    partial: bool = False


@dataclass(frozen=True)
class _Annotation:
    """An annotation of a chosen category on a usable image."""

    origin: str  # for messages
    image: str  # key of the image's id
    category: str  # key of the category's id
    keypoints: Any
    box: Any
    area: float
    crowd: bool
    note: Any  # kpnet's own


class _Index:
    """The content of a file as arrays. The JSON is not kept."""

    def __init__(
        self, path: Path, category: str | None, empty: bool, skeleton: Skeleton | None, skipped: Skipped
    ) -> None:
        self.path, self.skipped = path, skipped
        values = _load(path)
        info = values.get("info")
        self.is_upright = isinstance(info, dict) and LABEL_MARK in info
        self._names: dict[str, str] = {}
        self._left_out: list[_Annotation] = []  # skipped ones
        chosen = self._categories(values["categories"], category)
        images = self._images(values["images"])
        annotations = self._known(values["annotations"], chosen, images)
        found = [a for a in annotations if not a.crowd]
        own = self._skeleton(chosen, [a for a in found if a.keypoints], skeleton)
        found, points = self._points([a for a in found if self._is_whole(a, 3 * len(own))], len(own))
        others = [a for a in annotations if a.crowd]
        labelled: list[bool] = (points[..., 2] != 0).any(-1).tolist()
        bare = [a for a, some in zip(found, labelled, strict=True) if not some]
        with_points = {a.image for a, some in zip(found, labelled, strict=True) if some}
        if not empty:
            others += bare
            found, points = [a for a, some in zip(found, labelled, strict=True) if some], points[labelled]
        if not found and not skipped.messages:
            self._raise_empty(values["annotations"], annotations)
        points[points[..., 2] == 0, :2] = np.nan
        place: dict[str, int] = {}
        image_index = np.array([place.setdefault(a.image, len(place)) for a in found], np.int64)
        used = [images[each] for each in place]
        self.image_ids = _objects([images[a.image].id for a in found])
        self.category_ids = _objects([chosen[a.category]["id"] for a in found])
        self.areas = np.array([a.area for a in found], np.float64)
        self.instances = Instances(
            own,
            np.array([image.name for image in used], str),
            image_index,
            points[..., :2].copy(),
            np.array([a.origin for a in found], str),
            points[..., 2].copy(),
            _boxes(found),
            np.nan_to_num([image.size for image in used]).reshape(-1, 2).astype(int),
            self._sources(found, len(own)),
        )
        self.ignored = self._ignored(others, images, chosen, len(own))
        self.instances.background = self._background(images, set(place), others)
        self.instances.background.partial |= {images[a.image].name for a in self._without_place(bare, with_points)}
        self._note_ids(found, images)
        _check_corners(path, self.instances)

    def _categories(self, categories: list[Any], wanted: str | None) -> dict[str, Json]:
        """Return the categories to use by id: all that have the same keypoints, or the `wanted` one."""
        by_id: dict[str, Json] = {}
        for number, c in enumerate(categories):
            key = _key(c.get("id")) if isinstance(c, dict) else None
            if key is None:
                self.skipped.note(f"categories[{number}]: expected a mapping with an id; it is not used")
                continue
            name, held = shorten(str(c.get("name", c["id"]))), c.get("keypoints") or []
            self._names[key] = name
            if not isinstance(held, list):
                raise KpnetError(
                    f"{self.path}: category {name}: keypoints: expected a list of names, found {shorten(str(held))}"
                )
            c = {"id": c["id"], "name": name, "keypoints": list(map(str, held)), "skeleton": c.get("skeleton")}
            known = by_id.setdefault(key, c)
            if (known["name"], known["keypoints"]) != (c["name"], c["keypoints"]):
                raise KpnetError(
                    f"{self.path}: category id {key} stands for {known['name']} and for {name}; "
                    "give each an id of its own, and its annotations too"
                )
        names = [c["name"] for c in by_id.values()]
        if wanted is not None and wanted not in names:
            raise KpnetError(
                f'{self.path}: no category "{wanted}"{did_you_mean(wanted, names)}; it has {few(names, 5) or "none"}'
            )
        known_ones = {key: c for key, c in by_id.items() if wanted is None or c["name"] == wanted}
        return {key: c for key, c in known_ones.items() if c["keypoints"]} or known_ones

    def _images(self, images: list[Any]) -> dict[str, _Image]:
        """Return the images by id. Entries without an id are left out: no annotation can name them."""
        found: dict[str, _Image] = {}
        for values in images:
            key = _key(values.get("id")) if isinstance(values, dict) else None
            if key is None:
                continue
            image = _image(values, key)
            known = found.setdefault(key, image)
            if known is not image and known.problem is None and not _is_same(known, image):
                said = [shorten(each.name) for each in (known, image)]
                if said[0] == said[1]:
                    said = [f"{shorten(each.name)} of {each.size[1]:g}x{each.size[0]:g}" for each in (known, image)]
                problem = (
                    f"image id {shorten(key)} stands for {said[0]} and for {said[1]}; give each an id of its own, and "
                    "its annotations too"
                )
                found[key] = replace(known, problem=problem)
        return found

    def _known(self, annotations: list[Any], chosen: dict[str, Json], images: dict[str, _Image]) -> list[_Annotation]:
        """Return the annotations of the chosen categories on usable images."""
        found = []
        for number, values in enumerate(annotations):
            if not isinstance(values, dict):
                self.skipped.add(f"annotations[{number}]: expected a mapping, found {shorten(str(values))}")
                continue
            named, category, image = (_key(values.get(name)) for name in ("id", "category_id", "image_id"))
            if category in self._names and category not in chosen:
                continue
            origin = f"annotations[{number}]" if named is None else f"annotation {shorten(named)}"
            keypoints = values.get("keypoints")
            if category is None or category not in chosen:
                if keypoints:
                    self.skipped.add(f"{origin}: no category {shorten(str(values.get('category_id')))} in the file")
            elif image is None or image not in images:
                self.skipped.add(f"{origin}: no image {shorten(str(values.get('image_id')))} in the file")
            elif images[image].problem is not None:
                self.skipped.add(f"{origin}: {images[image].problem}")
            else:
                area, crowd = _number(values.get("area")), bool(np.nan_to_num(_number(values.get("iscrowd"))))
                area = area if 0 < area < np.inf else np.nan
                found.append(
                    _Annotation(origin, image, category, keypoints, values.get("bbox"), area, crowd, values.get(NOTE))
                )
        return found

    def _skeleton(self, chosen: dict[str, Json], found: list[_Annotation], asked: Skeleton | None) -> Skeleton:
        categories = list(chosen.values())
        labels = [c["name"] for c in categories]
        lengths = [len(a.keypoints) for a in found if isinstance(a.keypoints, list)]
        usual = max(set(lengths), key=lengths.count) // 3 if lengths else 1
        single = all(len(c["keypoints"]) == 1 or (not c["keypoints"] and usual == 1) for c in categories)
        if len(categories) > 1 and single:
            raise KpnetError(
                f"{self.path}: categories {few(labels, 5)} have one point each; expected one category with all the "
                "keypoints' names, and one annotation for each instance with all its points; or set category to one"
            )
        if len({tuple(c["keypoints"]) for c in categories}) > 1:
            raise KpnetError(
                f"{self.path}: categories {few(labels, 5)} have different keypoints; set category to one of them"
            )
        names = categories[0]["keypoints"] if categories else []
        if not names:
            return unnamed_skeleton(max(usual, 1), asked)
        try:
            own, wrong = category_skeleton(names, categories[0]["skeleton"])
        except KpnetError as error:  # a name that appears twice
            raise KpnetError(f"{self.path}: category {labels[0]}: {error}") from None
        if wrong:
            self.skipped.note(
                f"the category's skeleton: {wrong} of its entries are no pairs of numbers from 1 to {len(names)} and "
                "are not drawn"
            )
        return own

    def _is_whole(self, annotation: _Annotation, count: int) -> bool:
        """Return whether it has `count` numbers as keypoints, or none; else record why it is skipped."""
        keypoints = annotation.keypoints
        if not keypoints or (isinstance(keypoints, list) and len(keypoints) == count):
            return True
        length = len(keypoints) if isinstance(keypoints, list) else "no list"
        self._left_out.append(annotation)
        self.skipped.add(
            f"{annotation.origin}: keypoints: expected {count} numbers, x, y, v of {count // 3} points, found {length}"
        )
        return False

    def _points(self, found: list[_Annotation], count: int) -> tuple[list[_Annotation], np.ndarray]:
        """Return the annotations whose labelled points have x and y, and x, y and v of their points (n, K, 3)."""
        points = _numbers([a.keypoints or [0] * 3 * count for a in found], 3 * count).reshape(-1, count, 3)
        wrong = ~np.isfinite(points[..., :2]).all(-1) & (points[..., 2] != 0)
        for index in np.flatnonzero(wrong.any(-1)).tolist():
            x, y, v = points[index, wrong[index].argmax()]
            expected = "expected finite x, y and v of 0, 1 or 2"
            self._left_out.append(found[index])
            self.skipped.add(f"{found[index].origin}: a point is {x:g}, {y:g}, {v:g}; {expected}")
        good = ~wrong.any(-1)
        points[np.isnan(points)] = -1  # what is no number is no visibility, either
        return [a for a, keep in zip(found, good.tolist(), strict=True) if keep], points[good]

    def _sources(self, found: list[_Annotation], count: int) -> np.ndarray | None:
        """Return who made each point, as `Instances` has it; None if no annotation says so."""
        stated = {k: a.note["sources"] for k, a in enumerate(found) if isinstance(a.note, dict) and "sources" in a.note}
        sources = np.zeros((len(found), count), np.uint8)
        for k, words in stated.items():
            codes = [_SOURCE_CODES.get(str(word or ""), -1) for word in words] if isinstance(words, list) else []
            if len(codes) == count and -1 not in codes:
                sources[k] = codes
            else:
                expected = f"a list of {count} words, {', '.join(SOURCES[1:])} or null"
                self.skipped.note(f"{found[k].origin}: kpnet: sources: expected {expected}; they are not used")
        return sources if stated else None

    def _ignored(
        self, others: list[_Annotation], images: dict[str, _Image], chosen: dict[str, Json], points: int
    ) -> Ignored:
        boxes = _boxes(others)
        boxes = np.full((len(others), 4), np.nan) if boxes is None else boxes
        good = np.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1)
        others = [a for a, keep in zip(others, good.tolist(), strict=True) if keep]
        none, lists = [0] * (3 * points), [a.keypoints for a in others]
        whole = [each if isinstance(each, list) and len(each) == len(none) else none for each in lists]
        xyv = _numbers(whole, len(none)).reshape(-1, points, 3)
        return Ignored(
            _objects([images[a.image].id for a in others]),
            _objects([chosen[a.category]["id"] for a in others]),
            np.where(xyv[..., 2:] > 0, xyv[..., :2], np.nan).astype(np.float32),
            boxes[good],
            np.array([a.area for a in others], np.float64),
            np.array([a.crowd for a in others], bool),
        )

    def _background(self, images: dict[str, _Image], used: set[str], others: list[_Annotation]) -> Background:
        """Return what the file says of images beyond the instances."""
        background, looked = Background(), {annotation.image for annotation in others}
        for key, image in images.items():
            if image.problem is None and (key not in used or image.partial):
                height, width = np.nan_to_num(image.size).astype(int).tolist()
                background.images[image.name] = height, width
                if image.partial or (self.is_upright and key not in used | looked):
                    background.partial.add(image.name)
        every = [*others, *self._left_out]
        boxes = _boxes(every)
        for k, annotation in enumerate(every):
            name, box = images[annotation.image].name, np.full(4, np.nan) if boxes is None else boxes[k]
            if np.isfinite(box).all() and (box[2:] > box[:2]).all():
                background.ignored.append((name, box))
            elif annotation.crowd or k >= len(others):
                background.partial.add(name)
        return background

    def _without_place(self, bare: list[_Annotation], with_points: set[str]) -> list[_Annotation]:
        """Return those of the annotations without points that are of an instance whose place nobody knows.

        Without a box and alone on its image, one of `kpnet label`, or with zeros as its box as kpnet writes it, says
        that there is nothing.
        """
        boxes = _boxes(bare)
        boxes = np.full((len(bare), 4), np.nan) if boxes is None else boxes
        placed = np.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1)
        lost = [a for a, known in zip(bare, placed.tolist(), strict=True) if not known]
        return [a for a in lost if a.image in with_points or not (self.is_upright or a.box == [0, 0, 0, 0])]

    def _note_ids(self, found: list[_Annotation], images: dict[str, _Image]) -> None:
        """Note ids and images that appear more than once: the file may be put together from several."""
        twice = [origin for origin, count in Counter(a.origin for a in found).items() if count > 1]
        if twice:
            self.skipped.note(f"{len(twice)} annotation ids appear more than once, such as {twice[0]}; all are used")
        files: dict[str, str] = {}
        several = []
        for key in dict.fromkeys(a.image for a in found):
            name = images[key].name
            if files.setdefault(name, key) != key:
                several.append(f"{shorten(files[name])} and {shorten(key)} for {shorten(name)}")
        if several:
            self.skipped.note(f"{len(several)} images have several ids, such as {several[0]}; each is one image")

    def _raise_empty(self, annotations: list[Any], known: list[_Annotation]) -> None:
        """Raise an error that says what the annotations are."""
        crowds = sum(a.crowd for a in known)
        bare = sum(isinstance(a, dict) and not a.get("keypoints") for a in annotations)
        counts = {
            "have no keypoints, as in a file of boxes or masks": bare,
            "are crowds": crowds,
            "have no labelled point (`empty: true` uses them)": sum(bool(a.keypoints) and not a.crowd for a in known),
            "are of a category that is not used": len(annotations) - len(known) - (bare if not known else 0),
        }
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count > 0)
        reason = f": of {len(annotations)} annotations {said}" if said else "; it has no annotations"
        raise KpnetError(f"{self.path}: no usable labelled instances{reason}")


def _load(path: Path) -> Json:
    with _no_collection():
        values = read_json(path, _EXPECTED)
    for key in ("images", "annotations", "categories"):
        held = values.get(key) if isinstance(values, dict) else None
        if not isinstance(held, list):
            what = type(values).__name__ if not isinstance(values, dict) else f"keys {few(values, 5) or 'none'}"
            raise KpnetError(f'{path}: no list "{key}" in it, found {what}; expected {_EXPECTED}')
    return dict(values)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector, which would search millions of new objects again and again for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_corners(path: Path, instances: Instances) -> None:
    """Raise if boxes seem to be corners.

    They seem so where many leave their images as x, y, width, height, all fit as x0, y0, x1, y1, and the labelled
    points lie nearer to the middle of the latter.
    """
    if instances.boxes is None or instances.sizes is None:
        return
    size = instances.sizes[instances.image_index][:, ::-1]
    known = size.all(-1) & np.isfinite(instances.boxes).all(-1)
    low, high = instances.boxes[known, :2], instances.boxes[known, 2:]
    beyond = (high > size[known] + 0.5).any(-1)
    second = high - low  # the third and fourth number in the file
    as_corners = ((second > low + 0.5) & (second <= size[known] + 1)).all()
    if not beyond.any() or beyond.mean() <= 0.1 or not as_corners:
        return
    points = instances.keypoints[known]
    labelled = np.isfinite(points).all(-1).any(-1)
    if labelled.any():
        with np.errstate(invalid="ignore"):
            middle = (np.nanmin(points[labelled], 1) + np.nanmax(points[labelled], 1)) / 2
        as_sizes = np.abs(middle - (low + high)[labelled] / 2).mean()
        if np.abs(middle - (low + second - 0.5)[labelled] / 2).mean() > 0.5 * as_sizes:
            return
    origin = np.asarray(instances.origins)[known][beyond][0]
    raise KpnetError(
        f"{path}: {origin}: its bbox ends outside its image as x, y, width, height, as do {beyond.sum()} of "
        f"{len(beyond)}, and all fit as corners x0, y0, x1, y1; write x, y, x1 - x0, y1 - y0"
    )


def _key(value: Any) -> str | None:
    """Return an id as text, so that 1, 1.0 and "1" are the same; None for what is no id."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        value = int(value) if np.isfinite(value) and value == int(value) else None if value != value else repr(value)
    return str(value) if isinstance(value, (int, str)) else None


def _objects(values: list[Any]) -> np.ndarray:
    """Return ids, which are integers of any length or text, as an array (n,)."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _image(values: Json, key: str) -> _Image:
    name = values.get("file_name")
    height, width = size = _number(values.get("height")), _number(values.get("width"))
    problem = None
    if not isinstance(name, str) or not name:
        problem = f"image {shorten(key)} has no file_name"
    elif len(name) > _MAX_NAME:
        problem = f"image {shorten(key)}: no file has a name of {len(name)} characters"
    elif any(not 0 <= side < _MAX_SIDE for side in size if not np.isnan(side)):
        problem = f"image {shorten(key)} is {width:g}x{height:g} in the file; expected pixels"
    own = key if isinstance(values["id"], bool) else values["id"]  # True and 1 are one key of a dictionary
    note = values.get(NOTE)
    partial = isinstance(note, dict) and note.get("partial") is True
    return _Image(own, str(name), size, problem, partial)


def _is_same(one: _Image, other: _Image) -> bool:
    """Return whether two entries of one id name the same file and do not state different sizes."""
    names = {os.path.normpath(each.name.replace("\\", "/")) for each in (one, other)}
    differ = (a != b for a, b in zip(one.size, other.size, strict=True) if not np.isnan((a, b)).any())
    return len(names) == 1 and not any(differ)


def _boxes(annotations: list[_Annotation]) -> np.ndarray | None:
    """Return the edges of the boxes (n, 4), NaN where there is none, inf for what is no box; None if none has one."""
    given = [a.box or () for a in annotations]
    if not any(given):
        return None
    none, invalid = [np.nan] * 4, [np.inf] * 4
    boxes = [(box if isinstance(box, list) and len(box) == 4 else invalid) if box else none for box in given]
    values = _numbers(boxes, 4)
    stated = np.array([bool(box) for box in given])
    values[stated & ~np.isfinite(values).all(-1)] = np.inf
    with np.errstate(over="ignore"):
        return corner_size_to_box(values)


def _pair(edge: Any, count: int) -> tuple[int, int] | None:
    """Return an edge's two numbers if they are whole and from 1 to `count`."""
    if not isinstance(edge, list) or len(edge) != 2 or any(isinstance(n, (bool, str)) for n in edge):
        return None
    a, b = map(_number, edge)
    return (int(a), int(b)) if all(n in range(1, count + 1) for n in (a, b)) else None


def _numbers(lists: list[list[Any]], length: int) -> np.ndarray:
    """Convert lists of numbers to float64 (n, length), NaN for what is no number."""
    try:
        return np.fromiter(chain.from_iterable(lists), np.float64, count=len(lists) * length).reshape(-1, length)
    except (TypeError, ValueError, OverflowError):
        return np.array([[_number(v) for v in each] for each in lists], np.float64).reshape(-1, length)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float, str)) else np.nan
    except ValueError:
        return np.nan
    except OverflowError:  # integers in JSON have any length
        return np.inf


def write_coco(dataset: KeypointDataset, folder: Path) -> None:
    """Write annotations.json, and the images in `images/`.

    Every annotation has a box and an area, as other programs expect: without ones of its own, those of its points.
    """
    areas = getattr(dataset, "areas", None)
    images: dict[str, dict[str, Any]] = {}
    annotations = []
    for index, path, (height, width) in write_images(dataset, folder / "images"):
        image = {"id": len(images) + 1, "file_name": path.as_posix(), "height": height, "width": width}
        image = images.setdefault(path.as_posix(), image)
        area = float(areas[index]) if isinstance(areas, np.ndarray) else np.nan
        row = annotation_values(sample_points(dataset, index), dataset.visibility(index), dataset.box(index), area)
        if (sources := sample_sources(dataset, index)) is not None:
            row[NOTE] = {"sources": [SOURCES[code] or None for code in sources]}
        annotations.append({"id": index + 1, "image_id": image["id"], "category_id": 1, "iscrowd": 0, **row})
    values = {"images": list(images.values()), "annotations": annotations}
    values["categories"] = [category_values(dataset.skeleton)]
    (folder / "annotations.json").write_text(json.dumps(values), encoding="utf-8")


def category_skeleton(names: list[str], edges: Any) -> tuple[Skeleton, int]:
    """Return the skeleton of a category's keypoints and edges, and the number of edges that are none."""
    own = Skeleton.of_names(names)
    listed = edges if isinstance(edges, list) else [edges] if edges else []
    pairs = [pair for edge in listed if (pair := _pair(edge, len(names)))]
    named = tuple((names[a - 1], names[b - 1]) for a, b in pairs)
    return own if own.name else Skeleton(own.names, own.pairs, named), len(listed) - len(pairs)


def category_values(skeleton: Skeleton) -> Json:
    """Return the category of a skeleton, whose id is 1."""
    return {
        "id": 1,
        "name": skeleton.name or "object",
        "supercategory": "object",
        "keypoints": list(skeleton.names),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.edge_indices],
    }


def annotation_values(xy: np.ndarray, visibility: np.ndarray, box: np.ndarray | None, area: float) -> Json:
    """Return keypoints, num_keypoints, bbox and area of an annotation.

    Args:
        xy: Keypoints (K, 2) in pixels.
        visibility: Visibilities (K,), 0 for absent.
        box: Edges x0, y0, x1, y1 in pixels. None: those of the keypoints' pixels, so that there is an area also
            around one point or points on a line; or 0 without any.
        area: Area in square pixels. NaN: the box's.

    Returns:
        The values by their names in the file.
    """
    labelled = visibility > 0
    if box is None:
        box = box_of_points(xy[labelled]) if labelled.any() else np.full(4, -0.5)
    corner_size = box_to_corner_size(box)
    triples = np.column_stack([np.where(labelled[:, None], xy, 0), visibility]).tolist()
    return {
        "keypoints": [value for x, y, v in triples for value in (x, y, int(v))],
        "num_keypoints": int(labelled.sum()),
        "bbox": corner_size.tolist(),
        "area": area if np.isfinite(area) else float(corner_size[2:].prod()),
    }
