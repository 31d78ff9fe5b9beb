"""`kpnet data doctor` and `kpnet data agree`: what they print and write, and what they refuse."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.console import Run

from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import write_yaml
from kpnet.data import KaggleCSV
from kpnet.data.build import open_dataset
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.writing import sample_points

EYES = slice(0, 4)  # cells of the left and the right eye, x and y
Tree = Callable[[Path], dict[str, bytes | None]]


@pytest.fixture
def labels(make_csv: Callable[[int, int], str], tmp_path: Path) -> Path:
    """30 images with three points, of which one has its eyes exchanged, and one a nose 14 px off."""
    rows = [line.split(",") for line in make_csv(30, 5).splitlines()]
    rows[4][EYES] = [*rows[4][2:4], *rows[4][:2]]
    rows[9][5] = str(float(rows[9][5]) - 14)
    path = tmp_path / "labels.csv"
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    return path


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch, make_csv: Callable[[int, int], str], tmp_path: Path) -> None:
    """Models predict the true points, a third of a pixel off."""
    import torch

    from kpnet.coordinates import pixel_to_normalized
    from kpnet.evaluation import doctor
    from kpnet.heads import Keypoints

    (tmp_path / "truth.csv").write_text(make_csv(30, 5))
    truth = KaggleCSV(tmp_path / "truth.csv").keypoints
    seen = truth + np.random.default_rng(0).normal(0, 0.3, truth.shape)
    measure = doctor.predict_dataset

    def predict(model: Any, dataset: Any, **options: Any) -> Any:
        result = measure(model, dataset, **options)
        order = [int(Path(dataset.image_name(index)).stem) for index in range(len(dataset))]
        result.predicted = Keypoints(torch.from_numpy(pixel_to_normalized(seen[order], (32, 32))).float())
        return result

    monkeypatch.setattr(doctor, "predict_dataset", predict)


@pytest.mark.usefixtures("oracle")
def test_what_is_wrong_is_listed_drawn_and_mended(kpnet: Run, trained: Path, labels: Path, tmp_path: Path) -> None:
    before = labels.read_bytes()
    done = kpnet("data", "doctor", labels, "--run", trained, "--fix", "mended.csv")
    assert (done.code, done.err) == (0, "")
    assert "2 of 30 samples look wrong: 1 points exchanged, 1 off" in done.out
    assert "1 of 2 mended: mended.csv" in done.out
    with (tmp_path / "doctor.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows["3"]["proposal"] == "exchange left_eye and right_eye"
    assert rows["8"]["kind"] == "off"
    assert float(rows["8"]["z"]) > 4
    sheet = cv2.imread(str(tmp_path / "doctor.png"))
    assert sheet is not None
    assert sheet.std() > 10
    truth, mended = KaggleCSV(tmp_path / "truth.csv"), KaggleCSV(tmp_path / "mended.csv")
    assert np.array_equal(mended.keypoints[3], truth.keypoints[3])
    others = np.arange(30) != 8
    assert np.array_equal(mended.keypoints[others], truth.keypoints[others])
    assert np.array_equal(mended.images, truth.images)
    assert labels.read_bytes() == before


@pytest.mark.usefixtures("oracle")
def test_right_labels_leave_an_empty_table(kpnet: Run, trained: Path, labels: Path, tmp_path: Path) -> None:
    done = kpnet("data", "doctor", "truth.csv", "--run", trained)
    assert (done.code, done.err) == (0, "")
    assert "0 of 30 samples look wrong\n" in done.out
    assert len((tmp_path / "doctor.csv").read_text().splitlines()) == 1
    assert not (tmp_path / "doctor.png").exists()


def test_what_the_doctor_refuses(
    kpnet: Run, trained: Path, labels: Path, data: Path, tmp_path: Path, tree: Tree
) -> None:
    before = tree(tmp_path)
    doctor = ("data", "doctor", labels)
    kpnet(*doctor, "--folds", 31).refused("--folds", "at most", "images (30)", "31")
    kpnet(*doctor, "--fix", labels).refused("labels.csv", "exists already")
    kpnet(*doctor, "--fix", "folder").refused("folder", "ends in .csv")
    kpnet(*doctor, "--sheet", "sheet.jpg").refused("--sheet", ".png")
    kpnet(*doctor, "--table", labels).refused("labels.csv", "replace the input")
    kpnet(*doctor, "--run", trained, "--out", "x").refused("--run", "leave out --recipe and --out")
    kpnet(*doctor, "--run", trained / "nothing").refused("nothing", "no such run")
    kpnet(*doctor, "--recipe", "facial_heatmop").refused("facial_heatmop")
    own = trained.parent / "data" / "train.csv"
    kpnet("data", "doctor", own, "--run", trained).refused("train.csv", "was trained on it", "leave out --run")
    lines = labels.read_text().splitlines()
    empty = [lines[0], *("," * 6 + line.split(",")[-1] for line in lines[1:])]
    (tmp_path / "data" / "empty.csv").write_text("\n".join(empty) + "\n")
    kpnet("data", "doctor", "data/empty.csv").refused("empty.csv", "no labelled point")
    (tmp_path / "data" / "empty.csv").unlink()
    (tmp_path / "data" / "few.csv").write_text("\n".join(lines[:17]) + "\n")
    kpnet("data", "doctor", "data/few.csv").refused("few.csv", "48 labelled points", "at least 50")
    (tmp_path / "data" / "few.csv").unlink()
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize("form", ["coco", "cvat", "deeplabcut", "label_studio", "labelme", "points_csv", "pts", "yolo"])
def test_the_mended_copy_is_in_the_format_of_the_data(
    form: str, kpnet: Run, trained: Path, labels: Path, tmp_path: Path
) -> None:
    skeleton = tmp_path / "eyes.yaml"
    skeleton.write_text(write_yaml(KaggleCSV(labels).skeleton.to_dict()))
    assert kpnet("data", "convert", labels, "given", "--to", form).code == 0
    given = ["--skeleton", skeleton] if form in ("pts", "yolo") else []
    done = kpnet("data", "doctor", "given", "--run", trained, "--fix", "mended", *given)
    assert (done.code, done.err) == (0, "")
    assert "1 of 2 mended: mended" in done.out
    assert ("not written" in done.out) == (form == "pts")  # which has no names
    mended = open_dataset(*detect_format(Path("mended")), str(skeleton) if given else None)
    truth, wrong = KaggleCSV(tmp_path / "truth.csv"), KaggleCSV(labels)
    for index in range(len(mended)):
        number = int(Path(mended.image_name(index)).stem)
        expected = (wrong if number == 8 else truth).keypoints[number]
        assert np.allclose(sample_points(mended, index), expected, atol=1e-3), number
        assert np.array_equal(np.squeeze(mended.read(index)[0]).reshape(32, 32, -1)[..., 0], truth.images[number])


def test_agree(kpnet: Run, trained: Path, labels: Path, make_csv: Callable[[int, int], str], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text(make_csv(30, 5))
    done = kpnet("data", "agree", labels, "other.csv", "--run", trained, "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    nose = found["points"][2]
    assert nose["pixels"]["mean"] == pytest.approx(14 / 30)
    assert nose["pixels"]["low"] == 0
    assert found["overall"]["model"]["mean"] > 1
    shown = kpnet("data", "agree", labels, "other.csv", "--run", trained)
    assert "30 instances on 30 images in both" in shown.out
    assert "0.47 (0.00–" in shown.out
    assert "× two people are from one another" in shown.out
    same = kpnet("data", "agree", labels, labels, "--run", trained)
    assert (same.code, same.err) == (0, "")
    assert "labels are the same where the model predicts" in same.out
    assert "nan" not in same.out
    assert "inf" not in same.out


def test_sigmas_are_written_into_a_skeleton(
    kpnet: Run, labels: Path, make_csv: Callable[[int, int], str], tmp_path: Path
) -> None:
    (tmp_path / "other.csv").write_text(make_csv(30, 5))
    assert kpnet("data", "agree", labels, "other.csv", "--write-sigmas", "own.yaml").code == 0
    skeleton = Skeleton.load(tmp_path / "own.yaml")
    assert skeleton.names == ("left_eye", "right_eye", "nose")
    assert skeleton.pairs == (("left_eye", "right_eye"),)
    assert skeleton.sigmas is not None
    assert all(0 < sigma < 1 for sigma in skeleton.sigmas)


def test_what_agree_refuses(kpnet: Run, labels: Path, data: Path, trained: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(tmp_path)
    kpnet("data", "agree", labels, "gone.csv").refused("gone.csv", "no such file")
    kpnet("data", "agree", labels, data / "val.csv").refused("val.csv", "image 0", "other pixels")
    kpnet("data", "agree", labels, labels, "--write-sigmas", "s.yaml").refused("--write-sigmas", "not the same")
    kpnet("data", "agree", labels, labels, "--write-sigmas", "s.txt").refused("--write-sigmas", ".yaml")
    own = trained.parent / "data" / "train.csv"
    kpnet("data", "agree", own, own, "--run", trained).refused("was trained on it", "has not seen")
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_the_doctor_trains_on_folds_and_continues(kpnet: Run, labels: Path, recipe: Path, tmp_path: Path) -> None:
    command = ("data", "doctor", labels, "--folds", 2, "--recipe", recipe, "--out", "folds")
    done = kpnet(*command)
    assert (done.code, done.err) == (0, "")
    assert "samples look wrong" in done.out
    assert len(list((tmp_path / "folds" / "runs").glob("labels_*fold*"))) == 2
    again = kpnet(*command)
    assert again.code == 0
    assert again.out.count("already finished") == 2
    assert again.out.splitlines()[-1] == done.out.splitlines()[-1]
