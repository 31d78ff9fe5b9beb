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

Ignored: crowds, annotations of other categories, and instances without a labelled keypoint (unless `empty`). Skipped
with a warning: annotations without an id or a known image, with the wrong number of keypoints, a visibility other than
0, 1 and 2, a coordinate that is no number, a box without area or outside its image, or a missing or damaged image. A
file whose boxes seem to be corners is an error.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.coordinates import box_to_corner_size, corner_size_to_box
from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.core.reading import read_json
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.instances import Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import sample_points, write_images

Json = dict[str, Any]
_MAX_SIDE = 2**31  # no image has so long a side, in pixels
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
            pycocotools does.
        skeleton: Skeleton to use if its keypoint names are the file's. None: the file's own.
        strict: Raise an error at the first instance that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Attributes:
        source: The JSON file.
        image_ids: The file's image id of each sample, object (N,).
        category_ids: The file's category id of each sample, object (N,).
        areas: Area of each sample in square pixels, float64 (N,), NaN where the file has none.

    Raises:
        KpnetError: The file is no such JSON, or no instance in it can be used.

    Example:
        >>> dataset = COCO("coco/annotations/person_keypoints_val2017.json", images="../val2017")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | None = None,
        category: str | None = None,
        empty: bool = False,
        exif: bool | None = None,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        skipped = Skipped(path, strict)
        index = _Index(path, category, empty, skeleton, skipped)
        folder = find_folder(path, index.instances.images, images)
        super().__init__(folder, index.instances, skipped, skeleton=skeleton, exif=exif, **options)
        self.source = path
        self.image_ids, self.category_ids = index.image_ids[self.kept], index.category_ids[self.kept]
        self.areas = index.areas[self.kept]


class _Index:
    """The content of a file as arrays. The JSON is not kept."""

    def __init__(
        self, path: Path, category: str | None, empty: bool, skeleton: Skeleton | None, skipped: Skipped
    ) -> None:
        self.path, self.skipped = path, skipped
        values = _load(path)
        chosen = self._categories(values["categories"], category)
        images = {
            image["id"]: image for image in values["images"] if isinstance(image, dict) and _is_id(image.get("id"))
        }
        found = [a for a in values["annotations"] if self._is_wanted(a, chosen)]
        own = self._skeleton(list(chosen.values()), found, skeleton)
        found = [a for a in found if self._is_whole(a, images, len(own))]
        points = self._numbers([a["keypoints"] for a in found], 3 * len(own)).reshape(-1, len(own), 3)
        good = self._check_points(found, points)
        if not empty:
            good &= (points[..., 2] > 0).any(-1)
        found, points = [a for a, keep in zip(found, good.tolist(), strict=True) if keep], points[good]
        points[points[..., 2] == 0, :2] = np.nan
        place: dict[Any, int] = {}
        image_index = np.array([place.setdefault(a["image_id"], len(place)) for a in found], np.int64)
        used = [images[each] for each in place]
        self.image_ids = np.array([a["image_id"] for a in found], object)  # integers of any length, or text
        self.category_ids = np.array([a["category_id"] for a in found], object)
        self.areas = np.array([_number(a.get("area")) for a in found], np.float64)
        self.instances = Instances(
            own,
            np.array([str(image["file_name"]) for image in used]),
            image_index,
            points[..., :2].copy(),
            np.array([f"annotation {a['id']}" for a in found], str),
            points[..., 2].astype(np.uint8),
            self._boxes(found),
            np.nan_to_num([_size(image) for image in used]).reshape(-1, 2).astype(int),
        )
        _check_corners(path, self.instances)

    def _categories(self, categories: list[Any], wanted: str | None) -> dict[Any, Json]:
        """Return the categories to use by id: all that have the same keypoints, or the `wanted` one."""
        known = [c for c in categories if isinstance(c, dict) and _is_id(c.get("id"))]
        names = [str(c.get("name", c["id"])) for c in known]
        if wanted is not None:
            if wanted not in names:
                raise KpnetError(
                    f'{self.path}: no category "{wanted}"{did_you_mean(wanted, names)}; it has {_list(names)}'
                )
            known = [c for c, name in zip(known, names, strict=True) if name == wanted]
        with_points = [c for c in known if c.get("keypoints")] or known
        for c in with_points:
            if not isinstance(held := c.get("keypoints") or [], list):
                raise KpnetError(
                    f"{self.path}: category {c.get('name', c['id'])}: keypoints: expected a list of names, "
                    f"found {shorten(str(held))}"
                )
        if len({tuple(map(str, c.get("keypoints") or ())) for c in with_points}) > 1:
            names = [str(c.get("name", c["id"])) for c in with_points]
            raise KpnetError(
                f"{self.path}: categories {_list(names)} have different keypoints; set category to one of them"
            )
        return {c["id"]: c for c in with_points}

    def _is_wanted(self, annotation: Any, categories: dict[Any, Json]) -> bool:
        if not isinstance(annotation, dict):
            return False
        category = annotation.get("category_id")
        known = _is_id(category) and category in categories and not annotation.get("iscrowd")
        return known and bool(annotation.get("keypoints"))

    def _skeleton(self, categories: list[Json], found: list[Json], asked: Skeleton | None) -> Skeleton:
        category: Json = categories[0] if categories else {}
        names = [str(name) for name in category.get("keypoints") or ()]
        if not names:
            lengths = [len(a["keypoints"]) for a in found if isinstance(a["keypoints"], list)]
            return unnamed_skeleton(max(set(lengths), key=lengths.count) // 3 if lengths else 1, asked)
        try:
            own = Skeleton.of_names(names)
        except KpnetError as error:  # a name that appears twice
            raise KpnetError(f"{self.path}: category {category.get('name', category['id'])}: {error}") from None
        edges = category.get("skeleton") or []
        if not _is_pairs(edges, len(names)):
            self.skipped.add(f"the category's skeleton: expected pairs of numbers from 1 to {len(names)}; not drawn")
            return own
        named = tuple((names[a - 1], names[b - 1]) for a, b in edges)
        return own if own.name else Skeleton(own.names, own.pairs, named)

    def _is_whole(self, annotation: Json, images: dict[Any, Json], count: int) -> bool:
        """Return whether it has an id, a known image and numbers for every keypoint; else record why it is skipped."""
        origin, keypoints = f"annotation {annotation.get('id')}", annotation["keypoints"]
        if not isinstance(annotation.get("id"), int):
            self.skipped.add(f"{origin}: expected a whole number as id")
        elif not _is_id(image := annotation.get("image_id")) or "file_name" not in images.get(image, ()):
            self.skipped.add(f"{origin}: no image {image} with a file_name in the file")
        elif not isinstance(keypoints, list) or len(keypoints) != 3 * count:
            length = len(keypoints) if isinstance(keypoints, list) else "no list of"
            self.skipped.add(
                f"{origin}: {length} numbers as keypoints, expected {3 * count}: x, y, v of {count} points"
            )
        elif any(not 0 <= length < _MAX_SIDE for length in _size(images[image]) if not np.isnan(length)):
            height, width = _size(images[image])
            self.skipped.add(f"{origin}: image {image} is {width:g}x{height:g} in the file; expected pixels")
        else:
            return True
        return False

    def _numbers(self, lists: list[list[Any]], length: int) -> np.ndarray:
        """Convert lists of numbers to float64 (n, length), NaN for what is no number."""
        try:
            return np.fromiter(chain.from_iterable(lists), np.float64, count=len(lists) * length).reshape(-1, length)
        except (TypeError, ValueError, OverflowError):
            return np.array([[_number(v) for v in each] for each in lists]).reshape(-1, length)

    def _check_points(self, found: list[Json], points: np.ndarray) -> np.ndarray:
        """Return which annotations have visibilities 0, 1 or 2, and coordinates where it is not 0, bool (n,)."""
        known = np.isin(points[..., 2], (0, 1, 2))
        finite = np.isfinite(points[..., :2]).all(-1) | (points[..., 2] == 0)
        good: np.ndarray = (known & finite).all(-1)
        for index in np.flatnonzero(~good):
            x, y, v = points[index, (~(known & finite)[index]).argmax()]
            expected = "expected finite x, y and v of 0, 1 or 2"
            self.skipped.add(f"annotation {found[index]['id']}: a point is {x:g}, {y:g}, {v:g}; {expected}")
        return good

    def _boxes(self, found: list[Json]) -> np.ndarray | None:
        """Return the edges of the boxes (n, 4), NaN where an annotation has none; None if no annotation has one."""
        given = [a.get("bbox") or () for a in found]
        if not any(given):
            return None
        none, invalid = [np.nan] * 4, [np.inf] * 4
        boxes = [(box if isinstance(box, list) and len(box) == 4 else invalid) if box else none for box in given]
        return corner_size_to_box(self._numbers(boxes, 4))


def _load(path: Path) -> Json:
    with _no_collection():
        values = read_json(path, _EXPECTED)
    for key in ("images", "annotations", "categories"):
        held = values.get(key) if isinstance(values, dict) else None
        if not isinstance(held, list):
            what = type(values).__name__ if not isinstance(values, dict) else f"keys {_list(list(values))}"
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
    """Raise if boxes seem to be corners: many leave their images as x, y, width, height, all fit as x0, y0, x1, y1."""
    if instances.boxes is None or instances.sizes is None:
        return
    size = instances.sizes[instances.image_index][:, ::-1]
    known = size.all(-1) & np.isfinite(instances.boxes).all(-1)
    low, high = instances.boxes[known, :2], instances.boxes[known, 2:]
    beyond = (high > size[known] + 0.5).any(-1)
    second = high - low  # the third and fourth number in the file
    as_corners = ((second > low + 0.5) & (second <= size[known] + 1)).all()
    if beyond.any() and beyond.mean() > 0.1 and as_corners:
        origin = np.asarray(instances.origins)[known][beyond][0]
        raise KpnetError(
            f"{path}: {origin}: its bbox ends outside its image as x, y, width, height, as do {beyond.sum()} of "
            f"{len(beyond)}, and all fit as corners x0, y0, x1, y1; write x, y, x1 - x0, y1 - y0"
        )


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _is_pairs(edges: Any, count: int) -> bool:
    """Return whether `edges` is a list of pairs of whole numbers from 1 to `count`."""
    return isinstance(edges, list) and all(
        isinstance(edge, list) and len(edge) == 2 and all(type(n) is int and 1 <= n <= count for n in edge)
        for edge in edges
    )


def _size(image: Json) -> tuple[float, float]:
    """Return height and width as the file has them, NaN for what is no number."""
    return _number(image.get("height")), _number(image.get("width"))


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else np.nan
    except OverflowError:  # integers in JSON have any length
        return np.inf


def _list(names: list[str]) -> str:
    return ", ".join(map(str, names[:5])) + (f", … {len(names)} in all" if len(names) > 5 else "") or "none"


def write_coco(dataset: KeypointDataset, folder: Path) -> None:
    """Write annotations.json, and the images in `images/`."""
    names = dataset.skeleton.names
    category: dict[str, Any] = {"id": 1, "name": dataset.skeleton.name or "object", "keypoints": list(names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in dataset.skeleton.edge_indices]
    images: dict[str, dict[str, Any]] = {}
    annotations = []
    for index, path, (height, width) in write_images(dataset, folder / "images"):
        image = {"id": len(images) + 1, "file_name": str(path), "height": height, "width": width}
        image = images.setdefault(str(path), image)
        seen, xy = dataset.visibility(index), sample_points(dataset, index)
        triples = [[x, y, int(v)] if v else [0, 0, 0] for (x, y), v in zip(xy.tolist(), seen, strict=True)]
        row = {"id": index + 1, "image_id": image["id"], "category_id": 1, "iscrowd": 0}
        row |= {"keypoints": [value for triple in triples for value in triple], "num_keypoints": int((seen > 0).sum())}
        box = dataset.box(index)
        if box is not None:
            row |= {"bbox": box_to_corner_size(box).tolist(), "area": float((box[2:] - box[:2]).prod())}
        if isinstance(areas := getattr(dataset, "areas", None), np.ndarray) and np.isfinite(areas[index]):
            row["area"] = float(areas[index])
        annotations.append(row)
    values = {"images": list(images.values()), "annotations": annotations, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(values), encoding="utf-8")
