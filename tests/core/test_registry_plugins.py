"""Another package's head and data format, from YAML: the package in examples/, found by its entry point."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.console import Run
from support.paths import ROOT

import kpnet as package
from kpnet import KpnetError
from kpnet.cli.json_schema import json_schema
from kpnet.core import registry as plugins
from kpnet.data import DATASETS
from kpnet.heads import HEADS

EXAMPLE = ROOT / "examples" / "downstream_pose"


def install(site: Path, module: str) -> None:
    """What pip leaves of a package whose entry point names `module`: its metadata."""
    info = site / "downstream_pose-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: downstream-pose\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[kpnet.plugins]\ndownstream_pose = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that packages are found in; what they register is gone after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = [(registry, dict(registry)) for registry in (HEADS, DATASETS)]
    plugins.load_plugins.cache_clear()
    yield folder
    plugins.load_plugins.cache_clear()
    for registry, entries in before:
        registry.clear()
        registry.update(entries)  # type: ignore[arg-type]
    for name in [name for name in sys.modules if name.startswith("downstream_pose")]:
        del sys.modules[name]


def test_a_package_trains_its_own_head_on_its_own_data(site: Path, kpnet: Run, tmp_path: Path) -> None:
    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"][plugins.GROUP]
    install(site, points["downstream_pose"])
    shutil.copytree(EXAMPLE / "downstream_pose", site / "downstream_pose")
    done = kpnet("train", EXAMPLE / "arrows.yaml", "train.epochs=1", "data.train=32", "data.val=8", "--out", "run")
    assert done.code == 0, done
    model = package.load_model(tmp_path / "run")
    assert type(model.head).__name__ == "GatedHead"
    assert model.skeleton.names == ("tail", "tip")
    assert "gated" in package.list_heads()
    assert "smooth" in json_schema()["$defs"]["head.gated"]["properties"]
    assert "side" in json_schema()["$defs"]["format.arrows"]["properties"]
    kpnet("train", EXAMPLE / "arrows.yaml", "model.head={name: gated, smoth: true}").refused('"smoth"', '"smooth"')


def test_without_the_package_the_part_is_unknown(kpnet: Run) -> None:
    kpnet("train", EXAMPLE / "arrows.yaml").refused('"gated"')


def test_a_package_that_cannot_be_imported_is_named(site: Path) -> None:
    install(site, "downstream_pose_gone")
    failed = r"downstream-pose: its parts for kpnet .* cannot be loaded: ModuleNotFoundError"
    for build in (
        lambda: HEADS.find("gated"),
        lambda: package.build_model(backbone="gated", head="heatmap", num_keypoints=1),
    ):
        with pytest.raises(KpnetError, match=rf'unknown .*"gated".*; {failed}'):
            build()


def test_a_package_that_cannot_be_imported_disables_nothing_else(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "downstream_pose_exits")
    (site / "downstream_pose_exits.py").write_text("raise SystemExit(3)")
    assert "heatmap" in package.list_heads()
    package.build_model(backbone="resnet18", head="heatmap", num_keypoints=2, input_size=32)
    assert [record.message for record in caplog.records] == [
        "downstream-pose: its parts for kpnet (downstream_pose_exits) cannot be loaded: SystemExit: 3"
    ]
