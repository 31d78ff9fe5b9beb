"""CVAT (https://www.cvat.ai): the XML of its exports "CVAT for images 1.1" and "CVAT for video 1.1", with skeletons.

Layout: `annotations.xml`, and the images in `images/` beside it. For images, each has its skeletons:

    <image id="0" name="a.png" width="80" height="60">
      <skeleton label="mouse" source="manual" z_order="0">
        <points label="nose" source="manual" outside="0" occluded="0" points="20.75,13.00"></points>

For a video, each `track` has a skeleton for each frame, whose image is `frame_000000.png` and so on:

    <track id="0" label="mouse" source="manual">
      <skeleton frame="0" keyframe="1" z_order="0">
        <points label="nose" keyframe="1" outside="0" occluded="0" points="20.75,13.00"></points>

`meta` has the labels: a skeleton's points, in their order, name it as their `parent`, and its `svg` has the edges.

A point that is `outside` is absent, one that is `occluded` is hidden, and a skeleton of which all points are outside is
not on its frame. Frames that are no keyframe are interpolated between keyframes that people placed, and are used
unless `interpolated` is false. Skeletons with the source `auto` are predictions that nobody has changed, and are used
with `predictions` alone. An image without a skeleton says that nothing is on it.

Coordinates: from the image's left and upper edge, so that the centre of the first pixel is 0.5. kpnet subtracts 0.5.
(CVAT's COCO export has the same numbers, which readers of COCO, kpnet too, take for pixel indices.)

Ignored, with a note: other shapes, skeletons of another label, and images without a skeleton (unless `empty`). Skipped
with a warning: skeletons with a coordinate that is no number, and missing or damaged images.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from kpnet.coordinates import edge_to_pixel, pixel_to_edge
from kpnet.core.errors import KpnetError, did_you_mean, few, shorten
from kpnet.core.reading import read_xml
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.cells import parse_numbers
from kpnet.data.formats.gathering import HIDDEN, VISIBLE, Gatherer, Shapes, check_name, image_size
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import sample_points, write_images
from kpnet.data.images import IMAGE_SUFFIXES, find_files

_EXPECTED = 'the XML of CVAT\'s export "CVAT for images 1.1" or "CVAT for video 1.1"'
_FRAME = re.compile(r"frame_(\d{1,9})", re.IGNORECASE)  # a name of an image of a video
_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask")
_SVG = re.compile(r"<(circle|line)\b([^>]*)>")
_ATTRIBUTE = re.compile(r'data-([a-z-]+)="([^"]*)"')


@DATASETS.register("cvat")
class CVAT(ImageFileDataset):
    """Skeletons of a CVAT export, one sample for each on each image or frame.

    Args:
        path: The XML file.
        images: Folder of the images, relative to the file's folder; null for the file's folder or `images/` in it,
            whichever has more of the images.
        category: Label of the skeletons to use, if there are several.
        interpolated: Also use frames of a video that CVAT computed between keyframes.
        predictions: Also use skeletons that a model placed and nobody changed.
        empty: Also use images without a skeleton.
        exif: Apply the EXIF rotation, as a browser does; false reads pixels as they are stored.
        skeleton: Skeleton whose order of names is used if it has the names of the file.
        strict: Raise an error at the first skeleton that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: The file is no such XML, or no skeleton in it can be used.

    Example:
        >>> dataset = CVAT("task/annotations.xml")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | None = None,
        category: str | None = None,
        interpolated: bool = True,
        predictions: bool = False,
        empty: bool = False,
        exif: bool = True,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        skipped = Skipped(path, strict)
        root = read_xml(path, _EXPECTED)
        if root.tag != "annotations":
            raise KpnetError(f"{path}: expected {_EXPECTED}, found <{shorten(root.tag)}>")
        label = _label(path, root, category)
        gatherer = Gatherer(skipped, empty)
        names, edges = _stated_skeleton(root, label)
        gatherer.names = dict.fromkeys(names)
        reader = _Reader(gatherer, label, interpolated, predictions)
        reader.read(root)
        folder = reader.find_images(images)
        instances = reader.build(skeleton, edges)
        super().__init__(folder, instances, skipped, skeleton=skeleton, exif=exif, **options)


def is_cvat(head: str) -> bool:
    """Return whether an XML file that begins so may be CVAT's."""
    return "<annotations" in head and any(f"<{tag}" in head for tag in ("meta", "image ", "track "))


def _label(path: Path, root: Element, category: str | None) -> str | None:
    """Return the label of the skeletons to use, None if there is none."""
    found = [s.get("label", "") for s in root.iterfind("image/skeleton")]
    found += [t.get("label", "") for t in root.iterfind("track") if t.find("skeleton") is not None]
    labels = list(dict.fromkeys(found))
    if category is not None and category not in labels:
        raise KpnetError(
            f'{path}: no skeletons of label "{shorten(category)}"{did_you_mean(category, labels)}; it has '
            f"{few(map(shorten, labels), 5) or 'none'}"
        )
    if category is None and len(labels) > 1:
        raise KpnetError(f"{path}: skeletons of labels {few(map(shorten, labels), 5)}; set category to one of them")
    return category if category is not None else labels[0] if labels else None


def _stated_skeleton(root: Element, label: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of the skeleton's points and its edges, as far as `meta` has them."""
    names: list[str] = []
    edges: list[tuple[str, str]] = []
    for each in root.iterfind("meta//label"):
        name = (each.findtext("name") or "").strip()
        if each.findtext("parent") == label and name and label is not None:
            names.append(name)
        elif each.findtext("name") == label:
            edges = _edges(each.findtext("svg") or "")
    names = list(dict.fromkeys(names))
    return names, [edge for edge in dict.fromkeys(edges) if len({*edge} & set(names)) == 2]


def _edges(svg: str) -> list[tuple[str, str]]:
    """Return the edges of a skeleton's drawing, whose nodes have numbers and names."""
    nodes: dict[str, str] = {}
    lines: list[tuple[str, str]] = []
    for kind, text in _SVG.findall(svg):
        values = dict(_ATTRIBUTE.findall(text))
        if kind == "circle" and "label-name" in values:
            nodes[values.get("node-id", "")] = html.unescape(values["label-name"])
        elif kind == "line":
            lines.append((values.get("node-from", ""), values.get("node-to", "")))
    return [(nodes[a], nodes[b]) for a, b in lines if a in nodes and b in nodes]


class _Reader:
    """Reads images and tracks, and counts what is not used."""

    def __init__(self, gatherer: Gatherer, label: str | None, interpolated: bool, predictions: bool) -> None:
        self.gatherer, self.skipped, self.label = gatherer, gatherer.skipped, label
        self.interpolated, self.predictions = interpolated, predictions
        self.unused: Counter[str] = Counter()
        self.others: Counter[str] = Counter()  # shapes that are no skeleton
        self.by_frame = False
        self.computed: set[int] = set()  # frames with skeletons that are not used

    def read(self, root: Element) -> None:
        for number, image in enumerate(root.iterfind("image")):
            self._image(image, f"image {shorten(image.get('id', str(number)))}")
        original = root.find("meta//original_size")
        stated = [] if original is None else [original.findtext(key) for key in ("height", "width")]
        size = _size(*stated) if stated else (0, 0)
        frames: dict[int, Shapes] = {}
        for number, track in enumerate(root.iterfind("track")):
            self.by_frame = True
            self._track(track, f"track {shorten(track.get('id', str(number)))}", frames)
        for frame, shapes in sorted(frames.items()):
            shapes.partial |= frame in self.computed
            self.gatherer.add_image(f"frame_{frame:06d}", size, f"frame {frame}", shapes)

    def _image(self, image: Element, origin: str) -> None:
        name = image.get("name")
        if (problem := check_name(name)) is not None or name is None:
            self.skipped.add(f"{origin}: name: {problem}")
            return
        shapes = Shapes()
        self.others.update(each.tag for each in image if each.tag in _SHAPES)
        for number, skeleton in enumerate(image.iterfind("skeleton")):
            self._skeleton(shapes, skeleton, skeleton, f"skeleton {number}", origin)
        self.gatherer.add_image(name, _size(image.get("height"), image.get("width")), origin, shapes)

    def _track(self, track: Element, origin: str, frames: dict[int, Shapes]) -> None:
        self.others.update(each.tag for each in track if each.tag in _SHAPES)
        for skeleton in track.iterfind("skeleton"):
            frame = skeleton.get("frame", "")
            if not (frame.isascii() and frame.isdecimal() and len(frame) < 10):
                self.skipped.add(f"{origin}: frame {shorten(frame) or 'missing'}, expected a number")
            elif skeleton.get("keyframe", "1") == "0" and not self.interpolated:
                self.unused["interpolated skeletons"] += 1
                self.computed.add(int(frame))
            else:
                shapes = frames.setdefault(int(frame), Shapes())
                self._skeleton(shapes, track, skeleton, origin, f"frame {int(frame)}")

    def _skeleton(self, shapes: Shapes, holder: Element, skeleton: Element, group: str, origin: str) -> None:
        """Add a skeleton's points, whose label and source its `holder` has."""
        if holder.get("label", "") != self.label:
            self.unused["skeletons of another label"] += 1
            return
        if holder.get("source") == "auto" and not self.predictions:
            self.unused["skeletons that a model placed and nobody changed (predictions: true uses them)"] += 1
            shapes.partial = True
            return
        points = []
        for point in skeleton.iterfind("points"):
            name = point.get("label", "").strip()
            if point.get("outside") == "1":
                continue
            cells = re.split("[,;]", point.get("points", ""))
            values, wrong = parse_numbers(cells[:3])
            if not name or len(cells) != 2 or wrong.any() or not np.isfinite(values).all():
                found = shorten(f"{name or 'without a label'}: {point.get('points', '')}")
                self.skipped.add(f"{origin}, {group}: a point is {found}; expected a label, and points of x,y")
                return
            x, y = edge_to_pixel(values).tolist()
            points.append((name, x, y, HIDDEN if point.get("occluded") == "1" else VISIBLE))
        for each in points:
            shapes.add_point(group, *each)

    def find_images(self, given: str | None) -> Path:
        """Return the folder of the images. Those of frames get the suffixes that their files have."""
        source, names = self.skipped.source, self.gatherer.images
        if self.by_frame:
            places = [source.parent / given] if given is not None else [source.parent, source.parent / "images"]
            for place in places:
                frames = _frames(place)
                if any(name in frames for name in names):
                    names[:] = [frames.get(name, name) for name in names]
                    return place
        return find_folder(source, names, given, self.skipped)

    def build(self, skeleton: Skeleton | None, edges: list[tuple[str, str]]) -> Any:
        for what, count in self.unused.items():
            self.skipped.note(f"{count} {what} are not used")
        found = ", ".join(f"{count} of kind {kind}" for kind, count in self.others.most_common(3))
        if found:
            self.skipped.note(f"shapes that are no skeletons are not used: {found}")
        if self.label is None:
            single = (
                "; points with a label each are no instances: label them as skeletons" if self.others["points"] else ""
            )
            raise KpnetError(f"{self.skipped.source}: no skeleton in it, found {found or 'no shapes'}{single}")
        return self.gatherer.build(skeleton, edges)


def _size(height: str | None, width: str | None) -> tuple[int, int]:
    sides = [
        int(side) if side and side.isascii() and side.isdecimal() and len(side) < 12 else 0 for side in (height, width)
    ]
    return image_size(*sides)


def _frames(folder: Path) -> dict[str, str]:
    """Return the name of each image of a frame by that name in six digits and without a suffix."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in find_files(folder, IMAGE_SUFFIXES):
        match = _FRAME.fullmatch(path.stem)
        if match is not None:
            found[f"frame_{int(match[1]):06d}"] = str(path.relative_to(folder))
    return found


def write_cvat(dataset: KeypointDataset, folder: Path, *, predictions: bool = False) -> None:
    """Write annotations.xml as "CVAT for images 1.1", and the images in `images/`.

    The task in CVAT needs a skeleton label with these points. With `predictions`, skeletons have the source `auto`.
    """
    label, source = dataset.skeleton.name or "object", "auto" if predictions else "manual"
    root = Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    _add_label(labels, label, "skeleton", svg=_drawing(dataset.skeleton))
    for name in dataset.skeleton.names:
        _add_label(labels, name, "points", parent=label)
    images: dict[Path, Element] = {}
    for index, path, (height, width) in write_images(dataset, folder / "images"):
        if path not in images:
            values = {"id": str(len(images)), "name": path.as_posix(), "width": str(width), "height": str(height)}
            images[path] = ElementTree.SubElement(root, "image", values)
        if dataset.visibility(index).any():
            values = {"label": label, "source": source, "z_order": "0"}
            ElementTree.SubElement(images[path], "skeleton", values).extend(_points(dataset, index, source))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)


def _points(dataset: KeypointDataset, index: int, source: str) -> Iterator[Element]:
    """Yield all points of a sample: CVAT has those that are absent as well, marked as outside."""
    xy = np.nan_to_num(pixel_to_edge(sample_points(dataset, index)))
    for name, (x, y), level in zip(dataset.skeleton.names, xy.tolist(), dataset.visibility(index), strict=True):
        flags = {"outside": str(int(level == 0)), "occluded": str(int(level == HIDDEN))}
        yield Element("points", {"label": name, "source": source, **flags, "points": f"{x!r},{y!r}"})


def _add_label(labels: Element, name: str, kind: str, **more: str) -> None:
    label = ElementTree.SubElement(labels, "label")
    for key, value in {"name": name, "type": kind, **more}.items():
        ElementTree.SubElement(label, key).text = value


def _drawing(skeleton: Skeleton) -> str:
    """Return the SVG of a skeleton as CVAT has it: lines between nodes with numbers and names, on a circle."""
    parts = [
        Element("line", {"data-type": "edge", "data-node-from": str(a + 1), "data-node-to": str(b + 1)})
        for a, b in skeleton.edge_indices
    ]
    angles = 2 * np.pi * np.arange(len(skeleton)) / len(skeleton)
    for k, (name, angle) in enumerate(zip(skeleton.names, angles.tolist(), strict=True)):
        place = {"r": "1.5", "cx": f"{50 - 40 * np.sin(angle):.2f}", "cy": f"{50 - 40 * np.cos(angle):.2f}"}
        node = {"data-type": "element node", "data-element-id": str(k + 1), "data-node-id": str(k + 1)}
        parts.append(Element("circle", {**place, **node, "data-label-name": name}))
    return "".join(ElementTree.tostring(part, encoding="unicode") for part in parts)
