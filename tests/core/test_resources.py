"""The YAML files that ship with kpnet, in a checkout and once installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.paths import ROOT

from kpnet.core import resources
from kpnet.core.resources import shipped_configs, shipped_skeletons


@pytest.mark.parametrize("kind", ["", "sweeps"])
def test_every_config_of_the_checkout_by_its_name(kind: str) -> None:
    found = shipped_configs(kind)
    expected = {path.stem for path in (ROOT / "configs" / kind).iterdir() if path.suffix == ".yaml"}
    assert found.keys() == expected != set()
    assert list(found) == sorted(found)
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in found.values())


def test_every_skeleton_has_names() -> None:
    found = shipped_skeletons()
    assert {"facial15", "coco17", "mouse4"} <= found.keys()
    assert all(yaml.safe_load(path.read_text())["names"] for path in found.values())


def test_an_installed_package_has_its_configs_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in (("kpnet/configs", "inside"), ("configs", "beside"), ("kpnet/configs/sweeps", "tried")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}.yaml").touch()
    (tmp_path / "kpnet" / "configs" / "__init__.py").touch()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "kpnet")
    assert shipped_configs() == {"inside": tmp_path / "kpnet" / "configs" / "inside.yaml"}
    assert list(shipped_configs("sweeps")) == ["tried"]
    assert shipped_configs("none") == {}
