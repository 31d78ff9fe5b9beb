"""Labelled images with others, whose points a model has found, beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.wrappers.pseudo_labels import WithPseudoLabels

NAMES = Skeleton.from_names(["a", "b"])


class Grey(KeypointDataset):
    """Images whose grey value is their number, from `start` on."""

    skeleton = NAMES

    def __init__(self, count: int, start: int, **common: Any) -> None:
        super().__init__(image_size=(8, 8), in_channels=1, **common)
        self.count, self.start = count, start

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((8, 8), self.start + index, np.uint8), np.full((2, 2), 1.0)

    def image_name(self, index: int) -> str:
        return f"{self.start + index}.png"


def joined(labelled: int = 3, others: int = 7, **options: Any) -> WithPseudoLabels:
    found = np.stack([np.full((2, 2), index + 0.5) for index in range(others)])
    confidence = np.linspace(0.3, 0.9, others)[:, None].repeat(2, 1)
    found[0, 1], confidence[0, 1] = np.nan, 0.0
    return WithPseudoLabels(Grey(labelled, 0, seed=5), Grey(others, 100), found, confidence, **options)


def greys(dataset: KeypointDataset) -> list[int]:
    return [round(255 * float(dataset[index]["image"].max())) for index in range(len(dataset))]


def test_of_points_that_a_model_found_nothing_is_known() -> None:
    dataset = joined()
    assert "present" not in dataset[0]
    dataset.missing = dataset.labelled.missing = "absent"
    assert dataset[0]["present"].tolist() == [1, 1]
    assert dataset[5]["present"].isnan().all()


def test_labels_come_in_each_epoch_and_the_others_in_turn() -> None:
    dataset, seen = joined(), []
    assert len(dataset) == 6
    for epoch in range(7):
        dataset.set_epoch(epoch)
        found = greys(dataset)
        assert found[:3] == [0, 1, 2]
        seen += found[3:]
    for turn in (seen[:7], seen[7:14], seen[14:]):  # 7 epochs of 3 are three times all of them
        assert sorted(turn) == list(range(100, 107))
    assert seen[:7] != seen[7:14]


def test_workers_see_the_epoch() -> None:
    dataset = joined()
    before, copied = greys(dataset), dataset.in_bytes()
    dataset.set_epoch(1)
    assert [int(copied[index]["image"].max()) for index in range(6)] == greys(dataset) != before


def test_found_points_count_as_much_as_they_are_trusted() -> None:
    dataset = joined(per_label=10)
    assert len(dataset) == 10  # no other comes twice in an epoch
    for index in range(10):
        item, grey = dataset[index], greys(dataset)[index]
        assert dataset.image_name(index) == f"{grey}.png"
        if index < 3:
            assert item["weight"].tolist() == [1, 1]
            continue
        other = grey - 100
        expected = [0.3 + 0.1 * other] * 2 if other else [0.3, 0.0]
        assert item["weight"].tolist() == pytest.approx(expected)
        assert item["visible"].tolist() == [True, other > 0]
        assert item["keypoints"][0].tolist() == pytest.approx([(2 * (other + 0.5) + 1) / 8 - 1] * 2)
    assert dataset.labels().tolist() == [[True, dataset.image_name(index) != "100.png"] for index in range(10)]


def test_each_side_has_its_own_augmentation() -> None:
    def darker(image: np.ndarray, points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return image // 2, points

    assert greys(joined(transform=darker))[:3] == [0, 1, 2]
    assert max(greys(joined(transform=darker))) <= 53
