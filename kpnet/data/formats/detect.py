"""Which format is a file or folder of?"""

from __future__ import annotations

from pathlib import Path

from kpnet.core.errors import KpnetError
from kpnet.data.formats.points_csv import PARQUET
from kpnet.data.images import IMAGE_SUFFIXES, find_files

_TABLES = {".json": "coco", ".npz": "npz", **dict.fromkeys(PARQUET, "points_csv")}
_SAY = "name its format (kpnet data: --format, a YAML: data.format)"


def detect_format(path: Path) -> tuple[Path, str]:
    """The labels' file or folder, and its format: a folder may hold one file of labels. A KpnetError if unclear."""
    if not path.exists():
        raise KpnetError(f"{path}: no such file or folder")
    if path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    if path.name == "config.yaml":
        return path.parent, "deeplabcut"
    if suffix == ".csv":
        return path, _of_csv(path)
    if suffix not in _TABLES:
        raise KpnetError(f"{path}: of no known format: expected .json, .csv, .parquet, .npz or a folder; or {_SAY}")
    return path, _TABLES[suffix]


def _of_folder(path: Path) -> tuple[Path, str]:
    if (path / "config.yaml").is_file() and (path / "labeled-data").is_dir():
        return path, "deeplabcut"
    tables = sorted(f for f in path.iterdir() if f.suffix.lower() in (*_TABLES, ".csv") and f.is_file())
    if len(tables) == 1:
        return detect_format(tables[0])
    if tables:
        raise KpnetError(f"{path}: several files of labels: {', '.join(f.name for f in tables)}; give one of them")
    suffixes = {f.suffix.lower() for f in find_files(path, (".pts", *IMAGE_SUFFIXES))}
    if ".pts" in suffixes:
        return path, "pts"
    if suffixes:
        return path, "folder"
    raise KpnetError(f"{path}: neither labels nor pictures in it")


def _of_csv(path: Path) -> str:
    with path.open("rb") as file:
        header = file.readline(1 << 20).decode("utf-8", errors="replace")
    cells = [cell.strip().strip('"\ufeff') for cell in header.split(",")]
    if "image" in cells:
        return "points_csv"
    if cells[0] == "scorer":
        raise KpnetError(f"{path}: a table of DeepLabCut: give its project's folder, the one with config.yaml")
    return "kaggle_csv"
