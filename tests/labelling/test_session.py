"""The session: proposals of a run, the queue, and a training in the background."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.suspected_labels import IMAGES, WRONG, write_suspected

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.inference.predictor import Predictor
from kpnet.labelling import session as session_module
from kpnet.labelling.labels import LabelFile
from kpnet.labelling.queue import Queue
from kpnet.labelling.session import Session
from kpnet.labelling.source import Source, open_source
from kpnet.labelling.suspicions import SuspectedLabels
from kpnet.uncertainty import ellipse_radius

NAMES = ("left_eye", "right_eye", "nose")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    rng = np.random.default_rng(0)
    for k in range(4):
        cv2.imwrite(str(made / f"{k}.png"), rng.integers(0, 255, (32, 32, 3), np.uint8))
    return made


def wait(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come in two minutes")


def test_proposals_are_the_predictions_by_name_with_90_percent_ellipses(folder: Path, trained: Path) -> None:
    session = Session(open_source(folder), skeleton=Skeleton(("nose", "ear", "left_eye")), run=trained)
    ((nose, ear, left),) = session.proposals(1)
    session.close()
    prediction = Predictor(trained, device="cpu")(folder / "1.png")
    assert prediction.covariance is not None
    assert ear is None
    for found, k in ((nose, 2), (left, 0)):
        np.testing.assert_allclose(found[:2], prediction.keypoints[0, k], atol=1e-3)
        a, b, angle = found[3:]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        again = turn @ np.diag([a**2, b**2]) @ turn.T / ellipse_radius(0.9, prediction.dof) ** 2
        np.testing.assert_allclose(again, prediction.covariance[0, k], rtol=1e-3, atol=1e-4)
        assert a >= b


def test_the_skeleton_of_the_run_is_taken(folder: Path, trained: Path) -> None:
    session = Session(open_source(folder), run=trained)
    assert session.labels.skeleton is not None
    assert session.labels.skeleton.names == NAMES
    session.close()


def test_a_run_of_other_points_is_refused(folder: Path, trained: Path) -> None:
    with pytest.raises(KpnetError, match="none of the model's points"):
        Session(open_source(folder), skeleton=Skeleton(("tail",)), run=trained)
    Session(open_source(folder), skeleton=Skeleton(("tail",))).close()  # the lock is free again


def test_the_queue(folder: Path, trained: Path) -> None:
    with pytest.raises(KpnetError, match="needs a model"):
        Session(open_source(folder), queue=Queue.uncertain)
    drawn = Session(open_source(folder), queue=Queue.random)
    assert sorted(drawn.order) == [0, 1, 2, 3]
    drawn.close()
    (folder / "2.png").write_bytes(b"damaged")
    session = Session(open_source(folder), run=trained, queue=Queue.uncertain)
    point = [1.0, 2.0, 2, "person"]
    wait(lambda: session.order_revision == 1)
    assert sorted(session.order) == [0, 1, 2, 3]
    assert session.order[-1] == 2
    session.put(session.order[0], [{"points": [point] * 3, "box": None}], 0)
    session.close()


def test_the_suspicious_queue(tmp_path: Path, trained: Path, folder: Path) -> None:
    with pytest.raises(KpnetError, match="--queue suspicious needs a model that did not see these labels: give --run"):
        Session(open_source(folder), queue=Queue.suspicious)
    with pytest.raises(KpnetError, match="--queue suspicious: no image has labels"):
        Session(open_source(folder), run=trained, queue=Queue.suspicious)
    write_suspected(tmp_path / "suspected", trained)
    session = Session(open_source(tmp_path / "suspected"), run=trained, queue=Queue.suspicious)
    wait(lambda: session.order_revision == 1)
    assert session.order == [WRONG, *(index for index in range(IMAGES) if index != WRONG)]
    assert session.status()["ranking"] == f"the labels of 1 of {IMAGES} images look wrong"
    assert session.suspected(0) == []
    (found,) = session.suspected(WRONG)
    assert found["note"] == "look at it: none of the labels fits; m takes the model's points instead"
    session.set_skeleton({"names": ["tail", *NAMES]})  # the numbers of the points are others now
    wait(lambda: session.order_revision == 2)
    assert [k for k, _, _ in session.suspected(WRONG)[0]["changes"]] == [1, 2, 3]
    session.close()


def label_first(folder: Path) -> None:
    session = Session(open_source(folder), skeleton=Skeleton(NAMES))
    session.put(0, [{"points": [[1.0, 2.0, 2, "person"]] * 3, "box": None}], 0)
    session.close()


def test_an_examination_is_of_the_run_given_whatever_is_trained_meanwhile(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The model of a page training saw the labels: it proposes points, and examines nothing."""
    label_first(folder)
    go, runs = threading.Event(), []

    def examine(run: Path, source: Source, labels: LabelFile, *, boxed_only: bool) -> dict[int, list[SuspectedLabels]]:
        runs.append(run)
        go.wait(60)
        if len(runs) == 3:
            raise RuntimeError("out of memory\nat 0x7f")
        return {2: [SuspectedLabels(0, "off", f"examined {len(runs)}", ())]}

    monkeypatch.setattr(session_module, "examine_labels", examine)
    session = Session(open_source(folder), run=trained, queue=Queue.suspicious)
    wait(lambda: len(runs) == 1)
    (tmp_path / "page_run").symlink_to(trained)
    assert session._use_trained(tmp_path / "page_run") is None
    go.set()
    wait(lambda: session.order_revision == 1)
    assert session.status()["ranking"] == "the labels of 1 of 1 images look wrong"
    assert session.order == [2, 0, 1, 3]
    session.set_skeleton({"names": NAMES, "pairs": [NAMES[:2]]})
    wait(lambda: session.order_revision == 2)
    assert [each["note"] for each in session.suspected(2)] == ["examined 2"]
    assert session.status()["run"] == str(tmp_path / "page_run")
    session.set_skeleton({"names": NAMES})
    wait(lambda: session.status()["ranking"] == "RuntimeError: out of memory")
    assert session.suspected(2) == []
    assert runs == [trained] * 3
    session.close()


def test_an_examination_that_another_replaced_is_dropped(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_first(folder)
    go, counts = threading.Event(), []

    def examine(run: Path, source: Source, labels: LabelFile, *, boxed_only: bool) -> dict[int, list[SuspectedLabels]]:
        counts.append(len(labels.snapshot()[1][0][0].points))
        go.wait(60)
        return {len(counts): []}

    monkeypatch.setattr(session_module, "examine_labels", examine)
    session = Session(open_source(folder), run=trained, queue=Queue.suspicious)
    wait(lambda: counts == [3])
    session.set_skeleton({"names": ["tail", *NAMES]})
    go.set()
    wait(lambda: session.order_revision == 1)
    assert (session.order[0], counts) == (2, [3, 4])
    session.close()


def test_too_few_labels_are_not_examined(folder: Path, trained: Path) -> None:
    label_first(folder)
    session = Session(open_source(folder), run=trained, queue=Queue.suspicious)
    wait(
        lambda: session.status()["ranking"].startswith(f"3 labelled points of those that {trained} predicts; expected")
    )
    assert session.order == [0, 1, 2, 3]
    session.close()


@pytest.fixture
def labelled(folder: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("PYTHONPATH", os.getcwd() + os.pathsep + os.environ.get("PYTHONPATH", ""))
    session = Session(open_source(folder), skeleton=Skeleton.from_names(NAMES), recipe=str(recipe))
    points = [[8.0, 9.0, 2, "person"], [20.0, 9.5, 2, "person"], [15.0, 20.0, 1, "proposed"]]
    for index in range(3):
        session.put(index, [{"points": points, "box": None}], index)
    return session


@pytest.mark.slow
def test_a_training_in_the_background_gives_the_proposals(labelled: Session, folder: Path) -> None:
    assert labelled.proposals(3) == []
    labelled.train()
    with pytest.raises(KpnetError, match="a training is running already"):
        labelled.train()
    wait(lambda: labelled.training.status()["state"] != "running")  # type: ignore[union-attr]
    status = labelled.status()
    assert status["training"] == {
        "state": "done", "message": str(folder / "labels_runs" / "run_1"), "epoch": 2, "epochs": 2,
    }  # fmt: skip
    assert status["run"] == str(folder / "labels_runs" / "run_1")
    assert len(labelled.proposals(3)[0]) == 3
    labelled.close()
    again = open_source(folder)
    assert [path.name for path in again.images] == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.slow
def test_a_failed_training_says_why(labelled: Session, recipe: Path) -> None:
    values = yaml.safe_load(recipe.read_text())
    values["data"]["workers"] = "many"
    recipe.write_text(yaml.safe_dump(values))
    labelled.train()
    wait(lambda: labelled.training.status()["state"] != "running")  # type: ignore[union-attr]
    status = labelled.training.status()  # type: ignore[union-attr]
    labelled.close()
    assert status["state"] == "failed"
    assert "workers" in status["message"]


def test_too_few_labels_are_not_trained_on(folder: Path, recipe: Path) -> None:
    session = Session(open_source(folder), skeleton=Skeleton.from_names(NAMES), recipe=str(recipe))
    with pytest.raises(KpnetError, match="0 labelled images; expected at least 2"):
        session.train()
    session.close()
    assert not (folder / "labels_runs").exists()
