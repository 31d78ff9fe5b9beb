"""Find the YAML files that ship with kpnet: recipes, sweeps and skeletons."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped_configs(kind: str = "") -> dict[str, Path]:
    """Return names and paths of the shipped configs: recipes, or those of the folder `kind` (`"sweeps"`).

    They are in `kpnet/configs` once installed, and in `configs/` of a checkout.
    """
    configs = _PACKAGE / "configs"
    folder = configs if configs.is_dir() else _PACKAGE.parent / "configs"
    return _yaml_files(folder / kind)


def shipped_skeletons() -> dict[str, Path]:
    """Return names and paths of the shipped skeletons."""
    return _yaml_files(_PACKAGE / "core" / "skeletons")


def _yaml_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
