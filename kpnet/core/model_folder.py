"""Find the files of a saved model."""

from __future__ import annotations

from pathlib import Path

from kpnet.core.errors import KpnetError

WEIGHTS, CONFIG = "model.safetensors", "model.yaml"


def model_folder(path: str | Path) -> Path:
    """Return the folder with the model's files: `path` itself, or `path/final` of a run."""
    path = Path(path)
    for folder in (path, path / "final"):
        if (folder / WEIGHTS).is_file():
            return folder
    if not path.exists():
        raise KpnetError(f"{path}: no such run or model folder")
    if (path / "best" / WEIGHTS).is_file():
        raise KpnetError(f"{path}: this run has not ended; go on with --resume, or use {path / 'best'}")
    if (path / "last.ckpt").is_file():
        raise KpnetError(f"{path}: this run has not ended; go on with --resume")
    raise KpnetError(f"{path}: expected a run folder or a saved model, found no {WEIGHTS} in it")


def weights_file(path: str | Path) -> Path:
    """Return the weight file that `pretrained` names: `path` itself, or the one in a run or saved model."""
    return model_folder(path) / WEIGHTS if Path(path).is_dir() else Path(path)
