"""What a pip user gets: both archives hold the recipes, and the installed package finds them."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

from kpnet.config.loading import config_text, list_configs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_both_archives_hold_the_recipes(built: Path) -> None:
    recipes = {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    wheel = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    assert {f"kpnet/{recipe}" for recipe in recipes} <= wheel
    assert {"kpnet/py.typed", "kpnet/core/skeletons/facial15.yaml"} <= wheel
    page = {
        f"kpnet/export/page/{path.name}" for path in (ROOT / "kpnet" / "export" / "page").iterdir() if path.is_file()
    }
    assert page <= wheel
    assert not [name for name in wheel if name.startswith(("tests/", "configs/", "benchmarks/"))]
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert recipes <= names
    assert {"setup.py", "LICENSE", "README.md"} <= names


@pytest.mark.slow
def test_a_pip_user_without_the_checkout_gets_every_recipe(built: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel = str(next(built.glob("*.whl")))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), wheel]
    subprocess.run(command, check=True)
    # Before the environment's own kpnet, and far from the checkout.
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import kpnet; assert {str(site)!r} in kpnet.__file__;"
        "from kpnet.config.loading import list_configs, config_text;"
        "print(list_configs()); print(config_text('facial_heatmap'), end='')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, text = done.stdout.split("\n", 1)
    assert names == str(list_configs())
    assert text == config_text("facial_heatmap")
