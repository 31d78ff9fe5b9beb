"""Data by its path alone: which format it has, and its samples as a model was trained to see them."""

from __future__ import annotations

from pathlib import Path

from kpnet.data import KeypointDataset
from kpnet.data.build import build_dataset
from kpnet.errors import KpnetError
from kpnet.registry import split_spec
from kpnet.schema import Config, DataConfig, ModelConfig
from kpnet.skeleton import Skeleton

TABLES = (".csv", ".json", ".npz", ".parquet")  # files that hold or name many images


def guess_format(path: Path) -> str:
    """A data format's name, by what a file or folder looks like. A KpnetError where it looks like none."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise KpnetError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "config.yaml").is_file() and (path / "labeled-data").is_dir():
            return "deeplabcut"
        return "pts" if next(path.rglob("*.pts"), None) is not None else "folder"
    if suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = [cell.strip().strip('"') for cell in file.readline().split(",")]
        return "kaggle_csv" if "Image" in header or "image" not in header else "points_csv"
    known = {".json": "coco", ".npz": "npz", ".parquet": "points_csv"}
    if suffix not in known:
        raise KpnetError(
            f"{path}: no data format that is known; expected {', '.join(TABLES)} or a folder, or a --format"
        )
    return known[suffix]


def open_as_trained(
    path: Path, config: Config | None, model: ModelConfig, skeleton: Skeleton, format: str | None = None
) -> KeypointDataset:
    """Samples of a file or folder, cropped as the run of `config` crops its own; its format's options are the run's."""
    data = DataConfig() if config is None else config.data
    name = format or guess_format(path)
    own = data.format if split_spec(data.format, "format")[0] == name else name
    settings = data.model_copy(update={"root": ".", "format": own, "complete_only": False, "fold": None})
    return build_dataset(settings, model, str(path), skeleton=skeleton)
