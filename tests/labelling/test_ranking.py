"""Which image to label next."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.shapes import NAMES, shapes_config

from kpnet import build_model
from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.inference.predictor import Predictor
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile
from kpnet.labelling.ranking import Candidate, choose_far_apart, rank_uncertain

SIDE = 32


def test_rows_far_apart_by_hand() -> None:
    """On a line: from 0 the farthest is 10, then 5, then the one of 2 and 8 that is farther from 0, 5 and 10."""
    places = np.array([0.0, 0.1, 10.0, 5.0, 2.0, 8.4])[:, None]
    assert choose_far_apart(places, 4) == [0, 2, 3, 4]
    assert sorted(choose_far_apart(places, 9)) == [0, 1, 2, 3, 4, 5]
    assert choose_far_apart(np.ones((3, 2)), 2)[0] == 0
    assert len(set(choose_far_apart(np.ones((3, 2)), 3))) == 3


@pytest.fixture
def images() -> list[np.ndarray]:
    """Ten copies of one frame with a little noise, and five other ones."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (SIDE, SIDE), np.uint8)
    near = [np.clip(frame.astype(int) + rng.integers(-1, 2, frame.shape), 0, 255).astype(np.uint8) for _ in range(10)]
    return [*near, *(rng.integers(0, 60 + 40 * k, (SIDE, SIDE), np.uint8) for k in range(5))]


def test_the_order_is_by_the_expected_error_and_the_same_frame_comes_once(
    trained: Path, images: list[np.ndarray]
) -> None:
    predictor = Predictor(trained, device="cpu")
    ranked = rank_uncertain(predictor, [(i, images[i].copy, None) for i in range(15)], 4)
    assert sorted(each.index for each in ranked) == list(range(15))
    errors = {each.index: each.expected_error for each in ranked}
    for index, error in errors.items():
        covariance = predictor(images[index]).covariance
        assert covariance is not None
        assert error == pytest.approx(np.mean([np.sqrt(c[0, 0] + c[1, 1]) for c in covariance[0]]), rel=1e-5)
    assert ranked[0].index == max(errors, key=errors.__getitem__)
    assert ranked[0].share == pytest.approx(ranked[0].expected_error / SIDE)
    assert sum(each.index < 10 for each in ranked[:4]) <= 1
    rest = [each.share for each in ranked[4:]]
    assert rest == sorted(rest, reverse=True)


def test_an_image_that_cannot_be_read_is_skipped(trained: Path, images: list[np.ndarray]) -> None:
    def fails() -> np.ndarray:
        raise KpnetError("b.png: damaged")

    failed: list[tuple[int, str]] = []
    ranked = rank_uncertain(
        Predictor(trained, device="cpu"),
        [(0, images[0].copy, None), (1, fails, None)],
        4,
        failed=lambda index, error: failed.append((index, str(error))),
    )
    assert [each.index for each in ranked] == [0]
    assert failed == [(1, "b.png: damaged")]


def test_data_next(kpnet: Callable[..., Any], trained: Path, tmp_path: Path, images: list[np.ndarray]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(8, 15):
        cv2.imwrite(str(folder / f"{k:02d}.png"), images[k])
    (folder / "bad.png").write_bytes(b"none")
    header = ",".join(f"left_eye_{what}" for what in ("x", "y", "visibility", "source"))
    (folder / "labels.csv").write_text(f"image,{header},box_x0,box_y0,box_x1,box_y1\n08.png,1,2,2,person,,,,\n")
    result = kpnet("data", "next", trained, folder, "--count", 3)
    assert result.code == 1
    assert "bad.png" in result.err
    rows = [line for line in result.out.splitlines() if ".png" in line and "next.png" not in line]
    assert len(rows) == 3
    assert "08.png" not in result.out
    # In COCO JSON, an image may be in the file without labels.
    (folder / "labels.csv").unlink()
    labels = LabelFile(folder / "labels.json", ["08.png", "09.png"], Skeleton(("left_eye",)))
    one = (Instance((Point(1.0, 2.0, 2, "person"),)),)
    for index, instances in ((0, one), (1, one), (1, ())):
        labels.put(index, instances, labels.revision)
    again = kpnet("data", "next", trained, folder, "--count", 6).out
    assert "09.png" in again
    assert "08.png" not in again
    assert (tmp_path / "next.png").read_bytes().startswith(b"\x89PNG")
    kpnet("data", "next", trained, folder, "--sheet", "next.jpg").refused("--sheet", "ends in .png")


@pytest.mark.parametrize("way", ["two_stage", "single_stage"])
def test_images_in_which_a_model_finds_nothing_come_first(
    kpnet: Callable[..., Any], tmp_path: Path, images: list[np.ndarray], way: str
) -> None:
    values = load_config(shapes_config(Path("none.json"), None, way)).model.model_dump(mode="json")
    model = build_model(values, skeleton=list(NAMES)).eval()
    found = rank_uncertain(Predictor(model, threshold=0.0), [(0, images[12].copy, None)], 1)[0]
    assert len(found.prediction.keypoints) > 0
    assert 0 < found.expected_error < np.inf
    nothing = Predictor(model, threshold=1.0)
    empty: list[Candidate] = [(index, images[index].copy, None) for index in (0, 1, 13)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranked = rank_uncertain(nothing, [(5, images[12].copy, [(0.0, 0.0, 20.0, 20.0)]), *empty], 1)
    assert [each.index for each in ranked] == [0, 1, 13, 5]
    assert [np.isinf(each.expected_error) for each in ranked] == [True, True, True, False]
    assert [each.index for each in rank_uncertain(nothing, empty, 2)] == [0, 13, 1]  # 0 and 1 look alike
    model.save(tmp_path / "model")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), images[0])
    assert not len(Predictor(model)(images[0]).keypoints)
    done = kpnet("data", "next", tmp_path / "model", tmp_path / "images")
    assert done.code == 0
    assert "nothing found" in done.out
    assert "inf" not in done.out
