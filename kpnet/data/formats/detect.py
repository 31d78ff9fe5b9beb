"""Detect the format of a file or folder."""

from __future__ import annotations

from pathlib import Path

from kpnet.core.errors import KpnetError
from kpnet.data.formats.points_csv import PARQUET
from kpnet.data.images import IMAGE_SUFFIXES, find_files

_FORMATS = {".json": "coco", ".npz": "npz", **dict.fromkeys(PARQUET, "points_csv")}
_FIX = "name its format (kpnet data: --format, in a YAML: data.format)"


def detect_format(path: Path) -> tuple[Path, str]:
    """Detect the format of labelled data.

    Args:
        path: A file, or a folder. A folder may hold one file of labels, which is then used.

    Returns:
        The file or folder of the labels, and the name of its format.

    Raises:
        KpnetError: The path does not exist, or its format is unclear.
    """
    if not path.exists():
        raise KpnetError(f"{path}: no such file or folder")
    if path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    if path.name == "config.yaml":
        return path.parent, "deeplabcut"
    if suffix == ".csv":
        return path, _of_csv(path)
    if suffix not in _FORMATS:
        raise KpnetError(f"{path}: unknown format: expected .json, .csv, .parquet, .npz or a folder; or {_FIX}")
    return path, _FORMATS[suffix]


def _of_folder(path: Path) -> tuple[Path, str]:
    if (path / "config.yaml").is_file() and (path / "labeled-data").is_dir():
        return path, "deeplabcut"
    tables = sorted(f for f in path.iterdir() if f.suffix.lower() in (*_FORMATS, ".csv") and f.is_file())
    if len(tables) == 1:
        return detect_format(tables[0])
    if tables:
        raise KpnetError(f"{path}: several files of labels: {', '.join(f.name for f in tables)}; give one of them")
    suffixes = {f.suffix.lower() for f in find_files(path, (".pts", *IMAGE_SUFFIXES))}
    if ".pts" in suffixes:
        return path, "pts"
    if suffixes:
        return path, "folder"
    raise KpnetError(f"{path}: found neither labels nor images in it")


def _of_csv(path: Path) -> str:
    with path.open("rb") as file:
        header = file.readline(1 << 20).decode("utf-8", errors="replace")
    cells = [cell.strip().strip('"\ufeff') for cell in header.split(",")]
    if "image" in cells:
        return "points_csv"
    if cells[0] == "scorer":
        raise KpnetError(f"{path}: a DeepLabCut table; give the project's folder, which has the config.yaml")
    return "kaggle_csv"
