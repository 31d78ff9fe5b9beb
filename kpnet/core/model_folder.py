"""Find the files of a saved model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kpnet.core.errors import KpnetError
from kpnet.core.hub import fetch, fetch_file
from kpnet.core.hub_address import HubAddress, format_path, hub_hint, hub_suffix, is_hub, parse_address

WEIGHTS, CONFIG = "model.safetensors", "model.yaml"
WATCH = "watch.safetensors"  # summary of held-out data, which a model may have
_EXPORT = {
    ".onnx": "an exported model, which kpnet predict and evaluate take",
    ".pt2": "an exported program, which torch.export.load reads, and kpnet does not",
}
EXPORTED = tuple(_EXPORT)


def model_folder(path: str | Path) -> Path:
    """Return the folder with the model's files: `path` itself, `path/final` of a run, or the folder of a file.

    The files of an address of the hub, `hf://OWNER/NAME`, are fetched into its cache.
    """
    if is_hub(path):
        return fetch(folder_address(path), (WEIGHTS, CONFIG), optional=(WATCH,))
    path = Path(path)
    if path.is_file():
        return _folder_of_file(path)
    for folder in (path, path / "final"):
        if (folder / WEIGHTS).is_file():
            return folder
    if not path.exists():
        raise KpnetError(f"{format_path(path)}: no such run or model folder{hub_hint(path)}")
    if (path / "best" / WEIGHTS).is_file():
        raise KpnetError(f"{path}: this run has not ended; go on with --resume, or use {path / 'best'}")
    if (path / "last.ckpt").is_file():
        raise KpnetError(f"{path}: this run has not ended; go on with --resume")
    raise KpnetError(f"{path}: expected a run folder or a saved model, found no {WEIGHTS} in it")


def _folder_of_file(path: Path) -> Path:
    """Return the folder of a file of a saved model or of a run; raise for other files, which say less than a model."""
    if path.name in (WEIGHTS, CONFIG) and (path.parent / WEIGHTS).is_file():
        return path.parent
    if path.suffix in EXPORTED:
        raise KpnetError(f"{path}: {_EXPORT[path.suffix]}: give the run folder")
    if path.name in ("config.yaml", "last.ckpt", "metrics.csv"):
        raise KpnetError(f"{path}: a file of a training, not a model: give the run folder, {path.parent}")
    raise KpnetError(f"{path}: not a saved model of kpnet: give a run folder, or a folder with {WEIGHTS} and {CONFIG}")


def folder_address(path: str | Path) -> HubAddress:
    """Return the address of a folder on the hub, also where a file of a saved model in it is named."""
    address = parse_address(path)
    folder, _, name = address.path.rpartition("/")
    if hub_suffix(path) in EXPORTED:
        raise KpnetError(f"{address}: {_EXPORT[hub_suffix(path)]}: give the repository")
    return replace(address, path=folder) if name in (WEIGHTS, CONFIG) else address


def is_exported(path: str | Path) -> bool:
    """Return whether a path names an exported model, in a folder or on the hub."""
    return hub_suffix(path) in EXPORTED


def local_file(path: str | Path) -> Path:
    """Return a file's path; one on the hub is fetched into its cache."""
    return fetch_file(parse_address(path)) if is_hub(path) else Path(path)


def weights_file(path: str | Path) -> Path:
    """Return the weight file that `pretrained` names: `path` itself, or the one in a run or saved model.

    One on the hub is fetched into its cache: that of a model, or a file `.safetensors` of any repository.
    """
    if is_hub(path):
        if hub_suffix(path) == ".safetensors":
            return fetch_file(parse_address(path), optional=(CONFIG,))
        return model_folder(path) / WEIGHTS
    path = Path(path)
    return model_folder(path) / WEIGHTS if path.is_dir() or path.name == CONFIG else path
