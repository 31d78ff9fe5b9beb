"""Two people's labels against closed forms: constant shifts, normal clicks, and what cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset, PointsCSV
from kpnet.evaluation.agreement import match_labels, measure_agreement
from kpnet.oks import oks


class Labels(KeypointDataset):
    """Points on named images; an image that is named twice has two instances."""

    def __init__(
        self,
        names: Sequence[str],
        xy: np.ndarray,
        points: Sequence[str] = ("a", "b", "c"),
        box: bool = False,
        image: np.ndarray = np.zeros((8, 8), np.uint8),  # noqa: B008
    ) -> None:
        super().__init__()
        self.image = image
        self.names, self.xy, self.boxed = list(names), np.array(xy, float), box
        self.skeleton = Skeleton(tuple(points))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image, self.xy[index].copy()

    def image_name(self, index: int) -> str:
        return self.names[index]

    def box(self, index: int) -> np.ndarray | None:
        return np.array([0.0, 0.0, 50.0, 200.0]) if self.boxed else None


IMAGES = [f"{number}.png" for number in range(40)]
TRUTH = np.random.default_rng(0).uniform(0, 100, (40, 3, 2))


def test_a_constant_shift() -> None:
    """(3, 4) px is 5 px in each image, and 5 % of a box of 50 by 200."""
    found = measure_agreement(match_labels(Labels(IMAGES, TRUTH, box=True), Labels(IMAGES, TRUTH + np.array([3, 4]))))
    for each in (*found.points, found.overall):
        assert (each.pixels.mean, each.pixels.low, each.pixels.high) == pytest.approx((5, 5, 5))
        assert each.share.mean == pytest.approx(0.05)
        assert each.sigma == pytest.approx(0.05)
    assert (found.images, found.instances, found.size) == (40, 40, "box")
    assert [each.name for each in found.points] == ["a", "b", "c"]
    assert found.overall.labels == 120


def test_at_the_sigma_that_follows_a_label_of_the_other_has_cocos_similarity() -> None:
    """COCO's sigma is the root mean square of d / s: at that distance, the similarity is exp(-1 / 8)."""
    first, second = TRUTH, TRUTH + np.array([3, 4])
    found = measure_agreement(match_labels(Labels(IMAGES, first, box=True), Labels(IMAGES, second)))
    points = torch.from_numpy(first), torch.from_numpy(second)
    area = torch.full((40,), 50.0 * 200, dtype=torch.float64)
    sigmas = [each.sigma for each in found.points]
    similarity = oks(*points, torch.ones(40, 3, dtype=torch.bool), area, sigmas)
    assert similarity.numpy() == pytest.approx(np.full(40, math.exp(-1 / 8)))


def test_two_people_with_normal_clicks() -> None:
    """Errors of 2 px in each axis each: the distance is Rayleigh's with 2 √2, whose mean is 2 √π."""
    draws = np.random.default_rng(1)
    images = [f"{number}.png" for number in range(3000)]
    truth = draws.uniform(0, 100, (3000, 3, 2))
    first, second = (truth + draws.normal(0, 2, truth.shape) for _ in range(2))
    labels = match_labels(Labels(images, first), Labels(images, second))
    found = measure_agreement(labels, truth)
    mean = 2 * math.sqrt(math.pi)
    assert found.overall.pixels.mean == pytest.approx(mean, rel=0.02)
    assert found.overall.pixels.low < mean < found.overall.pixels.high
    width = 2 * 1.96 * 2 * math.sqrt((4 - math.pi) / 9000)  # of independent points
    assert found.overall.pixels.high - found.overall.pixels.low == pytest.approx(width, rel=0.1)
    # A model that makes no error is nearer to each person than the other is, by √2.
    assert found.overall.model is not None
    assert found.overall.model.mean == pytest.approx(1 / math.sqrt(2), rel=0.02)


def test_points_match_by_name_and_images_by_file() -> None:
    other = Labels([f"folder/{name}" for name in IMAGES[5:]], TRUTH[5:, ::-1] + 1, ("c", "b", "a"))
    labels = match_labels(Labels(IMAGES, TRUTH), other)
    assert np.allclose(labels.second, labels.first + 1)
    assert labels.notes == ["5 images are in one of the two only"]


def test_instances_pair_by_distance_and_lone_labels_are_counted() -> None:
    xy = np.array([[(10, 10), (20, 10), (15, 20)], [(60, 60), (70, 60), (65, 70)]], float)
    theirs = xy[::-1] + 1
    theirs[0, 2] = np.nan
    found = measure_agreement(
        match_labels(Labels(["a.png"] * 2, xy), Labels(["a.png"] * 3, np.array([*theirs, xy[0] + 90])))
    )
    assert found.overall.pixels.mean == pytest.approx(math.sqrt(2))
    assert [(each.labels, each.alone) for each in found.points] == [(2, 0), (2, 0), (1, 1)]
    assert found.notes == ["1 instances are in one of the two only"]


def test_points_that_a_model_proposed_are_not_compared(tmp_path: Path) -> None:
    """Point a is a person's in both files, b a model's in the first, and c in the second, which has it alone."""
    files = []
    for name, sources, xy in (
        ("first", ("person", "proposed", ""), "1,2,30,40,,"),
        ("second", ("person", "person", "proposed"), "4,2,90,90,5,6"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        cv2.imwrite(str(folder / "i.png"), np.zeros((99, 99), np.uint8))
        cells = f"image,a_x,a_y,b_x,b_y,c_x,c_y,a_source,b_source,c_source\ni.png,{xy},{','.join(sources)}\n"
        (folder / "labels.csv").write_text(cells)
        files.append(folder / "labels.csv")
    labels = match_labels(*map(PointsCSV, files))
    assert labels.notes == ["not compared, as a model proposed them in one of the two or both: 2 points"]
    found = measure_agreement(labels)
    assert [(each.labels, each.alone) for each in found.points] == [(1, 0), (0, 0), (0, 0)]
    assert found.overall.pixels.mean == 3
    files[0].write_text(files[0].read_text().replace("person", "proposed"))
    with pytest.raises(KpnetError, match="a model proposed every point that has a label in both"):
        match_labels(*map(PointsCSV, files))


def test_a_point_that_one_never_labels() -> None:
    theirs = TRUTH + 1
    theirs[:, 1] = np.nan
    found = measure_agreement(match_labels(Labels(IMAGES, TRUTH), Labels(IMAGES, theirs)))
    assert math.isnan(found.points[1].pixels.mean)
    assert math.isnan(found.points[1].sigma)
    assert (found.points[1].labels, found.points[1].alone) == (0, 40)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(KpnetError, match=r"no image is in both: 0\.png.* and x\.png"):
        match_labels(Labels(IMAGES, TRUTH), Labels(["x.png"], TRUTH[:1]))
    with pytest.raises(KpnetError, match="no point is in both: a, b, c and nose, chin, ear"):
        match_labels(Labels(IMAGES, TRUTH), Labels(IMAGES, TRUTH, ("nose", "chin", "ear")))
    with pytest.raises(KpnetError, match="no point has a label in both"):
        match_labels(Labels(IMAGES, TRUTH), Labels(IMAGES, np.full_like(TRUTH, np.nan)))
    with pytest.raises(KpnetError, match="several folders"):
        match_labels(Labels(["m/1.png", "n/1.png"], TRUTH[:2]), Labels(["1.png"], TRUTH[:1]))


def test_other_images_of_the_same_names() -> None:
    first = Labels(IMAGES, TRUTH)
    with pytest.raises(KpnetError, match=r"0\.png has 8x8 and 9x8 pixels"):
        match_labels(first, Labels(IMAGES, TRUTH, image=np.zeros((8, 9), np.uint8)))
    with pytest.raises(KpnetError, match=r"0\.png has other pixels"):
        match_labels(first, Labels(IMAGES, TRUTH, image=np.ones((8, 8), np.uint8)))
