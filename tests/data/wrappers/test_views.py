"""Two views of unlabelled images: draws that follow from the turn, and a matrix that says what was done."""

from __future__ import annotations

import numpy as np
import torch

from kpnet.core.skeleton import Skeleton
from kpnet.data.transforms.augment import Augment
from kpnet.data.unlabelled import UnlabelledImages
from kpnet.data.wrappers.views import TwoViews

SKELETON = Skeleton(("left", "right"), (("left", "right"),))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 12, 16), dtype=np.uint8)


def views(augment: Augment | None, seed: int = 0) -> TwoViews:
    return TwoViews(UnlabelledImages(IMAGES, skeleton=SKELETON, image_size=(12, 16), in_channels=1, seed=seed), augment)


def test_a_mirrored_view_and_its_matrix() -> None:
    item = views(Augment([{"HorizontalFlip": {"p": 1.0}}], SKELETON))[4]  # image 1 in turn 1
    assert item["index"] == 1
    torch.testing.assert_close(item["plain"], torch.from_numpy(IMAGES[1])[None] / 255)
    assert torch.equal(item["image"], item["plain"].flip(-1))
    assert item["mirrored"]
    assert item["motion"].tolist() == [[-1, 0, 15], [0, 1, 0], [0, 0, 1]]


def test_draws_follow_from_seed_turn_and_image() -> None:
    augment = Augment([{"Affine": {"rotate": [-40, 40], "p": 1}}], SKELETON)
    dataset = views(augment)
    matrices = [dataset[i]["motion"] for i in range(9)]
    assert len({str(each.tolist()) for each in matrices}) == 9
    assert torch.equal(matrices[5], views(augment)[5]["motion"])
    assert not torch.equal(matrices[5], views(augment, seed=1)[5]["motion"])


def test_without_an_augmentation_there_is_the_image_alone_in_bytes_if_asked_for() -> None:
    item = views(None).in_bytes()[2]
    assert set(item) == {"plain", "index"}
    assert torch.equal(item["plain"], torch.from_numpy(IMAGES[2])[None])
