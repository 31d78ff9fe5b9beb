"""Label Studio (https://labelstud.io): its JSON export, a list of tasks.

Layout: one JSON file, the images as files of their own, and perhaps the labeling config as `config.xml` beside it:

    [{"data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"result": [REGION, …]}], "predictions": []}]

A region of type `keypointlabels` has `value` with `x`, `y` and `keypointlabels`, the keypoint's name; one of type
`rectanglelabels` has `x`, `y`, `width`, `height`. Both state `original_width` and `original_height`, and `parentID` of
a point is the `id` of the rectangle that it belongs to. Points of one rectangle are an instance, and so are those
without one. A point is hidden if its `value` says `hidden`, as Label Studio's own converter from COCO writes it, or if
a choice of the region is `occluded`, `hidden` or `invisible`. `config.xml` states the order of the names.

Used is of each task the annotation that is marked as ground truth, or else the last. A cancelled one is none. With
`predictions`, tasks without an annotation have their last prediction. An annotation without regions says that nothing
is on the image.

Coordinates: percent of the image's width and height, from its left and upper edge, so that the centre of the first of
100 pixels is 0.5. kpnet multiplies, and subtracts 0.5.

Images: the name in `data` may be a URL, a path of Label Studio's server or of its local storage. The file is found by
the end of that path, with or without the eight letters that an upload puts before the name.

Ignored, with a note: tasks without an annotation, other regions, rotated rectangles, and images without a point (unless
`empty`). Skipped with a warning: tasks with points of one name in one rectangle, or rotated in Label Studio.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from kpnet.coordinates import box_of_points, edge_to_pixel, pixel_to_edge
from kpnet.core.errors import KpnetError, shorten
from kpnet.core.reading import read_json, read_xml
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.gathering import HIDDEN, VISIBLE, Gatherer, Shapes, image_size, number, says_hidden
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import sample_points, write_images
from kpnet.data.image_names import ImageFinder
from kpnet.data.images import IMAGE_SUFFIXES

_EXPECTED = "Label Studio's JSON export: a list of tasks with data and annotations"
_CONFIG = "config.xml"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # what an upload puts before a file's name
_POINT, _BOX = "keypointlabels", "rectanglelabels"
_MAX_NAME = 4096


@DATASETS.register("label_studio")
class LabelStudio(ImageFileDataset):
    """Tasks of Label Studio, one sample for each rectangle with points, or for each image.

    Args:
        path: The JSON file.
        images: Folder of the images, relative to the file's folder; null for the file's folder or `images/` in it,
            whichever has more of the images.
        predictions: Also use the predictions of tasks that nobody has labelled.
        empty: Also use images on which nothing is, and rectangles without points.
        exif: Apply the EXIF rotation, as a browser does; false reads pixels as they are stored.
        skeleton: Skeleton whose order of names is used if it has the names of the file.
        strict: Raise an error at the first task that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: The file is no such JSON, or no task in it has a point.

    Example:
        >>> dataset = LabelStudio("project-1.json", images="images")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | None = None,
        predictions: bool = False,
        empty: bool = False,
        exif: bool = True,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        skipped = Skipped(path, strict)
        gatherer = Gatherer(skipped, empty)
        gatherer.names = dict.fromkeys(_stated_names(path.parent / _CONFIG))
        reader = _Reader(gatherer, predictions)
        values = read_json(path, _EXPECTED)
        if not isinstance(values, list):
            raise KpnetError(f"{path}: expected {_EXPECTED}, found {type(values).__name__}")
        for k, task in enumerate(values):
            reader.read(task, f"task {k}")
        folder = reader.name_images(images)
        super().__init__(folder, reader.build(skeleton), skipped, skeleton=skeleton, exif=exif, **options)


def is_label_studio(head: str) -> bool:
    """Return whether a JSON file that begins so may be Label Studio's list of tasks."""
    return head.startswith("[") and '"result"' in head and '"data"' in head


def _stated_names(path: Path) -> list[str]:
    """Return the names of the points in a labeling config, none if there is no such file."""
    if not path.is_file():
        return []
    root = read_xml(path, "Label Studio's labeling config")
    labels = [label for tag in root.iter("KeyPointLabels") for label in tag.iter("Label")]
    return [label.get("value", "").strip() for label in labels if label.get("value", "").strip()]


class _Reader:
    """Reads tasks one by one, and counts what is not used."""

    def __init__(self, gatherer: Gatherer, predictions: bool) -> None:
        self.gatherer, self.skipped, self.predictions = gatherer, gatherer.skipped, predictions
        self.others: Counter[str] = Counter()  # types of regions
        self.unused: Counter[str] = Counter()

    def read(self, task: Any, origin: str) -> None:
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict):
            self.skipped.add(f"{origin}: expected a mapping with data, found {shorten(str(task))}")
            return
        identity = task.get("id")
        origin = f"task {identity}" if isinstance(identity, int) else origin
        result = self._result(task)
        if result is None:
            return
        location = _location(data)
        if location is None:
            self.skipped.add(f"{origin}: data names no image, found {shorten(str(data))}")
            return
        if not isinstance(result, list):
            self.skipped.add(f"{origin}: result: expected a list of regions, found {shorten(str(result))}")
            return
        shapes, size = self._shapes(result, origin)
        self.gatherer.add_image(location, size, origin, shapes)

    def _result(self, task: dict[str, Any]) -> Any:
        """Return the regions of the annotation to use, or None."""
        held = _mappings(task.get("annotations", task.get("completions")))
        done = [each for each in held if each.get("was_cancelled") is not True]
        if len(done) > 1:
            self.unused["annotations of other annotators"] += len(done) - 1
        if done:
            marked = [each for each in done if each.get("ground_truth") is True]
            return (marked or done)[-1].get("result")
        predicted = _mappings(task.get("predictions"))
        if predicted and self.predictions:
            return predicted[-1].get("result")
        what = "tasks that were skipped" if held else "tasks with predictions alone (predictions: true uses them)"
        self.unused[what if held or predicted else "tasks without an annotation"] += 1
        return None

    def _shapes(self, result: list[Any], origin: str) -> tuple[Shapes, tuple[int, int]]:
        regions = _mappings(result)
        size = next(
            (s for r in regions if all(s := image_size(r.get("original_height"), r.get("original_width")))), (0, 0)
        )
        hidden = {r.get("id") for r in regions if isinstance(r.get("id"), str) and says_hidden(_choices(r))}
        boxes = {r.get("id") for r in regions if r.get("type") == _BOX and isinstance(r.get("id"), str)}
        groups: dict[str, str] = {}
        shapes = Shapes()
        for k, region in enumerate(regions):
            reason = self._add(shapes, region, size, hidden, boxes, groups)
            if reason is not None:
                self.skipped.note(f"{origin}: result[{k}]: {reason}; it is left out", lost=True)
        return shapes, size

    def _add(
        self,
        shapes: Shapes,
        region: dict[str, Any],
        size: tuple[int, int],
        hidden: set[Any],
        boxes: set[Any],
        groups: dict[str, str],
    ) -> str | None:
        """Add a point or box; return why it cannot be used, or None."""
        kind, value, own = region.get("type"), region.get("value"), region.get("id")
        if kind not in (_POINT, _BOX) or not isinstance(value, dict):
            if kind not in ("choices", "textarea", "relation"):
                self.others[shorten(str(kind))] += 1
                shapes.partial = True  # it may be of an instance
            return None
        if not all(size):
            return "original_width and original_height: expected the image's size"
        if number(region.get("image_rotation", 0)) != 0:
            return "the image is rotated in Label Studio, and its file is not; rotate the file instead"
        x, y = (edge_to_pixel(number(value.get(key)) / 100 * side) for key, side in zip("xy", size[::-1], strict=True))
        if kind == _BOX:
            if number(value.get("rotation", 0)) != 0:
                return "a rotated rectangle is no box"
            w, h = (number(value.get(key)) / 100 * s for key, s in zip(("width", "height"), size[::-1], strict=True))
            group = groups.setdefault(own, f"instance {len(groups)}") if isinstance(own, str) else None
            return None if shapes.add_box(group, (x, y, x + w, y + h)) else "a second rectangle without an id"
        names = value.get(_POINT)
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str) or not names[0].strip():
            return f"{_POINT}: expected one name, found {shorten(str(names))}"
        parent = region.get("parentID", region.get("parent_id"))
        group = None
        if isinstance(parent, str) and parent in boxes:
            group = groups.setdefault(parent, f"instance {len(groups)}")
        is_hidden = value.get("hidden") is True or (isinstance(own, str) and own in hidden)
        if is_hidden and number(value.get("x")) == number(value.get("y")) == 0:
            return None  # an absent point of COCO, as Label Studio's converter writes it
        shapes.add_point(group, names[0].strip(), x, y, HIDDEN if is_hidden else VISIBLE)
        return None

    def name_images(self, given: str | None) -> Path:
        """Find the images' files, name the images after them, and return the folder to which names are relative."""
        source = self.skipped.source
        candidates = [_candidates(location) for location in self.gatherer.images]
        near = [source.parent, source.parent / "images"] if given is None else []
        best = max(near, key=lambda folder: len(_found(folder, candidates)), default=None)
        if best is None or not _found(best, candidates):
            best = find_folder(source, [names[-1] for names in candidates], given, self.skipped)
        found = _found(best, candidates)
        self.gatherer.images[:] = [found.get(k, names[-1]) for k, names in enumerate(candidates)]
        return best

    def build(self, skeleton: Skeleton | None) -> Any:
        for what, count in self.unused.items():
            self.skipped.note(f"{count} {what} are not used")
        found = ", ".join(f"{count} of type {kind}" for kind, count in self.others.most_common(3))
        if found:
            self.skipped.note(f"regions that are no points are not used: {found}")
        if not self.gatherer.labelled and not self.skipped.messages:
            raise KpnetError(
                f"{self.skipped.source}: no region in it is a point; expected regions of type {_POINT}"
                + (
                    f", found {found}"
                    if found
                    else f"; {'; '.join(self.skipped.notes[:2])}"
                    if self.skipped.notes
                    else ""
                )
            )
        return self.gatherer.build(skeleton)


def _mappings(values: Any) -> list[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _choices(region: dict[str, Any]) -> list[Any]:
    value = region.get("value")
    choices = value.get("choices") if region.get("type") == "choices" and isinstance(value, dict) else None
    return choices if isinstance(choices, list) else []


def _location(data: dict[str, Any]) -> str | None:
    """Return where a task says its image is: what `image` has, or the first value that ends as an image does."""
    texts = {
        key: value for key, value in data.items() if isinstance(value, str) and 0 < len(value.strip()) <= _MAX_NAME
    }
    for key in ("image", "img"):
        if key in texts:
            return texts[key]
    return next((text for text in texts.values() if _candidates(text)[-1].lower().endswith(IMAGE_SUFFIXES)), None)


def _candidates(location: str) -> list[str]:
    """Return the paths that a file may have below the images' folder, the longest first."""
    try:
        parts = urlsplit(location)
        query = parse_qs(parts.query).get("d") if "local-files" in parts.path or not parts.path else None
        remote = bool(parts.scheme and parts.netloc) or location.startswith("/data/")
        text = query[-1] if query else unquote(parts.path) if remote else location
    except ValueError:  # such as a bad IPv6 address
        text = location
    names = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")] or [text or "?"]
    tails = ["/".join(names[k:]) for k in range(len(names))]
    plain = _UPLOAD.sub("", names[-1], count=1)
    return tails if plain == names[-1] else [*tails, plain]


def _found(folder: Path, candidates: list[list[str]]) -> dict[int, str]:
    """Return the first candidate of each image that is a file in the folder."""
    finder = ImageFinder(folder)
    named = {k: next((n for n in names if finder.find(n) is not None), None) for k, names in enumerate(candidates)}
    return {k: name for k, name in named.items() if name is not None}


def write_label_studio(dataset: KeypointDataset, folder: Path, *, predictions: bool = False) -> None:
    """Write tasks.json, config.xml and the images in `images/`; with `predictions`, as labels to be corrected.

    The tasks name their images as Label Studio's local storage does. Where several instances of an image have no box,
    each gets that of its points, because rectangles keep them apart.
    """
    names = dataset.skeleton.names
    tasks: dict[Path, dict[str, Any]] = {}
    key = "predictions" if predictions else "annotations"
    shared = Counter(dataset.image_key(index) for index in range(len(dataset)))
    for index, path, (height, width) in write_images(dataset, folder / "images"):
        if path not in tasks:
            image = f"/data/local-files/?d={quote(f'images/{path.as_posix()}')}"
            tasks[path] = {"id": len(tasks) + 1, "data": {"image": image}, "annotations": [], "predictions": []}
            tasks[path][key].append({"result": []} | ({"model_version": "kpnet"} if predictions else {}))
        needs_box = shared[dataset.image_key(index)] > 1
        tasks[path][key][0]["result"] += _regions(dataset, index, (height, width), needs_box)
    (folder / "tasks.json").write_text(json.dumps(list(tasks.values()), indent=1), encoding="utf-8")
    labels = "".join(f'    <Label value="{html.escape(n)}" model_index="{k}"/>\n' for k, n in enumerate(names))
    config = (
        '<View>\n  <Image name="image" value="$image"/>\n  <KeyPointLabels name="points" toName="image">\n'
        f'{labels}  </KeyPointLabels>\n  <RectangleLabels name="boxes" toName="image">\n'
        f'    <Label value="{html.escape(dataset.skeleton.name or "object")}"/>\n  </RectangleLabels>\n</View>\n'
    )
    (folder / _CONFIG).write_text(config, encoding="utf-8")


def _regions(dataset: KeypointDataset, index: int, shape: tuple[int, int], needs_box: bool) -> Iterator[dict[str, Any]]:
    """Yield the rectangle of a sample, and its points. If it `needs_box` and has none, it is that of its points."""
    common = {"to_name": "image", "original_width": shape[1], "original_height": shape[0], "image_rotation": 0}
    size = np.array(shape[::-1])
    xy, level, box = sample_points(dataset, index), dataset.visibility(index), dataset.box(index)
    if box is None and needs_box and level.any():
        box = box_of_points(xy[level > 0])
    parent: dict[str, str] = {}
    if box is not None:
        parent = {"parentID": f"box{index}"}
        percent = (pixel_to_edge(box) / np.tile(size, 2) * 100).tolist()
        value: dict[str, Any] = {"x": percent[0], "y": percent[1], "rotation": 0}
        value |= {"width": percent[2] - percent[0], "height": percent[3] - percent[1]}
        value |= {_BOX: [dataset.skeleton.name or "object"]}
        yield {"id": f"box{index}", "type": _BOX, "from_name": "boxes", **common, "value": value}
    for k, name in enumerate(dataset.skeleton.names):
        if level[k]:
            x, y = (pixel_to_edge(xy[k]) / size * 100).tolist()
            value = {"x": x, "y": y, "width": 0.5, _POINT: [name]} | ({"hidden": True} if level[k] == HIDDEN else {})
            yield {"id": f"p{index}_{k}", "type": _POINT, "from_name": "points", **common, "value": value, **parent}
