"""The example projects, in small, on real data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT, SHARED

from kpnet import load_config

EXAMPLES = ROOT / "examples"
DATA = SHARED / "data"
CASES = {
    "facial68": ("helen68", r"NME [\d.]+ % of the distance from .* to .*, AUC@0.08 [\d.]+; runs/facial68"),
    "mouse": ("deeplabcut", r"test error [\d.]+ px, of the \d+ confident points (?:[\d.]+|nan) px; runs/mouse"),
    "people": ("coco_mini", r"AP [\d.]+, AR [\d.]+; runs/people/results.json"),
}
SMALL = ("train.epochs=1", "model.input_size=[32,32]", "trainer.limit_train_batches=1", "data.workers=0")


@pytest.mark.parametrize("name", CASES)
def test_the_yaml_is_whole(name: str) -> None:
    assert load_config(EXAMPLES / name / f"{name}.yaml").name == name
    assert len((EXAMPLES / name / "run.py").read_text().splitlines()) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_runs(name: str, tmp_path: Path) -> None:
    folder, told = CASES[name]
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {folder} in {DATA} (set KPNET_SHARED)")
    command = [sys.executable, str(EXAMPLES / name / "run.py"), f"data.root={DATA / folder}", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(told, done.stdout.splitlines()[-1]), done.stdout
