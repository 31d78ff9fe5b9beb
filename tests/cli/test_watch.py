"""`kpnet watch`: its exit codes, its report, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.console import Run

from kpnet import load_model
from kpnet.data import KaggleCSV
from kpnet.data.video import write_video
from kpnet.evaluation.watch import summarise
from kpnet.models.calibration import Calibration

MakeCsv = Callable[[int, int], str]


@pytest.fixture
def watched(run_copy: Path, make_csv: MakeCsv, tmp_path: Path) -> Path:
    """A calibrated run with the summary of 40 held-out images."""
    (tmp_path / "held_out.csv").write_text(make_csv(40, 5))
    model = load_model(run_copy)
    model.calibration = Calibration([0.0] * 3, 1.0, 5.0, 100)
    model.watch_reference = summarise(model, KaggleCSV(tmp_path / "held_out.csv", skeleton=model.skeleton))
    model.save(run_copy / "final")
    return run_copy


def write_images(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    return folder


def images_of(path: Path) -> list[np.ndarray]:
    data = KaggleCSV(path)
    return [data.read(index)[0] for index in range(len(data))]


def test_like_the_held_out_images(kpnet: Run, watched: Path, make_csv: MakeCsv, tmp_path: Path) -> None:
    """A file of labels and the folder of its images give the same report."""
    (tmp_path / "new.csv").write_text(make_csv(20, 6))
    folder = write_images(tmp_path / "new", images_of(tmp_path / "new.csv"))
    for data in (tmp_path / "new.csv", folder):
        done = kpnet("watch", watched, data)
        assert done.code == 0, done
        assert "20 images, compared with 40 held-out images" in done.out
        assert "expected error " in done.out
        assert "no sign that these images are other data" in done.out
    reports = [json.loads(kpnet("watch", watched, data, "--json").out) for data in (tmp_path / "new.csv", folder)]
    for key in ("p_value", "expected_error"):
        assert reports[0][key] == pytest.approx(reports[1][key], rel=1e-3)


def test_other_data(kpnet: Run, watched: Path, make_csv: MakeCsv, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(make_csv(20, 6))
    images = images_of(tmp_path / "new.csv")
    images[7] = np.full((32, 32), 255, np.uint8)
    new = write_images(tmp_path / "inverted", [255 - image for image in images])
    (new / "broken.png").write_bytes(b"no image")
    done = kpnet("watch", watched, new, "--out", "report")
    assert done.code == 3, done
    assert "these images are OTHER DATA than the held-out ones" in done.out
    assert "errors may be larger" in done.out
    assert "broken.png" in done.err
    report = json.loads(Path("report/watch.json").read_text())
    assert report["is_other"]
    assert len(report["strangest"]) == 10
    strangeness = [each["strangeness"] for each in report["strangest"]]
    assert strangeness == sorted(strangeness, reverse=True)
    assert cv2.imread("report/strangest.png") is not None
    assert kpnet("watch", watched, new, "--out", "report").code == 3  # kpnet's own files are replaced


def test_a_folder_that_cannot_be_written_is_known_before_the_images_are_predicted(
    kpnet: Run, watched: Path, make_csv: MakeCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new.csv").write_text(make_csv(6, 6))
    (tmp_path / "report").mkdir()
    (tmp_path / "report/watch.json").write_text("mine")
    monkeypatch.setattr("kpnet.evaluation.watch.watch_images", lambda *_: pytest.fail("predicted"))
    kpnet("watch", watched, tmp_path / "new.csv", "--out", tmp_path / "report").refused(
        "watch.json", "did not write it"
    )
    assert (tmp_path / "report/watch.json").read_text() == "mine"


def test_a_video(kpnet: Run, watched: Path, make_csv: MakeCsv, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(make_csv(6, 6))
    with write_video(tmp_path / "clip.mp4", 25.0) as add:
        for image in images_of(tmp_path / "new.csv"):
            add(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    report = json.loads(kpnet("watch", watched, tmp_path / "clip.mp4", "--json").out)
    assert report["images"] == 6


def test_what_is_refused(kpnet: Run, watched: Path, trained: Path, make_csv: MakeCsv, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(make_csv(20, 6))
    kpnet("watch", trained, tmp_path / "new.csv").refused("no summary of held-out data", "kpnet guarantee RUN HELD_OUT")
    kpnet("watch", watched, tmp_path / "new.csv", "--scales", "0.9,1").refused("scales=[0.9, 1.0]")
    kpnet("watch", watched, tmp_path / "new.csv", "--decoding", "argmax").refused("another decoding or calibration")
    one = write_images(tmp_path / "one", images_of(tmp_path / "new.csv")[:1])
    kpnet("watch", watched, one).refused("expected at least 2 images", "found 1")
    kpnet("watch", watched, tmp_path / "nothing").refused("nothing: no such file or folder")
