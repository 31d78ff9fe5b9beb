"""Where the commands write: over their own earlier files, and over nothing else."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.console import Run

from kpnet.core.files import write_atomic
from kpnet.core.outputs import output_files

Tree = Callable[[Path], dict[str, bytes | None]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((32, 32), 90, np.uint8))
    return folder


# Command lines after the run, and what the error names; the working folder holds photos/, labels.csv and the run.
REFUSED = {
    "drawings over the images": ("predict RUN photos --draw --out photos", ["photos/a.png", "input", "--out"]),
    "drawings through a link": ("predict RUN photos --draw --out link", ["link/a.png", "input photos/a.png"]),
    "drawings by a detour": ("predict RUN photos --draw --out gone/../photos", ["gone/../photos", "does not exist"]),
    "drawings of drawings": ("predict RUN drawn --draw --out drawn", ["drawn: found no images", "kpnet wrote"]),
    "a drawing of a drawing": ("predict RUN drawn/a.png --draw --out drawn", ["drawn/a.png", "input", "--out"]),
    "drawings of a parent's images": ("predict RUN . --draw --out .", ["a/features.png", "input", "--out"]),
    "labels over the labels": ("predict RUN labels.csv --pseudo-labels --out .", ["labels.csv", "input", "--out"]),
    "labels over others": ("predict RUN photos --pseudo-labels --out .", ["labels.csv", "kpnet did not write it"]),
    "table in a file": ("predict RUN photos --out labels.csv", ["labels.csv", "expected a folder"]),
    "figures over others": ("visualize RUN photos --out figures", ["figures/a/features.png", "did not write it"]),
    "sheet over an image": ("data check photos --sheet photos/a.png", ["photos/a.png", "input", "--sheet"]),
    "sheet over another": ("data check labels.csv --sheet photos/a.png", ["photos/a.png", "did not write", "--sheet"]),
    "diagram over an image": ("evaluate RUN labels.csv --plot photos/a.png", ["photos/a.png", "--plot"]),
    "results over labels": ("evaluate RUN labels.csv --coco-results my.json", ["my.json", "--coco-results"]),
    "results that are no JSON": ("evaluate RUN labels.csv --coco-results labels.csv", ["labels.csv", ".json"]),
    "report over a folder": ("report RUN --out .", [".: expected a file", "--out"]),
    "report over a file": ("report RUN --out my.json", ["my.json", "did not write it", "--out"]),
    "converted over labels": ("data convert photos labels.csv", ["labels.csv", "exists already"]),
    "converted over a link": ("data convert photos dangling.csv", ["dangling.csv", "exists already"]),
    "a demo over a project": ("demo --out photos", ["photos", "no earlier demo", "--out"]),
    "a demo over a run": ("demo --out RUN", ["no earlier demo"]),
    "no image": ("predict RUN ''", ["argument 3 is empty"]),
    "no run": ("evaluate '' labels.csv", ["argument 2 is empty"]),
    "no folder": ("predict RUN photos --out ''", ["argument 5 is empty"]),
    "no folder in one word": ("predict RUN photos --out=", ["argument 4 is empty"]),
    "a blank": ("data check ' '", ["argument 3 is empty"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_of_the_users_is_overwritten(
    name: str, kpnet: Run, trained: Path, data: Path, photos: Path, tmp_path: Path, tree: Tree
) -> None:
    line, expected = REFUSED[name]
    shutil.copyfile(data / "val.csv", tmp_path / "labels.csv")
    shutil.rmtree(data)
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "dangling.csv").symlink_to("gone")
    (tmp_path / "my.json").write_text("{}")
    (tmp_path / "figures" / "a").mkdir(parents=True)
    (tmp_path / "figures" / "a" / "features.png").write_text("mine")
    with output_files(tmp_path / "drawn", ["a.png"], "--out"):
        write_atomic(tmp_path / "drawn" / "a.png", (photos / "a.png").read_bytes())
    before = tree(tmp_path)
    done = kpnet(*(trained if word == "RUN" else word for word in shlex.split(line)))
    assert done.code == 2, done
    assert done.err.count("\n") == 1, done.err
    for word in expected:
        assert word in done.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "line",
    [
        "predict RUN photos --draw",
        "predict RUN . --draw --out out",
        "data check photos",
        "data check photos --sheet photos/sheet.png",
        pytest.param("visualize RUN photos", marks=pytest.mark.slow),
        "evaluate RUN labels.csv --plot plot.png",
        pytest.param("report RUN", marks=pytest.mark.slow),
    ],
)
def test_the_same_command_runs_again(
    line: str, kpnet: Run, trained: Path, data: Path, photos: Path, tmp_path: Path, tree: Tree
) -> None:
    """It reads the same inputs and writes the same files: its own are no inputs."""
    shutil.copyfile(data / "val.csv", tmp_path / "labels.csv")
    shutil.rmtree(data)
    first, second = (kpnet(*(trained if word == "RUN" else word for word in line.split())) for _ in range(2))
    findings = ("a.png: a single", "b.png: the same", "b.png: a single") if "check" in line else ()
    assert first.code == 0
    assert [printed.startswith(findings) for printed in first.err.splitlines()] == [True] * len(findings)
    assert second == first


def test_a_prediction_that_was_corrected_by_hand_stays(kpnet: Run, trained: Path, photos: Path, tmp_path: Path) -> None:
    assert kpnet("predict", trained, "photos", "--pseudo-labels").code == 0
    labels = tmp_path / "predictions" / "labels.csv"
    text = labels.read_text().replace("0", "1")
    labels.write_text(text)
    kpnet("predict", trained, "photos", "--pseudo-labels").refused("labels.csv", "changed after kpnet wrote", "--out")
    assert labels.read_text() == text
    labels.unlink()
    assert kpnet("predict", trained, "photos", "--pseudo-labels").code == 0
