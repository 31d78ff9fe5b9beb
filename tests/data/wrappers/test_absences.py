"""Samples with points covered or moved out of the image."""

from __future__ import annotations

import numpy as np
import torch

from kpnet.coordinates import normalized_to_pixel
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.wrappers.absences import Absences


class Dots(KeypointDataset):
    """White images with points in a grid, of which the last one has no label."""

    skeleton = Skeleton(tuple(f"p{k}" for k in range(10)))

    def __len__(self) -> int:
        return 40

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        xy = np.stack(np.meshgrid([10.0, 48.0, 85.0], [10.0, 48.0, 85.0]), -1).reshape(-1, 2)
        return np.full((96, 96), 255, np.uint8), np.vstack([xy, [np.nan, np.nan]])


def test_the_image_shows_what_is_absent() -> None:
    data = Absences(Dots(image_size=(96, 96)))
    covered = moved = 0
    for index in range(len(data)):
        item = data[index]
        present, image = item["present"], (255 * item["image"][0]).round()
        assert present[9].isnan()
        assert (present[:9] == 0).any()
        black, changed = (image == 0).float().mean(), (image < 255).float().mean()
        if black > 0.2:  # moved by a quarter to nearly half of the side
            moved += 1
            assert black < 0.5
            assert torch.equal(item["visible"][:9], present[:9] == 1)
            xy = normalized_to_pixel(item["keypoints"][item["visible"]], (96, 96)).round().long()
            assert (image[xy[:, 1], xy[:, 0]] == 255).all()
        else:  # a square of 20 px about one of the points
            covered += 1
            assert 0.5 * 400 / 96**2 < changed <= 400 / 96**2
            assert item["visible"][:9].all()
            xy = normalized_to_pixel(item["keypoints"][:9], (96, 96)).round().long()
            around = torch.stack([image[y - 2 : y + 3, x - 2 : x + 3].mean() for x, y in xy.tolist()])
            assert torch.equal(around < 255, present[:9] == 0)
    assert min(covered, moved) > 10


def test_it_depends_on_the_index_alone_and_leaves_the_data_as_it_is() -> None:
    plain = Dots(image_size=(96, 96))
    first, again = Absences(plain), Absences(plain)
    again.set_epoch(0)
    for key, value in first[3].items():
        assert np.array_equal(value, again[3][key], equal_nan=True)
    assert "present" not in plain[3]
    assert (plain[3]["image"] == 1).all()


def test_without_a_labelled_point_there_is_nothing_to_cover() -> None:
    data = Dots(image_size=(96, 96))
    data.read = lambda index: (np.full((96, 96), 255, np.uint8), np.full((10, 2), np.nan))  # type: ignore[method-assign]
    for index in range(10):
        assert Absences(data)[index]["present"].isnan().all()
