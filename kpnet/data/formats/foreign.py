"""Recognise files of other labelling tools that kpnet does not read, and say how to convert them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from kpnet.data.formats.cvat import is_cvat
from kpnet.data.formats.label_studio import is_label_studio
from kpnet.data.formats.text_table import find_delimiter, is_image_name, is_number, split_line

_HEAD = 1 << 16  # bytes that show what a file is
_UNKNOWN = "a JSON list of an unknown kind"
_LABEL_STARTS = {".tps": b"LM"}
_TABLE = "write a CSV with columns image, NAME_x, NAME_y (format points_csv)"
_VIA = "in VIA, Annotation > Export Annotations (COCO format)"
_LABEL_STUDIO = "in Label Studio, export as JSON"
_COCO = "export it as COCO keypoints (format coco)"

# What a file is and how to get its labels into kpnet, for words that all stand in its first bytes.
_JSON: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (('"original_width"',), "Label Studio's JSON_MIN export", _LABEL_STUDIO),
    (('"keypointlabels"',), "Label Studio's JSON_MIN export", _LABEL_STUDIO),
    (('"_via_img_metadata"',), "a VGG Image Annotator (VIA) project", _VIA),
    (('"region_attributes"',), "a VGG Image Annotator (VIA) export", _VIA),
    (('"pose_keypoints_2d"',), "an OpenPose result, which holds predictions", _TABLE),
    (('"face_keypoints_2d"',), "an OpenPose result, which holds predictions", _TABLE),
    (('"classTitle"',), "a Supervisely annotation", _COCO),
    (('"dm_format_version"',), "a Datumaro export", _COCO),
    (('"coordinates"', '"label"'), "a Create ML file, which has boxes alone", _COCO),
    (('"labelbox',), "a Labelbox export", _COCO),
    (
        ('"image_id"', '"keypoints"', '"score"'),
        "a file of COCO results, which holds predictions",
        "give the file of the labels",
    ),
)
_XML = (
    (("<annotation", "<object"), "a Pascal VOC file, which has boxes", _TABLE),
    (("<dataset", "<image "), "a dlib XML file", _TABLE),
)
_CSV = (
    (("RowId", "FeatureName", "Location"), "Kaggle's list of the points to submit", "give training.csv or test.csv"),
    (("region_shape_attributes",), "a VGG Image Annotator (VIA) export", _VIA),
    (("annotator", "annotation_id"), "a CSV of Label Studio", _LABEL_STUDIO),
    (("keypointlabels",), "a CSV of Label Studio", _LABEL_STUDIO),
    (
        ("frame_idx", "instance.score"),
        "a SLEAP analysis, which holds predictions",
        "give the project (.slp)",
    ),
    (("FILE", "LABEL"), "a LabelMe or Labelbox table", _TABLE),
)
_SUFFIXES = {
    ".tps": ("a tpsDig file, whose y points up", _TABLE),
    ".mat": ("a MATLAB file", f"{_TABLE}; scipy.io.loadmat reads it"),
    ".xlsx": ("a spreadsheet", "save it as CSV"),
    ".xls": ("a spreadsheet", "save it as CSV"),
    ".ods": ("a spreadsheet", "save it as CSV"),
    ".zip": ("an archive", "unpack it"),
    ".gz": ("an archive", "unpack it"),
    ".tgz": ("an archive", "unpack it"),
    ".tar": ("an archive", "unpack it"),
    ".7z": ("an archive", "unpack it"),
    ".rar": ("an archive", "unpack it"),
    ".pkl": ("a pickle, which may run any code when it is loaded", _TABLE),
    ".pickle": ("a pickle, which may run any code when it is loaded", _TABLE),
    ".npy": ("a single array", 'save images and keypoints as numpy.savez("a.npz", images=…, keypoints=…)'),
    ".tfrecord": ("a TensorFlow record", _TABLE),
    ".feather": ("an Arrow file", "save it as Parquet or CSV"),
    ".arrow": ("an Arrow file", "save it as Parquet or CSV"),
}


def describe_foreign(path: Path) -> str | None:
    """Say what a file of another tool is.

    Args:
        path: An existing file.

    Returns:
        What it is, and how to convert it; None for a file that may be one of kpnet's formats or no labels at all.
    """
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        what, fix = _SUFFIXES[suffix]
        return f"{what}, which kpnet does not read; {fix}"
    find = _FINDERS.get(suffix)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8", errors="replace") if find else ""
    except OSError:
        return None
    return find(head.lstrip("\ufeff \r\n\t")) if find and head else None


def describe_foreign_labels(path: Path) -> str | None:
    """Say what a file is whose content shows that it holds labels of another tool; None for any other file.

    Archives and spreadsheets that lie beside images may hold anything.
    """
    suffix = path.suffix.lower()
    if suffix in _LABEL_STARTS:
        with path.open("rb") as file:
            return describe_foreign(path) if file.read(16).startswith(_LABEL_STARTS[suffix]) else None
    found = describe_foreign(path) if suffix in _FINDERS else None
    return None if found is not None and found.startswith(_UNKNOWN) else found


def _find(head: str, known: tuple[tuple[tuple[str, ...], str, str], ...]) -> str | None:
    for words, what, fix in known:
        if all(word in head for word in words):
            return f"{what}, which kpnet does not read; {fix}"
    return None


def _json(head: str) -> str | None:
    if is_label_studio(head):
        return None
    if re.search(r'"(images|categories|annotations)"\s*:\s*\[', head) and head.startswith("{"):
        return None  # it may be COCO, whose reader says what it lacks
    found = _find(head, _JSON)
    if found is None and head.startswith("["):
        return f"{_UNKNOWN}, expected COCO keypoints (a mapping); {_COCO}, or {_TABLE}"
    return found


def _xml(head: str) -> str | None:
    return None if is_cvat(head) else _find(head, _XML)


def _csv(head: str) -> str | None:
    return _find(head.split("\n", 1)[0], _CSV) or _find(head[:4096], _CSV[3:4])


def _txt(head: str) -> str | None:
    """Recognise lines of numbers, with or without the name of an image."""
    lines = [line for line in head.splitlines()[:20] if line.strip()][:10]
    rows = [line.split() if "," not in line else split_line(line, find_delimiter(line)) for line in lines]
    rows = [[cell for cell in row if cell] for row in rows]
    if not rows or not all(len(row) >= 5 and sum(map(is_number, row)) >= len(row) - 1 for row in rows):
        return None
    if any(is_image_name(cell) for cell in rows[0]):
        return f"a list of images and numbers (as of WFLW or COFW), which kpnet does not read; {_TABLE}"
    if all(is_number(cell) for row in rows for cell in row):
        return "labels as of YOLO; give the folder that holds images, labels and data.yaml (format yolo)"
    return None


_FINDERS: dict[str, Callable[[str], str | None]] = {".json": _json, ".xml": _xml, ".csv": _csv, ".txt": _txt}
