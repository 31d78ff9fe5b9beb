"""Detect the format of a file or folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kpnet.core.errors import KpnetError, few
from kpnet.data.formats.cvat import is_cvat
from kpnet.data.formats.foreign import describe_foreign, describe_foreign_labels
from kpnet.data.formats.label_studio import is_label_studio
from kpnet.data.formats.labelme import is_labelme
from kpnet.data.formats.points_csv import PARQUET
from kpnet.data.formats.sleap import is_sleap_h5
from kpnet.data.formats.table_columns import names_images
from kpnet.data.formats.text_table import decode_text, find_delimiter, is_image_name, split_line
from kpnet.data.formats.yolo import label_folder
from kpnet.data.images import IMAGE_SUFFIXES

_FORMATS = {".json": "coco", ".xml": "cvat", ".slp": "sleap", ".npz": "npz", **dict.fromkeys(PARQUET, "points_csv")}
_TABLES = (*_FORMATS, ".csv")
_FIX = "name its format (--format; in a YAML: data.format)"
_HEAD = 1 << 20  # bytes of a file that are looked at
_TEXT_HEAD = 1 << 16
_SHOWN = 5
_PIXELS = re.compile(r"\d{1,3}(\s+\d{1,3}){3,}\s*")


def detect_format(path: Path) -> tuple[Path, str]:
    """Detect the format of labelled data.

    Args:
        path: A file, or a folder. A folder may hold one file of labels, which is then used, also in a subfolder, such
            as COCO's `annotations`.

    Returns:
        The file or folder of the labels, and the name of its format.

    Raises:
        KpnetError: The path does not exist, its format is unclear, or its labels are those of another tool.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise KpnetError(f"{path}: {'neither a file nor a folder' if path.exists() else 'no such file or folder'}")
    suffix = path.suffix.lower()
    if path.name == "config.yaml":
        return path.parent, "deeplabcut"
    if suffix in (".yaml", ".yml"):
        return path, "yolo"
    if (foreign := describe_foreign(path)) is not None:
        raise KpnetError(f"{path}: {foreign}")
    if suffix == ".csv":
        return path, _of_csv(path)
    if suffix == ".json":
        return path, _of_json(path)
    if suffix == ".h5":
        with path.open("rb") as file:
            return path, "sleap" if is_sleap_h5(file.read(_HEAD)) else "deeplabcut"
    if suffix not in _FORMATS:
        raise KpnetError(f"{path}: unknown format: expected .json, .csv, .parquet, .npz or a folder; or {_FIX}")
    return path, _FORMATS[suffix]


def _of_folder(path: Path) -> tuple[Path, str]:
    if (path / "config.yaml").is_file() and (path / "labeled-data").is_dir():
        return path, "deeplabcut"
    files = list(_walk(path))
    images = any(file.suffix.lower() in IMAGE_SUFFIXES for file in files)
    own = [file for file in files if file.parent == path]
    if _is_yolo(path, files):
        return path, "yolo"
    for group in (own, files):
        tables = [file for file in group if file.suffix.lower() in _TABLES and describe_foreign(file) is None]
        tables = [file for file in tables if not images or file.suffix.lower() != ".json" or _may_have_labels(file)]
        tables = [file for file in tables if file.suffix.lower() != ".xml" or is_cvat(_head(file))]
        tables = [file for file in tables if "keypoint" in file.name] or tables
        if tables and all(file.suffix.lower() == ".json" and _of_json(file) == "labelme" for file in tables):
            return path, "labelme"
        if len(tables) == 1:
            return detect_format(tables[0])
        if tables:
            names = few((file.relative_to(path) for file in tables), _SHOWN)
            raise KpnetError(f"{path}: several files of labels: {names}; give one of them")
        if group is own and any(file.suffix.lower() == ".pts" for file in files):
            return path, "pts"
    for file in files:
        if (foreign := describe_foreign_labels(file)) is not None:
            raise KpnetError(f"{path}: {file.relative_to(path)} is {foreign}; for its images alone, --format folder")
    if images:
        return path, "folder"
    raise KpnetError(f"{path}: found neither labels nor images in it")


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, without hidden ones, sorted. A pipe would wait for ever."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _may_have_labels(path: Path) -> bool:
    """Return whether a JSON file beside images may hold their labels."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return re.search(rb'"(images|categories|annotations)"\s*:', head) is not None or _of_json(path) != "coco"


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_TEXT_HEAD).decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t")


def _of_json(path: Path) -> str:
    head = _head(path)
    return "labelme" if is_labelme(head) else "label_studio" if is_label_studio(head) else "coco"


def _is_yolo(folder: Path, files: Iterable[Path]) -> bool:
    """Return whether a folder has a YAML that says kpt_shape, or folders `labels` of text files beside `images`."""
    if "images" in folder.absolute().parts and any(label_folder(folder).glob("*.txt")):
        return True
    for file in files:
        if file.parent == folder and file.suffix.lower() in (".yaml", ".yml"):
            with file.open("rb") as stream:
                if re.search(rb"^kpt_shape\s*:", stream.read(_HEAD), re.MULTILINE):
                    return True
        parts = file.relative_to(folder).parts[:-1]
        if file.suffix.lower() == ".txt" and "labels" in parts:
            beside = Path(*parts[: parts.index("labels")], "images")
            if (folder / beside).is_dir():
                return True
    return False


def _of_csv(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_HEAD)
    whole = data.rpartition(b"\n")[0] if len(data) == _HEAD and b"\n" in data else data
    text = decode_text(path, whole, "a CSV")[0] if not whole.startswith(b"PK\x03\x04") else ""
    lines = [line for line in text.splitlines() if line.strip()][:2]
    if not lines:
        return "kaggle_csv"
    delimiter = find_delimiter(lines[0])
    header, row = split_line(lines[0], delimiter), split_line(lines[-1], delimiter) if len(lines) > 1 else []
    if header[0] == "scorer":
        return "deeplabcut"
    pixels = header.index("Image") if "Image" in header else None
    if pixels is not None and not (pixels < len(row) and is_image_name(row[pixels])):
        return "kaggle_csv"
    holds_pixels = any(_PIXELS.fullmatch(cell) for cell in row)
    return "points_csv" if names_images(header, row) and not holds_pixels else "kaggle_csv"
